#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/image.h"

namespace virga {

/// What lies beside an image's files as manifest.json and becomes its ImageSpec.
struct ImageManifest {
  ImageFormat format = ImageFormat::direct;
  Mib size_mib;              ///< virtual size of the disk, rounded up; 0 for direct
  Bytes file_bytes;          ///< length of the disk file, or of kernel + initrd
  std::string sha256;        ///< of the disk file, or of kernel + initrd one after the other
  std::string command_line;  ///< kernel's, for direct
  std::vector<std::string>
      sources;  ///< file names of the packages or of the disk that it was made of
};
BOOST_DESCRIBE_STRUCT(ImageManifest, (),
                      (format, size_mib, file_bytes, sha256, command_line, sources))

/// The stored form; `path` is the image's folder below the shared directory, "images/tiny".
ImageSpec image_spec(const ImageManifest& manifest, const std::string& path);

/// Reads manifest.json of an image's folder. Errors: not_found, invalid.
Result<ImageManifest> read_image_manifest(const std::string& image_folder);

struct TinyImageOptions {
  std::string
      output_folder;  ///< becomes the image: kernel, initrd, manifest.json; replaced as a whole
  std::string package_folder;  ///< Debian packages are kept here and used again without a download
  std::string guest_program_path;                         ///< the static virga-guest
  std::function<void(const std::string& step)> progress;  ///< may be empty
};

/// Makes the tiny guest: Debian's cloud kernel and busybox with virga-guest as the first program. Needs no root.
/// Downloads the two packages with apt when `package_folder` lacks them (deadline 300 s), else needs no network.
/// The same packages and program give the same bytes. The output appears by rename, whole or not at all.
/// Blocking, some seconds. Errors: not_found (guest program), unavailable (download), invalid (package), exhausted.
Result<ImageManifest> build_tiny_image(const TinyImageOptions& options);

/// Names of the modules in load order: all that `roots` need first, each once. `module_of` gives a module's file or
/// nullptr. Dependencies are read from the modules themselves, so that no depmod is needed. Errors: not_found.
Result<std::vector<std::string>> module_load_order(
    const std::vector<std::string>& roots,
    const std::function<const std::string*(const std::string& name)>& module_of);

}  // namespace virga
