// What it takes to copy a volume to another device under its guest: beside `qemu-img convert` of
// the same data between the same two servers, in rounds that take turns; and what a guest notices
// that writes all the time while the copy is held back as it is by default. Devices, guests and TLS
// are real. Lines of `name value unit`.
//
//   virga_copy_bench [rounds=6] [MiB of data=512]

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/rng.h"
#include "driver/nbd/nbd_store.h"
#include "driver/qemu/boot_sectors.h"
#include "driver/qemu/test_lab.h"
#include "driver/volumes/server_record.h"
#include "edge/file.h"

namespace virga::test {
namespace {

using Clock = std::chrono::steady_clock;

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto at = static_cast<std::size_t>(static_cast<double>(values.size()) * share);
  return values[std::min(at, values.size() - 1)];
}

/// When each write of a guest that fills its disk has come to the file that holds it; see
/// boot_sectors::fill_disk().
class WriteWatch {
 public:
  explicit WriteWatch(const std::string& image) {
    const Descriptor file(::open(image.c_str(), O_RDONLY | O_CLOEXEC));
    VIRGA_CHECK(file.valid());
    size_ = static_cast<std::size_t>(::lseek(file.get(), 0, SEEK_END));
    void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.get(), 0);
    VIRGA_CHECK(mapped != MAP_FAILED);
    bytes_ = static_cast<const char*>(mapped);
    thread_ = std::thread([this] { watch(); });
  }
  ~WriteWatch() {
    ending_ = true;
    if (thread_.joinable()) thread_.join();
    ::munmap(const_cast<char*>(bytes_), size_);
  }

  /// Milliseconds from each write to the next one.
  std::vector<double> end() {
    ending_ = true;
    thread_.join();
    return std::move(between_);
  }

 private:
  static constexpr std::size_t kFirst = 8 * 512;
  static constexpr std::size_t kWrite = 32 << 10;

