#include "driver/net/port_filter.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/ether.h>
#include <nftables/libnftables.h>

#include "driver/net/netlink.h"

namespace virga {
namespace {

// Lines of one transaction. {0} is the table; the hook stands before everything else on a bridge.
constexpr const char* kBase = R"(
add table bridge {0}
add map bridge {0} guests {{ type ifname : verdict ; }}
add chain bridge {0} entry {{ type filter hook prerouting priority -300 ; policy accept ; }}
flush chain bridge {0} entry
add rule bridge {0} entry iifname vmap @guests
)";

// {1} device, {2} its MAC, {3} its address.
constexpr const char* kPort = R"(
add chain bridge {0} {1}
flush chain bridge {0} {1}
add rule bridge {0} {1} ether saddr != {2} counter drop
add rule bridge {0} {1} ether type arp arp saddr ether {2} arp saddr ip {{ {3}, 0.0.0.0 }} accept
add rule bridge {0} {1} ether type 0x8035 accept
add rule bridge {0} {1} ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
add rule bridge {0} {1} ip saddr {3} accept
add rule bridge {0} {1} counter drop
add element bridge {0} guests {{ "{1}" : jump {1} }}
)";

// Made once more first: nftables refuses to delete what is not there.
constexpr const char* kForget = R"(
add chain bridge {0} {1}
add element bridge {0} guests {{ "{1}" : jump {1} }}
delete element bridge {0} guests {{ "{1}" }}
flush chain bridge {0} {1}
delete chain bridge {0} {1}
)";

constexpr const char* kRemove = "add table bridge {0}\ndelete table bridge {0}\n";

}  // namespace

void PortFilter::Free::operator()(nft_ctx* context) const { ::nft_ctx_free(context); }

PortFilter::PortFilter(std::string table, std::unique_ptr<nft_ctx, Free> context)
    : table_(std::move(table)), context_(std::move(context)) {
  ::nft_ctx_buffer_output(context_.get());
  ::nft_ctx_buffer_error(context_.get());
}

Result<PortFilter> PortFilter::open(const std::string& table, int network_namespace) {
  std::unique_ptr<nft_ctx, Free> context;  // its socket stays in the namespace where it is made
  auto entered = in_network_namespace(network_namespace,
                                      [&] { context.reset(::nft_ctx_new(NFT_CTX_DEFAULT)); });
  if (!entered) return entered.error();
  if (context == nullptr) return make_error(Errc::internal, "nftables does not open");
  PortFilter made(table, std::move(context));
  auto done = made.run("make the filter of the guests' ports", fmt::format(kBase, table));
  if (!done) return done.error();
  return made;
}

Result<void> PortFilter::run(const std::string& what, const std::string& commands) {
  const bool done = ::nft_run_cmd_from_buffer(context_.get(), commands.c_str()) == 0;
  ::nft_ctx_get_output_buffer(context_.get());  // empties it
  std::string words = ::nft_ctx_get_error_buffer(context_.get());
  if (done) return {};
  const bool denied = words.find("Operation not permitted") != std::string::npos;
  words = words.substr(0, words.find('\n'));
  return make_error(denied ? Errc::denied : Errc::internal, what + ": " + words);
}

// Both are brought into one form: nothing of them can be more than itself in a command.
Result<void> PortFilter::set(const std::string& device, const LaunchNic& nic) {
  const std::string what = "filter port " + nic.port;
  ether_addr mac{};
  if (::ether_aton_r(nic.mac.c_str(), &mac) == nullptr) {
    return make_error(Errc::invalid, fmt::format("{}: mac: \"{}\" is not one", what, nic.mac));
  }
  char mac_text[18] = {};
  ::ether_ntoa_r(&mac, mac_text);
  in_addr address{};
  const std::string plain = nic.address.substr(0, nic.address.find('/'));
  if (::inet_pton(AF_INET, plain.c_str(), &address) != 1) {
    return make_error(Errc::invalid,
                      fmt::format("{}: address: \"{}\" is not one of IPv4", what, nic.address));
  }
  return run(what,
             fmt::format(kBase, table_) + fmt::format(kPort, table_, device, mac_text, plain));
}

Result<void> PortFilter::forget(const std::string& device) {
  return run("forget the filter of " + device,
             fmt::format(kBase, table_) + fmt::format(kForget, table_, device));
}

Result<void> PortFilter::remove_all() {
  return run("remove the filter of the guests' ports", fmt::format(kRemove, table_));
}

}  // namespace virga
