#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>

#include "driver/nbd/nbd_store.h"
#include "driver/qemu/boot_sectors.h"
#include "driver/qemu/hardware.h"
#include "driver/qemu/qmp_commands.h"
#include "driver/qmp/unix_socket.h"
#include "driver/volumes/server_record.h"
#include "edge/asio_loop.h"
#include "edge/file.h"
#include "edge/process.h"

/// Each kind of back end in the QEMU that is installed: the same guest boots from it.
namespace virga {
namespace {

class BackEnds : public testing::Test {
 protected:
  BackEnds() {
    char name[] = "/tmp/virga-back-XXXXXX";
    folder = ::mkdtemp(name);
    write_disk(boot_sectors::console());
    hardware.name = "acme/web";
    hardware.identity = {"6a7bf3c0-0000-4000-8000-000000000001", "pc-q35-7.2", "qemu64",
                         Accelerator::tcg};
    hardware.memory_mib = Mib{32};
    give_channels("");
  }
  ~BackEnds() override {
    for (const auto& process : processes) {
      process->signal(SIGKILL);
      wait([&] { return !process->running(); });
    }
    if (auto server = volume_server()) {
      server->signal(SIGKILL);
      wait([&] { return !server->running(); });
    }
    std::filesystem::remove_all(folder);
  }

  /// What every QEMU has of its own; `mark` tells the files of several apart.
  void give_channels(const std::string& mark) {
    hardware.qmp = lend(listener("/qmp" + mark + ".sock"));
    hardware.heartbeat = lend(listener("/heartbeat" + mark + ".sock"));
    hardware.guest_agent = lend(listener("/guest-agent" + mark + ".sock"));
    hardware.console =
        lend(open_file("/console" + mark + ".log", O_CREAT | O_WRONLY | O_APPEND));
  }
  void write_disk(std::string first_sectors) {
    first_sectors.resize(1 << 20, '\0');
    EXPECT_TRUE(write_file_atomically(path("/disk.raw"), first_sectors, 0600).ok());
  }

  std::string path(const std::string& name) const { return folder + name; }

  /// What serves the volume acme/root of the device in this folder; nullptr = nothing does.
  std::unique_ptr<Process> volume_server() {
    const auto server = from_json_text<ServerRecord>(text_of("/device/acme/root/server.json"));
    if (!server.ok()) return nullptr;
    auto process = Process::adopt(loop, static_cast<pid_t>(server->pid), server->start_ticks);
    return process.ok() ? std::move(*process) : nullptr;
  }
  Descriptor open_file(const std::string& name, int flags) const {
    Descriptor file(::open(path(name).c_str(), flags | O_CLOEXEC, 0600));
    EXPECT_TRUE(file.valid()) << name;
    return file;
  }
  Descriptor listener(const std::string& name) const {
    auto socket = listen_unix(path(name));
    EXPECT_TRUE(socket.ok());
    return std::move(*socket);
  }
  InheritedDescriptor lend(Descriptor file) {
    constexpr int kFirst = 10;
    const int number = kFirst + static_cast<int>(lent.size());
    map[number] = file.get();
    lent.push_back(std::move(file));
    return {number};
  }
  bool wait(const std::function<bool()>& condition) { return wait_for(seconds(30), condition); }
  bool wait_for(Duration deadline, const std::function<bool()>& condition) {
    const Instant end = loop.now() + deadline;
    while (!condition() && loop.now() < end) {
      loop.after(milliseconds(10), [this] { loop.stop(); });
      loop.run();
    }
    return condition();
  }
  void spawn(ProcessOptions options) {
    options.environment = {{"LC_ALL", "C"}};
    options.output_path = path("/output.log");
    auto process = Process::spawn(loop, options);
    ASSERT_TRUE(process.ok()) << process.error().text();
    processes.push_back(std::move(*process));
  }
  std::string text_of(const std::string& name) const {
    const auto text = read_file(path(name));
    return text.ok() ? *text : "";
  }

