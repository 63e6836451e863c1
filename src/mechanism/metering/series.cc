#include "mechanism/metering/series.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace virga::metering {
namespace {

constexpr Series kOfVm[] = {
    {"run_ms", false},
    {"cpu_ms", false},
    {"memory_used_mib", true},
    {"disk_read_bytes", false},
    {"disk_written_bytes", false},
    {"disk_reads", false},
    {"disk_writes", false},
    {"net_received_bytes", false},
    {"net_sent_bytes", false},
};
constexpr Series kOfHost[] = {{"cpu_used_millicores", true}, {"memory_used_mib", true}};
constexpr Series kOfVolume[] = {{"held_mib_ms", false}, {"used_mib", true}};
constexpr Series kOfService[] = {{"requests", false}, {"errors", false}, {"connections", true}};
static_assert(std::size(kOfVm) == kVmSeries && std::size(kOfHost) == kHostSeries &&
              std::size(kOfVolume) == kVolumeSeries && std::size(kOfService) == kServiceSeries);

// A token that is larger is a change: its zigzag + kChange - 1, since a change of nothing is a run.
constexpr std::uint64_t kSameRun = 0;  ///< then how many points are as the one before
constexpr std::uint64_t kGapRun = 1;   ///< then how many points are missing
constexpr std::uint64_t kChange = 2;

/// How a block is laid out: as changes against zero, as changes against the point before, or,
/// without gaps, as what each point has above the least, all in the same number of bits.
enum class Layout : char { against_zero, against_before, packed };

std::uint64_t zigzag(std::int64_t number) {
  return (static_cast<std::uint64_t>(number) << 1U) ^ static_cast<std::uint64_t>(number >> 63);
}
std::int64_t unzigzag(std::uint64_t bits) {
  return static_cast<std::int64_t>(bits >> 1U) ^ -static_cast<std::int64_t>(bits & 1U);
}
/// Differences wrap around, so that no value is out of reach.
std::int64_t minus(std::int64_t left, std::int64_t right) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(left) -
                                   static_cast<std::uint64_t>(right));
}
std::int64_t plus(std::int64_t left, std::int64_t right) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(left) +
                                   static_cast<std::uint64_t>(right));
}

void append_bits(std::string& to, std::uint64_t bits) {
  for (; bits >= 0x80U; bits >>= 7U) to += static_cast<char>(bits | 0x80U);
  to += static_cast<char>(bits);
}

Error damaged() { return make_error(Errc::internal, "a block of points is damaged"); }

Result<std::uint64_t> take_bits(std::string_view& from) {
  std::uint64_t bits = 0;
  for (unsigned shift = 0; shift < 64 && !from.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(from.front());
    from.remove_prefix(1);
    bits |= static_cast<std::uint64_t>(byte & 0x7fU) << shift;
    if (byte < 0x80U) return bits;
  }
  return damaged();
}

/// False: a change against the point before is 2^63, which no token stands for. Against zero there
/// is no such change, it would be a gap.
bool append_tokens(std::string& to, std::span<const std::int64_t> points, Layout layout) {
  std::int64_t base = 0;
  for (std::size_t at = 0; at < points.size();) {
    const bool gap = points[at] == kGap;
    if (!gap && points[at] != base) {
      const std::int64_t change = minus(points[at], base);
      if (change == std::numeric_limits<std::int64_t>::min()) return false;
      append_bits(to, zigzag(change) + kChange - 1);
      if (layout == Layout::against_before) base = points[at];
      ++at;
      continue;
    }
    const std::int64_t repeated = gap ? kGap : base;
    const std::size_t begin = at;
    while (at < points.size() && points[at] == repeated) ++at;
    append_bits(to, gap ? kGapRun : kSameRun);
    append_bits(to, at - begin);
  }
  return true;
}

unsigned bits_of(std::uint64_t number) { return static_cast<unsigned>(std::bit_width(number)); }

/// Lowest bits first.
void append_packed(std::string& to, std::span<const std::int64_t> points) {
  const auto [least, most] = std::minmax_element(points.begin(), points.end());
  const auto width = bits_of(static_cast<std::uint64_t>(minus(*most, *least)));
  append_bits(to, zigzag(*least));
  append_bits(to, width);
  std::vector<bool> bits;
  for (const std::int64_t point : points) {
    const auto above = static_cast<std::uint64_t>(minus(point, *least));
    for (unsigned bit = 0; bit < width; ++bit) bits.push_back((above >> bit & 1U) != 0);
  }
  for (std::size_t at = 0; at < bits.size(); at += 8) {
    unsigned byte = 0;
    for (std::size_t bit = at; bit < std::min(at + 8, bits.size()); ++bit) {
      byte |= static_cast<unsigned>(bits[bit]) << (bit - at);
    }
    to += static_cast<char>(byte);
  }
}

