#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "driver/block_store_contract.h"
#include "driver/volumes/server_record.h"
#include "driver/volumes/small_disk.h"
#include "edge/file.h"
#include "edge/process.h"
#include "edge/tls.h"

namespace virga {

/// For tests of real stores: a device in a folder of its own, and consumers that are qemu-io. A test adds its store.
class RealStoreLab : public BlockStoreLab {
 public:
  /// `disk`: options of a SmallDisk for the device; empty = it is a folder of the test's.
  explicit RealStoreLab(const std::string& disk = "") {
    char pattern[] = "/tmp/virga-store-XXXXXX";
    if (::mkdtemp(pattern) != nullptr) folder_ = pattern;
    if (!disk.empty()) disk_ = std::make_unique<SmallDisk>(device(), disk);
  }

  ~RealStoreLab() override {
    if (consumer_ != nullptr) consumer_->signal(SIGKILL);
    disk_.reset();
    std::filesystem::remove_all(folder_);
  }

  BlockStore& store() override { return *store_; }

  std::string device() const { return folder_ + "/device"; }
  std::string path(const VolumeId& volume, const std::string& name) const {
    return device() + "/" + volume.value + "/" + name;
  }

  SmallDisk& disk() { return *disk_; }

  /// The consumer, about its steps.
  std::string said() const { return text_of(folder_ + "/consumer.log"); }

  void restart_agent() override {
    store_.reset();
    start();
  }

  void use_meanwhile(const VolumeEndpoint& at, const std::vector<ConsumerStep>& steps) override {
    ProcessOptions made;
    made.arguments = {"/usr/bin/qemu-io"};
    for (std::string& word : consumer_of(at)) made.arguments.push_back(std::move(word));
    for (const ConsumerStep& step : steps) {
      made.arguments.emplace_back("-c");
      made.arguments.push_back(words_of(step));
    }
    made.environment = {{"LC_ALL", "C"}, {"PATH", "/usr/bin:/bin"}};
    made.output_path = folder_ + "/consumer.log";
    made.die_with_parent = true;
    std::filesystem::remove(made.output_path);
    auto process = Process::spawn(loop_, made);
    ASSERT_TRUE(process.ok()) << process.error().text();
    consumer_ = std::move(*process);
    exit_.reset();
    consumer_->on_exit([this](ProcessExit exit) { exit_ = exit; });
  }

  /// qemu-io says what it could not do and, when it found a pattern wrong, nothing else. One whose requests hang has
  /// not succeeded either.
  bool used() override {
    if (!run_until([&] { return exit_.has_value(); }, seconds(10))) consumer_->signal(SIGKILL);
    const std::string words = said();
    const bool failed = words.find("failed") != std::string::npos ||
                        words.find("error") != std::string::npos ||
                        words.find("can't open") != std::string::npos;
    return exit_ && exit_->code == 0 && !failed;
  }

  /// As qcow2, which its own length says nothing of.
  ImageDisk image(int value) override {
    const std::string raw = folder_ + "/image.raw";
    const std::string path = fmt::format("{}/image-{}.qcow2", folder_, value);
    EXPECT_TRUE(replace_file(raw, std::string(1 << 20, '\0') + std::string(1 << 20, char(value)) +
                                      std::string(6 << 20, '\0'))
                    .ok());
    ProcessOptions made;
    made.arguments = {"/usr/bin/qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path};
    EXPECT_EQ(run_process(made, seconds(20))->exit.code, 0);
    const auto sha256 = sha256_hex_of_file(path);
    EXPECT_TRUE(sha256.ok());
    const auto size = static_cast<std::int64_t>(std::filesystem::file_size(path));
    return {path, "qcow2", {Bytes{size}, *sha256}};
  }

  int first_byte(const VolumeId& volume) override {
    const std::string image = path(volume, "volume.raw");
    const Descriptor file(::open(image.c_str(), O_RDONLY | O_CLOEXEC));
    char byte = 0;
    EXPECT_EQ(::pread(file.get(), &byte, 1, 0), 1) << image;
    return byte;
  }

  std::vector<std::string> leftovers(const VolumeId& volume) override {
    if (!std::filesystem::exists(path(volume, ""))) return {};
    return {path(volume, "")};
  }

  bool run_until(const std::function<bool()>& condition, Duration deadline) override {
    const Instant end = loop_.now() + deadline;
    while (!condition()) {
      if (loop_.now() >= end) return false;
      loop_.after(milliseconds(5), [this] { loop_.stop(); });
      loop_.run();
    }
    return true;
  }

 protected:
  virtual std::unique_ptr<BlockStore> make_store() = 0;

  /// The last thing that a constructor does.
  void start() {
    store_ = make_store();
    std::optional<Result<void>> open;
    store_->open([&](Result<void> opened) { open = std::move(opened); });
    ASSERT_TRUE(run_until([&] { return open.has_value(); }, seconds(30)));
    EXPECT_TRUE(open->ok()) << open->error().text();
  }

  /// Of a server noted by note_server().
  void signal_server(const std::string& record, int number) {
    auto process = adopt_server(loop_, record);
    ASSERT_TRUE(process.ok()) << process.error().text();
    (*process)->signal(number);
  }

  /// Programs of this name that were started for this lab, as /proc/PID.
  std::vector<std::filesystem::path> servers(const std::string& program) const {
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const auto line = read_file(entry.path() / "cmdline");
      if (line.ok() && line->find(program) != std::string::npos &&
          line->find(folder_ + "/") != std::string::npos) {
        found.push_back(entry.path());
      }
    }
    return found;
  }

