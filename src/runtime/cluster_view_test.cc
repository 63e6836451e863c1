#include "runtime/cluster_view.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <array>

namespace virga {
namespace {

std::shared_ptr<const Host> host_in(unsigned name, unsigned cluster) {
  Host host;
  host.meta.name = "host-" + std::to_string(name % 6);
  host.spec.cluster = ClusterId("cluster-" + std::to_string(cluster % 3));
  return std::make_shared<const Host>(std::move(host));
}

using Hosts = Table<Host, HostsOfCluster>;

/// What the index must say, found the long way.
std::vector<const Host*> filtered(const Hosts& table, const ClusterId& cluster) {
  std::vector<const Host*> found;
  for (const auto& [id, host] : table.all()) {
    if (host->spec.cluster == cluster) found.push_back(host.get());
  }
  return found;
}

TEST(ClusterViewTable, A1_13_a_clusters_own_are_those_of_all_that_name_it_and_copies_keep_theirs) {
  EXPECT_TRUE(rc::check([](const std::vector<std::array<std::uint8_t, 3>>& steps) {
    Hosts table;
    Hosts copy;
    Hosts::Map copied;
    for (const auto& [name, cluster, kind] : steps) {
      if (kind % 4 == 0) {
        table.erase(host_in(name, cluster)->id());
      } else {
        table.put(host_in(name, cluster));
      }
      if (kind % 5 == 0) {
        copy = table;
        copied = table.all();
      }
      RC_ASSERT(copy.all() == copied);
      for (unsigned number = 0; number < 3; ++number) {
        const ClusterId each("cluster-" + std::to_string(number));
        RC_ASSERT(table.in<HostsOfCluster>(each) == filtered(table, each));
        RC_ASSERT(copy.in<HostsOfCluster>(each) == filtered(copy, each));
      }
    }
  }));
}

}  // namespace
}  // namespace virga
