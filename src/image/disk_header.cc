#include "image/disk_header.h"

#include <fmt/format.h>

#include <array>

namespace virga {
namespace {

constexpr std::size_t kHeaderBytesV2 = 72;
constexpr std::size_t kHeaderBytesV3 = 104;
constexpr std::int64_t kVirtualBytesMax = std::int64_t{1} << 50;

constexpr std::uint64_t kDirty = 1;
constexpr std::uint64_t kCorrupt = 2;
constexpr std::uint64_t kExternalData = 4;
constexpr std::uint64_t kKnownFeatures = 31;  // with compression type and extended L2 entries

constexpr std::uint32_t kExtensionEnd = 0;
constexpr std::uint32_t kExtensionBackingFormat = 0xe2792aca;
constexpr std::uint32_t kExtensionEncryption = 0x0537be77;
constexpr std::uint32_t kExtensionDataFile = 0x44415441;

std::uint64_t big_endian(std::string_view head, std::size_t at, std::size_t bytes) {
  std::uint64_t value = 0;
  for (std::size_t index = at; index < at + bytes; ++index) {
    value = value << 8 | static_cast<unsigned char>(head[index]);
  }
  return value;
}

Error refused(std::string why) { return make_error(Errc::invalid, std::move(why)); }

/// Extensions lie between the header and the first cluster: type, length, data padded to 8 bytes.
Result<void> judge_extensions(std::string_view head, std::size_t at) {
  while (at + 8 <= head.size()) {
    const auto type = static_cast<std::uint32_t>(big_endian(head, at, 4));
    const std::uint64_t length = big_endian(head, at + 4, 4);
    if (type == kExtensionEnd) return {};
    if (type == kExtensionDataFile) return refused("it names an external data file");
    if (type == kExtensionEncryption) return refused("it has an encryption header");
    if (type == kExtensionBackingFormat) return refused("it names the format of a backing file");
    at += 8 + (length + 7) / 8 * 8;
  }
  return refused("its header extensions do not end");
}

Result<DiskHeader> judge_qcow2(std::string_view head, Bytes file_size) {
  if (head.size() < kHeaderBytesV2) return refused("its qcow2 header is cut off");
  const std::uint64_t version = big_endian(head, 4, 4);
  if (version != 2 && version != 3) {
    return refused(fmt::format("qcow2 version {} is not known; 2 and 3 are", version));
  }
  if (big_endian(head, 8, 8) != 0) return refused("it has a backing file");
  if (big_endian(head, 32, 4) != 0) {
    return refused(fmt::format("it is encrypted (method {})", big_endian(head, 32, 4)));
  }
  const std::uint64_t size = big_endian(head, 24, 8);
  if (size == 0 || size > static_cast<std::uint64_t>(kVirtualBytesMax)) {
    return refused(fmt::format("its disk has an impossible size of {} bytes", size));
  }
  const std::uint64_t table_end = big_endian(head, 40, 8) + big_endian(head, 36, 4) * 8;
  if (table_end > static_cast<std::uint64_t>(file_size.value)) {
    return refused(fmt::format("it is cut off: its table ends at byte {}, the file at {}",
                               table_end, file_size.value));
  }
  std::size_t header_bytes = kHeaderBytesV2;
  if (version == 3) {
    if (head.size() < kHeaderBytesV3) return refused("its qcow2 header is cut off");
    const std::uint64_t features = big_endian(head, 72, 8);
    if ((features & kDirty) != 0) return refused("it is marked dirty: it was not closed properly");
    if ((features & kCorrupt) != 0) return refused("it is marked corrupt");
    if ((features & kExternalData) != 0) return refused("it keeps its data in an external file");
    if ((features & ~kKnownFeatures) != 0)
      return refused(fmt::format("it needs unknown features {:#x}", features));
    header_bytes = big_endian(head, 100, 4);
    if (header_bytes < kHeaderBytesV3 || header_bytes > head.size()) {
      return refused(fmt::format("its header has an impossible length of {} bytes", header_bytes));
    }
  }
  if (auto judged = judge_extensions(head, header_bytes); !judged) return judged.error();
  return DiskHeader{ImageFormat::qcow2, Bytes{static_cast<std::int64_t>(size)}};
}

struct ForeignFormat {
  std::string_view mark;
  std::size_t at;
  std::string_view name;
};

// A raw disk may hold anything, but one of these at its beginning means that it was taken for raw
// by mistake.
constexpr std::array<ForeignFormat, 11> kForeign = {{
    {"KDMV", 0, "vmdk"},
    {"# Disk Descriptor", 0, "vmdk"},
    {"conectix", 0, "vpc"},
    {"vhdxfile", 0, "vhdx"},
    {std::string_view("\x7f\x10\xda\xbe", 4), 64, "vdi"},
    {std::string_view("QED\0", 4), 0, "qed"},
    {std::string_view("LUKS\xba\xbe", 6), 0, "encrypted (LUKS)"},
    {"Bochs Virtual", 0, "bochs"},
    {"WithoutFreeSpace", 0, "parallels"},
    {"WithouFreSpacExt", 0, "parallels"},
    {"#!/bin/sh\n#V2.0 Format", 0, "cloop"},
}};

}  // namespace

Result<DiskHeader> read_disk_header(std::string_view head, Bytes file_size) {
  if (head.substr(0, 4) == std::string_view("QFI\xfb", 4)) return judge_qcow2(head, file_size);
  for (const ForeignFormat& foreign : kForeign) {
    if (head.size() > foreign.at && head.substr(foreign.at, foreign.mark.size()) == foreign.mark) {
      return refused(fmt::format("it is {}; only qcow2 and raw are taken (see qemu-img convert)",
                                 foreign.name));
    }
  }
  constexpr std::int64_t kSectorBytes = 512;
  if (file_size.value == 0 || file_size.value % kSectorBytes != 0) {
    return refused(fmt::format("{} bytes are no raw disk: it must be a multiple of {}",
                               file_size.value, kSectorBytes));
  }
  return DiskHeader{ImageFormat::raw, file_size};
}

}  // namespace virga
