#include "server/api/api_fixture.h"

namespace virga::test {
namespace {

class Storage : public ApiTest {
 protected:
  void make_storage() {
    make_house();
    Host host;
    host.meta.name = "store-1";
    host.spec.cluster = ClusterId("lab");
    put(host, keys::of(host.id()));
    ASSERT_EQ(call("POST", "/v1/devices", device_body("disk-1", 1000)).status, 201);
  }
  static std::string device_body(const std::string& name, int capacity) {
    return R"({"meta":{"name":")" + name + R"("},"spec":{"host":"store-1","directory":"/srv/)" +
           name + R"(","capacity_mib":)" + std::to_string(capacity) + "}}";
  }
  static std::string volume_body(const std::string& name, int size) {
    return R"({"meta":{"tenant":"acme","name":")" + name + R"("},"spec":{"size_mib":)" +
           std::to_string(size) + "}}";
  }
  static std::string vm_with(const std::string& name, const std::string& disks) {
    return R"({"meta":{"tenant":"acme","name":")" + name +
           R"("},"spec":{"image":"tiny","disks":[)" + disks + "]}}";
  }
  void make_ready(const std::string& name, int size) {
    ASSERT_EQ(call("POST", "/v1/volumes", volume_body(name, size)).status, 202);
    Volume volume = *view.volumes.find(VolumeId("acme/" + name));
    volume.status.legs = {{DeviceId("disk-1"), LegState::in_sync}};
    volume.status.size_mib = Mib{size};
    put(volume, keys::of(volume.id()));
  }
  void refused(const HttpResponse& answer, int status, const std::string& words) {
    EXPECT_EQ(answer.status, status) << answer.body;
    EXPECT_NE(answer.body.find(words), std::string::npos) << answer.body;
  }
};

TEST_F(Storage, R_B1_a_device_is_a_folder_of_a_host_and_keeps_what_it_has_promised) {
  make_storage();
  refused(call("POST", "/v1/devices",
               R"({"meta":{"name":"d"},"spec":{"host":"nobody","directory":"/srv/x",
               "capacity_mib":1}})"),
          404, "spec.host: there is no host");
  refused(call("POST", "/v1/devices",
               R"({"meta":{"name":"d"},"spec":{"host":"store-1","directory":"/srv/disk-1",
               "capacity_mib":1}})"),
          409, "is device");
  refused(call("POST", "/v1/devices",
               R"({"meta":{"name":"d"},"spec":{"host":"store-1","directory":"/srv/../etc",
               "capacity_mib":1}})"),
          400, "spec.directory");
  refused(call("POST", "/v1/devices", device_body("d", 0)), 400, "spec.capacity_mib: 0");
  make_ready("data", 600);
  refused(call("PATCH", "/v1/devices/disk-1", R"({"spec":{"capacity_mib":500}})"), 409,
          "600 MiB of the volumes on it");
  EXPECT_EQ(call("PATCH", "/v1/devices/disk-1", R"({"spec":{"capacity_mib":700}})").status, 200);
  refused(call("PATCH", "/v1/devices/disk-1", R"({"spec":{"copy_mib_per_second_max":7}})"), 400,
          "spec.copy_mib_per_second_max: 7");
  EXPECT_EQ(call("PATCH", "/v1/devices/disk-1", R"({"spec":{"copy_mib_per_second_max":16}})").status, 200);
  refused(call("PATCH", "/v1/devices/disk-1", R"({"spec":{"directory":"/srv/y"}})"), 400,
          "never changes");
  refused(call("DELETE", "/v1/devices/disk-1"), 409, "volume acme/data");
  refused(call("DELETE", "/v1/hosts/store-1"), 409, "device disk-1");
}

TEST_F(Storage, R_B1_R_F2_a_device_is_lost_only_when_it_is_away_and_for_ever) {
  make_storage();
  refused(call("POST", "/v1/devices",
               R"({"meta":{"name":"d"},"spec":{"host":"store-1","directory":"/srv/x",
               "capacity_mib":100,"lost":true}})"),
          400, "spec.lost: a new device is not lost");
  make_ready("data", 600);
  Device device = *view.devices.find(DeviceId("disk-1"));
  device.status.available = true;
  put(device, keys::of(device.id()));
  refused(call("PATCH", "/v1/devices/disk-1", R"({"spec":{"lost":true}})"), 409,
          "is served; only one that fails, or whose host is dead, can be lost");
  device = *view.devices.find(DeviceId("disk-1"));
  device.status.available = false;
  device.status.reason = kDeviceBeingOpened;
  put(device, keys::of(device.id()));
  Host host = *view.hosts.find(HostId("store-1"));
  host.status.health = HostHealth::alive;
  put(host, keys::of(host.id()));
  refused(call("PATCH", "/v1/devices/disk-1", R"({"spec":{"lost":true}})"), 409,
          "may be back in a moment");
  host = *view.hosts.find(HostId("store-1"));
  host.status.health = HostHealth::fenced;
  put(host, keys::of(host.id()));
  device = *view.devices.find(DeviceId("disk-1"));
  device.status.available = false;
  put(device, keys::of(device.id()));
  EXPECT_EQ(call("PATCH", "/v1/devices/disk-1", R"({"spec":{"lost":true}})").status, 200);
  refused(call("PATCH", "/v1/devices/disk-1", R"({"spec":{"lost":false}})"), 400, "never changes");
}

