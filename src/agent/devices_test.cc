#include "agent/devices.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace virga {
namespace {

/// A store whose answers the test gives.
class HeldStore : public BlockStore {
 public:
  explicit HeldStore(int& alive) : alive_(alive) { ++alive_; }
  ~HeldStore() override { --alive_; }

  BlockStoreCapabilities capabilities() const override { return {"held", true, true, false, true}; }
  void open(Callback<void> done) override { asked.push_back(std::move(done)); }
  void create(const VolumeId&, Mib, const Epoch&, Callback<void> done) override {
    asked.push_back(std::move(done));
  }
  void create_from_image(const VolumeId&, Mib, const ImageDisk& image, const Epoch&,
                         Callback<void> done) override {
    path = image.path;
    asked.push_back(std::move(done));
  }
  void copy(const VolumeId&, const VolumeId&, const Epoch&, Callback<void> done) override {
    asked.push_back(std::move(done));
  }
  void grow(const VolumeId&, Mib, Callback<void> done) override {
    asked.push_back(std::move(done));
  }
  void erase(const VolumeId&, Callback<void> done) override { asked.push_back(std::move(done)); }
  void attach(const VolumeId&, const Epoch&, const Epoch&, Callback<VolumeEndpoint> done) override {
    attaching.push_back(std::move(done));
  }
  void revoke(const VolumeId&, const Epoch&, Callback<void> done) override {
    asked.push_back(std::move(done));
  }
  void detach(const VolumeId&, const Epoch&, Callback<void> done) override {
    asked.push_back(std::move(done));
  }
  void limit_copies(Mib per_second) override { limit = per_second; }
  std::vector<ObservedVolume> observe() const override { return {ObservedVolume{}}; }

  std::string path;  ///< of the last image
  Mib limit;
  std::vector<Callback<void>> asked;
  std::vector<Callback<VolumeEndpoint>> attaching;

 private:
  int& alive_;
};

class DevicesTest : public ::testing::Test {
 protected:
  DevicesTest()
      : devices_([this](const std::string& directory) { return make(directory); }, "/srv/virga") {}

  Result<std::unique_ptr<BlockStore>> make(const std::string& directory) {
    if (directory == "/broken") return make_error(Errc::invalid, "directory: cannot be used");
    auto store = std::make_unique<HeldStore>(alive_);
    store_ = store.get();
    return Result<std::unique_ptr<BlockStore>>(std::move(store));
  }

  std::size_t send(CommandKind kind, const std::string& directory = {}) {
    Command command;
    command.kind = kind;
    command.storage = StorageCommand{DeviceId("d1"), directory, VolumeId("v1"), Mib(64), {}, {}};
    command.storage->copy_mib_per_second_max = limit_;
    answers_.emplace_back();
    EXPECT_TRUE(devices_.execute(command, [this, at = answers_.size() - 1](auto answer) {
      EXPECT_FALSE(answers_[at].has_value()) << "answered twice";
      answers_[at] = std::move(answer);
    }));
    return answers_.size() - 1;
  }

  void open_on(const std::string& directory) {
    const std::size_t serve = send(CommandKind::serve_device, directory);
    store_->asked.at(0)({});
    EXPECT_EQ(code(serve), "ok");
  }

  /// "waits", "ok" or the name of the error.
  std::string code(std::size_t call) const {
    if (!answers_.at(call)) return "waits";
    return answers_[call]->ok() ? "ok" : std::string(to_string(answers_[call]->error().code));
  }

  ObservedDevice seen() const {
    const auto all = devices_.observe();
    return all.size() == 1 ? all[0] : ObservedDevice{};
  }

