#include "driver/rbd/monitor_link.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

namespace virga {
namespace {

constexpr const char* kLibrary = "librados.so.2";

/// What is used of the library, as its header declares it.
struct Rados {
  using Cluster = void*;
  int (*create)(Cluster*, const char* cluster, const char* name, std::uint64_t flags);
  int (*read_configuration)(Cluster, const char* path);
  int (*set)(Cluster, const char* option, const char* value);
  int (*connect)(Cluster);
  void (*shutdown)(Cluster);
  int (*command)(Cluster, const char** words, std::size_t count, const char* input,
                 std::size_t input_size, char** output, std::size_t* output_size, char** said,
                 std::size_t* said_size);
  int (*command_of)(Cluster, const char* monitor, const char** words, std::size_t count,
                    const char* input, std::size_t input_size, char** output,
                    std::size_t* output_size, char** said, std::size_t* said_size);
  void (*free_buffer)(char*);
};

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

Result<Rados> load() {
  void* library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  Rados made{};
  const bool whole = library != nullptr && find(library, "rados_create2", made.create) &&
                     find(library, "rados_conf_read_file", made.read_configuration) &&
                     find(library, "rados_conf_set", made.set) &&
                     find(library, "rados_connect", made.connect) &&
                     find(library, "rados_shutdown", made.shutdown) &&
                     find(library, "rados_mon_command", made.command) &&
                     find(library, "rados_mon_command_target", made.command_of) &&
                     find(library, "rados_buffer_free", made.free_buffer);
  if (whole) return made;
  return make_error(Errc::unavailable, fmt::format("load {}: {}", kLibrary, ::dlerror()));
}

Result<void> checked(const std::string& what, int code) {
  if (code >= 0) return {};
  return make_error(Errc::unavailable, fmt::format("{}: {}", what, std::strerror(-code)));
}

class RadosLink final : public MonitorLink {
 public:
  RadosLink(const Rados& rados, Rados::Cluster cluster) : rados_(rados), cluster_(cluster) {}
  ~RadosLink() override { rados_.shutdown(cluster_); }

  Result<void> connect(const std::string& configuration, const std::string& limit) {
    auto done = checked("read " + configuration,
                        rados_.read_configuration(cluster_, configuration.c_str()));
    for (const char* option : {"client_mount_timeout", "rados_mon_op_timeout"}) {
      if (!done) return done;
      done = checked(option, rados_.set(cluster_, option, limit.c_str()));
    }
    return done ? checked("reach Ceph's monitors", rados_.connect(cluster_)) : done;
  }

  Result<std::string> say(const boost::json::object& command, const std::string& input,
                          const std::string& monitor) override {
    const std::string text = boost::json::serialize(command);
    const char* words[] = {text.c_str()};
    Buffer output(rados_);
    Buffer said(rados_);
    const int code =
        monitor.empty()
            ? rados_.command(cluster_, words, 1, input.data(), input.size(), &output.data,
                             &output.size, &said.data, &said.size)
            : rados_.command_of(cluster_, monitor.c_str(), words, 1, input.data(), input.size(),
                                &output.data, &output.size, &said.data, &said.size);
    if (code >= 0) return output.text();
    return make_error(Errc::unavailable,
                      fmt::format("ceph {}: {} ({})", text, said.text(), std::strerror(-code)));
  }

 private:
  struct Buffer {
    explicit Buffer(const Rados& owner) : rados(owner) {}
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() {
      if (data != nullptr) rados.free_buffer(data);
    }
    std::string text() const { return data == nullptr ? "" : std::string(data, size); }

    const Rados& rados;
    char* data = nullptr;
    std::size_t size = 0;
  };

  const Rados rados_;
  Rados::Cluster cluster_;
};

}  // namespace

Result<std::unique_ptr<MonitorLink>> MonitorLink::open(const std::string& configuration,
                                                       const std::string& client, Duration within) {
  const auto rados = load();
  if (!rados) return rados.error();
  Rados::Cluster cluster = nullptr;
  auto made =
      checked("begin with Ceph as " + client, rados->create(&cluster, "ceph", client.c_str(), 0));
  if (!made) return made.error();
  auto link = std::make_unique<RadosLink>(*rados, cluster);
  const auto whole_seconds = std::max<std::int64_t>(1, to_ms(within) / 1000);
  if (auto done = link->connect(configuration, std::to_string(whole_seconds)); !done) {
    return done.error();
  }
  return std::unique_ptr<MonitorLink>(std::move(link));
}

}  // namespace virga