TEST_F(Storage, R_B1_a_volume_grows_within_its_device_and_never_shrinks) {
  make_storage();
  refused(call("POST", "/v1/volumes", volume_body("data", 0)), 400, "spec.size_mib: 0");
  make_ready("data", 600);
  refused(call("PATCH", "/v1/volumes/acme/data", R"({"spec":{"size_mib":599}})"), 400,
          "never shrinks");
  refused(call("PATCH", "/v1/volumes/acme/data", R"({"spec":{"size_mib":1001}})"), 507,
          "needs 401 MiB more");
  EXPECT_EQ(call("PATCH", "/v1/volumes/acme/data", R"({"spec":{"size_mib":1000}})").status, 202);
  refused(call("PATCH", "/v1/volumes/acme/data", R"({"spec":{"storage_class":"fast"}})"), 400,
          "never changes");
  refused(call("POST", "/v1/volumes",
               R"({"meta":{"tenant":"acme","name":"x"},"spec":{"size_mib":1,"device":"none"}})"),
          404, "spec.device");
}

TEST_F(Storage, A10_04_R_B4_a_volume_is_told_where_it_shall_be) {
  make_storage();
  ASSERT_EQ(call("POST", "/v1/devices", device_body("disk-2", 100)).status, 201);
  ASSERT_EQ(call("POST", "/v1/devices", device_body("disk-3", 900)).status, 201);
  make_ready("data", 600);
  const auto to = [&](const std::string& device) {
    return call("PATCH", "/v1/volumes/acme/data", R"({"spec":{"device":")" + device + R"("}})");
  };
  refused(to("none"), 404, "has no device");
  refused(to("disk-2"), 507, "has 100 MiB left");
  EXPECT_EQ(to("disk-1").status, 202) << "it is there already";
  EXPECT_EQ(to("disk-3").status, 202);
  Volume moving = *view.volumes.find(VolumeId("acme/data"));
  moving.status.legs.push_back({DeviceId("disk-3"), LegState::behind});
  put(moving, keys::of(moving.id()));
  refused(call("PATCH", "/v1/volumes/acme/data", R"({"spec":{"size_mib":700}})"), 409,
          "is being moved");
  refused(to("disk-2"), 409, "is on its way between disk-1 and disk-3");
  EXPECT_EQ(to("disk-1").status, 202) << "changed his mind";
}

TEST_F(Storage, A3_14_R_B4_a_local_volume_is_where_its_vm_is_and_goes_where_there_is_room) {
  make_storage();
  const auto local = [&](const std::string& more) {
    return call("POST", "/v1/volumes",
                R"({"meta":{"tenant":"acme","name":"data"},"spec":{"size_mib":600,"local":true)" +
                    more + "}}");
  };
  refused(local(R"(,"device":"disk-1")"), 400, "spec.device: a local volume is on a device");
  refused(local(R"(,"mirrored":true)"), 400, "spec.local: a mirrored volume has two places");
  ASSERT_EQ(local("").status, 202);
  const auto change = [&](const std::string& spec) {
    return call("PATCH", "/v1/volumes/acme/data", R"({"spec":{)" + spec + "}}");
  };
  Volume data = *view.volumes.find(VolumeId("acme/data"));
  data.status.legs = {{DeviceId("disk-1"), LegState::in_sync}};
  data.status.size_mib = Mib{600};
  put(data, keys::of(data.id()));
  refused(change(R"("device":"disk-1")"), 400, "spec.device: a local volume is on a device");
  EXPECT_EQ(change(R"("local":false)").status, 202) << "from now on it stays where it is";
  EXPECT_EQ(change(R"("local":true)").status, 202);
}

