#include "server/api/api_fixture.h"

namespace virga::test {
namespace {

class RegionRules : public ApiTest {
 protected:
  void make_regions() {
    make_house();
    for (const char* region : {"eu", "us"}) {
      Host host;
      host.meta.name = std::string("host-") + region;
      host.spec.cluster = ClusterId("lab");
      host.spec.region = region;
      host.status.health = HostHealth::alive;
      put(host, keys::of(host.id()));
      Device device;
      device.meta.name = std::string("disk-") + region;
      device.spec.host = host.id();
      device.spec.directory = "/srv/v";
      device.spec.capacity_mib = Mib{1000};
      put(device, keys::of(device.id()));
    }
  }
  void put_volume(const std::string& device) {
    ASSERT_EQ(call("POST", "/v1/volumes",
                   R"({"meta":{"tenant":"acme","name":"data"},"spec":{"size_mib":10,
                   "regions":["eu"]}})")
                  .status,
              202);
    Volume volume = *view.volumes.find(VolumeId("acme/data"));
    volume.status.legs = {{DeviceId(device), LegState::in_sync}};
    volume.status.size_mib = Mib{10};
    put(volume, keys::of(volume.id()));
  }
  void refused(const HttpResponse& answer, int status, const std::string& words) {
    EXPECT_EQ(answer.status, status) << answer.body;
    EXPECT_NE(answer.body.find(words), std::string::npos) << answer.body;
  }
};

TEST_F(RegionRules, R_B10_regions_are_names_and_few) {
  make_regions();
  refused(call("POST", "/v1/tenants",
               R"({"meta":{"name":"acme"},"spec":{"regions":["eu","E U"]}})"),
          400, "spec.regions[1]");
  std::string many;
  for (int number = 0; number < 17; ++number)
    many += (number == 0 ? "\"r" : ",\"r") + std::to_string(number) + "\"";
  refused(call("POST", "/v1/tenants",
               R"({"meta":{"name":"acme"},"spec":{"regions":[)" + many + "]}}"),
          400, "at most 16");
  EXPECT_EQ(
      call("POST", "/v1/tenants", R"({"meta":{"name":"acme"},"spec":{"regions":["eu"]}})").status,
      201);
  EXPECT_EQ(call("GET", "/v1/tenants/acme").status, 200);
  EXPECT_EQ(call("DELETE", "/v1/tenants/acme").status, 200);
}

TEST_F(RegionRules, R_B10_a_rule_that_something_breaks_already_is_refused_and_says_what) {
  make_regions();
  put_volume("disk-eu");
  refused(call("PATCH", "/v1/volumes/acme/data", R"({"spec":{"regions":["us"]}})"), 409,
          "device disk-eu is in region eu, volume acme/data may be in us only");
  refused(call("PATCH", "/v1/hosts/host-eu", R"({"spec":{"region":"kr"}})"), 409,
          "volume/acme/data");
  refused(call("POST", "/v1/tenants", R"({"meta":{"name":"acme"},"spec":{"regions":["us"]}})"),
          409, "device disk-eu is in region eu, tenant acme may be in us only");
  EXPECT_EQ(call("PATCH", "/v1/volumes/acme/data", R"({"spec":{"regions":["eu","us"]}})").status,
            202);
  EXPECT_EQ(call("PATCH", "/v1/hosts/host-eu", R"({"spec":{"region":"us"}})").status, 200);
}

TEST_F(RegionRules, R_B10_what_an_operator_wants_to_move_stays_where_it_may_be) {
  make_regions();
  put_volume("disk-eu");
  refused(call("PATCH", "/v1/volumes/acme/data", R"({"spec":{"device":"disk-us"}})"), 403,
          "is in region us, volume acme/data may be in eu only");
  ASSERT_EQ(call("POST", "/v1/vms",
                 R"({"meta":{"tenant":"acme","name":"web"},"spec":{"image":"tiny",
                 "disks":[{"name":"data","volume":"data"}]}})")
                .status,
            202);
  Vm vm = *view.vms.find(VmId("acme/web"));
  vm.status.power = VmPower::running;
  vm.status.host = HostId("host-eu");
  put(vm, keys::of(vm.id()));
  refused(call("POST", "/v1/vms/acme/web/migrate", R"({"host":"host-us"})"), 403,
          "is in region us, volume acme/data may be in eu only");
}

TEST_F(RegionRules, R_B10_a_copy_may_be_where_its_source_may) {
  make_regions();
  put_volume("disk-eu");
  refused(call("POST", "/v1/volumes",
               R"({"meta":{"tenant":"acme","name":"copy"},"spec":{"source":"data",
               "regions":["eu","us"]}})"),
          403, R"(may not be in \"us\")");
  ASSERT_EQ(call("POST", "/v1/volumes",
                 R"({"meta":{"tenant":"acme","name":"copy"},"spec":{"source":"data"}})")
                .status,
            202);
  EXPECT_EQ(view.volumes.find(VolumeId("acme/copy"))->spec.regions,
            std::vector<std::string>{"eu"});
}

}  // namespace
}  // namespace virga::test
