#include "edge/sandbox.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>

#include "edge/bare_call.h"

namespace virga {
namespace {

constexpr std::uint32_t kForeignCalls = 0x40000000;  // x32: the same calls by other numbers
constexpr std::uint32_t kNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                      CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
constexpr const char* kRoot = "/tmp";  // what the tmpfs covers until it is the child's root

constexpr std::uint32_t kRefused[] = {
    SYS_socket,           SYS_unshare,           SYS_setns,          SYS_ptrace, SYS_bpf,
    SYS_process_vm_readv, SYS_process_vm_writev, SYS_io_uring_setup, SYS_keyctl, SYS_add_key,
    SYS_request_key,      SYS_perf_event_open,   SYS_userfaultfd};

sock_filter load(std::size_t offset) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset));
}

sock_filter answer(std::uint32_t with) { return BPF_STMT(BPF_RET | BPF_K, with); }

/// The next instruction is skipped unless the comparison holds.
sock_filter when(std::uint16_t comparison, std::uint32_t value) {
  return BPF_JUMP(static_cast<std::uint16_t>(BPF_JMP | comparison | BPF_K), value, 0, 1);
}

std::vector<sock_filter> make_filter() {
  const sock_filter refuse = answer(SECCOMP_RET_ERRNO | EPERM);
  std::vector<sock_filter> filter = {
      load(offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
      refuse,
      load(offsetof(seccomp_data, nr)),
      when(BPF_JGE, kForeignCalls),
      refuse,
      // Its flags lie in memory, where no filter sees them; the C library falls back to clone.
      when(BPF_JEQ, SYS_clone3),
      answer(SECCOMP_RET_ERRNO | ENOSYS),
  };
  for (const std::uint32_t call : kRefused) {
    filter.push_back(when(BPF_JEQ, call));
    filter.push_back(refuse);
  }
  const sock_filter tail[] = {
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
      load(offsetof(seccomp_data, args)),
      when(BPF_JSET, kNamespaces),
      refuse,
      answer(SECCOMP_RET_ALLOW),
  };
  filter.insert(filter.end(), std::begin(tail), std::end(tail));
  return filter;
}

bool write_text(const char* path, const std::string& text) {
  const long file = bare_call(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool written = bare_call(SYS_write, file, text.data(), text.size()) >= 0;
  bare_call(SYS_close, file);
  return written;
}

bool make_read_only(long tree, const char* path, int flags) {
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  return bare_call(SYS_mount_setattr, tree, path, flags, &attributes, sizeof attributes) == 0;
}

}  // namespace

Sandbox::Sandbox(const std::map<std::string, std::string>& files)
    : root_(::geteuid() == 0),
      user_map_(fmt::format("{0} {0} 1", ::geteuid())),
      group_map_(fmt::format("{0} {0} 1", ::getegid())),
      filter_(make_filter()) {
  std::error_code ignored;
  for (const auto& [name, source] : files) {
    files_.push_back({name, source, std::filesystem::is_directory(source, ignored)});
  }
}

std::uint64_t Sandbox::clone_flags() const {
  const std::uint64_t flags = kNamespaces & ~static_cast<std::uint32_t>(CLONE_NEWUSER);
  return root_ ? flags : flags | CLONE_NEWUSER;
}

bool Sandbox::map_user() const {
  return root_ || (write_text("/proc/self/setgroups", "deny") &&
                   write_text("/proc/self/uid_map", user_map_) &&
                   write_text("/proc/self/gid_map", group_map_));
}

bool Sandbox::place(const File& file) const {
  const char* name = file.name.c_str();
  const long made = file.folder ? bare_call(SYS_mkdirat, AT_FDCWD, name, 0755)
                                : bare_call(SYS_mknodat, AT_FDCWD, name, S_IFREG | 0444, 0);
  return made == 0 && make_read_only(file.tree, "", AT_EMPTY_PATH | AT_RECURSIVE) &&
         bare_call(SYS_move_mount, file.tree, "", AT_FDCWD, name, MOVE_MOUNT_F_EMPTY_PATH) == 0;
}

bool Sandbox::enter() {
  if (!map_user()) return false;
  if (bare_call(SYS_mount, nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
  for (File& file : files_) {
    const auto flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE;
    file.tree = static_cast<int>(bare_call(SYS_open_tree, AT_FDCWD, file.source.c_str(), flags));
    if (file.tree < 0) return false;
  }
  const auto flags = MS_NOSUID | MS_NODEV;
  if (bare_call(SYS_mount, "sandbox", kRoot, "tmpfs", flags, "size=64k,mode=755") != 0)
    return false;
  if (bare_call(SYS_chdir, kRoot) != 0) return false;
  for (const File& file : files_) {
    if (!place(file)) return false;
  }
  // Who has no right to chroot, no descriptor of a folder and no other root cannot leave this one.
  return make_read_only(AT_FDCWD, ".", 0) && bare_call(SYS_chroot, ".") == 0;
}

bool Sandbox::lock() const {
  const sock_fprog program{static_cast<unsigned short>(filter_.size()),
                           const_cast<sock_filter*>(filter_.data())};
  return bare_call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         bare_call(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

}  // namespace virga
