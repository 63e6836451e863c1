#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/rng.h"
#include "mechanism/metering/meter.h"
#include "mechanism/metering/usage_file.h"
#include "tools/temp_folder.h"

/// An hour of 10,000 VMs on 1,000 hosts through what the server does with it: reports as text, the
/// meter, the file. Time is virtual, work is real. Lines of `name value unit`.
///
/// A third of the VMs is idle (a housekeeping burst now and then), a third steadily busy, a third
/// busy in bursts; `busy` has all of them steadily busy with noise in every series, the worst for
/// compression.
namespace virga::metering {
namespace {

constexpr int kHosts = 1'000;
constexpr int kVmsPerHost = 10;
constexpr int kVms = kHosts * kVmsPerHost;
constexpr std::int64_t kHourMs = 3'600'000;
constexpr std::int64_t kBegin = 20'000 * kDayMs;
constexpr double kMillion = 1e6;

double processor_seconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  return static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
         static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / kMillion;
}

/// What a VM does within ten seconds, with the jitter of real counters.
class Load {
 public:
  enum class Kind { idle, steady, bursts };

  void step(VmUsage& usage, Kind kind) {
    usage.run_ms += milliseconds(10'000 + noise(3) - 1);
    const bool acts = kind == Kind::steady || rng_.chance(kind == Kind::idle ? 30'000 : 250'000);
    usage.cpu_ms += milliseconds(kind == Kind::idle ? 40 + noise(8) : 200 + noise(40));
    if (acts) usage.cpu_ms += milliseconds(2'000 + noise(3'000));
    if (rng_.chance(100'000)) usage.memory_mib_used = {300 + noise(40)};
    const std::int64_t reads = acts ? 50 + noise(200) : 0;
    const std::int64_t writes = acts ? 80 + noise(300) : noise(4);
    usage.disk_reads += reads;
    usage.disk_writes += writes;
    usage.disk_read_bytes += reads * 4096 * (1 + noise(8));
    usage.disk_written_bytes += writes * 4096 * (1 + noise(4));
    usage.net_received_bytes += acts ? 200'000 + noise(4'000'000) : noise(3) * 60;
    usage.net_sent_bytes += acts ? 300'000 + noise(6'000'000) : noise(3) * 60;
  }

 private:
  std::int64_t noise(std::uint64_t below) { return static_cast<std::int64_t>(rng_.below(below)); }
  Rng rng_{42};
};

class Cloud {
 public:
  Cloud() : reports_(kHosts), of_tenant_(kVms) {
    for (int vm = 0; vm < kVms; ++vm) {
      VmUsage usage;
      usage.vm = VmId(fmt::format("tenant-{}/vm-{:05}", vm % 100, vm));
      usage.epoch = {1, static_cast<std::uint64_t>(vm) + 1};
      usage.cpus = 2;
      usage.memory_mib = {1024};
      usage.disk_read_bytes = usage.disk_written_bytes = usage.disk_reads = usage.disk_writes = 0;
      usage.net_received_bytes = usage.net_sent_bytes = 0;
      of_tenant_[vm] = fmt::format("tenant-{}", vm % 100);
      reports_[vm / kVmsPerHost].vms.push_back(usage);
    }
  }

  const std::vector<UsageReport>& step(bool busy) {
    for (int host = 0; host < kHosts; ++host) {
      for (int vm = 0; vm < kVmsPerHost; ++vm) {
        VmUsage& usage = reports_[host].vms[vm];
        usage.age_ms += milliseconds(10'000);
        load_.step(usage, busy ? Load::Kind::steady : static_cast<Load::Kind>(vm % 3));
      }
    }
    return reports_;
  }
  const std::vector<UsageReport>& reports() const { return reports_; }
  const std::string& tenant(int vm) const { return of_tenant_[vm]; }

 private:
  Load load_;
  std::vector<UsageReport> reports_;
  std::vector<std::string> of_tenant_;
};

class Bench {
 public:
  explicit Bench(bool busy) : busy_(busy) {
    auto file = UsageFile::open(folder_.file("usage.db"), {});
    VIRGA_CHECK(file.ok());
    file_.emplace(*std::move(file));
  }

  void run() {
    const std::string prefix = busy_ ? "metering_busy" : "metering";
    Meter meter(*file_->load(kBegin - kPointMs));  // so that the first ten seconds count
    for (std::int64_t at = kBegin; at < kBegin + kHourMs; at += kPointMs) {
      const auto& reports = cloud_.step(busy_);
      std::vector<std::string> texts;
      texts.reserve(reports.size());
      for (const UsageReport& report : reports) texts.push_back(to_json_text(report));
      const double before = processor_seconds();
      for (int host = 0; host < kHosts; ++host) take(meter, host, texts[host], at);
      meter.pass(at + 1);
      while (auto window = meter.take()) keep(*window);
      spent_ += processor_seconds() - before;
    }
    meter.pass(kBegin + kHourMs);
    keep(*meter.take());
    const auto sizes = file_->sizes();
    VIRGA_CHECK(sizes.ok());
    fmt::print("{}_points_bytes {:.0f} bytes_per_vm_hour\n", prefix, per_vm(sizes->points));
    fmt::print("{}_rollup_bytes {:.0f} bytes_per_vm_hour\n", prefix, per_vm(sizes->rollups));
    fmt::print("{}_core_share {:.2f} percent_of_a_core\n", prefix, spent_ * 100'000 / kHourMs);
    fmt::print("{}_window_kept {:.0f} ms\n", prefix, slowest_ * 1000);
    fmt::print("{}_sums_that_differ {} sums\n", prefix, differing());
    std::fflush(stdout);
  }

 private:
  static double per_vm(std::int64_t bytes) { return static_cast<double>(bytes) / kVms; }

  void take(Meter& meter, int host, const std::string& text, std::int64_t at) {
    const auto report = from_json_text<UsageReport>(text, UnknownFields::ignore);
    VIRGA_CHECK(report.ok());
    const HostId id(fmt::format("host-{}", host));
    for (int vm = 0; vm < kVmsPerHost; ++vm) {
      meter.add_vm(id, cloud_.tenant(host * kVmsPerHost + vm), report->vms[vm], at);
    }
    meter.add_host(id.value, 12'000, 20'000, at);
  }

  void keep(const Window& window) {
    const double before = processor_seconds();
    VIRGA_CHECK(file_->keep(window).ok());
    slowest_ = std::max(slowest_, processor_seconds() - before);
  }

  Amounts sums(const std::string& vm, std::int64_t step_ms) {
    const auto steps = file_->points({SubjectKind::vm, vm, kBegin, kBegin + kHourMs, step_ms});
    VIRGA_CHECK(steps.ok());
    Amounts all{};
    for (const UsageStep& step : *steps) {
      for (std::size_t one = 0; one < kVmSeries; ++one) all[one] += step.series[one].sum;
    }
    return all;
  }

  /// Of all VMs: points against roll-ups against what is charged against what the VM has really
  /// used.
  int differing() {
    std::map<std::string, Amounts> charged;
    const auto ledger = file_->ledger({"", "", kBegin / kDayMs, kBegin / kDayMs + 1});
    VIRGA_CHECK(ledger.ok());
    for (const LedgerEntry& entry : *ledger) charged[entry.subject.name] = entry.charge.amounts;
    int differ = 0;
    for (const UsageReport& report : cloud_.reports()) {
      for (const VmUsage& usage : report.vms) {
        const Amounts points = sums(usage.vm.value, kPointMs);
        const Amounts rollups = sums(usage.vm.value, kWindowMs);
        Amounts paid = charged[usage.vm.value];
        paid[kMemoryUsed] = points[kMemoryUsed];  // a level: shown, not charged
        differ += points != rollups || points != paid || points[kRun] != to_ms(usage.run_ms) ||
                          points[kDiskReadBytes] != usage.disk_read_bytes
                      ? 1
                      : 0;
      }
    }
    return differ;
  }

  const bool busy_;
  test::TempFolder folder_;
  std::optional<UsageFile> file_;
  Cloud cloud_;
  double spent_ = 0;
  double slowest_ = 0;
};

}  // namespace
}  // namespace virga::metering

int main() {
  virga::metering::Bench(false).run();
  virga::metering::Bench(true).run();
  return 0;
}
