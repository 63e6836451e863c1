#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "../tests/tools/temp_folder.h"
#include "cli/client.h"
#include "cli/manifest.h"
#include "cli/output.h"
#include "cli/yaml.h"
#include "edge/process.h"
#include "server/api/api_fixture.h"

namespace virga::test {
namespace {

/// The command line talking to the API in this process, in virtual time.
class CommandLine : public ApiTest, public cli::Transport {
 protected:
  Result<HttpResponse> call(const std::string& method, const std::string& target,
                            const std::map<std::string, std::string>& headers,
                            const std::string& body) override {
    if (down) return make_error(Errc::unavailable, "connect: connection refused");
    return ApiTest::call(method, target, body, headers);
  }
  Result<HttpResponse> stream(const std::string& target,
                              std::function<bool(const std::string&)> keep_on) override {
    auto reply = start("GET", target);
    loop.run_for(milliseconds(50));
    if (!reply->opened) return reply->response;
    if (during_stream) during_stream();
    keep_on(reply->opened->text.substr(0, 10));
    keep_on(reply->opened->text.substr(10));
    return reply->response;
  }
  void pause(Duration duration) override {
    loop.run_for(duration);
    if (each_pause) each_pause();
  }
  Instant now() override { return loop.now(); }

  /// Runs "vm", "create" with positional "name" and options; returns the exit code.
  int run(const std::string& noun, const std::string& verb,
          std::map<std::string, std::vector<std::string>> typed) {
    out.clear();
    err.clear();
    for (const cli::Command& command : cli::commands()) {
      if (command.noun != noun || command.verb != verb) continue;
      for (const cli::Argument& argument : command.arguments) {
        EXPECT_TRUE(!argument.required || typed.contains(argument.name)) << argument.name;
      }
      return command.run(session, {std::move(typed)});
    }
    ADD_FAILURE() << "no such command: " << noun << " " << verb;
    return -1;
  }

  int apply(const std::string& text) {
    const std::string path =
        ::testing::TempDir() + "virga-manifest-" + std::to_string(::getpid()) + ".yaml";
    std::ofstream(path) << text;
    const int code = run("", "apply", {{"file", {path}}});
    std::remove(path.c_str());
    return code;
  }

