// What it costs to encrypt the memory of a guest on its way to another host: the same guest, filled
// with what cannot be left out, is sent to its switch-over point over the loopback, encrypted and
// not, in rounds that take turns; then it goes back. Lines of `name value unit`.
//
//   virga_encryption_bench [rounds=6] [MiB of memory=512]

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/rng.h"
#include "driver/qemu/test_lab.h"
#include "edge/file.h"

namespace virga::test {
namespace {

constexpr double kMebibyte = 1 << 20;

class Bench {
 public:
  explicit Bench(std::int64_t memory_mib) : guest_(lab_.launch("web", 1)) {
    guest_.memory_mib = Mib{memory_mib};
    call<void>([&](Callback<void> done) { lab_.host(0).start(guest_, std::move(done)); });
    fill();
  }

  /// MiB per second of one way to the switch-over point.
  double send(bool encrypted) {
    if (lab_.encrypt_migrations != encrypted) {
      lab_.encrypt_migrations = encrypted;
      lab_.restart_agent(1);
    }
    VmLaunch moved = guest_;
    moved.epoch.counter = ++epoch_;
    const auto to = call<MigrationEndpoint>([&](Callback<MigrationEndpoint> done) {
      lab_.host(1).prepare_incoming(moved, std::move(done));
    });
    VIRGA_CHECK(to.key.empty() != encrypted);
    MigrationLimits limits;
    limits.bytes_per_second_max = std::int64_t{1} << 40;
    const Instant began = lab_.loop().now();
    const auto sent = call<MigrationProgress>([&](Callback<MigrationProgress> done) {
      lab_.host(0).send(guest_.vm, guest_.epoch, to, limits, std::move(done));
    });
    const std::chrono::duration<double> took = lab_.loop().now() - began;
    call<void>([&](Callback<void> done) {
      lab_.host(1).stop(moved.vm, moved.epoch, {true, seconds(5)}, std::move(done));
    });
    call<void>([&](Callback<void> done) {
      lab_.host(0).cancel_send(guest_.vm, guest_.epoch, std::move(done));
    });
    return static_cast<double>(sent.transferred_bytes.value) / kMebibyte / took.count();
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

  /// Where the guest's memory is in its process: the largest piece of it.
  std::pair<off_t, std::size_t> memory() const {
    std::ifstream maps(fmt::format("/proc/{}/maps", lab_.pid(0, guest_.vm)));
    std::pair<off_t, std::size_t> largest{0, 0};
    for (std::string line; std::getline(maps, line);) {
      std::size_t dash = 0;
      const auto first = std::stoull(line, &dash, 16);
      const auto last = std::stoull(line.substr(dash + 1), nullptr, 16);
      const bool writable = line.find(" rw") != std::string::npos;
      if (writable && last - first > largest.second)
        largest = {static_cast<off_t>(first), last - first};
    }
    return largest;
  }

  /// All but the first 16 MiB, where the guest and its firmware live.
  void fill() {
    constexpr std::size_t kLeft = 16 << 20;
    const auto [begin, size] = memory();
    VIRGA_CHECK(size >= static_cast<std::size_t>(guest_.memory_mib.value - 1) << 20);
    const std::string path = fmt::format("/proc/{}/mem", lab_.pid(0, guest_.vm));
    const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    VIRGA_CHECK(file.valid());
    Rng random(7);
    std::vector<std::uint64_t> piece(1 << 17);
    const std::size_t bytes = piece.size() * sizeof piece[0];
    for (std::size_t at = kLeft; at + bytes <= size; at += bytes) {
      for (std::uint64_t& word : piece) word = random.next();
      VIRGA_CHECK(::pwrite(file.get(), piece.data(), bytes, begin + static_cast<off_t>(at)) ==
                  static_cast<ssize_t>(bytes));
    }
  }

  QemuLab lab_;
  VmLaunch guest_;
  std::uint64_t epoch_ = 1;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void measure(int rounds, std::int64_t memory_mib) {
  Bench bench(memory_mib);
  std::vector<double> plain;
  std::vector<double> encrypted;
  std::vector<double> share;
  for (int round = 0; round < rounds; ++round) {
    const bool first = round % 2 == 0;
    for (const bool secret : {first, !first}) {
      (secret ? encrypted : plain).push_back(bench.send(secret));
    }
    share.push_back(encrypted.back() / plain.back());
    fmt::print("# round {}: plain {:.0f}, encrypted {:.0f} MiB/s\n", round + 1, plain.back(),
               encrypted.back());
  }
  fmt::print("migration_plain_rate_median {:.0f} MiB_per_s\n", median(plain));
  fmt::print("migration_encrypted_rate_median {:.0f} MiB_per_s\n", median(encrypted));
  fmt::print("migration_encrypted_share_median {:.2f} of_plain\n", median(share));
}

}  // namespace
}  // namespace virga::test

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 6;
  const int memory_mib = argc > 2 ? std::atoi(argv[2]) : 512;
  if (rounds < 1 || memory_mib < 64) {
    fmt::print(stderr, "virga_encryption_bench [rounds=6] [MiB of memory=512, at least 64]\n");
    return 2;
  }
  virga::test::measure(rounds, memory_mib);
  return 0;
}
