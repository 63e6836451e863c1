#include "image/image_import.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <rapidcheck/gtest.h>
#include <filesystem>

#include "edge/file.h"
#include "edge/process.h"
#include "image/digest.h"
#include "image/disk_header.h"

namespace virga {
namespace {

class Import : public testing::Test {
 protected:
  Import() {
    folder_ = std::filesystem::temp_directory_path().string() + "/virga-import.XXXXXX";
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
  }
  ~Import() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  /// Runs a program of QEMU in the test's folder; its files are named without folder. On a busy
  /// machine qemu-img may fail to measure how fast it derives keys: then once more.
  void run(std::vector<std::string> arguments) const {
    ProcessOptions options;
    options.arguments = std::move(arguments);
    options.arguments[0] = "/usr/bin/" + options.arguments[0];
    options.working_directory = folder_;
    auto ended = run_process(options, seconds(60));
    for (int again = 0; again < 5 && ended.ok() && ended->exit.code != 0 &&
                        ended->err.find("accurate CPU usage") != std::string::npos;
         ++again) {
      ended = run_process(options, seconds(60));
    }
    ASSERT_TRUE(ended.ok()) << ended.error().text();
    ASSERT_EQ(ended->exit.code, 0) << ended->err;
  }

  ImageImportOptions options(const std::string& source) const {
    ImageImportOptions made;
    made.source_path = path(source);
    made.images_folder = path("images");
    made.name = "cloud";
    return made;
  }

  /// Expects the refusal, its words, and that nothing was left behind.
  void expect_refused(const ImageImportOptions& refused, Errc code,
                      const std::string& words) const {
    const auto imported = import_image(refused);
    ASSERT_FALSE(imported.ok());
    EXPECT_EQ(imported.error().code, code) << imported.error().text();
    EXPECT_NE(imported.error().text().find(words), std::string::npos) << imported.error().text();
    if (std::filesystem::exists(refused.images_folder)) {
      EXPECT_TRUE(std::filesystem::is_empty(refused.images_folder));
    }
  }

  void patch(const std::string& name, off_t at, const std::string& bytes) const {
    const Descriptor file(::open(path(name).c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), at),
              static_cast<ssize_t>(bytes.size()));
  }

  void make_filled_qcow2(const std::string& name) const {
    run({"qemu-img", "create", "-q", "-f", "qcow2", name, "64M"});
    run({"qemu-io", "-f", "qcow2", "-c", "write -P 7 0 4M", "-c", "write -P 9 32M 1M", name});
  }

