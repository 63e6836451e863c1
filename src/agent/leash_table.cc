#include "agent/leash_table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "agent/leash_core.h"

namespace virga {

struct LeashTable::Image {
  char magic[16];
  char boot_id[48];
  std::int64_t deadline_ns;
  std::array<Entry, LeashCore::kGuardsMax> entries;
};

namespace {

constexpr char kMagic[16] = "virga-leash-1";

Error system_error(const std::string& what) {
  const int number = errno;
  const Errc code = number == EACCES || number == EPERM ? Errc::denied : Errc::internal;
  return make_error(number == ENOSPC ? Errc::exhausted : code, what + ": " + strerror(number));
}

bool same_boot(const char (&stored)[48], const std::string& boot_id) {
  return boot_id.compare(0, sizeof stored - 1, stored) == 0;
}

}  // namespace

Result<LeashTable> LeashTable::open(const std::string& path, const std::string& boot_id) {
  void* memory = MAP_FAILED;
  constexpr int kAccess = PROT_READ | PROT_WRITE;
  if (path.empty()) {
    memory = mmap(nullptr, sizeof(Image), kAccess, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  } else {
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) return system_error("open the leash's state " + path);
    struct stat found {};
    const bool foreign = fstat(file, &found) == 0 && found.st_size != 0 &&
                         static_cast<std::size_t>(found.st_size) != sizeof(Image);
    if (foreign) {
      close(file);
      return make_error(Errc::invalid, "open the leash's state " + path + ": it has " +
                                           std::to_string(found.st_size) + " bytes instead of " +
                                           std::to_string(sizeof(Image)) + "; remove it");
    }
    const int reserved = posix_fallocate(file, 0, sizeof(Image));
    if (reserved == 0) memory = mmap(nullptr, sizeof(Image), kAccess, MAP_SHARED, file, 0);
    close(file);
    errno = reserved != 0 ? reserved : errno;
  }
  if (memory == MAP_FAILED) return system_error("map the leash's state " + path);
  auto* image = static_cast<Image*>(memory);
  if (std::memcmp(image->magic, kMagic, sizeof kMagic) != 0 ||
      !same_boot(image->boot_id, boot_id)) {
    std::memset(memory, 0, sizeof(Image));
    boot_id.copy(image->boot_id, sizeof image->boot_id - 1);
    std::memcpy(image->magic, kMagic, sizeof kMagic);
  }
  return LeashTable(image);
}

LeashTable::LeashTable(LeashTable&& other) noexcept
    : image_(std::exchange(other.image_, nullptr)) {}

LeashTable::~LeashTable() {
  if (image_ != nullptr) munmap(image_, sizeof(Image));
}

Instant LeashTable::deadline() const { return Instant(Duration(image_->deadline_ns)); }

void LeashTable::set_deadline(Instant deadline) {
  image_->deadline_ns = deadline.time_since_epoch().count();
}

// `used` is written last, so that a kill in the middle leaves no half entry.
Result<void> LeashTable::add(const std::string& name, pid_t pid, std::uint64_t start_ticks) {
  if (name.empty() || name.size() >= sizeof(Entry::name)) {
    return make_error(Errc::invalid, "guard \"" + name.substr(0, 40) + "\": names have 1 to " +
                                         std::to_string(sizeof(Entry::name) - 1) + " bytes");
  }
  const auto free = std::find_if(image_->entries.begin(), image_->entries.end(),
                                 [](const Entry& entry) { return entry.used == 0; });
  if (free == image_->entries.end()) {
    return make_error(Errc::exhausted, "guard \"" + name + "\": no room in the leash's table");
  }
  std::memset(free->name, 0, sizeof free->name);
  name.copy(free->name, name.size());
  free->pid = pid;
  free->start_ticks = start_ticks;
  free->used = 1;
  return {};
}

void LeashTable::remove(const std::string& name, pid_t pid) {
  for (Entry& entry : image_->entries) {
    if (entry.used != 0 && entry.pid == pid && name == entry.name) entry.used = 0;
  }
}

void LeashTable::each(const std::function<void(const Entry& entry)>& visit) const {
  for (const Entry& entry : image_->entries) {
    if (entry.used != 0) visit(entry);
  }
}

}  // namespace virga