  /// An NBD server for the disk; waits until its socket is there.
  /// Without a lock, as a volume's server that another QEMU uses already.
  void serve_disk(const std::vector<std::string>& where, const std::function<bool()>& listens) {
    ProcessOptions server;
    server.arguments = {"/usr/bin/qemu-nbd", "--shared=4", "--persistent", "--export-name=root"};
    server.arguments.insert(server.arguments.end(), where.begin(), where.end());
    server.arguments.insert(server.arguments.end(),
                            {"--image-opts", "driver=raw,file.driver=file,file.locking=off,"
                                             "file.filename=" + path("/disk.raw")});
    spawn(server);
    ASSERT_TRUE(wait(listens)) << text_of("/output.log");
  }
  static int connect_tcp(std::uint16_t port) {
    const Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to);
  }
  static std::uint16_t free_port() {
    const Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    EXPECT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&at), size), 0);
    EXPECT_EQ(::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&at), &size), 0);
    return ntohs(at.sin_port);
  }

  void start() {
    auto arguments = command_line(hardware);
    ASSERT_TRUE(arguments.ok()) << arguments.error().text();
    ProcessOptions options;
    options.arguments = std::move(*arguments);
    // The processors are stopped until somebody says "cont" by QMP: nobody before a migration.
    if (!hardware.incoming) std::erase(options.arguments, "-S");
    options.arguments.insert(options.arguments.begin(), "/usr/bin/qemu-system-x86_64");
    options.descriptors = map;
    spawn(options);
  }

  void expect_boots() {
    start();
    EXPECT_TRUE(wait([&] { return text_of("/console.log").find("up\n") != std::string::npos; }))
        << text_of("/output.log");
  }

  /// A tap that nothing leads to; it goes with its descriptor.
  Descriptor tap() const {
    Descriptor file(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    ifreq request{};
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    EXPECT_EQ(::ioctl(file.get(), TUNSETIFF, &request), 0) << std::strerror(errno);
    return file;
  }
  std::unique_ptr<QmpClient> qmp(const std::string& mark) {
    auto socket = connect_unix(path("/qmp" + mark + ".sock"));
    EXPECT_TRUE(socket.ok());
    if (!socket.ok()) return nullptr;
    auto client = std::make_unique<QmpClient>(
        loop, std::make_unique<QmpSocket>(loop, std::move(*socket)));
    const auto opened = answer([&](Callback<void> done) { client->open(seconds(20), done); });
    EXPECT_TRUE(opened.ok()) << opened.error().text();
    return client;
  }
  Result<void> answer(const std::function<void(Callback<void>)>& call) {
    std::optional<Result<void>> outcome;
    call([&](Result<void> ended) { outcome = std::move(ended); });
    if (!wait([&] { return outcome.has_value(); })) return make_error(Errc::timeout, "no answer");
    return *outcome;
  }

  /// The guest of `source` runs on in the QEMU of `mark` after this.
  void migrate(QmpClient& source, QmpClient& destination) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const Descriptor near(ends[0]), far(ends[1]);
    std::string source_state, destination_state;
    const auto follow = [](std::string& state) {
      return [&state](const QmpEvent& event) {
        if (event.name == "MIGRATION") state = event.data.at("status").as_string().c_str();
      };
    };
    source.on_event(follow(source_state));
    destination.on_event(follow(destination_state));
    const auto fine = [&](const std::function<void(Callback<void>)>& call) {
      const auto done = answer(call);
      return done.ok() ? testing::AssertionSuccess()
                       : testing::AssertionFailure() << done.error().text();
    };
    ASSERT_TRUE(fine([&](auto done) { qmp::prepare_migration(destination, {}, done); }));
    ASSERT_TRUE(fine([&](auto done) { qmp::receive_through(destination, far.get(), done); }));
    ASSERT_TRUE(fine([&](auto done) { qmp::prepare_migration(source, {}, done); }));
    ASSERT_TRUE(fine([&](auto done) { qmp::send_through(source, near.get(), done); }));
    ASSERT_TRUE(wait([&] { return source_state == "pre-switchover"; })) << source_state;
    ASSERT_TRUE(fine([&](auto done) { qmp::pass_switchover(source, done); }));
    ASSERT_TRUE(wait([&] { return source_state == "completed"; })) << source_state;
    ASSERT_TRUE(wait([&] { return destination_state == "completed"; })) << destination_state;
    ASSERT_TRUE(fine([&](auto done) { qmp::resume(destination, done); }));
  }

  AsioLoop loop;
  std::string folder;
  Hardware hardware;
  std::map<int, int> map;
  std::vector<Descriptor> lent;
  std::vector<std::unique_ptr<Process>> processes;
};