  std::string folder_;
};

TEST_F(Import, F_B5_TakesAQcow2) {
  make_filled_qcow2("a.qcow2");
  Digest digest;
  digest.add(*read_file(path("a.qcow2")));
  auto wanted = options("a.qcow2");
  wanted.sha256 = digest.hex();
  const auto imported = import_image(wanted);
  ASSERT_TRUE(imported.ok()) << imported.error().text();
  EXPECT_EQ(imported->format, ImageFormat::qcow2);
  EXPECT_EQ(imported->size_mib, Mib{64});
  EXPECT_EQ(imported->sha256, wanted.sha256);
  EXPECT_EQ(*read_file(path("images/cloud/disk.qcow2")), *read_file(path("a.qcow2")));
  const auto manifest = read_image_manifest(path("images/cloud"));
  ASSERT_TRUE(manifest.ok()) << manifest.error().text();
  const ImageSpec spec = image_spec(*manifest, "images/cloud");
  EXPECT_EQ(spec.sha256, wanted.sha256);
  EXPECT_EQ(spec.file_bytes.value,
            static_cast<std::int64_t>(std::filesystem::file_size(path("a.qcow2"))));
}

TEST_F(Import, F_B5_TakesARawDiskAndKeepsItsHoles) {
  std::string disk(32 << 20, '\0');
  disk.replace(5 << 20, 5, "hello");
  ASSERT_TRUE(write_file_atomically(path("a.img"), disk).ok());
  const auto imported = import_image(options("a.img"));
  ASSERT_TRUE(imported.ok()) << imported.error().text();
  EXPECT_EQ(imported->format, ImageFormat::raw);
  EXPECT_EQ(imported->size_mib, Mib{32});
  EXPECT_TRUE(*read_file(path("images/cloud/disk.raw"), 64 << 20) == disk);
  struct stat seen {};
  ASSERT_EQ(::stat(path("images/cloud/disk.raw").c_str(), &seen), 0);
  EXPECT_LT(seen.st_blocks * 512, 4 << 20);
}

TEST_F(Import, F_B5_RefusesABackingFile) {
  make_filled_qcow2("base.qcow2");
  run({"qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "a.qcow2"});
  expect_refused(options("a.qcow2"), Errc::invalid, "backing file");
}

TEST_F(Import, F_B5_RefusesAnExternalDataFile) {
  run({"qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "a.qcow2", "16M"});
  expect_refused(options("a.qcow2"), Errc::invalid, "external");
}

TEST_F(Import, F_B5_RefusesEncryption) {
  ASSERT_TRUE(write_file_atomically(path("secret"), "word").ok());
  run({"qemu-img", "create", "-q", "--object", "secret,id=s,file=secret", "-f", "qcow2", "-o",
       "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "a.qcow2", "16M"});
  expect_refused(options("a.qcow2"), Errc::invalid, "encrypt");
  run({"qemu-img", "create", "-q", "--object", "secret,id=s,file=secret", "-f", "luks", "-o",
       "key-secret=s,iter-time=10", "a.luks", "16M"});
  expect_refused(options("a.luks"), Errc::invalid, "encrypted");
}

TEST_F(Import, F_B5_RefusesWhatIsCutOff) {
  make_filled_qcow2("a.qcow2");
  ASSERT_EQ(::truncate(path("a.qcow2").c_str(), 3 << 20), 0);
  expect_refused(options("a.qcow2"), Errc::invalid, "broken");
  ASSERT_EQ(::truncate(path("a.qcow2").c_str(), 300), 0);
  expect_refused(options("a.qcow2"), Errc::invalid, "cut off");
  ASSERT_EQ(::truncate(path("a.qcow2").c_str(), 50), 0);
  expect_refused(options("a.qcow2"), Errc::invalid, "cut off");
}

TEST_F(Import, F_B5_RefusesBrokenTables) {
  make_filled_qcow2("a.qcow2");
  const std::string head = read_file(path("a.qcow2"))->substr(0, 104);
  std::uint64_t table = 0;
  for (std::size_t index = 40; index < 48; ++index)
    table = table << 8 | static_cast<unsigned char>(head[index]);
  patch("a.qcow2", static_cast<off_t>(table), std::string("\x80\x00\x00\x00\x7f\xff\x00\x00", 8));
  expect_refused(options("a.qcow2"), Errc::invalid, "broken");
}

TEST_F(Import, F_B5_RefusesUncleanMarks) {
  make_filled_qcow2("a.qcow2");
  patch("a.qcow2", 79, std::string(1, '\x01'));
  expect_refused(options("a.qcow2"), Errc::invalid, "dirty");
  patch("a.qcow2", 79, std::string(1, '\x02'));
  expect_refused(options("a.qcow2"), Errc::invalid, "corrupt");
}

TEST_F(Import, F_B5_RefusesForeignFormats) {
  run({"qemu-img", "create", "-q", "-f", "vmdk", "a.vmdk", "16M"});
  expect_refused(options("a.vmdk"), Errc::invalid, "vmdk");
  run({"qemu-img", "create", "-q", "-f", "vdi", "a.vdi", "16M"});
  expect_refused(options("a.vdi"), Errc::invalid, "vdi");
  run({"qemu-img", "create", "-q", "-f", "vhdx", "a.vhdx", "16M"});
  expect_refused(options("a.vhdx"), Errc::invalid, "vhdx");
}

TEST_F(Import, F_B5_RefusesWhatExceedsTheQuota) {
  run({"qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "2G"});
  auto wanted = options("a.qcow2");
  wanted.size_mib_max = Mib{1024};
  expect_refused(wanted, Errc::exhausted, "at most 1073741824 are taken (image_mib_max)");
  ASSERT_TRUE(write_file_atomically(path("a.img"), std::string(3 << 20, 'x')).ok());
  wanted = options("a.img");
  wanted.size_mib_max = Mib{2};
  expect_refused(wanted, Errc::exhausted, "at most 2097152 are taken (image_mib_max)");
}

TEST_F(Import, F_B5_RefusesAWrongChecksum) {
  make_filled_qcow2("a.qcow2");
  auto wanted = options("a.qcow2");
  wanted.sha256 = std::string(64, 'a');
  expect_refused(wanted, Errc::invalid, "SHA-256");
}

TEST_F(Import, F_B5_RefusesWhatIsNoFile) {
  expect_refused(options("nothing"), Errc::not_found, "nothing");
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  expect_refused(options("pipe"), Errc::invalid, "regular");
  ASSERT_TRUE(write_file_atomically(path("empty"), "").ok());
  expect_refused(options("empty"), Errc::invalid, "no raw disk");
  ASSERT_TRUE(write_file_atomically(path("odd"), std::string(1000, 'x')).ok());
  expect_refused(options("odd"), Errc::invalid, "multiple of 512");
}

TEST_F(Import, F_B5_RefusesNamesThatClimbAndNamesThatAreTaken) {
  ASSERT_TRUE(write_file_atomically(path("a.img"), std::string(1024, 'x')).ok());
  auto wanted = options("a.img");
  wanted.name = "../cloud";
  expect_refused(wanted, Errc::invalid, "../cloud");
  ASSERT_TRUE(import_image(options("a.img")).ok());
  const auto again = import_image(options("a.img"));
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.error().code, Errc::conflict);
  EXPECT_EQ(*read_file(path("images/cloud/disk.raw")), std::string(1024, 'x'));
}

TEST_F(Import, F_B5_AProbeThatTakesTooLongIsEnded) {
  make_filled_qcow2("a.qcow2");
  auto wanted = options("a.qcow2");
  wanted.probe_deadline = milliseconds(0);
  expect_refused(wanted, Errc::timeout, "prlimit");
}

RC_GTEST_PROP(DiskHeader, F_B5_AnyBytesAreJudgedWithoutHarm,
              (const std::string& tail, bool marked)) {
  const std::string head = marked ? std::string("QFI\xfb\0\0\0\x03", 8) + tail : tail;
  const auto judged = read_disk_header(head, Bytes{static_cast<std::int64_t>(head.size())});
  RC_ASSERT(judged.ok() || judged.error().code == Errc::invalid);
}

}  // namespace
}  // namespace virga
