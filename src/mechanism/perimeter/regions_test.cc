#include "mechanism/perimeter/regions.h"

#include <gtest/gtest.h>

#include <memory>

namespace virga {
namespace {

class Regions : public testing::Test {
 protected:
  Regions() {
    for (const char* region : {"eu", "us", ""}) {
      Host host;
      host.meta.name = std::string("h-") + region;
      host.spec.cluster = ClusterId("c1");
      host.spec.region = region;
      view.hosts.put(std::make_shared<const Host>(host));
      Device device;
      device.meta.name = std::string("d-") + region;
      device.spec.host = host.id();
      view.devices.put(std::make_shared<const Device>(device));
    }
  }

  void bind(std::vector<std::string> regions) {
    Tenant tenant;
    tenant.meta.name = "acme";
    tenant.spec.regions = std::move(regions);
    view.tenants.put(std::make_shared<const Tenant>(tenant));
  }

  Volume volume(const std::string& device, std::vector<std::string> regions = {}) {
    Volume made;
    made.meta.tenant = "acme";
    made.meta.name = "data";
    made.spec.regions = std::move(regions);
    if (!device.empty()) made.status.legs = {{DeviceId(device), LegState::in_sync}};
    view.volumes.put(std::make_shared<const Volume>(made));
    return made;
  }

  Vm vm(const std::string& host, bool with_volume = false, const std::string& to = "") {
    Vm made;
    made.meta.tenant = "acme";
    made.meta.name = "web";
    made.status.host = HostId(host);
    made.status.migration.destination = HostId(to);
    if (with_volume) made.spec.disks.push_back({"data", Mib(), "data"});
    view.vms.put(std::make_shared<const Vm>(made));
    return made;
  }

  std::string on_host(const Vm& vm, const std::string& host) {
    return region_refusal(view, vm, *view.hosts.find(HostId(host)));
  }
  std::string on_device(const Volume& volume, const std::string& device) {
    return region_refusal(view, volume, *view.devices.find(DeviceId(device)));
  }

  ClusterView view;
};

TEST_F(Regions, R_B10_WhoIsBoundToNoneIsAnywhere) {
  EXPECT_EQ(on_host(vm("h-us", true), "h-us"), "");
  EXPECT_EQ(on_device(volume("d-us"), "d-us"), "");
  bind({});
  EXPECT_EQ(on_host(vm("h-"), "h-"), "");
  EXPECT_TRUE(misplaced(view).empty());
}

TEST_F(Regions, R_B10_ATenantIsBoundWithAllThatItHas) {
  bind({"eu", "kr"});
  EXPECT_EQ(on_host(vm("h-eu"), "h-eu"), "");
  EXPECT_EQ(on_host(vm("h-us"), "h-us"), "is in region us, tenant acme may be in eu, kr only");
  EXPECT_EQ(on_host(vm("h-"), "h-"), "is in no region, tenant acme may be in eu, kr only");
  EXPECT_EQ(on_device(volume("d-us"), "d-us"),
            "is in region us, tenant acme may be in eu, kr only");
  Vm other = vm("h-us");
  other.meta.tenant = "blue";
  EXPECT_EQ(on_host(other, "h-us"), "");
}

TEST_F(Regions, R_B10_AVolumeBindsItsGuestAndWhatItsTenantAllowsBindsItToo) {
  const Volume data = volume("d-eu", {"eu"});
  const Vm web = vm("h-eu", true);
  EXPECT_EQ(on_device(data, "d-eu"), "");
  EXPECT_EQ(on_device(data, "d-us"), "is in region us, volume acme/data may be in eu only");
  EXPECT_EQ(on_host(web, "h-us"), "is in region us, volume acme/data may be in eu only");
  bind({"us"});
  EXPECT_EQ(on_device(data, "d-eu"), "is in region eu, tenant acme may be in us only");
  EXPECT_NE(on_device(data, "d-us"), "") << "both have to allow it";
}

TEST_F(Regions, R_B10_EachPlaceOfItIsLookedAtAndBothEndsOfAMove) {
  volume("d-us", {"eu"});
  vm("h-eu", true, "h-us");
  const auto all = misplaced(view);
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].subject, "vm/acme/web");
  EXPECT_EQ(all[0].place, "host h-us");
  EXPECT_EQ(all[0].tenant, "acme");
  EXPECT_EQ(all[1].subject, "volume/acme/data");
  EXPECT_EQ(all[1].place, "device d-us");
  EXPECT_EQ(all[1].reason, "is in region us, volume acme/data may be in eu only");
}

}  // namespace
}  // namespace virga
