#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "agent/leash_client.h"
#include "agent/leash_main.h"

namespace virga {
namespace {

/// A child of the test that ends with it.
class Child {
 public:
  explicit Child(const std::function<int()>& body) : pid_(fork()) {
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      _exit(body());
    }
    pidfd_ = Descriptor(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  }
  Child(Child&&) = delete;
  ~Child() { end(SIGKILL); }

  void signal(int number) const { kill(pid_, number); }
  void end(int number) {
    if (pid_ <= 0) return;
    kill(pid_, number);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  bool running() const {
    siginfo_t info{};
    return waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == 0;
  }
  int pidfd() const { return pidfd_.get(); }

 private:
  pid_t pid_;
  Descriptor pidfd_;
};

int sleep_for_ever() {
  for (;;) pause();
}

/// One folder with a leash in it, and the loop of the agent.
class Leash : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/virga-leash-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    leash_.reset();
    std::filesystem::remove_all(folder_);
  }

  std::string socket_path() const { return folder_ + "/leash.sock"; }

  void start_leash(std::vector<std::string> more = {}) {
    std::vector<std::string> words{"leash", "--socket", socket_path(), "--state",
                                   folder_ + "/state"};
    words.insert(words.end(), more.begin(), more.end());
    leash_ = std::make_unique<Child>([words] {
      std::vector<char*> arguments;
      for (const auto& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
      return leash_main(static_cast<int>(arguments.size()), arguments.data());
    });
  }

  /// Runs the loop until the condition holds; false after 20 s.
  bool until(const std::function<bool()>& condition) {
    bool held = false;
    Timer poll(loop_);
    Timer limit(loop_);
    limit.set_after(seconds(20), [this] { loop_.stop(); });
    std::function<void()> look = [&] {
      held = condition();
      if (held) return loop_.stop();
      poll.set_after(milliseconds(5), look);
    };
    loop_.post(look);
    loop_.run();
    return held;
  }

  Instant in(Duration span) const { return loop_.now() + span; }

  std::string folder_;
  AsioLoop loop_;
  std::unique_ptr<Child> leash_;
};

TEST_F(Leash, F_B6_kills_at_the_deadline_when_the_agent_is_dead) {
  start_leash();
  Child guest(sleep_for_ever);
  auto client = std::make_unique<LeashClient>(loop_, socket_path());
  ASSERT_TRUE(until([&] { return client->armed(); }));
  const Instant deadline = in(milliseconds(700));
  client->extend(deadline, seconds(10));
  ASSERT_TRUE(client->guard("acme/web", guest.pidfd()).ok());
  ASSERT_TRUE(until([&] { return client->armed(); }));
  client.reset();
  ASSERT_TRUE(guest.running());
  ASSERT_TRUE(until([&] { return !guest.running(); }));
  EXPECT_GE(loop_.now(), deadline);
}

TEST_F(Leash, F_F2_a_new_agent_gets_back_what_the_former_one_had_guarded) {
  start_leash();
  Child web(sleep_for_ever);
  Child shop(sleep_for_ever);
  auto first = std::make_unique<LeashClient>(loop_, socket_path());
  first->extend(in(seconds(60)), seconds(60));
  ASSERT_TRUE(until([&] { return first->armed(); }));
  ASSERT_TRUE(first->guard("acme/web", web.pidfd()).ok());
  ASSERT_TRUE(first->guard("acme/shop", shop.pidfd()).ok());
  const Instant deadline = in(seconds(30));
  ASSERT_TRUE(until([&] { return first->armed(); }));
  first.reset();
  LeashClient second(loop_, socket_path());
  ASSERT_TRUE(until([&] { return second.armed(); }));
  EXPECT_EQ(second.held(), (std::vector<std::string>{"acme/shop", "acme/web"}));
  EXPECT_GT(second.held_until(), deadline);
  shop.end(SIGKILL);
  ASSERT_TRUE(until([&] { return second.held().size() == 1; }));
  EXPECT_TRUE(web.running());
}

TEST_F(Leash, F_F3_a_leash_that_was_killed_holds_the_same_processes_again_without_any_agent) {
  start_leash();
  Child guest(sleep_for_ever);
  auto client = std::make_unique<LeashClient>(loop_, socket_path());
  client->extend(in(seconds(2)), seconds(2));
  ASSERT_TRUE(until([&] { return client->armed(); }));
  ASSERT_TRUE(client->guard("acme/web", guest.pidfd()).ok());
  ASSERT_TRUE(until([&] { return client->held().size() == 1; }));
  client.reset();
  leash_->end(SIGKILL);
  start_leash();
  ASSERT_TRUE(until([&] { return !guest.running(); }));
}

TEST_F(Leash, F_B4_F_B6_a_process_finds_its_guard_as_soon_as_there_is_one) {
  LeashClient client(loop_, socket_path());
  client.extend(in(seconds(60)), seconds(60));
  Child guest(sleep_for_ever);
  EXPECT_EQ(client.guard("acme/db", guest.pidfd()).error().code, Errc::unavailable);
  start_leash();
  const auto listens = [this] { return ::access(socket_path().c_str(), F_OK) == 0; };
  while (!listens()) ::poll(nullptr, 0, 1);
  Result<void> guarded = make_error(Errc::internal, "not tried");
  for (int tries = 0; tries < 1000 && !guarded; ++tries) {  // between bind and listen none is heard
    guarded = client.guard("acme/web", guest.pidfd());
    if (!guarded) ::poll(nullptr, 0, 1);
  }
  EXPECT_TRUE(guarded.ok()) << "without a turn of the loop";
  ASSERT_TRUE(until([&] { return client.held().size() == 2; }));
  EXPECT_TRUE(client.armed());
}

TEST_F(Leash, F_F3_the_agent_hands_all_over_again_to_a_leash_without_memory) {
  start_leash();
  Child guest(sleep_for_ever);
  LeashClient client(loop_, socket_path());
  client.extend(in(seconds(60)), seconds(60));
  ASSERT_TRUE(until([&] { return client.armed(); }));
  ASSERT_TRUE(client.guard("acme/web", guest.pidfd()).ok());
  ASSERT_TRUE(until([&] { return client.armed(); }));
  leash_->end(SIGKILL);
  ASSERT_TRUE(until([&] { return !client.armed(); }));
  std::filesystem::remove(folder_ + "/state");
  start_leash();
  ASSERT_TRUE(until([&] { return client.armed(); }));
  EXPECT_EQ(client.held(), std::vector<std::string>{"acme/web"});
  EXPECT_TRUE(guest.running());
}

TEST_F(Leash, F_F3_a_stopped_leash_does_not_count_as_armed) {
  start_leash();
  LeashClient client(loop_, socket_path());
  ASSERT_TRUE(until([&] { return client.armed(); }));
  leash_->signal(SIGSTOP);
  ASSERT_TRUE(until([&] { return !client.armed(); }));
  leash_->signal(SIGCONT);
  ASSERT_TRUE(until([&] { return client.armed(); }));
}

TEST_F(Leash, a_second_agent_waits_until_the_first_has_gone) {
  start_leash();
  auto first = std::make_unique<LeashClient>(loop_, socket_path());
  ASSERT_TRUE(until([&] { return first->armed(); }));
  LeashClient second(loop_, socket_path());
  const Instant later = in(milliseconds(300));
  ASSERT_TRUE(until([&] { return loop_.now() >= later; }));
  EXPECT_FALSE(second.armed());
  EXPECT_TRUE(first->armed());
  first.reset();
  ASSERT_TRUE(until([&] { return second.armed(); }));
}

TEST_F(Leash, nonsense_ends_the_connection_and_not_the_guarding) {
  start_leash();
  Child guest(sleep_for_ever);
  auto client = std::make_unique<LeashClient>(loop_, socket_path());
  client->extend(in(seconds(60)), seconds(60));
  ASSERT_TRUE(until([&] { return client->armed(); }));
  ASSERT_TRUE(client->guard("acme/web", guest.pidfd()).ok());
  ASSERT_TRUE(until([&] { return client->held().size() == 1; }));
  client.reset();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket_path().copy(address.sun_path, sizeof address.sun_path - 1);
  for (const std::string text : {"{", "[]", "{\"kind\":7}", "{\"deadline_ns\":\"soon\"}"}) {
    const Descriptor raw(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    timeval limit{10, 0};
    setsockopt(raw.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ASSERT_EQ(connect(raw.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_GT(send(raw.get(), text.data(), text.size(), MSG_NOSIGNAL), 0);
    char reply[16];
    EXPECT_EQ(recv(raw.get(), reply, sizeof reply, 0), 0) << text;
  }
  LeashClient next(loop_, socket_path());
  ASSERT_TRUE(until([&] { return next.armed(); }));
  EXPECT_EQ(next.held(), std::vector<std::string>{"acme/web"});
  EXPECT_TRUE(guest.running());
}

TEST_F(Leash, F_B6_feeds_the_watchdog_and_disarms_it_when_nothing_is_held) {
  const std::string path = folder_ + "/watchdog";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const Descriptor reader(open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  start_leash({"--watchdog", path});
  LeashClient client(loop_, socket_path());
  ASSERT_TRUE(until([&] { return client.armed(); }));
  EXPECT_FALSE(client.watchdog_armed()) << "nobody has said how long a lease is";
  const Instant soon = in(seconds(6));
  client.extend(soon, seconds(6));
  ASSERT_TRUE(until([&] { return client.held_until() == soon; }));
  EXPECT_FALSE(client.watchdog_armed()) << "10 s are too slow for a lease of 6";
  client.extend(in(seconds(10)), seconds(10));
  ASSERT_TRUE(until([&] { return client.watchdog_armed(); }));
  std::string fed;
  const auto drain = [&] {
    char bytes[64];
    const auto got = read(reader.get(), bytes, sizeof bytes);
    if (got > 0) fed.append(bytes, static_cast<std::size_t>(got));
  };
  ASSERT_TRUE(until([&] { return drain(), fed.size() >= 2; }));
  leash_->end(SIGTERM);
  drain();
  EXPECT_EQ(fed.back(), 'V');
}

TEST_F(Leash, says_what_is_wrong_with_its_arguments) {
  char program[] = "leash";
  char option[] = "--sockett";
  char* arguments[] = {program, option};
  testing::internal::CaptureStderr();
  EXPECT_EQ(leash_main(2, arguments), 2);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("--sockett"), std::string::npos);
}

}  // namespace
}  // namespace virga
