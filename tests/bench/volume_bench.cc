#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "driver/nbd/nbd_store.h"
#include "edge/file.h"
#include "tools/temp_folder.h"

/// Volumes over NBD on the disk under $TMPDIR, qemu-io as consumer: lines of `name value unit`.
namespace virga {
namespace {

constexpr int kRounds = 40;

class Bench {
 public:
  Bench() : store_(loop_, options()) {
    call<void>([&](Callback<void> done) { store_.open(std::move(done)); });
    call<void>([&](Callback<void> done) { store_.create(id_, Mib{64}, {}, std::move(done)); });
  }

  void run() {
    for (int round = 1; round <= kRounds; ++round) {
      start_.push_back(consumer_start());
      measure(static_cast<std::uint64_t>(round));
      opened_.push_back(first_byte_.back() - start_.back());
    }
    call<void>([&](Callback<void> done) { store_.erase(id_, std::move(done)); });
    print("volume_attach", attach_);
    print("volume_consumer_start", start_);
    print("volume_first_byte", first_byte_);
    print("volume_first_byte_without_start", opened_);
    print("volume_fence", fence_);
  }

 private:
  NbdOptions options() {
    NbdOptions made;
    made.directory = folder_.file("device");
    return made;
  }

  static double ms(Duration span) {
    return std::chrono::duration<double, std::milli>(span).count();
  }

  static void print(const std::string& name, std::vector<double> values) {
    std::sort(values.begin(), values.end());
    fmt::print("{0}_median {1:.1f} ms\n{0}_p95 {2:.1f} ms\n", name, values[values.size() / 2],
               values[values.size() * 95 / 100]);
  }

  void wait(const std::function<bool()>& condition) {
    const Instant end = loop_.now() + seconds(20);
    while (!condition()) {
      VIRGA_CHECK(loop_.now() < end);
      loop_.after(milliseconds(1), [this] { loop_.stop(); });
      loop_.run();
    }
  }

  template <typename T>
  T call(const std::function<void(Callback<T>)>& made) {
    std::optional<Result<T>> outcome;
    made([&](Result<T> ended) {
      outcome.emplace(std::move(ended));
      loop_.stop();
    });
    while (!outcome) loop_.run();
    if (!outcome->ok()) fmt::print(stderr, "{}\n", outcome->error().text());
    VIRGA_CHECK(outcome->ok());
    if constexpr (!std::is_void_v<T>) return **outcome;
  }

  /// What a consumer takes that is started for one read of nothing: a guest's QEMU runs already.
  double consumer_start() {
    const Instant began = loop_.now();
    auto consumer = start({"--image-opts", "driver=null-co,size=64M", "-c", "read 0 4k"});
    wait([&] { return !consumer->running(); });
    return ms(loop_.now() - began);
  }

  std::unique_ptr<Process> start(const std::vector<std::string>& arguments) {
    VIRGA_CHECK(replace_file(log_, "").ok());
    ProcessOptions consumer;
    consumer.arguments = {"/usr/bin/qemu-io"};
    consumer.arguments.insert(consumer.arguments.end(), arguments.begin(), arguments.end());
    consumer.environment = {{"LC_ALL", "C"}, {"PATH", "/usr/bin:/bin"}};
    consumer.output_path = log_;
    auto process = Process::spawn(loop_, consumer);
    VIRGA_CHECK(process.ok());
    return std::move(*process);
  }

  /// One that opens the volume, and what it shall do there. It says what it did when it ends, or
  /// when its buffer is full.
  static std::vector<std::string> opens(const VolumeEndpoint& at, const std::string& keys) {
    return {"--object", "tls-creds-psk,id=tls,endpoint=client,dir=" + keys + ",username=" + at.user,
            "--image-opts",
            fmt::format("driver=nbd,host={},port={},export={},tls-creds=tls", at.address, at.port,
                        at.export_name)};
  }

  /// From the request to let somebody in until it has read and ended; then another one writes until
  /// it is cut off.
  void measure(std::uint64_t epoch) {
    const Instant asked = loop_.now();
    const auto at = call<VolumeEndpoint>([&](Callback<VolumeEndpoint> done) {
      store_.attach(id_, {1, epoch}, {}, std::move(done));
    });
    attach_.push_back(ms(loop_.now() - asked));
    const std::string keys = folder_.file("keys");
    VIRGA_CHECK(make_folders(keys).ok());
    VIRGA_CHECK(replace_file(keys + "/keys.psk", at.user + ":" + at.key + "\n", 0600).ok());
    std::vector<std::string> reads = opens(at, keys);
    reads.insert(reads.end(), {"-c", "read 0 4k"});
    const auto reader = start(reads);
    wait([&] { return !reader->running(); });
    VIRGA_CHECK(has(log_, "read 4096/4096"));
    first_byte_.push_back(ms(loop_.now() - asked));
    std::vector<std::string> writes = opens(at, keys);
    for (int count = 0; count < 200; ++count) {
      writes.insert(writes.end(), {"-c", "write -P 7 1M 1M"});
    }
    const auto writer = start(writes);
    wait([&] { return has(log_, "wrote 1048576/1048576"); });
    const Instant began = loop_.now();
    call<void>([&](Callback<void> done) { store_.revoke(id_, {1, epoch}, std::move(done)); });
    fence_.push_back(ms(loop_.now() - began));
    writer->signal(SIGKILL);
    wait([&] { return !writer->running(); });
  }

  static bool has(const std::string& path, const std::string& words) {
    const auto text = read_file(path);
    return text.ok() && text->find(words) != std::string::npos;
  }

  test::TempFolder folder_;
  const std::string log_ = folder_.file("consumer.log");
  AsioLoop loop_;
  const VolumeId id_{"bench/data"};
  NbdStore store_;
  std::vector<double> attach_;
  std::vector<double> start_;
  std::vector<double> first_byte_;
  std::vector<double> opened_;  ///< the first byte, less the start of its consumer just before
  std::vector<double> fence_;
};

}  // namespace
}  // namespace virga

int main() {
  virga::Bench().run();
  return 0;
}
