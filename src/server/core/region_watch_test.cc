#include "server/core/region_watch.h"

#include <gtest/gtest.h>

#include <memory>

#include "model/keys.h"

namespace virga {
namespace {

class RegionWatchTest : public testing::Test {
 protected:
  RegionWatchTest() {
    for (const char* region : {"eu", "us"}) {
      Host host;
      host.meta.name = region;
      host.spec.region = region;
      view.hosts.put(std::make_shared<const Host>(host));
    }
    Tenant tenant;
    tenant.meta.name = "acme";
    tenant.spec.regions = {"eu"};
    view.tenants.put(std::make_shared<const Tenant>(tenant));
    put_vm("eu");
  }

  void put_vm(const std::string& host) {
    Vm vm;
    vm.meta.tenant = "acme";
    vm.meta.name = "web";
    vm.status.host = HostId(host);
    view.vms.put(std::make_shared<const Vm>(vm));
    Change change;
    change.entry.key = keys::of(vm.id());
    watch.changed({change});
  }

  std::vector<std::string> after(Duration time) {
    now += time;
    told.clear();
    watch.tick(now);
    return told;
  }

  ClusterView view;
  Instant now;
  std::vector<std::string> told;
  RegionWatch watch{view, [this](const Event& event) {
                      told.push_back(event.kind + " " + event.subject + " " +
                                     std::string(enum_name(event.severity)));
                    }};
};

TEST_F(RegionWatchTest, R_B10_WhatLeavesItsRegionIsToldOnceAndWhenItIsBack) {
  const std::vector<std::string> left = {"perimeter.region_left vm/acme/web alarm"};
  const std::vector<std::string> kept = {"perimeter.region_kept vm/acme/web info"};
  EXPECT_TRUE(after(seconds(2)).empty());
  put_vm("us");
  EXPECT_EQ(after(seconds(2)), left);
  EXPECT_TRUE(after(seconds(2)).empty());
  put_vm("us");
  EXPECT_TRUE(after(seconds(2)).empty()) << "it is known";
  put_vm("eu");
  EXPECT_EQ(after(seconds(2)), kept);
}

TEST_F(RegionWatchTest, R_B10_ItLooksOnceASecondAtMostAndMissesNothing) {
  after(seconds(2));
  put_vm("us");
  EXPECT_TRUE(after(milliseconds(100)).empty());
  EXPECT_EQ(after(milliseconds(900)).size(), 1U);
}

}  // namespace
}  // namespace virga
