#pragma once

#include <string>

#include "base/units.h"
#include "base/reflect.h"
#include "model/meta.h"

namespace virga {

enum class ImageFormat {
  direct,  ///< folder with `kernel` and `initrd`, booted without firmware
  qcow2,   ///< bootable disk
  raw,     ///< bootable disk
};
BOOST_DESCRIBE_ENUM(ImageFormat, direct, qcow2, raw)

/// What `virga image import` or `build` found and wrote into the image's manifest.json.
struct ImageSpec {
  ImageFormat format = ImageFormat::direct;
  std::string path;      ///< below the cluster's shared directory: "images/tiny"
  Mib size_mib;          ///< virtual size of the disk; 0 for direct
  Bytes file_bytes;      ///< length of the disk file, or of kernel + initrd
  std::string sha256;    ///< of the same; with file_bytes what a host checks before it uses the image
  std::string command_line;  ///< kernel's, for direct
};
BOOST_DESCRIBE_STRUCT(ImageSpec, (), (format, path, size_mib, file_bytes, sha256, command_line))

/// Of its disk, below the shared directory; for bootable disks.
inline std::string disk_path(const ImageSpec& spec) {
  return spec.path + (spec.format == ImageFormat::qcow2 ? "/disk.qcow2" : "/disk.raw");
}

/// What VMs are made from; never changed after it was added.
struct Image {
  Meta meta;
  ImageSpec spec;

  ImageId id() const { return ImageId(meta.name); }
};
BOOST_DESCRIBE_STRUCT(Image, (), (meta, spec))

// Read and written in one translation unit (model/json.cc): reflection is dear to compile.
extern template json::value to_json<Image>(const Image&);
extern template Result<Image> from_json<Image>(const json::value&, UnknownFields);

}  // namespace virga
