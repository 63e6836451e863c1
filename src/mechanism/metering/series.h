#pragma once

#include <array>
#include <boost/describe.hpp>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

/// What is metered, and how its points become bytes. Integers only.
namespace virga::metering {

inline constexpr std::int64_t kPointMs = 10'000;
inline constexpr std::int64_t kWindowMs =
    300'000;  ///< is written as a whole: points and their roll-up
inline constexpr std::int64_t kDayMs = 86'400'000;  ///< of the ledger, in UTC
inline constexpr std::size_t kWindowPoints = kWindowMs / kPointMs;
inline constexpr std::int64_t kGap =
    std::numeric_limits<std::int64_t>::min();  ///< nobody measured this point

enum class SubjectKind { vm, host, volume, service };
BOOST_DESCRIBE_ENUM(SubjectKind, vm, host, volume, service)

struct Series {
  std::string_view name;  ///< its unit last
  bool level;  ///< a point is what was there then; else: what was added since the point before
};

/// Where the counters of a VM stand in its list of series.
enum VmSeries : std::size_t {
  kRun,
  kCpu,
  kMemoryUsed,
  kDiskReadBytes,
  kDiskWrittenBytes,
  kDiskReads,
  kDiskWrites,
  kNetReceivedBytes,
  kNetSentBytes,
  kVmSeries
};
enum VolumeSeries : std::size_t { kHeld, kVolumeUsed, kVolumeSeries };
enum HostSeries : std::size_t { kHostCpu, kHostMemory, kHostSeries };
enum ServiceSeries : std::size_t { kRequests, kRequestErrors, kConnections, kServiceSeries };

/// The series of one kind of subject, in the order in which they are kept. The list of a kind only grows.
std::span<const Series> series_of(SubjectKind kind);

/// Amounts by series; those that a kind does not have are 0.
using Amounts = std::array<std::int64_t, kVmSeries>;

/// Appends one series of a window. A point costs about one byte for each seven bits of its change, runs of the same
/// value and gaps two bytes each.
void append_points(std::string& to, std::span<const std::int64_t> points);

/// Takes one series from the front of `from`. Errors: internal (damaged).
Result<void> take_points(std::string_view& from, std::span<std::int64_t> points);

/// What a roll-up keeps of one series in one window.
struct Rollup {
  std::int64_t points = 0;  ///< that were measured; 0 = a gap
  std::int64_t sum = 0;     ///< exact
  std::int64_t most = 0;    ///< largest point

  friend bool operator==(const Rollup&, const Rollup&) = default;
};
BOOST_DESCRIBE_STRUCT(Rollup, (), (points, sum, most))

Rollup roll_up(std::span<const std::int64_t> points);
/// Of windows that follow one another.
Rollup joined(const Rollup& first, const Rollup& second);

void append_rollup(std::string& to, const Rollup& rollup);
Result<Rollup> take_rollup(std::string_view& from);

void append_number(std::string& to, std::int64_t number);
Result<std::int64_t> take_number(std::string_view& from);

/// Amounts as a short text of bytes.
std::string pack(const Amounts& amounts);
Result<Amounts> unpack(std::string_view from);

}  // namespace virga::metering
