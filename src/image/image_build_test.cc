#include "image/image_build.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <sstream>

#include "base/reflect.h"
#include "edge/file.h"
#include "edge/process.h"

namespace virga {
namespace {

constexpr int kBootMsMax =
    120'000;  // far above what a loaded machine needs; ends a guest that will never answer
constexpr int kEndMsMax = 60'000;
constexpr char kNeverSaid[] = "\x01never\x01";

class Folder {
 public:
  Folder() {
    path_ = std::filesystem::temp_directory_path().string() + "/virga-image.XXXXXX";
    EXPECT_NE(::mkdtemp(path_.data()), nullptr);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// Reads from a descriptor until `wanted` has come; all that was read, or what came before
/// `silence_ms` without a byte or before the end.
std::string read_until(int descriptor, const std::string& wanted, int silence_ms = kBootMsMax) {
  std::string text;
  while (text.find(wanted) == std::string::npos) {
    pollfd question{descriptor, POLLIN, 0};
    if (::poll(&question, 1, silence_ms) <= 0) return text;
    char block[4096];
    const ssize_t count = ::read(descriptor, block, sizeof block);
    if (count <= 0) return text;
    text.append(block, static_cast<std::size_t>(count));
  }
  return text;
}

void send_text(int descriptor, const std::string& text) {
  EXPECT_EQ(::send(descriptor, text.data(), text.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(text.size()));
}

Descriptor connect_unix(const std::string& path) {
  Descriptor made(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  EXPECT_EQ(::connect(made.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0)
      << path;
  return made;
}

Descriptor connect_tcp(std::uint16_t port) {
  Descriptor made(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(made.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0)
      << port;
  return made;
}

/// A QEMU process whose serial console is a pipe to the test; killed at the end.
class RunningGuest {
 public:
  RunningGuest(const std::string& image, const Folder& folder, const std::string& words,
               std::vector<std::string> devices = {})
      : folder_(folder) {
    const auto manifest = read_image_manifest(image);
    EXPECT_TRUE(manifest.ok());
    std::vector<std::string> arguments = {
        "qemu-system-x86_64",
        "-M",
        "q35,accel=tcg",
        "-m",
        "128",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-kernel",
        image + "/kernel",
        "-initrd",
        image + "/initrd",
        "-append",
        manifest->command_line + " " + words,
        "-serial",
        "stdio",
        "-monitor",
        "unix:" + (folder / "monitor") + ",server=on,wait=off",
        "-netdev",
        "user,id=n0,hostfwd=tcp:127.0.0.1:0-:80,hostfwd=tcp:127.0.0.1:0-:7",
        "-device",
        "virtio-net-pci,netdev=n0,romfile="};
    arguments.insert(arguments.end(), devices.begin(), devices.end());
    start(arguments);
  }
  ~RunningGuest() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }

  std::string wait_for(const std::string& words, int silence_ms = kBootMsMax) {
    console_ += read_until(output_.get(), words, silence_ms);
    return console_;
  }

  /// One command to QEMU's monitor for people; its answer.
  std::string monitor(const std::string& command) {
    const Descriptor socket = connect_unix(folder_ / "monitor");
    read_until(socket.get(), "(qemu) ");
    send_text(socket.get(), command + "\n");
    return read_until(socket.get(), "\n(qemu) ", 10'000);
  }

  /// The port here that leads to the guest's `port`.
  std::uint16_t forwarded(int port) {
    // "TCP[HOST_FORWARD]  13       127.0.0.1 40123       10.0.2.15    80 ..."
    std::istringstream lines(monitor("info usernet"));
    std::string line;
    while (std::getline(lines, line)) {
      char kind[64];
      char from[64];
      char to[64];
      int descriptor = 0;
      int here = 0;
      int there = 0;
      const int fields = std::sscanf(line.c_str(), " %63s %d %63s %d %63s %d", kind, &descriptor,
                                     from, &here, to, &there);
      if (fields == 6 && there == port) return static_cast<std::uint16_t>(here);
    }
    ADD_FAILURE() << "no forwarding to port " << port;
    return 0;
  }

  /// True when QEMU ends by itself in time.
  bool ends() {
    console_ += read_until(output_.get(), kNeverSaid, kEndMsMax);
    const Descriptor pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    pollfd question{pidfd.get(), POLLIN, 0};
    if (::poll(&question, 1, kEndMsMax) != 1) return false;
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

 private:
  void start(std::vector<std::string>& arguments) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    output_ = Descriptor(ends[0]);
    const Descriptor write_end(ends[1]);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, write_end.get(), 1);
    std::vector<char*> words;
    for (std::string& argument : arguments) words.push_back(argument.data());
    words.push_back(nullptr);
    EXPECT_EQ(::posix_spawnp(&pid_, words[0], &actions, nullptr, words.data(), environ), 0);
    ::posix_spawn_file_actions_destroy(&actions);
  }

  const Folder& folder_;
  pid_t pid_ = -1;
  Descriptor output_;
  std::string console_;
};

std::string http_get(int socket, const std::string& extra = {}) {
  send_text(socket, "GET / HTTP/1.1\r\nHost: guest\r\n" + extra + "\r\n");
  const std::string response = read_until(socket, "}\n");
  EXPECT_EQ(response.rfind("HTTP/1.1 200 OK\r\n", 0), 0U) << response;
  return response.substr(response.find("\r\n\r\n") + 4);
}

json::object json_of(const std::string& text) {
  const auto parsed = parse_json(text);
  EXPECT_TRUE(parsed.ok()) << text;
  return parsed.ok() ? parsed->as_object() : json::object();
}

class TinyImage : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new Folder;
    const auto built = build_tiny_image(options(*folder_ / "images/tiny"));
    ASSERT_TRUE(built.ok()) << built.error().text();
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static TinyImageOptions options(const std::string& output) {
    TinyImageOptions made;
    made.output_folder = output;
    made.package_folder = VIRGA_TEST_PACKAGES;
    made.guest_program_path = VIRGA_TEST_GUEST;
    return made;
  }
  static std::string image() { return *folder_ / "images/tiny"; }

  static Folder* folder_;
};
Folder* TinyImage::folder_ = nullptr;

TEST_F(TinyImage, F_B5_SameInputsGiveTheSameBytes) {
  const auto again = build_tiny_image(options(*folder_ / "images/again"));
  ASSERT_TRUE(again.ok()) << again.error().text();
  for (const char* name : {"kernel", "initrd", "manifest.json"}) {
    EXPECT_EQ(*read_file(image() + "/" + name), *read_file(*folder_ / "images/again/" + name))
        << name;
  }
  EXPECT_EQ(again->format, ImageFormat::direct);
  EXPECT_EQ(again->sha256.size(), 64U);
  EXPECT_EQ(again->sources.size(), 2U);
}

TEST_F(TinyImage, F_B5_AnImageIsReplacedAsAWhole) {
  ASSERT_TRUE(write_file_atomically(image() + "/left-over", "x").ok());
  ASSERT_TRUE(build_tiny_image(options(image())).ok());
  EXPECT_FALSE(std::filesystem::exists(image() + "/left-over"));
  int entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*folder_ / "images")) {
    EXPECT_NE(entry.path().filename().string().front(), '.') << entry.path();
    ++entries;
  }
  EXPECT_GE(entries, 1);
}

TEST_F(TinyImage, F_B5_BootsWithThePassedAddressAndServes) {
  Folder run;
  RunningGuest guest(image(), run, "virga.name=web virga.ip=10.0.2.15/24 virga.gateway=10.0.2.2");
  ASSERT_NE(guest.wait_for("GUEST-UP web").find("GUEST-UP web"), std::string::npos);
  const Descriptor http = connect_tcp(guest.forwarded(80));
  const auto first = json_of(http_get(http.get()));
  const auto second = json_of(http_get(http.get()));
  EXPECT_EQ(first.at("name"), "web");
  EXPECT_EQ(first.at("boot_id").as_string().size(), 36U);
  EXPECT_EQ(first.at("boot_id"), second.at("boot_id"));
  EXPECT_EQ(first.at("counter"), 1);
  EXPECT_EQ(second.at("counter"), 2);
  EXPECT_GE(second.at("uptime_ms").as_int64(), first.at("uptime_ms").as_int64());

  const Descriptor echo = connect_tcp(guest.forwarded(7));
  send_text(echo.get(), "are you there\n");
  EXPECT_EQ(read_until(echo.get(), "there\n"), "are you there\n");
}

TEST_F(TinyImage, F_B5_AsksForAnAddressWhenNoneIsPassed) {
  Folder run;
  RunningGuest guest(image(), run, "virga.name=lease");
  const std::string console = guest.wait_for("GUEST-ADDRESS eth0 10.0.2.15");
  ASSERT_NE(console.find("GUEST-ADDRESS eth0 10.0.2.15"), std::string::npos) << console;
  const Descriptor http = connect_tcp(guest.forwarded(80));
  EXPECT_EQ(json_of(http_get(http.get(), "Connection: close\r\n")).at("name"), "lease");
  EXPECT_EQ(read_until(http.get(), "more"), "");
}

TEST_F(TinyImage, F_B5_ShowsSignsOfLifeOnPortAndDisk) {
  Folder run;
  const std::string disk = run / "disk.raw";
  ASSERT_TRUE(write_file_atomically(disk, std::string(1 << 20, '\0')).ok());
  RunningGuest guest(image(), run, "virga.name=hb virga.ip=10.0.2.15/24",
                     {"-device", "virtio-serial-pci", "-chardev",
                      "socket,id=hb,server=on,wait=off,path=" + (run / "hb"), "-device",
                      "virtserialport,chardev=hb,name=org.virga.hb.0,nr=1", "-drive",
                      "file=" + disk + ",format=raw,if=virtio"});
  guest.wait_for("GUEST-UP hb");
  const Descriptor port = connect_unix(run / "hb");
  const std::string beat = read_until(port.get(), "\n");
  const long first = std::atol(beat.c_str());
  EXPECT_GT(first, 0) << beat;
  const std::string next = std::to_string(first + 2) + "\n";
  EXPECT_NE(read_until(port.get(), next).find(next), std::string::npos);

  const Descriptor http = connect_tcp(guest.forwarded(80));
  const auto seen = json_of(http_get(http.get()));
  EXPECT_GT(seen.at("disk_sequence").as_int64(), 0);
  EXPECT_EQ(seen.at("disk_foreign_writes"), 0);
  const std::string record = read_file(disk)->substr(0, 64);
  EXPECT_EQ(record.rfind("VIRGA-WITNESS ", 0), 0U) << record;
  EXPECT_NE(record.find(seen.at("boot_id").as_string().c_str()), std::string::npos) << record;

  // A second writer goes on writing, as one would: what comes between the guest's look and its own
  // write is lost, the next is noticed.
  const Descriptor other(::open(disk.c_str(), O_WRONLY | O_CLOEXEC));
  const std::string noticed = "DISK-FOREIGN-WRITE /dev/vda";
  std::string console;
  for (int round = 0; round < 10 && console.find(noticed) == std::string::npos; ++round) {
    ASSERT_EQ(::pwrite(other.get(), "VIRGA-WITNESS 7 somebody-else\n\0", 31, 0), 31);
    console = guest.wait_for(noticed, 5'000);
  }
  EXPECT_NE(console.find(noticed), std::string::npos) << console;
}

TEST_F(TinyImage, F_B5_LeavesADiskWithOtherDataAlone) {
  Folder run;
  const std::string disk = run / "disk.raw";
  const std::string data(1 << 20, 'x');
  ASSERT_TRUE(write_file_atomically(disk, data).ok());
  RunningGuest guest(image(), run, "virga.name=careful virga.ip=10.0.2.15/24",
                     {"-drive", "file=" + disk + ",format=raw,if=virtio"});
  const std::string console = guest.wait_for("GUEST-UP careful");
  EXPECT_NE(console.find("holds other data, left alone"), std::string::npos) << console;
  guest.wait_for("GUEST-READY careful");
  guest.monitor("system_powerdown");
  EXPECT_TRUE(guest.ends());
  EXPECT_EQ(*read_file(disk), data);
}

TEST_F(TinyImage, F_B5_ThePowerButtonSwitchesItOff) {
  Folder run;
  RunningGuest guest(image(), run, "virga.name=off virga.ip=10.0.2.15/24");
  guest.wait_for("GUEST-READY off");
  guest.monitor("system_powerdown");
  EXPECT_NE(guest.wait_for("GUEST-DOWN power button").find("GUEST-DOWN power button"),
            std::string::npos);
  EXPECT_TRUE(guest.ends());
}

TEST_F(TinyImage, F_B4_APanicOnRequestReachesQemu) {
  Folder run;
  RunningGuest guest(image(), run, "virga.name=panic virga.ip=10.0.2.15/24 virga.panic_after=2",
                     {"-device", "pvpanic-pci", "-action", "panic=shutdown"});
  EXPECT_TRUE(guest.ends());
}

TEST_F(TinyImage, F_B4_AGuestThatHangsIsCaughtByTheWatchdog) {
  Folder run;
  RunningGuest guest(image(), run,
                     "virga.name=hang virga.ip=10.0.2.15/24 virga.watchdog=4 virga.hang_after=6",
                     {"-device", "ib700", "-action", "watchdog=poweroff"});
  EXPECT_NE(guest.wait_for("GUEST-HANG hang").find("GUEST-HANG hang"), std::string::npos);
  EXPECT_TRUE(guest.ends());
}

TEST(TinyImageErrors, F_B5_AMissingGuestProgramIsNamed) {
  Folder folder;
  TinyImageOptions options;
  options.output_folder = folder / "image";
  options.package_folder = VIRGA_TEST_PACKAGES;
  options.guest_program_path = folder / "nothing-here";
  const auto built = build_tiny_image(options);
  ASSERT_FALSE(built.ok());
  EXPECT_EQ(built.error().code, Errc::not_found);
  EXPECT_NE(built.error().text().find("nothing-here"), std::string::npos) << built.error().text();
  EXPECT_FALSE(std::filesystem::exists(folder / "image"));
}

TEST(ModuleLoadOrder, F_B5_NeedsComeFirstEachOnce) {
  using namespace std::string_literals;
  const std::map<std::string, std::string> modules = {{"ring", "\0depends=\0"s},
                                                      {"bus_pci", "\0depends=bus,ring\0"s},
                                                      {"bus", "\0depends=ring\0"s},
                                                      {"card", "\0depends=ring,bus-pci\0"s}};
  const auto module_of = [&modules](const std::string& name) -> const std::string* {
    const auto found = modules.find(name);
    return found == modules.end() ? nullptr : &found->second;
  };
  const auto order = module_load_order({"card", "bus"}, module_of);
  ASSERT_TRUE(order.ok()) << order.error().text();
  EXPECT_EQ(*order, (std::vector<std::string>{"ring", "bus", "bus_pci", "card"}));
  const auto missing = module_load_order({"nothing"}, module_of);
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, Errc::not_found);
}

}  // namespace
}  // namespace virga
