#include "driver/nbd/nbd_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>

#include "driver/block_store_contract_tests.h"
#include "edge/file.h"

namespace virga {
namespace {

namespace fs = std::filesystem;

/// A device in a folder of its own, real servers, consumers that are qemu-io.
class NbdLab : public BlockStoreLab {
 public:
  NbdLab() {
    char pattern[] = "/tmp/virga-nbd-XXXXXX";
    if (::mkdtemp(pattern) != nullptr) folder_ = pattern;
    options_.directory = folder_ + "/device";
    options_.obey_within = milliseconds(500);
    start();
  }

  ~NbdLab() override {
    store_.reset();
    for (const fs::path& server : servers()) end(server);
    if (consumer_ != nullptr) consumer_->signal(SIGKILL);
    fs::remove_all(folder_);
  }

  BlockStore& store() override { return *store_; }

  std::string path(const VolumeId& volume, const std::string& name) const {
    return options_.directory + "/" + volume.value + "/" + name;
  }

  void restart_agent() override {
    store_.reset();
    start();
  }

  void kill_server(const VolumeId& volume) override { signal_server(volume, SIGKILL); }
  void hang_server(const VolumeId& volume) override { signal_server(volume, SIGSTOP); }

  void use_meanwhile(const VolumeEndpoint& at, const std::vector<ConsumerStep>& steps) override {
    const std::string keys = folder_ + "/consumer";
    EXPECT_TRUE(make_folders(keys).ok());
    EXPECT_TRUE(replace_file(keys + "/keys.psk", at.user + ":" + at.key + "\n", 0600).ok());
    ProcessOptions made;
    made.arguments = {"/usr/bin/qemu-io", "--object",
                      "tls-creds-psk,id=tls,endpoint=client,dir=" + keys + ",username=" + at.user,
                      "--image-opts",
                      "driver=nbd,host=" + at.address + ",port=" + std::to_string(at.port) +
                          ",export=" + at.export_name + ",tls-creds=tls"};
    for (const ConsumerStep& step : steps) {
      made.arguments.emplace_back("-c");
      made.arguments.push_back(words_of(step));
    }
    made.environment = {{"LC_ALL", "C"}, {"PATH", "/usr/bin:/bin"}};
    made.output_path = folder_ + "/consumer.log";
    fs::remove(made.output_path);
    auto process = Process::spawn(loop_, made);
    ASSERT_TRUE(process.ok()) << process.error().text();
    consumer_ = std::move(*process);
    exit_.reset();
    consumer_->on_exit([this](ProcessExit exit) { exit_ = exit; });
  }

  /// qemu-io says what it could not do and, when it found a pattern wrong, nothing else.
  bool used() override {
    EXPECT_TRUE(run_until([&] { return exit_.has_value(); }, seconds(10)));
    const std::string said = text_of(folder_ + "/consumer.log");
    const bool failed = said.find("failed") != std::string::npos ||
                        said.find("error") != std::string::npos ||
                        said.find("can't open") != std::string::npos;
    return exit_ && exit_->code == 0 && !failed;
  }

  int first_byte(const VolumeId& volume) override {
    const std::string path = options_.directory + "/" + volume.value + "/volume.raw";
    const Descriptor image(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    char byte = 0;
    EXPECT_EQ(::pread(image.get(), &byte, 1, 0), 1) << path;
    return byte;
  }

  std::vector<std::string> leftovers(const VolumeId& volume) override {
    std::vector<std::string> left;
    const std::string path = options_.directory + "/" + volume.value;
    if (fs::exists(path)) left.push_back(path);
    for (const fs::path& server : servers()) left.push_back(server);
    return left;
  }

  bool run_until(const std::function<bool()>& condition, Duration deadline) override {
    const Instant end = loop_.now() + deadline;
    while (!condition() && loop_.now() < end) {
      loop_.after(milliseconds(5), [this] { loop_.stop(); });
      loop_.run();
    }
    return condition();
  }

 private:
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

  void start() {
    store_ = std::make_unique<NbdStore>(loop_, options_);
    bool open = false;
    store_->open([&](Result<void> opened) {
      EXPECT_TRUE(opened.ok());
      open = true;
    });
    EXPECT_TRUE(run_until([&] { return open; }, seconds(10)));
  }

  /// Processes of this device's volumes, as /proc/PID.
  std::vector<fs::path> servers() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const auto line = read_file(entry.path() / "cmdline");
      if (line.ok() && line->find("qemu-storage-daemon") != std::string::npos &&
          line->find(options_.directory + "/") != std::string::npos) {
        found.push_back(entry.path());
      }
    }
    return found;
  }

