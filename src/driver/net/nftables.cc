#include "driver/net/nftables.h"

#include <nftables/libnftables.h>

#include <exception>

#include "base/reflect.h"
#include "edge/network_namespace.h"

namespace virga {

void Nftables::Free::operator()(nft_ctx* context) const { ::nft_ctx_free(context); }

Nftables::Nftables(std::unique_ptr<nft_ctx, Free> context) : context_(std::move(context)) {
  ::nft_ctx_buffer_output(context_.get());
  ::nft_ctx_buffer_error(context_.get());
}

Result<Nftables> Nftables::open(int network_namespace) {
  std::unique_ptr<nft_ctx, Free> context;  // its socket stays in the namespace where it is made
  auto entered = in_network_namespace(network_namespace,
                                      [&] { context.reset(::nft_ctx_new(NFT_CTX_DEFAULT)); });
  if (!entered) return entered.error();
  if (context == nullptr) return make_error(Errc::internal, "nftables does not open");
  return Nftables(std::move(context));
}

Result<void> Nftables::run(const std::string& what, const std::string& commands) {
  const bool done = ::nft_run_cmd_from_buffer(context_.get(), commands.c_str()) == 0;
  ::nft_ctx_get_output_buffer(context_.get());  // empties it
  std::string words = ::nft_ctx_get_error_buffer(context_.get());
  if (done) return {};
  const bool denied = words.find("Operation not permitted") != std::string::npos;
  words = words.substr(0, words.find('\n'));
  return make_error(denied ? Errc::denied : Errc::internal, what + ": " + words);
}

Result<std::string> Nftables::list(const std::string& what, const std::string& command) {
  ::nft_ctx_output_set_flags(context_.get(), NFT_CTX_OUTPUT_JSON);
  const bool done = ::nft_run_cmd_from_buffer(context_.get(), command.c_str()) == 0;
  const std::string said = ::nft_ctx_get_output_buffer(context_.get());
  std::string words = ::nft_ctx_get_error_buffer(context_.get());
  ::nft_ctx_output_set_flags(context_.get(), 0);
  if (done) return said;
  return make_error(Errc::internal, what + ": " + words.substr(0, words.find('\n')));
}

Result<Nftables::Table> Nftables::list_table(const std::string& what, const std::string& family,
                                             const std::string& table) {
  constexpr std::size_t kTextMax = std::size_t{64} << 20;
  const auto said = list(what, "list table " + family + " " + table);
  if (!said) {
    const bool none = said.error().what.find("No such file or directory") != std::string::npos;
    if (!none) return said.error();
    return make_error(Errc::conflict, "there is no table " + family + " " + table);
  }
  const auto parsed = parse_json(*said, kTextMax);
  if (!parsed) return wrap_error(what, parsed.error());
  Table found;
  try {
    for (const auto& entry : parsed->at("nftables").as_array()) {
      const auto& one = entry.as_object();
      if (const auto* rule = one.if_contains("rule")) {
        found.rules.push_back({std::string(rule->at("chain").as_string()),
                               boost::json::serialize(rule->at("expr"))});
      }
      for (const char* kind : {"map", "set"}) {
        const auto* of = one.if_contains(kind);
        const auto* elements = of == nullptr ? nullptr : of->as_object().if_contains("elem");
        if (elements != nullptr) found.elements += boost::json::serialize(*elements);
      }
    }
  } catch (const std::exception& thrown) {
    return make_error(Errc::internal, what + ": it is of another form: " + thrown.what());
  }
  return found;
}

}  // namespace virga
