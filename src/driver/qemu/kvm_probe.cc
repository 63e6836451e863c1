#include "driver/qemu/kvm_probe.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kvm.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>

#include "base/reflect.h"
#include "edge/file.h"
#include "edge/process.h"

namespace virga {
namespace {

constexpr std::size_t kMemory = 2 << 20;
constexpr std::uint64_t kCode = 0x8000;
constexpr std::uint64_t kTables = 0x1000;
constexpr std::uint32_t kIterations = 100'000;
constexpr int kInstructions = 2 * kIterations;
constexpr std::uint8_t kSignOfLife = 'K';
constexpr std::uint16_t kPort = 0x10;

/// mov ecx, kIterations; again: dec ecx; jnz again; mov al, 'K'; out kPort, al; hlt
constexpr std::uint8_t kProgram[] = {0xb9, 0xa0, 0x86, 0x01,        0x00, 0xff,  0xc9,
                                     0x75, 0xfc, 0xb0, kSignOfLife, 0xe6, kPort, 0xf4};

/// What the child found out, sent through a pipe.
struct Finding {
  const char* failed = nullptr;  ///< a literal: valid in both processes
  int number = 0;
  std::int64_t nanoseconds = 0;
};

std::int64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

/// One table of each level: the first 2 MiB of addresses are the 2 MiB of memory.
void fill_memory(std::uint8_t* memory) {
  const auto entry = [memory](std::uint64_t table, std::uint64_t value) {
    std::memcpy(memory + table, &value, sizeof value);
  };
  constexpr std::uint64_t kPresentWritable = 0x3;
  constexpr std::uint64_t kLargePage = 0x80;
  entry(kTables, (kTables + 0x1000) | kPresentWritable);
  entry(kTables + 0x1000, (kTables + 0x2000) | kPresentWritable);
  entry(kTables + 0x2000, kLargePage | kPresentWritable);
  std::memcpy(memory + kCode, kProgram, sizeof kProgram);
}

bool enter_long_mode(int processor) {
  kvm_sregs special{};
  if (::ioctl(processor, KVM_GET_SREGS, &special) < 0) return false;
  kvm_segment code{};
  code.limit = 0xffffffff;
  code.selector = 8;
  code.type = 11;
  code.present = 1;
  code.s = 1;
  code.l = 1;
  code.g = 1;
  kvm_segment data = code;
  data.selector = 16;
  data.type = 3;
  data.l = 0;
  data.db = 1;
  special.cs = code;
  special.ds = special.es = special.fs = special.gs = special.ss = data;
  special.cr3 = kTables;
  special.cr4 |= 1U << 5;                  // physical address extension
  special.efer |= (1U << 8) | (1U << 10);  // long mode enabled and active
  special.cr0 |= (1U << 31) | 1U;          // paging, protection
  if (::ioctl(processor, KVM_SET_SREGS, &special) < 0) return false;
  kvm_regs plain{};
  plain.rip = kCode;
  plain.rflags = 2;
  return ::ioctl(processor, KVM_SET_REGS, &plain) == 0;
}

Finding failed(const char* what) { return Finding{what, errno, 0}; }

Finding run_loop(const char* device) {
  const int kvm = ::open(device, O_RDWR | O_CLOEXEC);
  if (kvm < 0) return failed("open the device");
  if (::ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
    return failed("expect API version 12");
  const int machine = ::ioctl(kvm, KVM_CREATE_VM, 0);
  if (machine < 0) return failed("make a VM");
  void* memory =
      ::mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return failed("get memory");
  fill_memory(static_cast<std::uint8_t*>(memory));
  kvm_userspace_memory_region region{};
  region.memory_size = kMemory;
  region.userspace_addr = reinterpret_cast<std::uint64_t>(memory);
  if (::ioctl(machine, KVM_SET_USER_MEMORY_REGION, &region) < 0) return failed("give it memory");
  const int processor = ::ioctl(machine, KVM_CREATE_VCPU, 0);
  if (processor < 0) return failed("make a processor");
  const int size = ::ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  if (size < static_cast<int>(sizeof(kvm_run))) return failed("learn the size of its state");
  void* state = ::mmap(nullptr, static_cast<std::size_t>(size), PROT_READ | PROT_WRITE, MAP_SHARED,
                       processor, 0);
  if (state == MAP_FAILED) return failed("map its state");
  if (!enter_long_mode(processor)) return failed("enter long mode");
  const auto* run = static_cast<const kvm_run*>(state);
  const std::int64_t begun = monotonic_ns();
  if (::ioctl(processor, KVM_RUN, 0) < 0) return failed("run");
  const std::int64_t spent = monotonic_ns() - begun;
  const auto* out = static_cast<const std::uint8_t*>(state) + run->io.data_offset;
  if (run->exit_reason != KVM_EXIT_IO || run->io.port != kPort || *out != kSignOfLife) {
    errno = 0;
    return failed("end with the expected output");
  }
  return Finding{nullptr, 0, spent};
}

KvmVerdict judge(const KvmProbeOptions& options, const Finding& finding) {
  KvmVerdict verdict;
  if (finding.failed != nullptr) {
    verdict.reason = fmt::format("KVM is not usable: {}: could not {}: {}", options.device,
                                 finding.failed, std::strerror(finding.number));
    return verdict;
  }
  return judge_kvm_loop(static_cast<double>(finding.nanoseconds) / kInstructions,
                        options.nanoseconds_per_instruction_max);
}

/// A disk of 1 MiB (firmware boots no smaller one): writes 'K' to port 0xe9, then to 0xf4, where
/// QEMU exits with 2 * value + 1.
std::string canary_disk() {
  std::string disk("\xb0\x4b\xe6\xe9\xb0\x10\xe6\xf4\xf4\xeb\xfd", 11);
  disk.resize(510, '\0');
  disk += "\x55\xaa";
  disk.resize(1 << 20, '\0');
  return disk;
}

}  // namespace

KvmVerdict judge_kvm_loop(double nanoseconds_per_instruction, double allowed) {
  KvmVerdict verdict;
  verdict.usable = nanoseconds_per_instruction < allowed;
  verdict.reason =
      fmt::format("KVM is {}usable: a loop took {:.1f} ns an instruction, {:.0f} ns are allowed",
                  verdict.usable ? "" : "not ", nanoseconds_per_instruction, allowed);
  return verdict;
}

KvmVerdict probe_kvm(const KvmProbeOptions& options) {
  KvmVerdict verdict;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    verdict.reason = "KVM was not probed: no pipe";
    return verdict;
  }
  const Descriptor from_child(ends[0]);
  Descriptor to_parent(ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const Finding finding = run_loop(options.device.c_str());
    const ssize_t ignored = ::write(to_parent.get(), &finding, sizeof finding);
    ::_exit(ignored == sizeof finding ? 0 : 1);
  }
  to_parent.reset();
  Finding finding;
  pollfd question{from_child.get(), POLLIN, 0};
  const bool answered = child > 0 &&
                        ::poll(&question, 1, static_cast<int>(to_ms(options.deadline))) == 1 &&
                        ::read(from_child.get(), &finding, sizeof finding) == sizeof finding;
  if (child > 0) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
  }
  if (answered) return judge(options, finding);
  verdict.reason =
      fmt::format("KVM is not usable: a loop of {} instructions did not end within {} ms",
                  kInstructions, to_ms(options.deadline));
  return verdict;
}

