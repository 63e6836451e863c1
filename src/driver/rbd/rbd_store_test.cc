#include "driver/rbd/rbd_store.h"

#include "driver/block_store_contract_tests.h"
#include "driver/volumes/real_store_lab.h"

/// The contract on a small Ceph, which all tests of this program share: tests/tools/small_ceph.py.
namespace virga {
namespace {

class SmallCeph : public testing::Environment {
 public:
  void SetUp() override {
    char pattern[] = "/tmp/virga-ceph-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern), nullptr);
    folder() = pattern;
    ProcessOptions made;
    made.arguments = {"/usr/bin/python3", VIRGA_CEPH, folder()};
    made.environment = {{"LC_ALL", "C"}, {"PATH", "/usr/sbin:/usr/bin:/bin"}};
    made.output_path = folder() + "/small_ceph.log";
    made.die_with_parent = true;
    auto process = Process::spawn(loop_, made);
    ASSERT_TRUE(process.ok()) << process.error().text();
    process_ = std::move(*process);
    run_until([&] { return ready() || !process_->running(); }, seconds(100));
    const auto said = read_file(made.output_path);
    ASSERT_TRUE(ready()) << "no Ceph: " << (said.ok() ? *said : "");
  }

  void TearDown() override {
    if (process_ != nullptr) process_->signal(SIGTERM);
    run_until([&] { return process_ == nullptr || !process_->running(); }, seconds(15));
    std::filesystem::remove_all(folder());
  }

  static std::string& folder() {
    static std::string path;
    return path;
  }

 private:
  static bool ready() { return std::filesystem::exists(folder() + "/ready"); }

  void run_until(const std::function<bool()>& condition, Duration deadline) {
    const Instant end = loop_.now() + deadline;
    while (!condition() && loop_.now() < end) {
      loop_.after(milliseconds(20), [this] { loop_.stop(); });
      loop_.run();
    }
  }

  AsioLoop loop_;
  std::unique_ptr<Process> process_;
};

testing::Environment* const ceph = testing::AddGlobalTestEnvironment(new SmallCeph);

class RbdLab : public RealStoreLab {
 public:
  RbdLab() { start(); }
  ~RbdLab() override { store_.reset(); }  // what is left the next volume of the name clears away

  Duration pause() const override { return seconds(5); }

  int first_byte(const VolumeId&) override {
    const std::string copy = folder_ + "/copy";
    std::filesystem::remove(copy);
    rbd({"export", "--no-progress", kImage, copy});
    const auto text = read_file(copy, 64 << 20);
    return text.ok() && !text->empty() ? text->front() : -1;
  }

  std::vector<std::string> leftovers(const VolumeId& volume) override {
    auto left = RealStoreLab::leftovers(volume);
    const std::string spaces = rbd({"namespace", "ls", "--format", "json", "rbd"});
    if (spaces.find("v.acme.data") != std::string::npos) left.push_back(spaces);
    return left;
  }

  std::string rbd(std::vector<std::string> words) {
    ProcessOptions made;
    made.arguments = {"/usr/bin/rbd", "--conf", SmallCeph::folder() + "/ceph.conf"};
    made.arguments.insert(made.arguments.end(), words.begin(), words.end());
    made.environment = {{"LC_ALL", "C"}, {"PATH", "/usr/bin:/bin"}};
    const auto output = run_process(made, seconds(10));
    EXPECT_TRUE(output.ok() && output->exit.code == 0) << (output.ok() ? output->err : "");
    return output.ok() ? output->out : "";
  }

 private:
  static constexpr const char* kImage = "rbd/v.acme.data/data";

  std::unique_ptr<BlockStore> make_store() override {
    RbdOptions options;
    options.configuration = SmallCeph::folder() + "/ceph.conf";
    const auto monitor = read_file(SmallCeph::folder() + "/ready");
    EXPECT_TRUE(monitor.ok());
    if (monitor) options.monitors = *monitor;
    options.directory = device();
    return std::make_unique<RbdStore>(loop_, options);
  }
};

std::unique_ptr<BlockStoreLab> make_lab() { return std::make_unique<RbdLab>(); }

class RbdStoreTest : public BlockStoreContract {};

TEST_P(RbdStoreTest, R_B2_AConsumerThatNobodySeesIsNotCalledCut) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  EXPECT_TRUE(use(*at, {Step::writes(1, 0, kBlock)}));
  VIRGA_FAILS(revoke(1), Errc::unavailable);
  EXPECT_EQ(seen().epochs.size(), 1U);
  EXPECT_FALSE(use(*at, {Step::writes(2, 0, kBlock)})) << "its key opens nothing all the same";
  VIRGA_FAILS(attach(2), Errc::conflict);
  VIRGA_OK(release(1));
  VIRGA_OK(revoke(1));
  const auto next = attach(2);
  VIRGA_OK(next);
  EXPECT_TRUE(use(*next, {Step::reads(1, 0, kBlock)}));
}

TEST_P(RbdStoreTest, R_B2_OfTwoThatAreInOnlyTheOldOneIsCut) {
  VIRGA_OK(create());
  const auto source = attach(1);
  VIRGA_OK(source);
  const auto destination = attach(2, 1);
  VIRGA_OK(destination);
  RbdLab& rbd = static_cast<RbdLab&>(*lab);
  rbd.use_meanwhile(
      *source, {Step::writes(3, 0, kBlock), Step::pauses(rbd.pause()), Step::writes(4, 0, kBlock)});
  ASSERT_TRUE(rbd.run_until([&] { return rbd.first_byte(data) == 3; }, seconds(10)));
  VIRGA_OK(revoke(1));
  EXPECT_EQ(seen().epochs, (std::vector<Epoch>{{1, 2}}));
  EXPECT_FALSE(rbd.used());
  EXPECT_TRUE(use(*destination, {Step::reads(3, 0, kBlock), Step::writes(5, 0, kBlock)}));
}

TEST_P(RbdStoreTest, R_B2_AKeyOpensNoOtherVolume) {
  VIRGA_OK(create());
  VIRGA_OK(create("acme/other"));
  const auto at = attach(1);
  VIRGA_OK(at);
  VolumeEndpoint other = *at;
  other.export_name = "rbd/v.acme.other/other";
  EXPECT_TRUE(use(*at, {Step::reads(0, 0, kBlock)}));
  EXPECT_FALSE(use(other, {Step::reads(0, 0, kBlock)}));
}

INSTANTIATE_TEST_SUITE_P(Rbd, RbdStoreTest, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Rbd, BlockStoreContract, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Rbd, BlockFenceContract, testing::Values(&make_lab));

}  // namespace
}  // namespace virga