TEST_F(Storage, R_B1_the_places_of_a_mirrored_volume_are_chosen_and_it_stays_mirrored) {
  make_storage();
  ASSERT_EQ(call("POST", "/v1/devices", device_body("disk-2", 900)).status, 201);
  const auto mirrored = [&](const std::string& more) {
    return call("POST", "/v1/volumes",
                R"({"meta":{"tenant":"acme","name":"both"},"spec":{"size_mib":600,"mirrored":true)" +
                    more + "}}");
  };
  refused(mirrored(R"(,"device":"disk-1")"), 400, "spec.device: a mirrored volume has two places");
  ASSERT_EQ(mirrored("").status, 202);
  const auto change = [&](const std::string& spec) {
    return call("PATCH", "/v1/volumes/acme/both", R"({"spec":{)" + spec + "}}");
  };
  refused(change(R"("mirrored":false)"), 400, "spec.mirrored: never changes");
  Volume both = *view.volumes.find(VolumeId("acme/both"));
  both.status.legs = {{DeviceId("disk-1"), LegState::in_sync},
                      {DeviceId("disk-2"), LegState::in_sync}};
  both.status.size_mib = Mib{600};
  put(both, keys::of(both.id()));
  refused(change(R"("device":"disk-2")"), 400, "spec.device: never changes");
  refused(change(R"("size_mib":950)"), 507, "device \\\"disk-2\\\" has 300 left");
  EXPECT_EQ(change(R"("size_mib":800)").status, 202);
  make_ready("plain", 10);
  const auto kept = [&](const std::string& spec) {
    return call("POST", "/v1/volumes",
                R"({"meta":{"tenant":"acme","name":"kept"},"spec":{"snapshot":true,)" + spec + "}}");
  };
  refused(kept(R"("source":"plain","mirrored":true)"), 400,
          "spec.mirrored: no VM writes to a snapshot");
  refused(kept(R"("source":"both")"), 501, "is not copied yet");
}

TEST_F(Storage, R_B1_R_B2_one_vm_at_a_time_has_a_volume) {
  make_storage();
  make_ready("data", 64);
  refused(call("POST", "/v1/vms", vm_with("web", R"({"name":"data","volume":"none"})")), 404,
          "has no volume");
  refused(
      call("POST", "/v1/vms", vm_with("web", R"({"name":"data","volume":"data","size_mib":4})")),
      400, "is the volume's");
  refused(call("POST", "/v1/vms",
               vm_with("web", R"({"name":"a","volume":"data"},{"name":"b","volume":"data"})")),
          400, "another disk of this VM");
  ASSERT_EQ(call("POST", "/v1/vms", vm_with("web", R"({"name":"data","volume":"data"})")).status,
            202);
  EXPECT_EQ(count_keys("use/acme/"), 1U);
  refused(call("POST", "/v1/vms", vm_with("db", R"({"name":"data","volume":"data"})")), 409,
          "is a disk of vm acme/web");
  refused(call("DELETE", "/v1/volumes/acme/data"), 409, "vm acme/web");
}

TEST_F(Storage, R_B1_a_volume_that_is_deleted_is_asked_to_go_and_takes_no_user) {
  make_storage();
  make_ready("data", 64);
  EXPECT_EQ(call("DELETE", "/v1/volumes/acme/data").status, 202);
  const Volume* volume = view.volumes.find(VolumeId("acme/data"));
  ASSERT_NE(volume, nullptr) << "its controller removes it";
  EXPECT_TRUE(volume->meta.deleting_at.has_value());
  refused(call("POST", "/v1/vms", vm_with("web", R"({"name":"data","volume":"data"})")), 409,
          "is being deleted");
}

TEST_F(Storage, R_B1_a_copy_is_fitted_to_its_source) {
  make_storage();
  make_ready("data", 600);
  const auto copy = [&](const std::string& spec) {
    return call("POST", "/v1/volumes",
                R"({"meta":{"tenant":"acme","name":"copy"},"spec":{)" + spec + "}}");
  };
  refused(copy(R"("source":"none")"), 404, "spec.source: tenant \\\"acme\\\" has no volume");
  refused(copy(R"("source":"../x")"), 400, "spec.source");
  refused(copy(R"("source":"data","size_mib":599)"), 400, "less than the 600 of its source");
  refused(copy(R"("source":"data","device":"disk-2")"), 400, "where its source acme/data lies");
  refused(copy(R"("source":"data","storage_class":"fast")"), 400, "spec.storage_class");
  refused(copy(R"("source":"data","snapshot":true,"size_mib":700)"), 400, "as large as its source");
  refused(copy(R"("snapshot":true,"size_mib":7)"), 400, "spec.snapshot");
  ASSERT_EQ(copy(R"("source":"data")").status, 202);
  const Volume* made = view.volumes.find(VolumeId("acme/copy"));
  ASSERT_NE(made, nullptr);
  EXPECT_EQ(made->spec.size_mib, Mib{600});
  refused(call("PATCH", "/v1/volumes/acme/copy", R"({"spec":{"source":"x"}})"), 400,
          "spec.source: never changes");
  refused(call("DELETE", "/v1/volumes/acme/data"), 409, "is being copied from it");
  ASSERT_EQ(call("DELETE", "/v1/volumes/acme/copy").status, 202);
  EXPECT_EQ(call("DELETE", "/v1/volumes/acme/data").status, 202) << "nobody waits for it";
}

