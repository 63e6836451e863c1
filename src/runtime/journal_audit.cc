#include "runtime/journal_audit.h"

#include <fmt/format.h>

#include <charconv>

#include "edge/tls.h"
#include "runtime/journal_file.h"

namespace virga {
namespace {

constexpr std::size_t kHashDigits = 64;

Error changed(std::uint64_t sequence, std::string_view how) {
  return make_error(Errc::conflict, fmt::format("the journal is not as it was written: entry {} {}",
                                                sequence, how));
}

Result<std::string> text_of(sqlite::Database& database, const std::string& sql) {
  auto rows = database.prepare(sql);
  if (!rows) return rows.error();
  const auto row = rows->step();
  if (!row) return row.error();
  return *row ? rows->text(0) : std::string();
}

/// Walks over the entries in their order.
class Walk {
 public:
  explicit Walk(std::string anchor) : before_(std::move(anchor)) {}

  Result<void> entry(std::uint64_t sequence, const std::string& text, const std::string& hash) {
    if (audit_.first == 0) audit_.first = sequence;
    const bool chained = audit_.entries > 0;
    if (hash.empty() && !chained) {
      ++audit_.before_chain;
      audit_.head.sequence = sequence;
      return {};
    }
    if (audit_.head.sequence != 0 && sequence != audit_.head.sequence + 1) {
      return changed(audit_.head.sequence + 1, "is missing");
    }
    if (chain_hash(before_, text) != hash) {
      return changed(sequence, "was changed, or one before it was");
    }
    ++audit_.entries;
    before_ = hash;
    audit_.head = {sequence, hash};
    return {};
  }

  const JournalAudit& audit() const { return audit_; }

 private:
  JournalAudit audit_;
  std::string before_;
};

Result<void> check_known(const JournalAudit& audit, const JournalPoint& known,
                         const std::string& stands_there) {
  if (known.sequence > audit.head.sequence) {
    return changed(audit.head.sequence + 1,
                   fmt::format("and all after it are missing: {} was noted", known.sequence));
  }
  if (known.sequence < audit.first) {
    return make_error(Errc::not_found,
                      fmt::format("entry {} was trimmed; the first that is kept is {}",
                                  known.sequence, audit.first));
  }
  if (stands_there == known.hash) return {};
  return changed(known.sequence,
                 "has another hash than was noted: it or one before it was changed");
}

}  // namespace

std::string chain_hash(const std::string& before, std::string_view text) {
  return sha256_hex(before + "\n" + std::string(text));
}

Result<JournalPoint> parse_journal_point(const std::string& text) {
  JournalPoint point;
  const std::size_t colon = text.find(':');
  const char* end = text.data() + std::min(colon, text.size());
  const auto read = std::from_chars(text.data(), end, point.sequence);
  if (colon != std::string::npos) point.hash = text.substr(colon + 1);
  const bool hex = point.hash.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (read.ec == std::errc() && read.ptr == end && hex && point.hash.size() == kHashDigits) {
    return point;
  }
  return make_error(Errc::invalid, "\"" + text.substr(0, 80) +
                                       "\" is wrong: SEQUENCE:HASH, as an audit before has told");
}

Result<JournalAudit> audit_journal(const std::string& path,
                                   const std::optional<JournalPoint>& known) {
  auto database = sqlite::open_file_to_read(path, journal_file_kind());
  if (!database) return database.error();
  if (auto begun = database->run("BEGIN"); !begun)
    return begun.error();  // one moment for all reads
  const auto schema = database->number("PRAGMA user_version");
  if (!schema) return schema.error();
  if (*schema < journal_file_kind().newest()) {
    return make_error(Errc::unsupported, path +
                                             ": was written before journals were chained; a "
                                             "server that opens it begins its chain");
  }
  const auto anchor = text_of(*database, "SELECT hash FROM chain WHERE name = 'anchor'");
  const auto head = text_of(*database, "SELECT hash FROM chain WHERE name = 'head'");
  const auto last = database->number("SELECT value FROM state WHERE name = 'last'");
  auto rows = database->prepare("SELECT sequence, event, hash FROM entries ORDER BY sequence");
  for (const Error* failed : {anchor ? nullptr : &anchor.error(), head ? nullptr : &head.error(),
                              last ? nullptr : &last.error(), rows ? nullptr : &rows.error()}) {
    if (failed != nullptr) return wrap_error("read " + path, *failed);
  }
  Walk walk(*anchor);
  std::string stands_there;
  while (true) {
    const auto row = rows->step();
    if (!row) return wrap_error("read " + path, row.error());
    if (!*row) break;
    const auto sequence = static_cast<std::uint64_t>(rows->integer(0));
    if (auto sound = walk.entry(sequence, rows->text(1), rows->text(2)); !sound)
      return sound.error();
    if (known && sequence == known->sequence) stands_there = rows->text(2);
  }
  const JournalAudit& audit = walk.audit();
  const auto written = static_cast<std::uint64_t>(*last);
  // Of a journal that was trimmed to nothing, the anchor is the last entry's.
  const bool whole = audit.first == 0 ? *anchor == *head : audit.head.sequence == written;
  const bool chained = (audit.entries == 0 ? *anchor : audit.head.hash) == *head;
  if (!whole || !chained) {
    return changed(audit.head.sequence + 1, "and all after it are missing");
  }
  if (known) {
    if (auto stands = check_known(audit, *known, stands_there); !stands) return stands.error();
  }
  return audit;
}

}  // namespace virga