  std::string out;
  std::string err;
  bool down = false;
  Task each_pause;
  Task during_stream;
  cli::Session session{*this,
                       cli::Format::table,
                       false,
                       false,
                       false,
                       seconds(5),
                       [this](const std::string& text) { out += text; },
                       [this](const std::string& text) { err += text; }};
};

constexpr const char* kManifest = R"(# order does not matter
kind: vm
meta: {tenant: acme, name: web, labels: {tier: front}}
spec:
  image: tiny
  memory_mib: 0x100
  nics: [{network: front}]
---
kind: network
meta: {tenant: acme, name: front}
spec: {subnet: 10.50.0.0/24}
---
kind: image
meta: {name: tiny}
spec:
  path: images/tiny
  file_bytes: 1000
  sha256: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
---
- kind: cluster
  meta: {name: lab}
  spec: {shared_directory: /srv/virga}
)";

TEST_F(CommandLine, F_B11_a_manifest_is_applied_in_order_and_the_second_time_says_unchanged) {
  EXPECT_EQ(apply(kManifest), 0) << err;
  EXPECT_EQ(out,
            "cluster lab created\nimage tiny created\nnetwork acme/front created\nvm acme/web "
            "accepted\n");
  EXPECT_EQ(view.vms.find(VmId("acme/web"))->spec.memory_mib.value, 256);
  const Revision before = view.revision;
  EXPECT_EQ(apply(kManifest), 0) << err;
  EXPECT_EQ(out,
            "cluster lab unchanged\nimage tiny unchanged\nnetwork acme/front unchanged\nvm "
            "acme/web unchanged\n");
  EXPECT_EQ(view.revision, before);
}

TEST_F(CommandLine, F_B11_commands_that_say_a_word_say_it_as_json_where_that_is_asked_for) {
  session.format = cli::Format::json;
  EXPECT_EQ(apply(kManifest), 0) << err;
  const auto outcomes = json::parse(out).as_array();
  ASSERT_EQ(outcomes.size(), 4U);
  EXPECT_EQ(outcomes[3],
            (json::object{{"kind", "vm"}, {"name", "acme/web"}, {"outcome", "accepted"}}));
  EXPECT_NE(apply("kind: network\nmeta: {tenant: acme, name: bad}\nspec: {subnet: none}\n"), 0);
  const auto failed = json::parse(out).as_array();
  EXPECT_EQ(failed[0].at("outcome"), "failed");
  EXPECT_NE(failed[0].at("error").as_string().find("subnet"), json::string::npos);
  EXPECT_EQ(run("vm", "delete", {{"name", {"acme/web"}}}), 0) << err;
  EXPECT_EQ(json::parse(out), (json::object{{"name", "acme/web"}, {"outcome", "accepted"}}));
}

TEST_F(CommandLine, F_B11_what_list_prints_as_yaml_can_be_applied_again) {
  ASSERT_EQ(apply(kManifest), 0);
  session.format = cli::Format::yaml;
  ASSERT_EQ(run("network", "get", {{"name", {"acme/front"}}}), 0);
  const std::string text = "kind: network\n" + out;
  session.format = cli::Format::table;
  EXPECT_EQ(apply(text), 0) << err;
  EXPECT_EQ(out, "network acme/front unchanged\n");
}

TEST_F(CommandLine, F_B11_tables_json_and_yaml_of_a_list) {
  ASSERT_EQ(apply(kManifest), 0);
  ASSERT_EQ(run("vm", "list", {}), 0);
  EXPECT_EQ(out,
            "NAME      WANTED   POWER    HEALTH   HOST  CPUS  MEMORY_MIB  OPERATION\n"
            "acme/web  running  stopped  unknown  -     1     256         -\n");
  session.format = cli::Format::wide;
  ASSERT_EQ(run("vm", "list", {{"tenant", {"zeta"}}}), 0);
  EXPECT_EQ(out,
            "NAME  WANTED  POWER  HEALTH  HOST  CPUS  MEMORY_MIB  OPERATION  EPOCH  IMAGE  CLUSTER "
            " REASON\n");
  session.format = cli::Format::json;
  ASSERT_EQ(run("vm", "list", {}), 0);
  EXPECT_EQ(parse_json(out).value().get_array().size(), 1U);
}

TEST_F(CommandLine, F_B11_wait_follows_a_vm_and_says_why_it_does_not_come) {
  make_house();
  session.wait = true;
  each_pause = [this] {
    Vm vm = *view.vms.find(VmId("acme/web"));
    if (vm.status.power == VmPower::running) return;
    vm.status.power = vm.status.power == VmPower::stopped ? VmPower::starting : VmPower::running;
    vm.status.host = HostId("host-1");
    put(vm, keys::of(vm.id()));
  };
  EXPECT_EQ(
      run("vm", "create", {{"name", {"acme/web"}}, {"image", {"tiny"}}, {"network", {"front"}}}), 0)
      << err;
  EXPECT_NE(out.find("running  running"), std::string::npos) << out;
  each_pause = [this] {
    Vm vm = *view.vms.find(VmId("acme/big"));
    vm.status.unplaced_reason = "host-1: 64 MiB are missing";
    put(vm, keys::of(vm.id()));
  };
  EXPECT_EQ(run("vm", "create", {{"name", {"acme/big"}}, {"image", {"tiny"}}}), 5);
  EXPECT_NE(err.find("host-1: 64 MiB are missing"), std::string::npos) << err;
}

TEST_F(CommandLine,
       F_B8_F_B11_wait_for_maintenance_ends_when_no_vm_is_left_and_names_those_that_are) {
  ASSERT_EQ(apply(kManifest), 0) << err;
  Host host;
  host.meta.name = "host-1";
  host.spec.cluster = ClusterId("lab");
  put(host, keys::of(host.id()));
  const auto place = [this](VmPower power, const std::string& reason) {
    Vm vm = *view.vms.find(VmId("acme/web"));
    vm.status = {};
    vm.status.host = HostId("host-1");
    vm.status.power = power;
    vm.status.unplaced_reason = reason;
    put(vm, keys::of(vm.id()));
  };
  place(VmPower::running, "host-2: 64 MiB are missing");
  session.wait = true;
  EXPECT_EQ(run("host", "maintenance", {{"name", {"host-1"}}}), 5);
  EXPECT_NE(err.find("acme/web (host-2: 64 MiB are missing)"), std::string::npos) << err;
  Vm coming = *view.vms.find(VmId("acme/web"));
  coming.status = {};
  coming.status.host = HostId("host-2");
  coming.status.power = VmPower::running;
  coming.status.migration = {MigrationPhase::prepared, HostId("host-1"), {1, 9}};
  put(coming, keys::of(coming.id()));
  EXPECT_EQ(run("host", "maintenance", {{"name", {"host-1"}}}), 5) << "it is on its way there";
  each_pause = [&] { place(VmPower::stopped, ""); };
  EXPECT_EQ(run("host", "maintenance", {{"name", {"host-1"}}}), 0) << err;
  EXPECT_NE(err.find("host-1: 1 VMs left"), std::string::npos) << err;
}

TEST_F(CommandLine, A3_14_R_B4_wait_for_maintenance_waits_for_local_volumes_that_follow_their_vm) {
  ASSERT_EQ(apply(kManifest), 0) << err;
  for (const std::string number : {"1", "2"}) {
    Host host;
    host.meta.name = "host-" + number;
    host.spec.cluster = ClusterId("lab");
    put(host, keys::of(host.id()));
    Device device;
    device.meta.name = "near-" + number;
    device.spec.host = host.id();
    device.spec.directory = "/srv/near";
    put(device, keys::of(device.id()));
  }
  Volume data;
  data.meta.tenant = "acme";
  data.meta.name = "near";
  data.spec.cluster = ClusterId("lab");
  data.spec.local = true;
  const auto lies_on = [&](std::vector<VolumeLeg> legs) {
    data.status.legs = std::move(legs);
    put(data, keys::of(data.id()));
  };
  lies_on({{DeviceId("near-1"), LegState::in_sync}, {DeviceId("near-2"), LegState::behind}});
  Vm vm = *view.vms.find(VmId("acme/web"));
  vm.spec.disks.push_back({"near", Mib(), "near"});
  vm.status.host = HostId("host-2");
  vm.status.power = VmPower::running;
  put(vm, keys::of(vm.id()));
  session.wait = true;
  EXPECT_EQ(run("host", "maintenance", {{"name", {"host-1"}}}), 5);
  EXPECT_NE(err.find("volume acme/near"), std::string::npos) << err;
  each_pause = [&] { lies_on({{DeviceId("near-2"), LegState::in_sync}}); };
  EXPECT_EQ(run("host", "maintenance", {{"name", {"host-1"}}}), 0) << err;
  EXPECT_NE(err.find("host-1: 1 volumes of VMs that are elsewhere left"), std::string::npos) << err;
}

TEST_F(CommandLine, F_B9_F_B11_wait_for_a_cancelled_operation_says_how_it_ended) {
  Operation move;
  move.meta.name = "op-1";
  move.kind = OperationKind::migrate_vm;
  put(move, keys::of(move.id()));
  OperationState end = OperationState::cancelled;
  each_pause = [&] {
    Operation changed = *view.operations.find(OperationId("op-1"));
    changed.state = end;
    put(changed, keys::of(changed.id()));
  };
  session.wait = true;
  EXPECT_EQ(run("operation", "cancel", {{"name", {"op-1"}}}), 0) << err;
  put(move, keys::of(move.id()));
  end = OperationState::succeeded;
  EXPECT_EQ(run("operation", "cancel", {{"name", {"op-1"}}}), 4);
  EXPECT_NE(err.find("was not undone: it succeeded"), std::string::npos) << err;
}

TEST_F(CommandLine, F_B4_F_B11_the_size_of_a_vm_is_set) {
  ASSERT_EQ(apply(kManifest), 0) << err;
  EXPECT_EQ(run("vm", "set",
                {{"name", {"acme/web"}},
                 {"millicores", {"500"}},
                 {"weight", {"50"}},
                 {"processes-max", {"512"}}}),
            0)
      << err;
  const VmSpec& spec = view.vms.find(VmId("acme/web"))->spec;
  EXPECT_EQ(spec.cpu_millicores.value, 500);
  EXPECT_EQ(spec.cpu_weight, 50);
  EXPECT_EQ(spec.processes_max, 512);
  EXPECT_EQ(run("vm", "set", {{"name", {"acme/web"}}}), 2);
  EXPECT_NE(err.find("nothing is to be changed"), std::string::npos) << err;
  EXPECT_EQ(run("vm", "set", {{"name", {"acme/none"}}, {"millicores", {"500"}}}), 3);
}

TEST_F(CommandLine, R_B7_F_B11_a_service_scales_by_itself) {
  ASSERT_EQ(apply(kManifest), 0) << err;
  ASSERT_EQ(run("service", "create",
                {{"name", {"acme/shop"}}, {"image", {"tiny"}}, {"network", {"front"}}}),
            0)
      << err;
  EXPECT_EQ(run("service", "autoscale", {{"name", {"acme/shop"}}, {"action", {"scale"}}}), 2);
  EXPECT_NE(err.find("nothing is watched"), std::string::npos) << err;
  ASSERT_EQ(run("service", "autoscale",
                {{"name", {"acme/shop"}},
                 {"action", {"scale"}},
                 {"replicas-max", {"5"}},
                 {"queue-max", {"7"}},
                 {"copy-connections-max", {"100"}}}),
            0)
      << err;
  const ServiceSpec& spec = view.services.find(ServiceId("acme/shop"))->spec;
  EXPECT_EQ(spec.scaling.queue_max, 7);
  EXPECT_EQ(spec.frontend.copy_connections_max, 100);
}

TEST_F(CommandLine, R_B9_a_promise_is_given_in_percent) {
  ASSERT_EQ(apply(kManifest), 0) << err;
  ASSERT_EQ(run("service", "create",
                {{"name", {"acme/shop"}}, {"image", {"tiny"}}, {"network", {"front"}}}),
            0)
      << err;
  const auto promise = [&](const std::string& percent) {
    return run("service", "objective",
               {{"name", {"acme/shop"}}, {"availability", {percent}}, {"blackout-ms", {"300"}}});
  };
  for (const std::string wrong : {"", ".", "99,9", "100.0001", "101", "99.99999", "-1", "1e2"}) {
    EXPECT_EQ(promise(wrong), 2) << wrong;
    EXPECT_NE(err.find("right would be 99.9"), std::string::npos) << wrong << ": " << err;
  }
  const std::map<std::string, int> right{
      {"99.95", 999'500}, {"100", 1'000'000}, {"0", 0}, {"99.9995", 999'995}};
  for (const auto& [percent, ppm] : right) {
    ASSERT_EQ(promise(percent), 0) << err;
    const ServiceObjective& now = view.services.find(ServiceId("acme/shop"))->spec.objective;
    EXPECT_EQ(now.availability_ppm, ppm) << percent;
    EXPECT_EQ(now.blackout_ms, milliseconds(300));
  }
}

TEST_F(CommandLine, R_B11_a_vm_of_another_system_is_looked_at_before_anything_is_copied) {
  ASSERT_EQ(apply(kManifest), 0) << err;
  const std::string folder = ::testing::TempDir() + "virga-foreign-" + std::to_string(::getpid());
  const std::string disk = folder + ".raw";
  const std::string description = folder + ".xml";
  std::ofstream(disk) << std::string(1 << 20, '\0');
  std::ofstream(description) << "<domain type='kvm'><name>old</name><memory>262144</memory><vcpu>2"
                                "</vcpu><os><type arch='x86_64'>hvm</type></os><devices><disk "
                                "type='file' device='disk'><source file='"
                             << disk
                             << "'/><target dev='vda' bus='sata'/></disk><interface "
                                "type='bridge'><source bridge='br0'/></interface><tpm/></devices>"
                                "</domain>";
  const auto import = [&](const std::string& name, const std::string& network) {
    return run("vm", "import",
               {{"name", {name}},
                {"domain", {description}},
                {"network", {network}},
                {"images-folder", {folder}}});
  };
  session.dry_run = true;
  session.format = cli::Format::json;
  EXPECT_EQ(import("acme/old", "br0=front"), 0) << err;
  EXPECT_NE(out.find(R"("memory_mib": 256)"), std::string::npos) << out;
  EXPECT_NE(err.find("LOST    tpm"), std::string::npos) << err;
  EXPECT_NE(err.find("differs disk vda: bus sata"), std::string::npos) << err;
  session.dry_run = false;
  EXPECT_EQ(import("acme/old", "br0=front"), 4) << "a loss is accepted or refused";
  EXPECT_NE(err.find("--accept-losses"), std::string::npos) << err;
  EXPECT_EQ(import("acme/old", "br1=front"), 2);
  EXPECT_NE(err.find("right would be br0=NAME"), std::string::npos) << err;
  EXPECT_EQ(import("acme/old", "br0=none"), 3);
  EXPECT_EQ(import("acme/web", "br0=front"), 4);
  EXPECT_NE(err.find("vm acme/web: is there already"), std::string::npos) << err;
  EXPECT_EQ(import("acme/tiny", "br0=front"), 4);
  EXPECT_NE(err.find("--as gives"), std::string::npos) << err;
  std::remove(disk.c_str());
  EXPECT_EQ(import("acme/old", "br0=front"), 3);
  EXPECT_NE(err.find("--disk names a copy"), std::string::npos) << err;
  std::remove(description.c_str());
}

TEST_F(CommandLine, F_B11_exit_codes_and_advice_are_stable) {
  EXPECT_EQ(run("vm", "get", {{"name", {"acme/web"}}}), 3);
  EXPECT_NE(err.find("there is no vm \"acme/web\""), std::string::npos) << err;
  EXPECT_EQ(run("vm", "create", {{"name", {"web"}}, {"image", {"tiny"}}}), 2);
  EXPECT_NE(err.find("TENANT/web"), std::string::npos) << err;
  make_house();
  EXPECT_EQ(run("vm", "create", {{"name", {"acme/web"}}, {"image", {"tiny"}}, {"cpus", {"many"}}}),
            2);
  EXPECT_EQ(
      run("vm", "create", {{"name", {"acme/web"}}, {"image", {"tiny"}}, {"network", {"front"}}}), 0)
      << err;
  EXPECT_EQ(run("vm", "create", {{"name", {"acme/web"}}, {"image", {"tiny"}}}), 4);
  EXPECT_EQ(run("network", "delete", {{"name", {"acme/front"}}}), 4);
  EXPECT_NE(err.find("\n  port acme/web-0: of vm acme/web"), std::string::npos) << err;
  EXPECT_EQ(run("vm", "get", {{"name", {"../../hosts/x"}}}), 3)
      << "a name cannot climb to another route";
  down = true;
  EXPECT_EQ(run("vm", "list", {}), 5);
  EXPECT_NE(err.find("next: "), std::string::npos);
}

TEST_F(CommandLine, F_B11_a_dry_run_of_a_manifest_changes_nothing) {
  session.dry_run = true;
  EXPECT_EQ(apply("kind: cluster\nmeta: {name: lab}\nspec: {shared_directory: /srv}\n"), 0) << err;
  EXPECT_EQ(out, "cluster lab would change\n");
  EXPECT_EQ(view.clusters.size(), 0U);
}

TEST_F(CommandLine, F_B11_watch_goes_on_with_rows_of_changes) {
  make_house();
  session.watch = true;
  during_stream = [this] {
    EXPECT_EQ(ApiTest::call("POST", "/v1/vms", vm_body("web")).status, 202);
  };
  EXPECT_EQ(run("vm", "list", {}), 0) << err;
  EXPECT_NE(out.find("acme/web  running  stopped"), std::string::npos) << out;
}

TEST_F(CommandLine, F_B7_peers_are_shown_from_the_agents_file_when_the_server_is_down) {
  down = true;
  const std::string path =
      ::testing::TempDir() + "virga-status-" + std::to_string(::getpid()) + ".json";
  std::ofstream(path) << R"({"peers":[{"host":"host-2","health":"silent","silent_ms":4200}]})";
  EXPECT_EQ(run("host", "peers", {{"name", {"host-1"}}}), 5);
  EXPECT_NE(err.find("--agent-status"), std::string::npos) << err;
  EXPECT_EQ(run("host", "peers", {{"name", {"host-1"}}, {"agent-status", {path}}}), 0) << err;
  EXPECT_NE(out.find("host-2  silent  4200"), std::string::npos) << out;
  down = false;
  EXPECT_NE(run("host", "peers", {{"name", {"nobody"}}, {"agent-status", {path}}}), 0)
      << "a server that answers is believed";
  std::remove(path.c_str());
}

TEST(Yaml, F_B11_the_core_schema_of_yaml_1_2_is_read) {
  const auto read = cli::parse_yaml(
      "a: no\nb: \"1\"\nc: 12\nd: 0x1f\ne: 1.5\nf: ~\ng: true\nh: 'true'\ni: 1.2.3\nj: -7\nk: [1, "
      "{l: 2}]\nm: |\n  x\n  y\n");
  ASSERT_TRUE(read.ok()) << read.error().text();
  EXPECT_EQ(
      json::serialize(read->front()),
      R"({"a":"no","b":"1","c":12,"d":31,"e":1.5E0,"f":null,"g":true,"h":"true","i":"1.2.3","j":-7,)"
      R"("k":[1,{"l":2}],"m":"x\ny\n"})");
}

TEST(Yaml, F_F23_huge_and_deeply_nested_yaml_is_refused_with_its_place) {
  std::string bomb = "a: &a [x, x]\n";
  for (char c = 'b'; c < 'k'; ++c) {
    bomb += std::string(1, c) + ": &" + c + " [*" + static_cast<char>(c - 1) + ", *" +
            static_cast<char>(c - 1) + "]\n";
  }
  for (const std::string& text :
       {bomb, std::string("a: &x 1\n"), std::string(5000, '['),
        std::string("a: {") + std::string(300, '{'), std::string("a: 1\na: 2\n"),
        std::string("a: !!binary x\n"), std::string("a: [1\nb: 2"), std::string("\tx: 1"),
        std::string("? [1]\n: 2\n"), "a: " + std::string(5 << 20, 'x')}) {
    const auto read = cli::parse_yaml(text);
    EXPECT_FALSE(read.ok()) << text.substr(0, 60);
    if (!read.ok()) {
      EXPECT_EQ(read.error().code, Errc::invalid);
    }
  }
  std::string documents;
  for (int i = 0; i < 1100; ++i) documents += "---\na: 1\n";
  EXPECT_FALSE(cli::parse_yaml(documents).ok());
}

TEST(Yaml, F_F21_F_F22_F_F24_manifests_with_odd_content_are_refused_by_document) {
  const std::vector<std::pair<std::string, std::string>> table = {
      {"kind: unicorn\nmeta: {name: a}\n", "kind"},
      {"kind: vm\nmeta: {name: a}\n", "meta.tenant"},
      {"kind: cluster\nmeta: {name: ../a}\n", "meta.name"},
      {"kind: cluster\nspec: {}\n", "meta"},
      {"kind: cluster\nmeta: {name: a}\nspeck: {}\n", "speck"},
      {"just text\n", "is not a resource"},
      {"kind: cluster\nmeta: {name: ok}\n---\n- kind: cluster\n  meta: {name: Ä}\n",
       "document 2, entry 1"}};
  for (const auto& [text, named] : table) {
    const auto read = cli::read_manifest(text);
    ASSERT_FALSE(read.ok()) << text;
    EXPECT_NE(read.error().text().find(named), std::string::npos) << read.error().text();
    EXPECT_NE(read.error().text().find("document "), std::string::npos) << read.error().text();
  }
}

TEST(Output, F_B11_yaml_that_is_written_reads_back_as_the_same_value) {
  const auto value = parse_json(
      R"({"a":"no","b":"1","c":[1,[2,3],{"d":"x y","e":[]}],"f":{},"g":"","h":null,"i":"a: b #c","j":-1.5,
          "k":{"l":{"m":true}},"true":"yes","n":"line\nbreak","o":[{"p":1,"q":[{"r":"s"}]}]})");
  const auto again = cli::parse_yaml(cli::yaml_text(*value));
  ASSERT_TRUE(again.ok()) << again.error().text() << "\n" << cli::yaml_text(*value);
  EXPECT_EQ(again->front(), *value) << cli::yaml_text(*value);
  EXPECT_EQ(*parse_json(cli::pretty_json(*value)), *value);
}

