#include "cli/foreign_vm.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace virga::cli {
namespace {

std::string domain_of(
    const std::string& more = "", const std::string& devices = "",
    const std::string& os = "<type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type>") {
  return "<domain type='kvm'><name>shop</name><memory unit='MiB'>512</memory><vcpu>2</vcpu><os>" +
         os + "</os>" + more + "<devices>" + devices + "</devices></domain>";
}

constexpr const char* kDisk =
    "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
    "<source file='/var/lib/libvirt/images/shop.qcow2'/><target dev='vda' bus='virtio'/></disk>";
constexpr const char* kNic =
    "<interface type='network'><mac address='52:54:00:aa:bb:cc'/><source network='default'/>"
    "<model type='virtio'/></interface>";

const DomainDifference* difference(const Domain& domain, const std::string& what) {
  const auto found = std::ranges::find(domain.differences, what, &DomainDifference::what);
  return found == domain.differences.end() ? nullptr : &*found;
}

bool loses(const Domain& domain) {
  return std::ranges::any_of(domain.differences, &DomainDifference::is_loss);
}

TEST(ForeignDomain, R_B11_TakesOverWhatAGuestNeeds) {
  const auto domain = read_domain(domain_of("", std::string(kDisk) + kNic));
  ASSERT_TRUE(domain.ok()) << domain.error().text();
  EXPECT_EQ(domain->name, "shop");
  EXPECT_EQ(domain->cpus, 2);
  EXPECT_EQ(domain->memory_mib, Mib{512});
  EXPECT_EQ(domain->disk, "/var/lib/libvirt/images/shop.qcow2");
  ASSERT_EQ(domain->nics.size(), 1U);
  EXPECT_EQ(domain->nics[0].source, "default");
  EXPECT_FALSE(loses(*domain));
  ASSERT_NE(difference(*domain, "interface 0"), nullptr) << "its MAC changes";
  EXPECT_EQ(difference(*domain, "interface 0")->was, "52:54:00:aa:bb:cc");
  EXPECT_NE(difference(*domain, "machine"), nullptr);
}

TEST(ForeignDomain, R_B11_ReadsMemoryInAllUnits) {
  const auto memory = [](const std::string& element) {
    std::string xml = domain_of("", kDisk);
    xml.replace(xml.find("<memory"), xml.find("</memory>") + 9 - xml.find("<memory"), element);
    const auto domain = read_domain(xml);
    return domain.ok() ? domain->memory_mib.value : -1;
  };
  EXPECT_EQ(memory("<memory>1048576</memory>"), 1024) << "KiB is what is not told";
  EXPECT_EQ(memory("<memory unit='GiB'>2</memory>"), 2048);
  EXPECT_EQ(memory("<memory unit='MB'>1000</memory>"), 954);
  EXPECT_EQ(memory("<memory unit='b'>1</memory>"), 1);
  EXPECT_EQ(memory("<memory unit='pages'>1</memory>"), -1);
  EXPECT_EQ(memory("<memory>much</memory>"), -1);
  EXPECT_EQ(memory("<memory>-5</memory>"), -1);
  EXPECT_EQ(memory("<memory unit='GiB'>1.5</memory>"), -1);
  EXPECT_EQ(memory("<memory>512MB</memory>"), -1);
  EXPECT_EQ(memory("<memory unit='MiB'> 64\n</memory>"), 64);
  EXPECT_EQ(memory("<memory unit='TiB'>9999999</memory>"), -1);
}

TEST(ForeignDomain, R_B11_WhatAGuestMayMissIsALoss) {
  const auto lost = [](const std::string& xml, const std::string& what) {
    const auto domain = read_domain(xml);
    EXPECT_TRUE(domain.ok()) << what;
    const DomainDifference* found = domain.ok() ? difference(*domain, what) : nullptr;
    EXPECT_TRUE(found != nullptr && found->is_loss) << what;
  };
  lost(domain_of("", kDisk,
                 "<type arch='x86_64'>hvm</type><loader type='pflash'>/usr/OVMF.fd</loader>"),
       "firmware");
  lost(domain_of("", kDisk, "<type arch='x86_64'>hvm</type><kernel>/boot/vmlinuz</kernel>"),
       "kernel");
  lost(domain_of("", std::string(kDisk) + "<hostdev mode='subsystem' type='pci'/>"), "hostdev");
  lost(domain_of("", std::string(kDisk) + "<filesystem type='mount'/>"), "filesystem");
  lost(domain_of("", std::string(kDisk) + "<tpm model='tpm-crb'/>"), "tpm");
  lost(domain_of("", std::string(kDisk) + "<somethingnew/>"), "somethingnew");
  lost(domain_of("<launchSecurity type='sev'/>", kDisk), "launchSecurity");
  lost(domain_of("<qemu:commandline/>", kDisk), "qemu:commandline");
  lost(domain_of("", kDisk, "<type arch='x86_64'>hvm</type><loader>/usr/share/OVMF/a.fd</loader>"),
       "firmware");
  lost(domain_of("", std::string(kDisk) +
                         "<disk type='block' device='lun'><source dev='/dev/sdb'/><target "
                         "dev='sdc'/></disk>"),
       "disk sdc");
  lost(domain_of(
           "", std::string(kDisk) +
                   "<disk type='file' device='disk'><source file='/b'/><target dev='vdb'/></disk>"),
       "disk vdb");
  lost(domain_of("",
                 "<disk type='network' device='disk'><source protocol='rbd' name='p/i'/>"
                 "<target dev='vda' bus='virtio'/></disk>"),
       "disk vda");
}

TEST(ForeignDomain, R_B11_OtherBusesAreToldAndAreNoLoss) {
  const auto domain = read_domain(
      domain_of("<cpu mode='host-passthrough'/><cputune/><clock offset='localtime'/>",
                "<disk type='block' device='disk'><source dev='/dev/vg/shop'/><target dev='sda' "
                "bus='sata'/></disk>"
                "<disk type='file' device='cdrom'><source file='/i.iso'/><target dev='sdb'/></disk>"
                "<interface type='bridge'><source bridge='br0'/><model type='e1000e'/></interface>"
                "<graphics type='spice'/><console type='pty'/><memballoon model='virtio'/>"));
  ASSERT_TRUE(domain.ok());
  EXPECT_FALSE(loses(*domain));
  EXPECT_EQ(domain->disk, "/dev/vg/shop");
  EXPECT_EQ(domain->nics[0].source, "br0");
  for (const char* what :
       {"cpu", "cputune", "clock", "disk sda", "disk sdb", "interface 0", "graphics"}) {
    EXPECT_NE(difference(*domain, what), nullptr) << what;
  }
  EXPECT_EQ(difference(*domain, "console"), nullptr) << "it is here as well";
}

TEST(ForeignDomain, R_B11_WhatIsNoDomainIsRefusedWithTheReason) {
  const auto refused = [](const std::string& xml, const std::string& part) {
    const auto domain = read_domain(xml);
    ASSERT_FALSE(domain.ok()) << xml.substr(0, 60);
    EXPECT_EQ(domain.error().code, Errc::invalid);
    EXPECT_NE(domain.error().what.find(part), std::string::npos) << domain.error().what;
  };
  refused("", "no XML");
  refused("{}", "no XML");
  refused("<domain type='kvm'><name>", "no XML at byte");
  refused("<network/>", "root element");
  refused("<domain type='lxc'/>", "kvm or qemu");
  refused(domain_of("", "", "<type arch='aarch64'>hvm</type>"), "x86_64");
  refused(domain_of("", "", "<type arch='x86_64'>xen</type>"), "hvm");
  refused(std::string((1 << 20) + 1, '<'), "1 MiB");
  // An entity that names a file is text, and opens none.
  const auto entity = read_domain("<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>" +
                                  domain_of("<description>&x;</description>", kDisk));
  EXPECT_TRUE(entity.ok());
}

TEST(ForeignDomain, R_B11_AnyPieceOfADescriptionIsSurvived) {
  const std::string whole =
      domain_of("<cpu mode='custom'><model>Nehalem</model></cpu>", std::string(kDisk) + kNic);
  for (std::size_t cut = 0; cut < whole.size(); ++cut) {
    EXPECT_FALSE(read_domain(whole.substr(0, cut)).ok()) << cut;
    std::string damaged = whole;
    damaged[cut] = static_cast<char>(damaged[cut] ^ 0x15);
    (void)read_domain(damaged);
  }
}

}  // namespace
}  // namespace virga::cli
