#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <thread>

#include "driver/qemu/boot_sectors.h"
#include "driver/qemu/test_lab.h"
#include "edge/connect_tcp.h"
#include "edge/file.h"
#include "edge/listen_tcp.h"

namespace virga {
namespace {

const std::string kInMemory = "only-this-guest-may-read-it";

/// Somebody on the way between two hosts: passes one connection on and keeps what the source says.
class Listener {
 public:
  explicit Listener(const MigrationEndpoint& to) : to_(to) {
    auto socket = listen_tcp("127.0.0.1", 0, 1);
    EXPECT_TRUE(socket.ok());
    if (!socket) return;
    socket_ = std::move(*socket);
    thread_ = std::thread([this] { pass_on(); });
  }
  ~Listener() { heard(); }

  MigrationEndpoint endpoint() const {
    MigrationEndpoint here = to_;
    here.port = static_cast<std::uint16_t>(port_of(socket_));
    return here;
  }

  /// All that the source has said until now; nothing more is passed on.
  const std::string& heard() {
    ended_ = true;
    if (thread_.joinable()) thread_.join();
    return heard_;
  }

 private:
  bool ready(int socket) const {
    pollfd wanted{socket, POLLIN, 0};
    return ::poll(&wanted, 1, 10) > 0;
  }

  /// False: it has ended.
  static bool pass(int from, int to, std::string* heard) {
    char piece[64 << 10];
    const ssize_t count = ::recv(from, piece, sizeof piece, MSG_DONTWAIT);
    if (count <= 0) return count < 0 && (errno == EAGAIN || errno == EINTR);
    if (heard != nullptr) heard->append(piece, static_cast<std::size_t>(count));
    return ::send(to, piece, static_cast<std::size_t>(count), MSG_NOSIGNAL) == count;
  }

  void pass_on() {
    while (!ended_ && !ready(socket_.get())) continue;
    const Descriptor source(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const auto destination = connect_tcp(to_.address, to_.port, seconds(5));
    bool open = source.valid() && destination.ok();
    if (open) ::fcntl(destination->get(), F_SETFL, 0);  // waits until all is passed on
    while (open && !ended_) {
      pollfd both[] = {{source.get(), POLLIN, 0}, {destination->get(), POLLIN, 0}};
      ::poll(both, 2, 10);
      open = pass(source.get(), destination->get(), &heard_) &&
             pass(destination->get(), source.get(), nullptr);
    }
  }

  const MigrationEndpoint to_;
  Descriptor socket_;
  std::atomic<bool> ended_ = false;
  std::string heard_;
  std::thread thread_;
};

class MigrationRelay : public testing::Test {
 protected:
  /// A guest whose memory holds what nobody else may read.
  VmLaunch start() {
    VmLaunch web = lab.launch("web", 1);
    std::string sector = boot_sectors::console();
    lab.write_root(web, sector.replace(200, kInMemory.size(), kInMemory));
    EXPECT_TRUE(
        lab.wait<void>([&](Callback<void> done) { lab.host(0).start(web, std::move(done)); }).ok());
    EXPECT_TRUE(lab.run_until(
        [&] {
          const auto said = lab.host(0).console_tail(web.vm, 1000);
          return said.ok() && said->find("up\n") != std::string::npos;
        },
        seconds(40)));
    return web;
  }

  MigrationEndpoint prepare(const VmLaunch& moved) {
    const auto to = lab.wait<MigrationEndpoint>([&](Callback<MigrationEndpoint> done) {
      lab.host(1).prepare_incoming(moved, std::move(done));
    });
    EXPECT_TRUE(to.ok());
    return to ? *to : MigrationEndpoint();
  }

  Result<MigrationProgress> send(const VmLaunch& web, const MigrationEndpoint& to) {
    return lab.wait<MigrationProgress>([&](Callback<MigrationProgress> done) {
      lab.host(0).send(web.vm, web.epoch, to, {}, std::move(done));
    });
  }

  void expect_runs_only_here(const VmLaunch& web) {
    const auto here = [&] {
      const auto seen = lab.host(0).observe();
      return seen.size() == 1 && seen[0].power == VmPower::running && !seen[0].postmigrate;
    };
    EXPECT_TRUE(lab.run_until(here, seconds(10))) << web.vm.value;
    for (const ObservedVm& there : lab.host(1).observe()) {
      EXPECT_NE(there.power, VmPower::running);
    }
  }

