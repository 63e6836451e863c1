#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/reflect.h"
#include "base/result.h"

namespace virga {

struct Event;

/// A point of the journal's chain: who has noted it elsewhere can prove later that nothing up to it was changed.
struct JournalPoint {
  std::uint64_t sequence = 0;
  std::string hash;  ///< SHA-256, hex
};
BOOST_DESCRIBE_STRUCT(JournalPoint, (), (sequence, hash))

struct JournalAudit {
  std::uint64_t first = 0;         ///< sequence of the first entry that is kept
  std::uint64_t entries = 0;       ///< that were checked
  std::uint64_t before_chain = 0;  ///< written before journals were chained: not covered
  JournalPoint head;  ///< the last one; note it where nobody who can write this file can
};
BOOST_DESCRIBE_STRUCT(JournalAudit, (), (first, entries, before_chain, head))

/// The hash of an entry: over the hash of the one before and its own text as it is stored.
std::string chain_hash(const std::string& before, std::string_view text);

/// "SEQUENCE:HASH". Errors: invalid.
Result<JournalPoint> parse_journal_point(const std::string& text);

/// Reads a journal's file, also of a running server, and checks that each entry is the one that was written, in its
/// order, without gaps, up to the last. `known`: a point that was noted before and must still stand there.
/// Errors: conflict (naming the first entry that is not as it was written), not_found (no file; `known` was trimmed),
/// and those of opening the file. Blocking. Cost: reads the file twice.
///
/// What it cannot see by itself: a chain that was rewritten from some entry on by who may write the file. That is what
/// `known` is for.
Result<JournalAudit> audit_journal(const std::string& path,
                                   const std::optional<JournalPoint>& known);

}  // namespace virga