TEST_F(Storage, R_B1_a_volume_begins_with_an_images_disk_and_a_vm_boots_from_it) {
  make_storage();
  Image debian = *view.images.find(ImageId("tiny"));
  debian.meta.name = "debian";
  debian.spec.format = ImageFormat::qcow2;
  debian.spec.size_mib = Mib{300};
  put(debian, keys::of(debian.id()));
  const auto root = [&](const std::string& spec) {
    return call("POST", "/v1/volumes",
                R"({"meta":{"tenant":"acme","name":"root"},"spec":{)" + spec + "}}");
  };
  refused(root(R"("image":"none")"), 404, "spec.image: there is no image");
  refused(root(R"("image":"tiny")"), 400, "boots its kernel directly and has no disk");
  refused(root(R"("image":"debian","size_mib":299)"), 400, "less than the 300 of image");
  make_ready("data", 400);
  refused(root(R"("image":"debian","source":"data")"), 400, "spec.image");
  ASSERT_EQ(root(R"("image":"debian")").status, 202);
  EXPECT_EQ(view.volumes.find(VolumeId("acme/root"))->spec.size_mib, Mib{300});
  refused(call("PATCH", "/v1/volumes/acme/root", R"({"spec":{"image":"x"}})"), 400,
          "spec.image: never changes");
  refused(call("DELETE", "/v1/images/debian"), 409, "is being filled from it");
  const std::string disks = R"({"name":"root","volume":"root"})";
  refused(call("POST", "/v1/vms", vm_with("web", disks)), 400, "has no root disk");
  refused(call("POST", "/v1/vms", vm_with("web", R"({"name":"root","volume":"root","size_mib":9})")),
          400, "is the volume's");
  const std::string vm = R"({"meta":{"tenant":"acme","name":"web"},"spec":{"image":"debian","disks":[)";
  EXPECT_EQ(call("POST", "/v1/vms", vm + disks + "]}}").status, 202);
  refused(call("DELETE", "/v1/volumes/acme/root"), 409, "has it as a disk");
}

TEST_F(Storage, R_B1_a_snapshot_stays_as_it_is) {
  make_storage();
  make_ready("data", 60);
  Volume moving = *view.volumes.find(VolumeId("acme/data"));
  const std::string body =
      R"({"meta":{"tenant":"acme","name":"monday"},"spec":{"source":"data","snapshot":true}})";
  moving.status.legs.push_back({DeviceId("disk-3"), LegState::behind});
  put(moving, keys::of(moving.id()));
  refused(call("POST", "/v1/volumes", body), 409, "is being moved");
  moving.status.legs.pop_back();
  put(moving, keys::of(moving.id()));
  ASSERT_EQ(call("POST", "/v1/volumes", body).status, 202);
  refused(call("POST", "/v1/vms", vm_with("web", R"({"name":"data","volume":"monday"})")), 400,
          "is a snapshot");
  const std::string path = "/v1/volumes/acme/monday";
  refused(call("PATCH", path, R"({"spec":{"size_mib":70}})"), 400, "this is a snapshot");
  refused(call("PATCH", path, R"({"spec":{"device":"disk-1"}})"), 400, "this is a snapshot");
  refused(call("PATCH", path, R"({"spec":{"snapshot":false}})"), 400, "never changes");
}

TEST_F(Storage, R_F5_R_F6_a_volume_grows_and_moves_only_into_what_is_really_free) {
  make_storage();
  make_ready("data", 100);
  Device device = *view.devices.find(DeviceId("disk-1"));
  device.status.room = DeviceRoom::low;
  device.status.free_mib = Mib{40};
  put(device, keys::of(device.id()));
  refused(call("PATCH", "/v1/volumes/acme/data", R"({"spec":{"size_mib":141}})"), 507,
          "needs 41 MiB more");
  EXPECT_EQ(call("PATCH", "/v1/volumes/acme/data", R"({"spec":{"size_mib":140}})").status, 202);
  EXPECT_EQ(call("PATCH", "/v1/devices/disk-1", R"({"spec":{"capacity_mib":140}})").status, 200)
      << "what is promised is another thing";
}

}  // namespace
}  // namespace virga::test