  int alive_ = 0;
  Mib limit_{100};
  HeldStore* store_ = nullptr;
  std::vector<std::optional<Result<CommandResult>>> answers_;
  Devices devices_;
};

TEST_F(DevicesTest, A10_01_a_device_works_when_it_is_open_and_not_before) {
  EXPECT_EQ(code(send(CommandKind::create_volume)), "not_found");
  const std::size_t serve = send(CommandKind::serve_device, "/a");
  EXPECT_EQ(code(send(CommandKind::create_volume)), "unavailable") << "it is being opened";
  EXPECT_EQ(code(send(CommandKind::serve_device, "/a")), "unavailable") << "not opened twice";
  EXPECT_FALSE(seen().open);
  store_->asked.at(0)({});
  EXPECT_EQ(code(serve), "ok");
  EXPECT_TRUE(seen().open);
  EXPECT_EQ(seen().volumes.size(), 1U);
  EXPECT_EQ(code(send(CommandKind::serve_device, "/a")), "ok") << "it is served already";
  EXPECT_EQ(alive_, 1);
}

TEST_F(DevicesTest, R_B1_the_limit_of_copies_holds_from_the_start_and_can_change) {
  limit_ = Mib{16};
  open_on("/a");
  EXPECT_EQ(store_->limit, Mib{16});
  EXPECT_EQ(seen().copy_mib_per_second_max, Mib{16});
  limit_ = Mib{50};
  EXPECT_EQ(code(send(CommandKind::serve_device, "/a")), "ok");
  EXPECT_EQ(store_->limit, Mib{50});
  EXPECT_EQ(seen().copy_mib_per_second_max, Mib{50});
  EXPECT_EQ(alive_, 1) << "it was not opened anew";
}

TEST_F(DevicesTest, A10_01_each_answer_of_the_store_reaches_who_asked) {
  open_on("/a");
  const std::size_t create = send(CommandKind::create_volume);
  const std::size_t grow = send(CommandKind::grow_volume);
  const std::size_t attach = send(CommandKind::attach_volume);
  EXPECT_EQ(code(create), "waits");
  store_->asked.at(2)(make_error(Errc::exhausted, "full"));
  store_->asked.at(1)({});
  VolumeEndpoint endpoint;
  endpoint.export_name = "v1-1";
  store_->attaching.at(0)(endpoint);
  EXPECT_EQ(code(create), "ok");
  EXPECT_EQ(code(grow), "exhausted");
  ASSERT_EQ(code(attach), "ok");
  ASSERT_TRUE(answers_[attach]->value().attached);
  EXPECT_EQ(answers_[attach]->value().attached->export_name, "v1-1");
}

TEST_F(DevicesTest, A10_01_a_store_stays_until_what_it_was_asked_has_ended) {
  open_on("/a");
  const std::size_t revoke = send(CommandKind::revoke_volume);
  EXPECT_EQ(code(send(CommandKind::release_device)), "unavailable");
  EXPECT_EQ(code(send(CommandKind::serve_device, "/b")), "unavailable");
  EXPECT_EQ(alive_, 1);
  EXPECT_EQ(seen().directory, "/a") << "still the store that is there";
  EXPECT_TRUE(seen().open);
  store_->asked.at(1)({});
  EXPECT_EQ(code(revoke), "ok");
  EXPECT_EQ(code(send(CommandKind::release_device)), "ok");
  EXPECT_EQ(alive_, 0);
  EXPECT_TRUE(devices_.observe().empty());
  EXPECT_EQ(code(send(CommandKind::release_device)), "ok") << "asked again";
}

TEST_F(DevicesTest, A10_01_a_device_that_is_being_opened_is_not_given_up) {
  const std::size_t serve = send(CommandKind::serve_device, "/a");
  EXPECT_EQ(code(send(CommandKind::release_device)), "unavailable");
  EXPECT_EQ(code(send(CommandKind::serve_device, "/b")), "unavailable");
  store_->asked.at(0)(make_error(Errc::unavailable, "no such folder"));
  EXPECT_EQ(code(serve), "unavailable");
  EXPECT_NE(seen().failing.find("no such folder"), std::string::npos);
  EXPECT_EQ(code(send(CommandKind::attach_volume)), "unavailable");
  open_on("/a");
  EXPECT_EQ(seen().failing, "");
  EXPECT_EQ(alive_, 1) << "the one that could not be opened is gone";
}

TEST_F(DevicesTest, A10_01_what_is_told_of_a_device_is_of_where_it_is_served_now) {
  open_on("/a");
  EXPECT_EQ(code(send(CommandKind::serve_device, "/broken")), "invalid");
  EXPECT_EQ(alive_, 0) << "the old folder is not served any more";
  EXPECT_EQ(seen().directory, "/broken");
  EXPECT_FALSE(seen().open);
  EXPECT_NE(seen().failing.find("cannot be used"), std::string::npos);
  EXPECT_TRUE(seen().volumes.empty());
  EXPECT_EQ(code(send(CommandKind::create_volume)), "unavailable");
}

TEST_F(DevicesTest, R_B1_an_image_is_looked_for_in_the_shared_directory_alone) {
  open_on("/a");
  Command command;
  command.kind = CommandKind::create_volume;
  command.storage = StorageCommand{DeviceId("d1"), {}, VolumeId("v1"), Mib(64), {}, {}};
  command.storage->image = ImageDisk{"images/debian/disk.qcow2", "qcow2", {}};
  EXPECT_TRUE(devices_.execute(command, [](const Result<CommandResult>&) {}));
  EXPECT_EQ(store_->path, "/srv/virga/images/debian/disk.qcow2");
  command.storage->image->path = "images/../../etc/shadow";
  std::optional<Result<CommandResult>> answer;
  EXPECT_TRUE(devices_.execute(command, [&](auto refused) { answer = std::move(refused); }));
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->error().code, Errc::invalid);
}

TEST_F(DevicesTest, A10_01_a_host_without_driver_says_so) {
  Devices none({});
  Command command;
  command.kind = CommandKind::serve_device;
  std::vector<Errc> codes;
  const auto note = [&codes](const Result<CommandResult>& answer) {
    codes.push_back(answer ? Errc::internal : answer.error().code);
  };
  EXPECT_TRUE(none.execute(command, note)) << "its device is missing";
  command.storage = StorageCommand{DeviceId("d1"), "/a", {}, {}, {}, {}};
  EXPECT_TRUE(none.execute(command, note));
  EXPECT_EQ(codes, (std::vector{Errc::invalid, Errc::unsupported}));
  ASSERT_EQ(none.observe().size(), 1U);
  EXPECT_FALSE(none.observe()[0].failing.empty());
  command.kind = CommandKind::start;
  EXPECT_FALSE(none.execute(command, note)) << "not a command of devices";
}

TEST_F(DevicesTest, A10_01_an_answer_after_its_end_reaches_nobody) {
  std::vector<Callback<void>> late;
  {
    Devices devices([this](const std::string& directory) { return make(directory); });
    Command command;
    command.kind = CommandKind::serve_device;
    command.storage = StorageCommand{DeviceId("d1"), "/a", {}, {}, {}, {}};
    devices.execute(command, [](const Result<CommandResult>&) { FAIL() << "nobody waits"; });
    late = store_->asked;
  }
  late.at(0)({});
  EXPECT_EQ(alive_, 0);
}

}  // namespace
}  // namespace virga