  bool written(std::size_t at) const {
    const auto* place = reinterpret_cast<const std::atomic<std::uint32_t>*>(bytes_ + at);
    std::uint32_t begin = 0;
    std::memcpy(&begin, bytes_, sizeof begin);
    return place->load(std::memory_order_relaxed) == begin;
  }
  void watch() {
    std::size_t at = kFirst;
    while (at + kWrite <= size_ && written(at)) at += kWrite;
    auto last = Clock::time_point();
    while (!ending_ && at + kWrite <= size_) {
      if (!written(at)) {
        const timespec pause{0, 100'000};
        ::ppoll(nullptr, 0, &pause, nullptr);
        continue;
      }
      const auto now = Clock::now();
      if (last != Clock::time_point())
        between_.push_back(std::chrono::duration<double, std::milli>(now - last).count());
      last = now;
      at += kWrite;
    }
  }

  std::size_t size_ = 0;
  const char* bytes_ = nullptr;
  std::vector<double> between_;
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

class Bench {
 public:
  explicit Bench(Mib size) : size_(size) {
    for (const char* place : {"a", "b"}) open(place);
    create("a");
    fill();
  }
  ~Bench() {
    lab_.kill_vm(0, kVm);
    lab_.run_until([&] { return lab_.host(0).observe().empty(); }, seconds(20));
    stores_.clear();
    for (const auto& [place, folder] : folders_) {
      auto server = adopt_server(lab_.loop(), folder + "/acme/data/server.json");
      if (!server) continue;
      (*server)->signal(SIGKILL);
      lab_.run_until([&] { return !(*server)->running(); }, seconds(10));
    }
  }

  /// Seconds that `qemu-img convert` takes from one server to the other.
  double convert() {
    create("b");
    const auto from = attach("a"), to = attach("b");
    ProcessOptions options;
    options.arguments = {"/usr/bin/qemu-img",
                         "convert",
                         "-n",
                         "-W",
                         "--object",
                         credentials(from, "from"),
                         "--object",
                         credentials(to, "to"),
                         "--image-opts",
                         "--target-image-opts",
                         image(from, "from"),
                         image(to, "to")};
    options.environment = {{"LC_ALL", "C"}, {"PATH", "/usr/bin:/bin"}};
    const auto began = Clock::now();
    const auto ended = run_process(options, seconds(120));
    const std::chrono::duration<double> took = Clock::now() - began;
    VIRGA_CHECK(ended.ok() && ended->exit.code == 0);
    end_round();
    return took.count();
  }

  /// Seconds that it takes under a guest that does nothing, until it is paused on the new place.
  double move_idle() {
    write(boot_sectors::idle());
    return under_guest(0, [](const std::function<double()>& copy) { return copy(); });
  }

  /// Milliseconds between two writes of a guest that only writes: without a copy, then beside one
  /// that is held back.
  std::pair<std::vector<double>, std::vector<double>> move_writing(std::int64_t bytes_per_second) {
    write(boot_sectors::fill_disk());
    std::vector<double> before, beside;
    under_guest(bytes_per_second, [&](const std::function<double()>& copy) {
      WriteWatch quiet(path("a"));
      lab_.run_until([] { return false; }, seconds(3));
      before = quiet.end();
      WriteWatch watch(path("a"));
      const double took = copy();
      beside = watch.end();
      return took;
    });
    return {before, beside};
  }

 private:
  template <typename T>
  T call(const std::function<void(Callback<T>)>& made) {
    std::optional<Result<T>> outcome;
    made([&](Result<T> ended) { outcome.emplace(std::move(ended)); });
    VIRGA_CHECK(lab_.run_until([&] { return outcome.has_value(); }, seconds(120)));
    if (!outcome->ok()) fmt::print(stderr, "{}\n", outcome->error().text());
    VIRGA_CHECK(outcome->ok());
    if constexpr (!std::is_void_v<T>) return **outcome;
  }

  std::string path(const std::string& place) { return folders_[place] + "/acme/data/volume.raw"; }
  void open(const std::string& place) {
    NbdOptions options;
    options.directory = folders_[place] = lab_.shared() + "-" + place;
    VIRGA_CHECK(make_folders(options.directory, 0700).ok());
    auto& store = stores_[place] = std::make_unique<NbdStore>(lab_.loop(), options);
    call<void>([&](Callback<void> done) { store->open(std::move(done)); });
  }
  void create(const std::string& place) {
    call<void>(
        [&](Callback<void> done) { stores_[place]->create(kVolume, size_, {}, std::move(done)); });
  }

  /// What nothing can leave out or make smaller.
  void fill() {
    const Descriptor file(::open(path("a").c_str(), O_WRONLY | O_CLOEXEC));
    VIRGA_CHECK(file.valid());
    Rng random(7);
    std::vector<std::uint64_t> piece(1 << 17);
    const auto bytes = static_cast<off_t>(piece.size() * sizeof piece[0]);
    for (off_t at = 0; at < to_bytes(size_).value; at += bytes) {
      for (std::uint64_t& word : piece) word = random.next();
      VIRGA_CHECK(::pwrite(file.get(), piece.data(), static_cast<std::size_t>(bytes), at) == bytes);
    }
    VIRGA_CHECK(::fsync(file.get()) == 0);
  }
  void write(const std::string& sector) {
    const Descriptor file(::open(path("a").c_str(), O_WRONLY | O_CLOEXEC));
    VIRGA_CHECK(::pwrite(file.get(), sector.data(), sector.size(), 0) ==
                static_cast<ssize_t>(sector.size()));
  }

  VolumeEndpoint attach(const std::string& place) {
    auto at = call<VolumeEndpoint>([&](Callback<VolumeEndpoint> done) {
      stores_[place]->attach(kVolume, epoch_, {}, std::move(done));
    });
    at.device = DeviceId(place);
    return at;
  }
  std::string credentials(const VolumeEndpoint& at, const std::string& name) {
    const std::string keys = lab_.shared() + "/keys-" + name;
    VIRGA_CHECK(make_folders(keys).ok());
    VIRGA_CHECK(replace_file(keys + "/keys.psk", at.user + ":" + at.key + "\n", 0600).ok());
    return fmt::format("tls-creds-psk,id={},endpoint=client,dir={},username={}", name, keys,
                       at.user);
  }
  static std::string image(const VolumeEndpoint& at, const std::string& credentials) {
    return fmt::format("driver=nbd,host={},port={},export={},tls-creds={}", at.address, at.port,
                       at.export_name, credentials);
  }

  /// A guest runs from the volume; `use` gets what copies it and tells how long that took.
  double under_guest(std::int64_t bytes_per_second_max,
                     const std::function<double(const std::function<double()>&)>& use) {
    create("b");
    VmLaunch guest = lab_.launch("web", epoch_.counter);
    LaunchDisk disk{"root", "", "", size_, kVolume.value};
    disk.endpoint = attach("a");
    guest.disks = {disk};
    call<void>([&](Callback<void> done) { lab_.host(0).start(guest, std::move(done)); });
    lab_.run_until([] { return false; }, seconds(1));
    const double took = use([&] {
      DiskMirror mirror;
      mirror.volume = kVolume.value;
      mirror.to = attach("b");
      mirror.bytes_per_second_max = bytes_per_second_max;
      const auto began = Clock::now();
      call<MigrationProgress>([&](Callback<MigrationProgress> done) {
        lab_.host(0).mirror_disk(kVm, epoch_, mirror, std::move(done));
      });
      const std::chrono::duration<double> copied = Clock::now() - began;
      call<void>([&](Callback<void> done) {
        lab_.host(0).cancel_mirror(kVm, epoch_, kVolume.value, std::move(done));
      });
      return copied.count();
    });
    call<void>([&](Callback<void> done) {
      lab_.host(0).stop(kVm, epoch_, {true, seconds(5)}, std::move(done));
    });
    end_round();
    return took;
  }
  void end_round() {
    for (auto& [place, store] : stores_)
      call<void>([&](Callback<void> done) { store->revoke(kVolume, epoch_, std::move(done)); });
    call<void>([&](Callback<void> done) { stores_["b"]->erase(kVolume, std::move(done)); });
    ++epoch_.counter;
  }

  static inline const VmId kVm{"acme/web"};
  static inline const VolumeId kVolume{"acme/data"};
  const Mib size_;
  Epoch epoch_{1, 1};
  QemuLab lab_;
  std::map<std::string, std::string> folders_;
  std::map<std::string, std::unique_ptr<NbdStore>> stores_;
};

void measure(int rounds, Mib size) {
  Bench bench(size);
  bench.convert();
  std::vector<double> converted, moved, share;
  for (int round = 0; round < rounds; ++round) {
    for (const bool by_guest : {round % 2 == 0, round % 2 != 0}) {
      (by_guest ? moved : converted).push_back(by_guest ? bench.move_idle() : bench.convert());
    }
    share.push_back(moved.back() / converted.back());
    fmt::print("# round {}: convert {:.2f} s, under a guest {:.2f} s\n", round + 1,
               converted.back(), moved.back());
  }
  fmt::print("copy_convert_median {:.2f} s\ncopy_under_guest_median {:.2f} s\n",
             percentile(converted, 0.5), percentile(moved, 0.5));
  fmt::print("copy_under_guest_share {:.2f} of_convert\n", percentile(share, 0.5));
}

/// What a guest that only writes notices of a copy at most so fast.
void measure_writing(const std::string& name, Mib size, std::int64_t bytes_per_second) {
  const auto [before, beside] = Bench(size).move_writing(bytes_per_second);
  fmt::print("{}_writes {} writes\n", name, beside.size());
  for (const double part : {0.5, 0.99, 1.0}) {
    const std::string which = part < 0.9 ? "median" : part < 1 ? "p99" : "max";
    fmt::print("{0}_without_{1} {2:.1f} ms\n{0}_{1} {3:.1f} ms\n", name, which,
               percentile(before, part), percentile(beside, part));
  }
}

}  // namespace
}  // namespace virga::test

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 6;
  const int size_mib = argc > 2 ? std::atoi(argv[2]) : 512;
  if (rounds < 1 || size_mib < 64) {
    fmt::print(stderr, "virga_copy_bench [rounds=6] [MiB of data=512, at least 64]\n");
    return 2;
  }
  virga::test::measure(rounds, virga::Mib{size_mib});
  virga::test::measure_writing("copy_write_beside", virga::Mib{size_mib},
                               virga::DiskMirror().bytes_per_second_max);
  virga::test::measure_writing("copy_write_beside_16_mib", virga::Mib{128}, 16 << 20);
  return 0;
}