TEST(Output, F_F24_text_of_others_cannot_steer_the_terminal) {
  const json::value row = json::object{{"meta", json::object{{"name", "a\x1b[2Jb\n"}}}};
  EXPECT_EQ(cli::table_text({{"NAME", "meta.name"}}, {row}, false), "NAME\na?[2Jb?\n");
}

TEST(Completion, F_B11_every_command_and_option_is_offered) {
  const std::string script = cli::bash_completion();
  for (const cli::Command& command : cli::commands()) {
    EXPECT_NE(script.find(command.verb), std::string::npos) << command.verb;
    EXPECT_TRUE(command.noun.empty() || cli::nouns().contains(command.noun)) << command.noun;
    for (const cli::Argument& argument : command.arguments) {
      if (argument.positional) continue;
      EXPECT_NE(script.find("--" + argument.name), std::string::npos) << argument.name;
    }
  }
  for (const auto& [noun, help] : cli::nouns()) EXPECT_NE(script.find(noun), std::string::npos);
}

TEST(Completion, F_B11_bash_offers_what_may_come_next) {
  const test::TempFolder folder;
  const std::string script = folder.file("virga");
  std::ofstream(script) << cli::bash_completion();
  const auto offers = [&](const std::vector<std::string>& words) {
    std::string text = "source " + script + "; COMP_WORDS=(";
    for (const std::string& word : words) text += " '" + word + "'";
    text += "); COMP_CWORD=" + std::to_string(words.size() - 1) +
            "; $(complete -p virga | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo \" ${COMPREPLY[*]} \"";
    ProcessOptions bash;
    bash.arguments = {"/bin/bash", "-c", text};
    bash.environment = {{"PATH", "/usr/bin:/bin"}};
    const auto ended = run_process(bash, seconds(30));
    EXPECT_TRUE(ended.ok());
    if (!ended.ok()) return std::string();
    EXPECT_EQ(ended->exit.code, 0) << ended->err;
    return ended->out;
  };
  EXPECT_NE(offers({"virga", "vo"}).find(" volume "), std::string::npos) << offers({"virga", "vo"});
  EXPECT_NE(offers({"virga", "vm", "mi"}).find(" migrate "), std::string::npos);
  EXPECT_EQ(offers({"virga", "vm", "mi"}).find(" volume "), std::string::npos);
  EXPECT_NE(offers({"virga", "vm", "migrate", "acme/web", "--ho"}).find(" --host "),
            std::string::npos);
}

