#include "driver/qemu/hardware.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace virga {
namespace {

Hardware small_vm() {
  Hardware hardware;
  hardware.name = "acme/web";
  hardware.identity = {"6f3c6a3e-3d5b-4a5c-9d59-5d3f6f1c0a01", "pc-q35-7.2", "qemu64-v1",
                       Accelerator::tcg};
  hardware.cpus = 2;
  hardware.memory_mib = Mib{128};
  hardware.qmp = {20};
  hardware.heartbeat = {21};
  hardware.guest_agent = {22};
  hardware.console = {23};
  return hardware;
}

std::string text_of(const Hardware& hardware) {
  const auto arguments = command_line(hardware);
  EXPECT_TRUE(arguments.ok()) << (arguments.ok() ? "" : arguments.error().text());
  std::string text;
  if (!arguments) return text;
  for (const std::string& argument : *arguments) {
    if (!text.empty()) text += argument.starts_with("-") ? "\n" : " ";
    text += argument;
  }
  return text;
}

/// The lines that a guest can see the effect of.
std::vector<std::string> devices_of(const Hardware& hardware) {
  std::vector<std::string> devices;
  const auto arguments = command_line(hardware);
  for (std::size_t index = 0; arguments.ok() && index + 1 < arguments->size(); ++index) {
    if ((*arguments)[index] == "-device") devices.push_back((*arguments)[index + 1]);
  }
  return devices;
}

TEST(HardwareTest, F_B4_CommandLineOfADisklessVm) {
  EXPECT_EQ(text_of(small_vm()),
            R"(-name guest=acme/web,debug-threads=on
-nodefaults
-no-user-config
-display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-machine pc-q35-7.2,memory-backend=ram0,usb=off,vmport=off,graphics=off,dump-guest-core=off
-accel tcg,tb-size=64
-cpu qemu64-v1
-smp cpus=2,sockets=1,cores=2,threads=1
-m size=131064K
-uuid 6f3c6a3e-3d5b-4a5c-9d59-5d3f6f1c0a01
-rtc base=utc
-boot menu=off,strict=off
-action panic=pause,watchdog=pause
-S
-object memory-backend-ram,id=ram0,size=131064K
-chardev socket,id=qmp,fd=20,server=on,wait=off
-mon chardev=qmp,mode=control
-add-fd fd=23,set=23
-chardev file,id=console,path=/dev/fdset/23,append=on
-device isa-serial,id=serial0,chardev=console,index=0
-device virtio-serial-pci,id=ports,bus=pcie.0,addr=0x1,max_ports=8
-chardev socket,id=heartbeat,fd=21,server=on,wait=off
-device virtserialport,bus=ports.0,nr=1,id=port-heartbeat,chardev=heartbeat,name=org.virga.hb.0
-chardev socket,id=guest-agent,fd=22,server=on,wait=off
-device virtserialport,bus=ports.0,nr=2,id=port-guest-agent,chardev=guest-agent,)"
            R"(name=org.qemu.guest_agent.0
-device pvpanic-pci,id=panic0,bus=pcie.0,addr=0x2
-device ib700,id=watchdog0
-object rng-builtin,id=entropy0
-device virtio-rng-pci,id=rng0,rng=entropy0,bus=pcie.0,addr=0x3)");
}

TEST(HardwareTest, F_B4_DiskChainIsNamedByDescriptorsAlone) {
  Hardware hardware = small_vm();
  hardware.disks.push_back({"root", FileDisk{{{{30}, "qcow2"}, {{31}, "qcow2"}}}});
  const std::string text = text_of(hardware);
  EXPECT_NE(text.find(R"(
-add-fd fd=31,set=31
-blockdev {"driver":"file","node-name":"disk0-base1-file","filename":"/dev/fdset/31",)"
                      R"("locking":"on",)"
                      R"("read-only":true,"discard":"unmap"}
-blockdev {"driver":"qcow2","node-name":"disk0-base1","file":"disk0-base1-file","read-only":true,)"
                      R"("discard":"unmap","backing":null}
-add-fd fd=30,set=30
-blockdev {"driver":"file","node-name":"disk0-file","filename":"/dev/fdset/30","locking":"on",)"
                      R"("read-only":false,"discard":"unmap"}
-blockdev {"driver":"qcow2","node-name":"disk0","file":"disk0-file",)"
                      R"("read-only":false,"discard":"unmap","backing":"disk0-base1"}
-device virtio-blk-pci,id=disk0-device,drive=disk0,bus=pcie.0,addr=0x8,serial=root,)"
                      R"(bootindex=1,werror=stop,rerror=stop,num-queues=1)"),
            std::string::npos)
      << text;
}