Result<void> take_packed(std::string_view& from, std::span<std::int64_t> points) {
  const auto least = take_bits(from);
  if (!least) return least.error();
  const auto width = take_bits(from);
  if (!width) return width.error();
  if (*width > 64 || from.size() < (*width * points.size() + 7) / 8) return damaged();
  std::size_t at = 0;
  for (std::int64_t& point : points) {
    std::uint64_t above = 0;
    for (unsigned bit = 0; bit < *width; ++bit, ++at) {
      const auto byte = static_cast<unsigned char>(from[at / 8]);
      above |= static_cast<std::uint64_t>(byte >> (at % 8) & 1U) << bit;
    }
    point = plus(unzigzag(*least), static_cast<std::int64_t>(above));
  }
  from.remove_prefix((at + 7) / 8);
  return {};
}

}  // namespace

std::span<const Series> series_of(SubjectKind kind) {
  if (kind == SubjectKind::vm) return kOfVm;
  if (kind == SubjectKind::host) return kOfHost;
  if (kind == SubjectKind::volume) return kOfVolume;
  return kOfService;
}

/// Whichever is the shortest: rare bursts are against zero, steady series against the point before,
/// noise is packed.
void append_points(std::string& to, std::span<const std::int64_t> points) {
  std::string shortest;
  for (const Layout layout : {Layout::against_zero, Layout::against_before, Layout::packed}) {
    std::string block(1, static_cast<char>(layout));
    if (layout != Layout::packed) {
      if (!append_tokens(block, points, layout)) continue;
    } else if (points.empty() || std::find(points.begin(), points.end(), kGap) != points.end()) {
      continue;
    } else {
      append_packed(block, points);
    }
    if (shortest.empty() || block.size() < shortest.size()) shortest = std::move(block);
  }
  to += shortest;
}

Result<void> take_points(std::string_view& from, std::span<std::int64_t> points) {
  if (from.empty()) return damaged();
  const auto layout = static_cast<Layout>(from.front());
  from.remove_prefix(1);
  if (layout == Layout::packed) return take_packed(from, points);
  std::int64_t base = 0;
  for (std::size_t at = 0; at < points.size();) {
    const auto token = take_bits(from);
    if (!token) return token.error();
    if (*token >= kChange) {
      points[at] = plus(base, unzigzag(*token - kChange + 1));
      if (layout == Layout::against_before) base = points[at];
      ++at;
      continue;
    }
    const auto count = take_bits(from);
    if (!count || *count == 0 || *count > points.size() - at) return damaged();
    std::fill_n(points.begin() + static_cast<std::ptrdiff_t>(at), *count,
                *token == kGapRun ? kGap : base);
    at += *count;
  }
  return {};
}

Rollup roll_up(std::span<const std::int64_t> points) {
  Rollup rollup;
  for (const std::int64_t point : points) {
    if (point == kGap) continue;
    rollup.most = rollup.points == 0 ? point : std::max(rollup.most, point);
    ++rollup.points;
    rollup.sum += point;
  }
  return rollup;
}

Rollup joined(const Rollup& first, const Rollup& second) {
  if (first.points == 0) return second;
  if (second.points == 0) return first;
  return {first.points + second.points, first.sum + second.sum, std::max(first.most, second.most)};
}

void append_number(std::string& to, std::int64_t number) { append_bits(to, zigzag(number)); }

Result<std::int64_t> take_number(std::string_view& from) {
  const auto bits = take_bits(from);
  if (!bits) return bits.error();
  return unzigzag(*bits);
}

namespace {

/// The largest point is told as what it has above the mean: in a steady series next to nothing.
std::int64_t mean_of(const Rollup& rollup) { return rollup.sum / rollup.points; }

}  // namespace

/// The number of points stands there only when some are missing: the last bit of the sum tells.
void append_rollup(std::string& to, const Rollup& rollup) {
  const bool whole = rollup.points == static_cast<std::int64_t>(kWindowPoints);
  append_bits(to, zigzag(rollup.sum) << 1U | (whole ? 0U : 1U));
  if (!whole) append_number(to, rollup.points);
  if (rollup.points != 0) append_number(to, rollup.most - mean_of(rollup));
}

Result<Rollup> take_rollup(std::string_view& from) {
  const auto sum = take_bits(from);
  if (!sum) return sum.error();
  Rollup rollup{kWindowPoints, unzigzag(*sum >> 1U), 0};
  if ((*sum & 1U) != 0) {
    const auto points = take_number(from);
    if (!points) return points.error();
    rollup.points = *points;
  }
  if (rollup.points == 0) return Rollup();
  const auto above = take_number(from);
  if (!above) return above.error();
  rollup.most = mean_of(rollup) + *above;
  return rollup;
}

std::string pack(const Amounts& amounts) {
  std::string bytes;
  for (const std::int64_t amount : amounts) append_number(bytes, amount);
  return bytes;
}

/// What came later than the bytes is 0.
Result<Amounts> unpack(std::string_view from) {
  Amounts amounts{};
  for (std::int64_t& amount : amounts) {
    if (from.empty()) return amounts;
    const auto number = take_number(from);
    if (!number) return number.error();
    amount = *number;
  }
  return amounts;
}

}  // namespace virga::metering
