#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

struct nft_ctx;

namespace virga {

/// The kernel's packet filter, spoken to in its own language. Plain calls of a few milliseconds; one thread.
/// Errors: denied, internal (the words of nftables).
class Nftables {
 public:
  /// Stays in the network namespace in which it was opened. `network_namespace`: descriptor, -1 = the caller's.
  static Result<Nftables> open(int network_namespace);

  /// One transaction: all of the commands take effect or none does.
  Result<void> run(const std::string& what, const std::string& commands);

  /// What a command that lists says, as JSON.
  Result<std::string> list(const std::string& what, const std::string& command);

  struct Rule {
    std::string chain;
    std::string text;  ///< JSON of its expressions
  };
  struct Table {
    std::vector<Rule> rules;
    std::string elements;  ///< JSON of what all its sets and maps hold, one after the other
  };
  /// What the kernel has of a table. Errors beside the others: conflict (there is none).
  Result<Table> list_table(const std::string& what, const std::string& family,
                           const std::string& table);

 private:
  struct Free {
    void operator()(nft_ctx* context) const;
  };

  explicit Nftables(std::unique_ptr<nft_ctx, Free> context);

  std::unique_ptr<nft_ctx, Free> context_;
};

}  // namespace virga