TEST(Completion, F_B11_the_reference_of_the_command_line_is_what_the_program_does) {
  const std::string path = VIRGA_SOURCE_DIR "/docs/reference/virga.md";
  const std::string made = cli::reference();
  if (std::getenv("VIRGA_ACCEPT") != nullptr) std::ofstream(path) << made;
  std::stringstream kept;
  kept << std::ifstream(path).rdbuf();
  EXPECT_EQ(kept.str(), made) << "run with VIRGA_ACCEPT=1 and commit the file";
}

TEST(Context, F_B11_the_server_is_taken_from_option_environment_file_or_default) {
  const auto none = [](const std::string&) { return std::string(); };
  EXPECT_EQ(cli::choose_server("http://a:1", none), "http://a:1");
  EXPECT_EQ(cli::choose_server("", none), "http://127.0.0.1:7480");
  EXPECT_EQ(cli::choose_server("",
                               [](const std::string& name) {
                                 return name == "VIRGA_SERVER" ? std::string("http://b:2")
                                                               : std::string();
                               }),
            "http://b:2");
}

TEST_F(CommandLine, R_B3_F_B11_security_groups_are_made_given_to_a_vm_changed_and_taken) {
  ASSERT_EQ(apply(kManifest), 0) << err;
  const auto allow = [](std::vector<std::string> rules) {
    return std::map<std::string, std::vector<std::string>>{{"name", {"acme/web"}},
                                                           {"allow", std::move(rules)}};
  };
  const auto first_rules = allow({"ingress,tcp,80-443,10.50.0.0/24", "egress"});
  ASSERT_EQ(run("security-group", "create", first_rules), 0) << err;
  const auto rules = [this] {
    return view.security_groups.find(SecurityGroupId("acme/web"))->spec.rules;
  };
  const SecurityRule first{RuleDirection::ingress, RuleProtocol::tcp, 80, 443, "10.50.0.0/24", ""};
  const SecurityRule second{RuleDirection::egress, RuleProtocol::any, 0, 0, "", ""};
  EXPECT_EQ(rules(), (std::vector<SecurityRule>{first, second}));
  ASSERT_EQ(run("security-group", "set", allow({"ingress,icmp,,web"})), 0) << err;
  const SecurityRule third{RuleDirection::ingress, RuleProtocol::icmp, 0, 0, "", "web"};
  EXPECT_EQ(rules(), (std::vector<SecurityRule>{third}));
  for (const char* bad : {"ingress,tcp,eighty", "ingress,tcp,1-2-3", "a,b,c,d,e", ""}) {
    EXPECT_EQ(run("security-group", "set", allow({bad})), 2) << bad;
  }
  EXPECT_EQ(run("vm", "groups", {{"name", {"acme/web"}}, {"security-group", {"web"}}}), 0) << err;
  EXPECT_EQ(view.ports.find(PortId("acme/web-0"))->spec.security_groups.size(), 1U);
  EXPECT_EQ(run("security-group", "delete", {{"name", {"acme/web"}}}), 4);
  EXPECT_EQ(run("vm", "groups", {{"name", {"acme/web"}}}), 0) << err;
  EXPECT_EQ(run("security-group", "delete", {{"name", {"acme/web"}}}), 0) << err;
}

