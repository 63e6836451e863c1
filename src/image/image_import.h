#pragma once

#include <string>

#include "base/result.h"
#include "image/image_build.h"

namespace virga {

struct ImageImportOptions {
  std::string source_path;    ///< a regular file: qcow2 (version 2 or 3) or a raw disk
  std::string images_folder;  ///< "<shared>/images"
  std::string name;           ///< see check_name; the image appears as <images_folder>/<name>
  std::string sha256;         ///< of the source file, 64 hexadecimal digits; empty = not checked
  Mib size_mib_max{40 * 1024};  ///< neither the file nor the disk that it describes may be larger
  Duration probe_deadline = seconds(60);  ///< for each of the probes of qemu-img
};

/// Takes a disk image over: copies it beside its place (the source is read once and never trusted again), checks the
/// copy and publishes it by rename as disk.qcow2 or disk.raw with manifest.json; on any error nothing is left.
///
/// Refused: what is neither format or is shorter than its own tables say, what has a backing file, an external data
/// file or an encryption header, what is marked dirty or corrupt, what `qemu-img check` finds broken (leaked clusters
/// alone are accepted), what exceeds the quota, what does not match `sha256`, and names that are taken.
/// The header is judged here first, so that qemu-img never sees an image that names another file; qemu-img then runs in
/// the sandbox of disk_probe.h.
///
/// Blocking; reads and writes the whole file. Errors: not_found, invalid (broken, refused kind, checksum), exhausted
/// (quota, disk full), conflict (name), timeout (probe).
Result<ImageManifest> import_image(const ImageImportOptions& options);

}  // namespace virga
