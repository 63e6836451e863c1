#include <gtest/gtest.h>
#include <sys/socket.h>

#include <filesystem>

#include "driver/qemu/test_lab.h"
#include "driver/qemu/vm_files.h"
#include "driver/qmp/unix_socket.h"

namespace virga {
namespace {

/// Stands between the agent and a QEMU from the agent's next connection on: passes on what both
/// say, and says besides what the test tells it to.
class Between {
 public:
  Between(AsioLoop& loop, const std::string& path) : loop_(loop), behind_(path + ".qemu") {
    std::filesystem::rename(path, behind_);
    auto listener = listen_unix(path);
    EXPECT_TRUE(listener.ok());
    if (!listener) return;
    listener_ = std::move(*listener);
    loop_.watch_descriptor(listener_.get(), [this] { accept(); });
  }
  ~Between() {
    hang_up();
    if (listener_.valid()) loop_.forget_descriptor(listener_.get());
  }
  Between(const Between&) = delete;
  Between& operator=(const Between&) = delete;

  void say(const std::string& text) const { EXPECT_TRUE(send_unix(agent_.get(), text).ok()); }

  int connections = 0;
  std::string asked;     ///< by the agent, on the present connection
  std::string answered;  ///< by QEMU, on it

 private:
  void accept() {
    hang_up();
    agent_ = Descriptor(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    auto qemu = connect_unix(behind_);
    if (!agent_.valid() || !qemu) return agent_.reset();
    qemu_ = std::move(*qemu);
    ++connections;
    asked.clear();
    answered.clear();
    loop_.watch_descriptor(agent_.get(), [this] { pass(agent_, qemu_, asked); });
    loop_.watch_descriptor(qemu_.get(), [this] { pass(qemu_, agent_, answered); });
  }

  void pass(const Descriptor& from, const Descriptor& to, std::string& heard) {
    char piece[4096];
    const ssize_t count = ::recv(from.get(), piece, sizeof piece, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    const std::string text(piece, static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    heard += text;
    if (text.empty() || !send_unix(to.get(), text)) hang_up();
  }

  void hang_up() {
    for (Descriptor* end : {&agent_, &qemu_}) {
      if (end->valid()) loop_.forget_descriptor(end->get());
      end->reset();
    }
  }

  AsioLoop& loop_;
  const std::string behind_;
  Descriptor listener_;
  Descriptor agent_;
  Descriptor qemu_;
};

TEST(QmpGarbage, F_F20_AGuestRunsOnItsAgentComesAgainAndALaterStopReachesIt) {
  QemuLab lab;
  const VmLaunch web = lab.launch("web", 1);
  const auto started =
      lab.wait<void>([&](Callback<void> done) { lab.host(0).start(web, std::move(done)); });
  ASSERT_TRUE(started.ok()) << started.error().text();
  const std::int64_t pid = lab.pid(0, web.vm);
  Between between(lab.loop(), vm_folder(lab.run(0), web.vm)->qmp());
  lab.restart_agent(0);
  // QEMU's own word on the n-th connection.
  const auto runs = [&](int connection) {
    return lab.run_until(
        [&] {
          return between.connections == connection &&
                 between.answered.find(R"("status": "running")") != std::string::npos;
        },
        seconds(20));
  };
  ASSERT_TRUE(runs(1)) << between.answered;

  between.say("garbage\n");
  ASSERT_TRUE(runs(2)) << between.answered;
  EXPECT_EQ(lab.pid(0, web.vm), pid);
  EXPECT_EQ(lab.host(0).observe().at(0).power, VmPower::running);
  EXPECT_EQ(lab.host(0).observe().at(0).health_reason, "");

  const auto stopped = lab.wait<void>([&](Callback<void> done) {
    lab.host(0).stop(web.vm, web.epoch, {false, seconds(4)}, std::move(done));
  });
  EXPECT_TRUE(stopped.ok());
  EXPECT_EQ(between.connections, 2);
  EXPECT_NE(between.asked.find("system_powerdown"), std::string::npos) << between.asked;
  EXPECT_NE(between.answered.find("\"POWERDOWN\""), std::string::npos) << between.answered;
  EXPECT_EQ(lab.why(0), "stopped");
  EXPECT_TRUE(lab.run_until([&] { return lab.leftovers(0, web.vm).empty(); }, seconds(5)));
}

}  // namespace
}  // namespace virga