std::vector<gid_t> kvm_groups(const std::string& device) {
  struct stat seen {};
  if (::stat(device.c_str(), &seen) != 0 || (seen.st_mode & 0060) != 0060) return {};
  return {seen.st_gid};
}

Result<void> run_canary_guest(const CanaryGuest& canary) {
  const std::string path = canary.scratch + "/canary.img";
  if (auto done = write_file_atomically(path, canary_disk(), 0644); !done) return done;
  ProcessOptions options;
  options.as = canary.as;
  options.arguments = {canary.qemu,
                       "-nodefaults",
                       "-no-user-config",
                       "-display",
                       "none",
                       "-machine",
                       "q35",
                       "-accel",
                       canary.accelerator == Accelerator::kvm ? "kvm" : "tcg",
                       "-m",
                       "32M",
                       "-drive",
                       "if=none,id=d,format=raw,readonly=on,file=" + path,
                       "-device",
                       "virtio-blk-pci,drive=d",
                       "-chardev",
                       "stdio,id=out",
                       "-device",
                       "isa-debugcon,chardev=out",
                       "-device",
                       "isa-debug-exit,iobase=0xf4,iosize=4"};
  const auto output = run_process(options, canary.deadline);
  ::unlink(path.c_str());
  if (!output) return wrap_error("canary guest", output.error());
  if (output->out == "K" && output->exit.code == 2 * 0x10 + 1) return {};
  return make_error(Errc::internal,
                    fmt::format("canary guest: exit code {}, {} bytes said, {}", output->exit.code,
                                output->out.size(), output->err));
}

KvmVerdict kvm_verdict(const std::string& cache_path, CanaryGuest canary,
                       const std::function<KvmVerdict()>& probe) {
  const std::string boot_id = read_boot_id();
  if (const auto text = read_file(cache_path, 1 << 16)) {
    const auto cached = from_json_text<KvmVerdict>(*text);
    if (cached && cached->boot_id == boot_id) return *cached;
  }
  KvmVerdict verdict = probe();
  if (verdict.usable) {
    canary.accelerator = Accelerator::kvm;
    canary.scratch = cache_path.substr(0, cache_path.rfind('/'));
    if (canary.as.user != 0) canary.as.groups = kvm_groups();
    const auto up = run_canary_guest(canary);
    verdict.usable = up.ok();
    verdict.reason = up ? verdict.reason + "; a canary guest came up"
                        : "KVM is not usable: " + up.error().text();
  }
  verdict.boot_id = boot_id;
  // A verdict that cannot be kept is found again at the next start.
  (void)write_file_atomically(cache_path, to_json_text(verdict), 0644);
  return verdict;
}

}  // namespace virga