TEST_F(BackEnds, F_B4_a_file_with_anonymous_memory) {
  hardware.disks = {{"root", FileDisk{{{lend(open_file("/disk.raw", O_RDWR)), "raw"}}}}};
  expect_boots();
}

TEST_F(BackEnds, F_B4_memory_in_a_memfd_and_a_card_on_a_socket) {
  hardware.memory = MemfdMemory{};
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends), 0);
  const Descriptor far(ends[1]);
  hardware.nics = {{"52:54:00:00:00:10", 1450, DatagramNic{lend(Descriptor(ends[0]))}}};
  hardware.disks = {{"root", FileDisk{{{lend(open_file("/disk.raw", O_RDWR)), "raw"}}}}};
  expect_boots();
}

TEST_F(BackEnds, F_B4_memory_in_a_shared_file) {
  Descriptor memory = open_file("/memory", O_CREAT | O_RDWR);
  ASSERT_EQ(::ftruncate(memory.get(), 32 << 20), 0);
  hardware.memory = SharedFileMemory{lend(std::move(memory))};
  hardware.disks = {{"root", FileDisk{{{lend(open_file("/disk.raw", O_RDWR)), "raw"}}}}};
  expect_boots();
}

TEST_F(BackEnds, F_B4_a_disk_over_nbd) {
  const std::uint16_t port = free_port();
  serve_disk({"--bind=127.0.0.1", "--port=" + std::to_string(port)},
             [port] { return connect_tcp(port) == 0; });
  hardware.disks = {{"root", NbdDisk{"127.0.0.1", port, "root", "", ""}}};
  expect_boots();
}

/// A guest that fills its disk, on a volume of a device.
TEST_F(BackEnds, R_B1_R_B2_R_F2_R_F4_a_guest_writes_on_while_its_volume_is_served_and_never_after) {
  NbdOptions options;
  options.directory = path("/device");
  NbdStore store(loop, options);
  const VolumeId id("acme/root");
  const Epoch first{1, 1};
  const auto done = [&](const std::function<void(Callback<void>)>& call) {
    std::optional<Result<void>> outcome;
    call([&](Result<void> ended) { outcome = std::move(ended); });
    EXPECT_TRUE(wait([&] { return outcome.has_value(); }));
    return outcome && outcome->ok();
  };
  ASSERT_TRUE(done([&](Callback<void> call) { store.open(std::move(call)); }));
  ASSERT_TRUE(done([&](Callback<void> call) { store.create(id, Mib{512}, {}, std::move(call)); }));
  const std::string image = path("/device/acme/root/volume.raw");
  {
    const Descriptor file(::open(image.c_str(), O_WRONLY | O_CLOEXEC));
    const std::string boot = boot_sectors::fill_disk();
    ASSERT_EQ(::pwrite(file.get(), boot.data(), boot.size(), 0), static_cast<ssize_t>(boot.size()));
  }
  std::optional<VolumeEndpoint> at;
  ASSERT_TRUE(done([&](const Callback<void>& call) {
    store.attach(id, first, {}, [&, call](Result<VolumeEndpoint> attached) {
      if (!attached) return call(attached.error());
      at = *attached;
      call({});
    });
  }));
  ASSERT_TRUE(make_folders(path("/keys"), 0700).ok());
  ASSERT_TRUE(
      write_file_atomically(path("/keys/keys.psk"), at->user + ":" + at->key + "\n", 0600).ok());
  hardware.disks = {{"root", NbdDisk{at->address, static_cast<std::uint16_t>(at->port),
                                     at->export_name, at->user, path("/keys")}}};
  start();
  const auto used = [&] { return store.observe().front().used_bytes.value; };
  const auto grows = [&] { return wait([&, now = used()] { return used() > now; }); };
  ASSERT_TRUE(grows()) << text_of("/output.log");
  // Its server dies and is there again: the guest waits for it.
  const auto server = volume_server();
  ASSERT_NE(server, nullptr);
  server->signal(SIGKILL);
  ASSERT_TRUE(wait([&] { return !store.observe().front().served; }));
  ASSERT_TRUE(wait([&] { return store.observe().front().served; }));
  EXPECT_TRUE(grows());
  // Its access is revoked: from the answer on nothing changes, whatever it tries.
  ASSERT_TRUE(done([&](Callback<void> call) { store.revoke(id, first, std::move(call)); }));
  const std::int64_t frozen = used();
  EXPECT_FALSE(wait_for(seconds(3), [&] { return used() != frozen; }));
  EXPECT_TRUE(processes.back()->running()) << "a zombie that tries";
}