  void end_servers(const std::string& program) {
    for (const std::filesystem::path& server : servers(program)) {
      ::kill(static_cast<pid_t>(std::stol(server.filename().string())), SIGKILL);
      run_until([&] { return !std::filesystem::exists(server / "exe"); }, seconds(5));
    }
  }

  AsioLoop loop_;
  std::string folder_;
  std::unique_ptr<BlockStore> store_;

 private:
  std::unique_ptr<SmallDisk> disk_;

  static std::string words_of(const ConsumerStep& step) {
    const auto range = fmt::format("-P {} {} {}", step.value, step.offset, step.bytes);
    if (step.kind == ConsumerStep::Kind::read) return "read " + range;
    if (step.kind == ConsumerStep::Kind::write) return "write " + range;
    return fmt::format("sleep {}", to_ms(step.pause));
  }

  static std::string text_of(const std::string& path) {
    const auto text = read_file(path, 64 << 20);
    return text.ok() ? *text : std::string();
  }

  /// What an endpoint says, in QEMU's words: every protocol's consumer is made of the endpoint alone.
  std::vector<std::string> consumer_of(const VolumeEndpoint& at) {
    const std::string keys = folder_ + "/consumer";
    EXPECT_TRUE(make_folders(keys).ok());
    if (at.protocol == "nbd") {
      EXPECT_TRUE(replace_file(keys + "/keys.psk", at.user + ":" + at.key + "\n", 0600).ok());
      return {"--object",
              "tls-creds-psk,id=tls,endpoint=client,dir=" + keys + ",username=" + at.user,
              "--image-opts",
              fmt::format("driver=nbd,host={},port={},export={},tls-creds=tls", at.address, at.port,
                          at.export_name)};
    }
    if (at.protocol == "file") {
      return {"--image-opts", "driver=raw,file.driver=file,file.filename=" + at.export_name};
    }
    EXPECT_TRUE(replace_file(keys + "/key", at.key, 0600).ok());
    const std::string secret = "secret,id=key,file=" + keys + "/key";
    if (at.protocol == "iscsi") {
      return {"--object", secret, "--image-opts",
              fmt::format("driver=iscsi,transport=tcp,portal={}:{},target={},lun=1,user={},"
                          "password-secret=key,initiator-name={}",
                          at.address, at.port, at.export_name, at.user, at.user)};
    }
    if (at.protocol == "rbd") {
      // Whose user is gone tries for five minutes else.
      const std::string conf = keys + "/ceph.conf";
      EXPECT_TRUE(replace_file(conf, "[global]\nclient_mount_timeout = 6\n").ok());
      const std::size_t space = at.export_name.find('/');
      const std::size_t image = at.export_name.rfind('/');
      const std::size_t port = at.address.rfind(':');
      return {"--object", secret + ",format=base64", "--image-opts",
              fmt::format("driver=rbd,pool={},namespace={},image={},user={},key-secret=key,conf={},"
                          "auth-client-required.0=cephx,server.0.host={},server.0.port={}",
                          at.export_name.substr(0, space),
                          at.export_name.substr(space + 1, image - space - 1),
                          at.export_name.substr(image + 1), at.user, conf,
                          at.address.substr(0, port), at.address.substr(port + 1))};
    }
    ADD_FAILURE() << "no consumer speaks " << at.protocol;
    return {};
  }

  std::unique_ptr<Process> consumer_;
  std::optional<ProcessExit> exit_;
};

}  // namespace virga