  /// What somebody on the way hears of a whole move.
  std::string hear_a_move() {
    const VmLaunch web = start();
    const VmLaunch moved = lab.launch("web", 2);
    Listener listener(prepare(moved));
    EXPECT_TRUE(send(web, listener.endpoint()).ok());
    EXPECT_TRUE(lab.wait<MigrationProgress>([&](Callback<MigrationProgress> done) {
                     lab.host(0).switch_over(web.vm, web.epoch, std::move(done));
                   })
                    .ok());
    EXPECT_TRUE(lab.wait<void>([&](Callback<void> done) {
                     lab.host(1).resume(moved.vm, moved.epoch, std::move(done));
                   })
                    .ok());
    return listener.heard();
  }

  QemuLab lab;
};

TEST_F(MigrationRelay, R_B4_NobodyOnTheWayCanReadTheMemoryOfAGuest) {
  const std::string heard = hear_a_move();
  EXPECT_GT(heard.size(), 100'000U);
  EXPECT_EQ(heard.find(kInMemory), std::string::npos);
}

/// That the test above could fail.
TEST_F(MigrationRelay, R_B4_UnencryptedItCouldBeRead) {
  lab.encrypt_migrations = false;
  lab.restart_agent(1);
  EXPECT_NE(hear_a_move().find(kInMemory), std::string::npos);
}

TEST_F(MigrationRelay, R_B4_AnEndThatDoesNotKnowTheKeyGetsNothing) {
  const VmLaunch web = start();
  std::uint64_t epoch = 2;
  for (const std::string& wrong : {std::string(64, '7'), std::string()}) {
    const VmLaunch moved = lab.launch("web", epoch++);
    MigrationEndpoint to = prepare(moved);
    EXPECT_EQ(to.key.size(), 64U);
    to.key = wrong;
    // All of a small guest fits into what lies between, so that the end of it may be noticed late.
    if (send(web, to).ok()) {
      const auto handed_over = lab.wait<MigrationProgress>([&](Callback<MigrationProgress> done) {
        lab.host(0).switch_over(web.vm, web.epoch, std::move(done));
      });
      EXPECT_FALSE(handed_over.ok()) << "key \"" << wrong << '"';
    }
    EXPECT_TRUE(lab.wait<void>([&](Callback<void> done) {
                     lab.host(0).cancel_send(web.vm, web.epoch, std::move(done));
                   })
                    .ok());
    expect_runs_only_here(web);
    EXPECT_TRUE(lab.wait<void>([&](Callback<void> done) {
                     lab.host(1).stop(moved.vm, moved.epoch, {true, seconds(5)}, std::move(done));
                   })
                    .ok());
  }
  const VmLaunch moved = lab.launch("web", epoch);
  EXPECT_TRUE(send(web, prepare(moved)).ok()) << "the right key, after a wrong one";
}

/// Relays of this process, also those that have ended and that nobody has looked at: of tests
/// before this one some stay so.
int relays() {
  int count = 0;
  const std::string child = "\nPPid:\t" + std::to_string(::getpid()) + "\n";
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const auto status = read_file(entry.path() / "status");
    if (status.ok() && status->starts_with("Name:\tvirgad\n") &&
        status->find(child) != std::string::npos)
      ++count;
  }
  return count;
}

TEST_F(MigrationRelay, R_B4_WhatEncryptsAMoveEndsWithIt) {
  const int before = relays();
  const VmLaunch web = start();
  const VmLaunch moved = lab.launch("web", 2);
  ASSERT_TRUE(send(web, prepare(moved)).ok());
  EXPECT_EQ(relays(), before + 2);
  EXPECT_TRUE(lab.wait<void>([&](Callback<void> done) {
                   lab.host(0).cancel_send(web.vm, web.epoch, std::move(done));
                 })
                  .ok());
  EXPECT_TRUE(lab.run_until([&] { return relays() == before; }, seconds(15)));
  expect_runs_only_here(web);
}

}  // namespace
}  // namespace virga
