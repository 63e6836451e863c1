#include "cli/foreign_vm.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <map>
#include <pugixml.hpp>
#include <set>

namespace virga::cli {
namespace {

constexpr std::size_t kBytesMax = 1 << 20;
constexpr double kMib = 1 << 20;
constexpr int kCpusMax = 64;

Error wrong(std::string_view element, std::string_view value, std::string_view right) {
  return make_error(Errc::invalid,
                    fmt::format("domain: {}: \"{}\" cannot be taken over; right would be {}",
                                element, value.substr(0, 80), right));
}

std::string text_of(const pugi::xml_node& node) { return node.text().get(); }

std::string trimmed(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

/// Of <memory unit="...">.
Result<Mib> read_memory(const pugi::xml_node& memory) {
  static const std::map<std::string, double> kUnits = {
      {"b", 1},           {"bytes", 1},        {"KB", 1e3},          {"k", 1 << 10},
      {"KiB", 1 << 10},   {"MB", 1e6},         {"M", kMib},          {"MiB", kMib},
      {"GB", 1e9},        {"G", kMib * 1024},  {"GiB", kMib * 1024}, {"TB", 1e12},
      {"T", kMib * kMib}, {"TiB", kMib * kMib}};
  const std::string unit = memory.attribute("unit").as_string("KiB");
  const auto found = kUnits.find(unit);
  if (found == kUnits.end()) return wrong("memory unit", unit, "KiB, MiB or GiB");
  const std::string text = trimmed(text_of(memory));
  std::int64_t amount = 0;
  const char* end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, amount);
  const double mib = std::ceil(static_cast<double>(amount) * found->second / kMib);
  if (read.ec != std::errc() || read.ptr != end || mib < 1 || mib > 4 * kMib) {
    return wrong("memory", text, "a whole number of " + unit + ", 1 MiB to 4 TiB in all");
  }
  return Mib{static_cast<std::int64_t>(mib)};
}

class Reader {
 public:
  Result<Domain> read(const pugi::xml_node& root);

 private:
  void differs(std::string what, std::string was, std::string will_be) {
    made_.differences.push_back({std::move(what), std::move(was), std::move(will_be), false});
  }
  void loses(std::string what, std::string was) {
    made_.differences.push_back({std::move(what), std::move(was), "not there", true});
  }
  Result<void> read_size(const pugi::xml_node& root);
  Result<void> read_machine(const pugi::xml_node& root);
  void read_disk(const pugi::xml_node& disk);
  void read_nic(const pugi::xml_node& nic);
  void read_devices(const pugi::xml_node& devices);
  void read_rest(const pugi::xml_node& root);