  void signal_server(const VolumeId& volume, int number) {
    const auto text = read_file(options_.directory + "/" + volume.value + "/server.json");
    ASSERT_TRUE(text.ok());
    const auto server = from_json_text<ServerRecord>(*text);
    ASSERT_TRUE(server.ok());
    auto process = Process::adopt(loop_, static_cast<pid_t>(server->pid), server->start_ticks);
    ASSERT_TRUE(process.ok()) << process.error().text();
    (*process)->signal(number);
  }

  void end(const fs::path& server) {
    const auto pid = static_cast<pid_t>(std::stol(server.filename().string()));
    ::kill(pid, SIGKILL);
    run_until([&] { return !fs::exists(server / "exe"); }, seconds(5));
  }

  AsioLoop loop_;
  std::string folder_;
  NbdOptions options_;
  std::unique_ptr<NbdStore> store_;
  std::unique_ptr<Process> consumer_;
  std::optional<ProcessExit> exit_;
};

std::unique_ptr<BlockStoreLab> make_lab() { return std::make_unique<NbdLab>(); }

class NbdStoreTest : public BlockStoreContract {
 protected:
  NbdLab& nbd() { return static_cast<NbdLab&>(*lab); }
};

TEST_P(NbdStoreTest, R_B2_ADamagedRecordIsNotReplacedAndLetsNobodyIn) {
  VIRGA_OK(create());
  VIRGA_OK(attach(3));
  VIRGA_OK(revoke(3));
  ASSERT_TRUE(replace_file(nbd().path(data, "volume.json"), "{", 0600).ok());
  lab->restart_agent();
  VIRGA_FAILS(attach(3), Errc::not_found);
  VIRGA_FAILS(create(), Errc::conflict);
  VIRGA_FAILS(attach(3), Errc::not_found);
}

TEST_P(NbdStoreTest, R_B1_WhatAnErasureLeftIsNotReadByTheNextOwner) {
  ASSERT_TRUE(make_folders(nbd().path(data, ""), 0700).ok());
  ASSERT_TRUE(replace_file(nbd().path(data, "volume.raw"), std::string(1 << 20, 's')).ok());
  VIRGA_OK(create());
  EXPECT_EQ(lab->first_byte(data), 0);
}

TEST_P(NbdStoreTest, R_B2_R_F1_AServerThatNobodyCanLookAtProvesNothing) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  const std::string record = nbd().path(data, "server.json");
  fs::rename(record, record + ".aside");
  fs::create_directory(record);  // reading it fails, and not because it is not there
  lab->restart_agent();
  const auto refused = revoke(1);
  ASSERT_FALSE(refused.ok()) << "its server runs and nobody has ended it";
  EXPECT_NE(refused.error().code, Errc::not_found);
  EXPECT_TRUE(use(*at, {Step::writes(1, 0, kBlock)}));
  fs::remove(record);
  fs::rename(record + ".aside", record);
  VIRGA_OK(revoke(1));
  EXPECT_FALSE(use(*at, {Step::writes(2, 0, kBlock)}));
  EXPECT_EQ(lab->first_byte(data), 1);
}

INSTANTIATE_TEST_SUITE_P(Nbd, NbdStoreTest, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Nbd, BlockStoreContract, testing::Values(&make_lab));

}  // namespace
}  // namespace virga