TEST_F(CommandLine, R_B3_F_B11_floating_addresses_are_had_led_released_and_deleted) {
  ASSERT_EQ(apply(kManifest), 0) << err;
  const auto named = [](std::map<std::string, std::vector<std::string>> more) {
    more["name"] = {"acme/ip"};
    return more;
  };
  EXPECT_EQ(run("floating-address", "create", named({})), 4);
  EXPECT_NE(err.find("floating-ranges lab --range"), std::string::npos) << err;
  ASSERT_EQ(run("cluster", "floating-ranges", {{"name", {"lab"}}, {"range", {"203.0.113.16/28"}}}),
            0)
      << err;
  ASSERT_EQ(run("floating-address", "create", named({})), 0) << err;
  const auto spec = [this] {
    return view.floating_addresses.find(FloatingAddressId("acme/ip"))->spec;
  };
  EXPECT_EQ(spec().address, "203.0.113.16");
  EXPECT_EQ(run("floating-address", "lead", named({{"vm", {"web"}}})), 4) << "no way out";
  ASSERT_EQ(apply("kind: network\nmeta: {tenant: acme, name: front}\n"
                  "spec: {subnet: 10.50.0.0/24, gateway: nat}\n"),
            0)
      << err;
  ASSERT_EQ(run("floating-address", "lead", named({{"vm", {"web"}}})), 0) << err;
  EXPECT_EQ(spec().vm + " " + spec().network, "web front");
  EXPECT_EQ(run("floating-address", "list", {}), 0) << err;
  EXPECT_NE(out.find("203.0.113.16"), std::string::npos) << out;
  ASSERT_EQ(run("floating-address", "release", named({})), 0) << err;
  EXPECT_EQ(spec().vm, "");
  EXPECT_EQ(run("floating-address", "delete", named({})), 0) << err;
}

}  // namespace
}  // namespace virga::test