  Domain made_;
};

Result<void> Reader::read_size(const pugi::xml_node& root) {
  const std::string cpus = text_of(root.child("vcpu"));
  made_.cpus = cpus.empty() ? 1 : root.child("vcpu").text().as_int();
  if (made_.cpus < 1 || made_.cpus > kCpusMax) return wrong("vcpu", cpus, "1 to 64");
  const auto memory = read_memory(root.child("memory"));
  if (!memory.ok()) return memory.error();
  made_.memory_mib = *memory;
  const std::string online = root.child("vcpu").attribute("current").as_string();
  if (!online.empty()) differs("vcpu", online + " switched on", cpus + ": all of them");
  const pugi::xml_node current = root.child("currentMemory");
  if (!current) return {};
  const auto ballooned = read_memory(current);
  if (!ballooned.ok()) return ballooned.error();
  if (*ballooned < *memory) {
    differs("currentMemory", fmt::format("{} MiB", ballooned->value),
            fmt::format("{} MiB: all of its memory", memory->value));
  }
  return {};
}

Result<void> Reader::read_machine(const pugi::xml_node& root) {
  const std::string type = root.attribute("type").as_string();
  if (type != "kvm" && type != "qemu" && type != "hvf") return wrong("type", type, "kvm or qemu");
  const pugi::xml_node os = root.child("os");
  const std::string arch = os.child("type").attribute("arch").as_string("x86_64");
  if (arch != "x86_64") return wrong("os/type arch", arch, "x86_64");
  if (text_of(os.child("type")) != "hvm") return wrong("os/type", text_of(os.child("type")), "hvm");
  differs("machine", os.child("type").attribute("machine").as_string("not told"),
          "the cluster's: other addresses of devices");
  const std::string loader = text_of(os.child("loader"));
  const bool uefi = os.attribute("firmware").as_string() == std::string("efi") ||
                    os.child("loader").attribute("type").as_string() == std::string("pflash") ||
                    loader.find("OVMF") != std::string::npos ||
                    loader.find("edk2") != std::string::npos;
  if (uefi) loses("firmware", "UEFI; guests are started by BIOS here");
  if (!uefi && !loader.empty()) differs("firmware", loader, "SeaBIOS");
  if (os.child("kernel")) loses("kernel", text_of(os.child("kernel")));
  const pugi::xml_node cpu = root.child("cpu");
  if (cpu) {
    const std::string model = text_of(cpu.child("model"));
    differs("cpu", model.empty() ? cpu.attribute("mode").as_string() : model,
            "a model that all hosts of the cluster have");
  }
  const std::string offset = root.child("clock").attribute("offset").as_string("utc");
  if (offset != "utc") differs("clock", offset, "utc");
  return {};
}

void Reader::read_disk(const pugi::xml_node& disk) {
  const pugi::xml_node target = disk.child("target");
  const std::string name = std::string("disk ") + target.attribute("dev").as_string("?");
  const std::string device = disk.attribute("device").as_string("disk");
  const pugi::xml_node source = disk.child("source");
  if (device == "cdrom" || device == "floppy") {
    if (source) differs(name, device, "not there");
    return;
  }
  if (device != "disk") return loses(name, device);
  std::string path = source.attribute("file").as_string();
  if (path.empty()) path = source.attribute("dev").as_string();
  if (!made_.root.empty()) return loses(name, path.empty() ? "a network disk" : path);
  made_.root = name;
  if (path.empty()) {
    loses(name, fmt::format("a disk of type {}; name a copy of it with --disk",
                            disk.attribute("type").as_string("?")));
  }
  made_.disk = path;
  const std::string bus = target.attribute("bus").as_string("?");
  if (bus != "virtio") differs(name, "bus " + bus, "virtio: its guest needs that driver to boot");
  if (disk.child("encryption") || source.child("encryption")) loses(name + " encryption", "there");
}

void Reader::read_nic(const pugi::xml_node& nic) {
  const std::string type = nic.attribute("type").as_string();
  const pugi::xml_node source = nic.child("source");
  DomainNic made;
  made.mac = nic.child("mac").attribute("address").as_string();
  for (const char* kind : {"network", "bridge", "dev"}) {
    if (made.source.empty()) made.source = source.attribute(kind).as_string();
  }
  const std::string name = fmt::format("interface {}", made_.nics.size());
  if (type == "hostdev" || type == "vhostuser") loses(name, type);
  const std::string model = nic.child("model").attribute("type").as_string("?");
  if (model != "virtio") differs(name, "model " + model, "virtio: its guest needs that driver");
  differs(name, made.mac.empty() ? "an address of its own" : made.mac,
          "a new MAC and an address of the network");
  made_.nics.push_back(std::move(made));
}

/// What of the whole is neither read nor the same here.
void Reader::read_rest(const pugi::xml_node& root) {
  static const std::set<std::string> kRead = {
      "name",     "uuid", "title",    "description", "metadata",  "memory",      "currentMemory",
      "vcpu",     "os",   "cpu",      "devices",     "clock",     "on_poweroff", "on_reboot",
      "on_crash", "pm",   "features", "resource",    "iothreads", "seclabel",
  };
  for (const pugi::xml_node& element : root.children()) {
    const std::string name = element.name();
    if (element.type() != pugi::node_element || kRead.contains(name)) continue;
    if (name == "qemu:commandline") {
      loses(name, "options for QEMU itself");
    } else if (name == "launchSecurity") {
      loses(name, "encrypted memory");
    } else {
      differs(name, "set", "not kept");
    }
  }
}

void Reader::read_devices(const pugi::xml_node& devices) {
  // What is there for every guest, or for nobody who looks for it.
  static const std::set<std::string> kAsHere = {"emulator",   "controller", "console",  "serial",
                                                "memballoon", "rng",        "watchdog", "panic"};
  static const std::set<std::string> kNotHere = {
      "graphics", "video", "sound", "audio", "input", "channel", "hub", "redirdev", "smartcard"};
  for (const pugi::xml_node& device : devices.children()) {
    if (device.type() != pugi::node_element) continue;
    const std::string kind = device.name();
    if (kind == "disk") {
      read_disk(device);
    } else if (kind == "interface") {
      read_nic(device);
    } else if (kNotHere.contains(kind)) {
      differs(kind, device.attribute("type").as_string("there"), "not there");
    } else if (!kAsHere.contains(kind)) {
      loses(kind, device.attribute("type").as_string("there"));
    }
  }
}

Result<Domain> Reader::read(const pugi::xml_node& root) {
  made_.name = text_of(root.child("name"));
  if (auto machine = read_machine(root); !machine.ok()) return machine.error();
  if (auto size = read_size(root); !size.ok()) return size.error();
  read_devices(root.child("devices"));
  read_rest(root);
  return std::move(made_);
}

}  // namespace

Result<Domain> read_domain(std::string_view xml) {
  if (xml.size() > kBytesMax) return make_error(Errc::invalid, "domain: more than 1 MiB");
  pugi::xml_document document;
  const auto parsed = document.load_buffer(xml.data(), xml.size());
  if (!parsed) {
    return make_error(Errc::invalid, fmt::format("domain: no XML at byte {}: {}", parsed.offset,
                                                 parsed.description()));
  }
  const pugi::xml_node root = document.child("domain");
  if (!root) {
    const std::string found = document.document_element().name();
    return wrong("root element", found, "domain, as `virsh dumpxml` prints it");
  }
  return Reader().read(root);
}

}  // namespace virga::cli
