#pragma once

#include <memory>
#include <string>

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

 private:
  struct Free {
    void operator()(nft_ctx* context) const;
  };

  explicit Nftables(std::unique_ptr<nft_ctx, Free> context);

  std::unique_ptr<nft_ctx, Free> context_;
};

}  // namespace virga