TEST(HardwareTest, F_B5_ASeedIsAReadOnlyDiskAtItsOwnAddress) {
  Hardware hardware = small_vm();
  hardware.disks.push_back({"root", FileDisk{{{{30}, "raw"}}}});
  const auto without = devices_of(hardware);
  hardware.seed = {32};
  const std::string text = text_of(hardware);
  EXPECT_NE(text.find(R"(
-add-fd fd=32,set=32
-blockdev {"driver":"file","node-name":"seed-file","filename":"/dev/fdset/32","read-only":true}
-blockdev {"driver":"raw","node-name":"seed","file":"seed-file","read-only":true}
-device virtio-blk-pci,id=seed-device,drive=seed,bus=pcie.0,addr=0x18,serial=seed,num-queues=1)"),
            std::string::npos)
      << text;
  EXPECT_EQ(devices_of(hardware).size(), without.size() + 1);
}

TEST(HardwareTest, F_B4_DevicesDoNotDependOnBackEnds) {
  Hardware one = small_vm();
  one.memory = AnonymousMemory{};
  one.disks.push_back({"root", FileDisk{{{{30}, "raw"}}}});
  one.disks.push_back({"data", FileDisk{{{{31}, "raw"}}}});
  one.nics.push_back({"52:54:00:00:00:10", 1450, TapNic{{40}}});
  Hardware other = small_vm();
  other.memory = SharedFileMemory{{50}};
  other.disks.push_back({"root", NbdDisk{"10.0.0.1", 10809, "root", "", ""}});
  other.disks.push_back({"data", ExportDisk{{51}, "data"}});
  other.nics.push_back({"52:54:00:00:00:10", 1450, DatagramNic{{41}}});
  other.incoming = true;
  EXPECT_EQ(devices_of(one), devices_of(other));
  EXPECT_EQ(
      devices_of(one).back(),
      "virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:10,host_mtu=1450,bus=pcie.0,addr=0x10,"
      "romfile=,"
      "csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,"
      "guest_announce=on,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,mq=off");
  const std::string text = text_of(other);
  EXPECT_NE(text.find("-incoming defer"), std::string::npos);
  EXPECT_NE(
      text.find("memory-backend-file,id=ram0,size=131064K,share=on,mem-path=/proc/self/fd/50"),
      std::string::npos);
  EXPECT_NE(text.find("-netdev dgram,id=net0,local.type=fd,local.str=41"), std::string::npos);
  EXPECT_NE(
      text.find(
          R"("server":{"type":"inet","host":"10.0.0.1","port":"10809","keep-alive":true},"export":"root")"),
      std::string::npos);
  EXPECT_NE(text.find(R"("server":{"type":"fd","str":"51"},"export":"data")"), std::string::npos);
}

TEST(HardwareTest, R_B1_AMirroredDiskWritesToAllItsPlacesOrFails) {
  Hardware vm = small_vm();
  const NbdDisk place{"10.0.0.1", 10809, "root", "", "", 2};
  vm.disks.push_back({"root", MirroredDisk{{{"disk0-c", place}, {"disk0-d", place}}}});
  const std::string text = text_of(vm);
  EXPECT_NE(text.find(R"("node-name":"disk0-c")"), std::string::npos);
  EXPECT_NE(text.find(R"("reconnect-delay":2)"), std::string::npos);
  EXPECT_NE(text.find(R"(
-blockdev {"driver":"quorum","node-name":"disk0-both","vote-threshold":2,"read-pattern":"fifo",)"
                      R"("children":["disk0-c","disk0-d"]}
-device virtio-blk-pci,id=disk0-device,drive=disk0-both,)"),
            std::string::npos)
      << text;
  vm.disks = {{"root", MirroredDisk{{{"disk0-c", place}}}}};
  const std::string alone = text_of(vm);
  EXPECT_EQ(alone.find("quorum"), std::string::npos);
  EXPECT_NE(alone.find("id=disk0-device,drive=disk0-c,"), std::string::npos);
}