TEST_F(BackEnds, F_B4_a_disk_that_the_agent_exports_through_a_socket) {
  Descriptor connection;
  serve_disk({"--socket=" + path("/nbd.sock")}, [&] {
    auto connected = connect_unix(path("/nbd.sock"));
    if (connected.ok()) connection = std::move(*connected);
    return connection.valid();
  });
  hardware.disks = {{"root", ExportDisk{lend(std::move(connection)), "root"}}};
  expect_boots();
}

/// Each QEMU has other back ends than the one before; what the guest sees is the same, so its state
/// fits. The guest looks at its memory again and again and says what it found.
TEST_F(BackEnds, F_B4_a_guest_migrates_between_all_kinds_of_back_ends_and_finds_its_memory) {
  write_disk(boot_sectors::memory());
  const auto card = [](NicBackend at) { return NicDevice{"52:54:00:00:00:10", 1450, at}; };
  hardware.disks = {{"root", FileDisk{{{lend(open_file("/disk.raw", O_RDWR)), "raw"}}}}};
  hardware.nics = {card(TapNic{lend(tap())})};
  start();
  auto source = qmp("");
  ASSERT_NE(source, nullptr);
  ASSERT_TRUE(wait([&] { return text_of("/console.log").find("w\n") != std::string::npos; }))
      << text_of("/output.log");

  const auto moves_to = [&](const std::string& mark) {
    hardware.incoming = true;
    give_channels(mark);
    start();
    auto destination = qmp(mark);
    ASSERT_NE(destination, nullptr);
    migrate(*source, *destination);
    source = std::move(destination);
    EXPECT_TRUE(wait([&] { return text_of("/console" + mark + ".log").size() > 4; }))
        << text_of("/output.log");
  };
  const std::uint16_t port = free_port();
  serve_disk({"--bind=127.0.0.1", "--port=" + std::to_string(port)},
             [port] { return connect_tcp(port) == 0; });
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends), 0);
  const Descriptor far(ends[1]);
  hardware.memory = MemfdMemory{};
  hardware.nics = {card(DatagramNic{lend(Descriptor(ends[0]))})};
  hardware.disks = {{"root", NbdDisk{"127.0.0.1", port, "root", "", ""}}};
  moves_to("-2");

  Descriptor memory = open_file("/memory", O_CREAT | O_RDWR);
  ASSERT_EQ(::ftruncate(memory.get(), 32 << 20), 0);
  Descriptor connection;
  serve_disk({"--socket=" + path("/nbd.sock")}, [&] {
    auto connected = connect_unix(path("/nbd.sock"));
    if (connected.ok()) connection = std::move(*connected);
    return connection.valid();
  });
  hardware.memory = SharedFileMemory{lend(std::move(memory))};
  hardware.nics = {card(TapNic{lend(tap())})};
  hardware.disks = {{"root", ExportDisk{lend(std::move(connection)), "root"}}};
  moves_to("-3");

  hardware.memory = AnonymousMemory{};
  hardware.disks = {{"root", FileDisk{{{lend(open_file("/disk.raw", O_RDWR)), "raw"}}}}};
  moves_to("-4");
  for (const char* console : {"/console-2.log", "/console-3.log", "/console-4.log"})
    EXPECT_EQ(text_of(console).find('l'), std::string::npos) << console << " lost a page";
}

}  // namespace
}  // namespace virga
