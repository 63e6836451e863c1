#include "arch/hypervisor_clustering/launch.h"

#include <gtest/gtest.h>

#include <regex>

#include "arch/hypervisor_clustering/test_cluster.h"
#include "mechanism/storage/vm_volumes.h"
#include "model/keys.h"

namespace virga {
namespace {

class Launching : public ::testing::Test {
 protected:
  Launching() {
    Image image;
    image.meta.name = "debian";
    image.spec.path = "images/debian";
    image.spec.format = ImageFormat::qcow2;
    image.spec.size_mib = Mib{2048};
    cluster.view.images.put(std::make_shared<const Image>(image));
    vm.meta.tenant = "acme";
    vm.meta.name = "web";
    vm.meta.created_at = {1'700'000'000'000};
    vm.spec.image = ImageId("debian");
    vm.spec.user_data = "#cloud-config\n";
  }
  VmLaunch resolved() { return *resolve_launch(cluster.view, vm, {1, 7}); }

  test::TestCluster cluster;
  Vm vm;
};

TEST_F(Launching, F_B5_a_disk_image_gets_an_overlay_and_a_seed) {
  const VmLaunch launch = resolved();
  EXPECT_TRUE(launch.kernel.empty());
  ASSERT_EQ(launch.disks.size(), 1U);
  EXPECT_EQ(launch.disks[0].path, "vms/acme/web/root.qcow2");
  EXPECT_EQ(launch.disks[0].backing, "images/debian/disk.qcow2");
  EXPECT_EQ(launch.disks[0].size_mib.value, 2048);
  ASSERT_TRUE(launch.seed.has_value());
  EXPECT_EQ(launch.seed->path, "vms/acme/web/seed.iso");
  EXPECT_EQ(launch.seed->user_data, "#cloud-config\n");
}

TEST_F(Launching, F_B5_a_root_disk_can_be_larger_than_its_image_and_is_there_once) {
  vm.spec.disks = {{"data", Mib{16}}, {"root", Mib{8192}}};
  const VmLaunch launch = resolved();
  ASSERT_EQ(launch.disks.size(), 2U);
  EXPECT_EQ(launch.disks[0].name, "root");
  EXPECT_EQ(launch.disks[0].size_mib.value, 8192);
  EXPECT_EQ(launch.disks[1].path, "vms/acme/web/data.qcow2");
  vm.spec.disks = {{"root", Mib{0}}};
  EXPECT_EQ(resolved().disks[0].size_mib.value, 2048) << "0 = the image's own size";
}

TEST_F(Launching, R_B1_a_root_disk_can_be_a_volume) {
  vm.spec.disks = {{"data", Mib{16}}, {"root", Mib{0}, "web-root"}};
  const VmLaunch launch = resolved();
  ASSERT_EQ(launch.disks.size(), 2U);
  EXPECT_EQ(launch.disks[0].name, "root");
  EXPECT_EQ(launch.disks[0].volume, "acme/web-root");
  EXPECT_TRUE(launch.disks[0].path.empty());
  EXPECT_TRUE(launch.disks[0].backing.empty()) << "nothing of the image's file is opened";
  EXPECT_FALSE(storage_can_fence(cluster.view, vm)) << "its other disk is a file";
  vm.spec.disks.erase(vm.spec.disks.begin());
  EXPECT_TRUE(storage_can_fence(cluster.view, vm));
  vm.spec.disks.front().name = "data";
  EXPECT_FALSE(storage_can_fence(cluster.view, vm)) << "its root disk is a file then";
  EXPECT_TRUE(launch.seed.has_value());
}

TEST_F(Launching, R_B3_a_guest_is_told_what_its_network_has) {
  Image tiny = *cluster.view.images.find(ImageId("debian"));
  tiny.spec.format = ImageFormat::direct;
  cluster.view.images.put(std::make_shared<const Image>(tiny));
  const auto line_with = [this](NetworkGateway gateway) {
    Network network;
    network.meta.tenant = "acme";
    network.meta.name = "front";
    network.spec.subnet = "10.50.0.0/24";
    network.spec.gateway = gateway;
    Port port;
    port.meta.tenant = "acme";
    port.meta.name = "web-0";
    port.spec.vm = vm.id();
    port.spec.network = network.id();
    port.spec.address = "10.50.0.10/24";
    for (const auto& [key, text] : {std::pair(keys::of(network.id()), to_json_text(network)),
                                    std::pair(keys::of(port.id()), to_json_text(port))}) {
      KeyValue entry;
      entry.key = key;
      entry.value = text;
      EXPECT_TRUE(cluster.view.apply({entry, false}).ok());
    }
    return resolved().command_line;
  };
  const std::string names = " virga.dns=10.50.0.1 virga.domain=front.acme.virga";
  EXPECT_EQ(line_with(NetworkGateway::none), " virga.name=web virga.ip=10.50.0.10/24");
  EXPECT_EQ(line_with(NetworkGateway::local), " virga.name=web virga.ip=10.50.0.10/24" + names);
  EXPECT_EQ(line_with(NetworkGateway::nat),
            " virga.name=web virga.ip=10.50.0.10/24 virga.gateway=10.50.0.1" + names);
  vm.spec.parameters["ip"] = "dhcp";
  EXPECT_NE(line_with(NetworkGateway::local).find(" virga.ip=dhcp"), std::string::npos);
}

TEST_F(Launching, F_B4_the_machine_is_fixed_when_a_vm_is_placed_first) {
  Host host = *cluster.view.hosts.find(cluster.add_host("a"));
  const VmIdentity first = make_identity(vm, host);
  const std::regex version_4("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}");
  EXPECT_TRUE(std::regex_match(first.uuid, version_4)) << first.uuid;
  EXPECT_EQ(first.machine_type, "pc-q35-7.2");
  EXPECT_EQ(first.cpu_model, "qemu64");
  EXPECT_EQ(first.accelerator, host.status.hypervisor.accelerator);
  Vm other = vm;
  other.meta.name = "db";
  EXPECT_NE(make_identity(other, host).uuid, first.uuid);
  other = vm;
  other.meta.created_at.unix_ms += 1;
  EXPECT_NE(make_identity(other, host).uuid, first.uuid) << "made anew under an old name";
  vm.status.identity = first;
  host.status.hypervisor.machine_types = {"pc-q35-9.0"};
  host.status.hypervisor.cpu_model = "host";
  EXPECT_EQ(to_json(make_identity(vm, host)), to_json(first)) << "on whatever host it runs later";
}

}  // namespace
}  // namespace virga