TEST(HardwareTest, F_B9_MemoryIsShortenedOnlyWhereQemuWouldLoseWrites) {
  Hardware vm = small_vm();
  const auto memory_of = [&](Accelerator accelerator, const char* machine) {
    vm.identity.accelerator = accelerator;
    vm.identity.machine_type = machine;
    const std::string text = text_of(vm);
    const std::size_t at = text.find("-m size=");
    return text.substr(at, text.find('\n', at) - at);
  };
  EXPECT_EQ(memory_of(Accelerator::tcg, "pc-q35-7.2"), "-m size=131064K");
  EXPECT_EQ(memory_of(Accelerator::tcg, "pc-q35-8.2"), "-m size=131064K");
  EXPECT_EQ(memory_of(Accelerator::tcg, "pc-q35-9.0"), "-m size=131072K");
  EXPECT_EQ(memory_of(Accelerator::tcg, "pc-q35-10.1"), "-m size=131072K");
  EXPECT_EQ(memory_of(Accelerator::kvm, "pc-q35-7.2"), "-m size=131072K");
}

TEST(HardwareTest, F_B4_AddressesOfDevicesAreFixedAndDifferent) {
  Hardware full = small_vm();
  for (int index = 0; index < 8; ++index) {
    full.disks.push_back({"d" + std::to_string(index), FileDisk{{{{30 + index}, "raw"}}}});
    full.nics.push_back({"52:54:00:00:00:1" + std::to_string(index), 1450, TapNic{{40 + index}}});
  }
  for (int index = 0; index < 4; ++index)
    full.host_devices.push_back({"h" + std::to_string(index), {50 + index}, true});
  std::vector<std::string> addresses;
  for (const std::string& device : devices_of(full)) {
    const std::size_t at = device.find("addr=");
    if (at != std::string::npos) addresses.push_back(device.substr(at, device.find(',', at) - at));
  }
  EXPECT_EQ(addresses.size(), 23U);
  std::sort(addresses.begin(), addresses.end());
  EXPECT_EQ(std::unique(addresses.begin(), addresses.end()), addresses.end());
  Hardware more = full;
  more.host_devices.push_back({"h4", {60}, true});
  EXPECT_EQ(command_line(more).error().code, Errc::invalid);
  full.nics.push_back(full.nics.back());
  EXPECT_EQ(command_line(full).error().code, Errc::invalid);
}

TEST(HardwareTest, A3_23_R_B5_DevicesOfTheHostAreADiskBehindAllOthersAndAPortWithItsName) {
  Hardware hardware = small_vm();
  hardware.host_devices = {{"scratch", {50}, true}, {"modem", {51}, false}};
  const auto arguments = command_line(hardware);
  ASSERT_TRUE(arguments.ok());
  std::string text;
  for (const std::string& one : *arguments) text += one + "\n";
  for (const char* part :
       {"{\"driver\":\"host_device\",\"node-name\":\"host-device0\",\"filename\":"
        "\"/dev/fdset/50\",\"locking\":\"on\",\"discard\":\"unmap\"}",
        "virtio-blk-pci,id=host-device0-device,drive=host-device0,bus=pcie.0,addr=0x19,"
        "serial=scratch,werror=stop,rerror=stop,num-queues=1",
        "serial,id=host-device1,path=/dev/fdset/51",
        "virtserialport,bus=ports.0,nr=4,id=port-host-device1,chardev=host-device1,"
        "name=virga.modem"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
}

TEST(HardwareTest, F_F24_WordsThatQemuWouldMisreadAreRefused) {
  for (const std::string name : {"a,b", "", "a b", "a=b", "x\n"}) {
    Hardware hardware = small_vm();
    hardware.name = name;
    EXPECT_FALSE(command_line(hardware).ok()) << name;
    hardware = small_vm();
    hardware.nics.push_back({name, 1450, TapNic{{40}}});
    EXPECT_FALSE(command_line(hardware).ok()) << name;
    hardware = small_vm();
    hardware.identity.cpu_model = name;
    EXPECT_FALSE(command_line(hardware).ok()) << name;
  }
  Hardware hardware = small_vm();
  hardware.disks.push_back({"root", FileDisk{}});
  EXPECT_FALSE(command_line(hardware).ok());
}

TEST(HardwareTest, NodesAreFoundBackAsDisks) {
  EXPECT_EQ(disk_index_of_node("disk0"), 0);
  EXPECT_EQ(disk_index_of_node("disk7-base1-file"), 7);
  EXPECT_EQ(disk_index_of_node("#block123"), -1);
  EXPECT_EQ(disk_index_of_node("disk"), -1);
}

}  // namespace
}  // namespace virga
