#pragma once

#include <string_view>

#include "base/result.h"
#include "model/image.h"

namespace virga {

struct DiskHeader {
  ImageFormat format = ImageFormat::raw;  ///< qcow2 or raw
  Bytes virtual_size;
};

/// Judges a disk image by its first bytes alone. `head` holds the first 64 KiB, or the whole file when it is shorter;
/// `file_size` is its length. Errors: invalid, naming what was found (backing file, external data file, encryption,
/// unclean mark, foreign format, impossible size). Pure.
/// Source: qemu/qemu docs/interop/qcow2.txt.
Result<DiskHeader> read_disk_header(std::string_view head, Bytes file_size);

}  // namespace virga
