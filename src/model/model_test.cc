#include <gtest/gtest.h>

#include "agent/protocol.h"
#include "base/reflect.h"
#include "driver/bmc.h"
#include "model/image.h"
#include "model/operation.h"
#include "store/store.h"

namespace virga {
namespace {

TEST(Reflect, a_vm_comes_back_from_its_text_unchanged) {
  Vm vm;
  vm.meta.name = "web";
  vm.meta.tenant = "acme";
  vm.meta.created_at = WallTime{1'790'000'000'123};
  vm.spec.memory_mib = Mib{256};
  vm.spec.nics.push_back({"front"});
  vm.spec.downtime_ms_max = milliseconds(250);
  vm.status.epoch = Epoch{1, 42};
  const std::string text = to_json_text(vm);
  const auto again = from_json_text<Vm>(text);
  ASSERT_TRUE(again.ok()) << again.error().text();
  EXPECT_EQ(to_json_text(*again), text);
  EXPECT_EQ(again->meta.created_at, vm.meta.created_at);
  EXPECT_EQ(again->status.epoch, vm.status.epoch);
}

TEST(Reflect, F_B4_what_was_stored_before_a_field_was_there_gets_its_default) {
  EXPECT_EQ(from_json_text<VmSpec>(R"({"cpus":2})")->processes_max, 256);
  EXPECT_EQ(from_json_text<VmLaunch>(R"({"cpus":2})")->processes_max, 256);
  EXPECT_EQ(from_json_text<ObservedVm>(R"({"vm":"a/b"})")->processes_max, 0) << "not told";
}

TEST(Reflect, errors_name_the_path_the_value_and_what_would_be_right) {
  const auto wrong_type = from_json_text<Vm>(R"({"spec":{"disks":[{"size_mib":"big"}]}})");
  ASSERT_FALSE(wrong_type.ok());
  EXPECT_EQ(wrong_type.error().what,
            "spec.disks[0].size_mib: expected a whole number, got \"big\"");
  const auto unknown = from_json_text<VmNic>(R"({"netwrok":"front"})");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().what, "netwrok: no such field; known: network, security_groups");
  const auto name = from_json_text<VmSpec>(R"({"power":"on"})");
  ASSERT_FALSE(name.ok());
  EXPECT_EQ(name.error().what, "power: \"on\" is not one of running, stopped");
  EXPECT_FALSE(from_json_text<VmSpec>(R"({"cpus":99999999999})").ok());
}

TEST(Reflect, a_newer_peers_fields_are_ignored_only_where_asked) {
  const auto message = from_json_text<AgentMessage>(
      R"({"report":{"sequence":7,"colour":"red","vms":[{"vm":"a/b","power":"dreaming"}]}})",
      UnknownFields::ignore);
  ASSERT_TRUE(message.ok()) << message.error().text();
  EXPECT_EQ(message->report->sequence, 7U);
  EXPECT_EQ(message->report->vms.at(0).power, VmPower::stopped);
  EXPECT_FALSE(from_json_text<AgentMessage>(R"({"colour":1})").ok());
}

TEST(Reflect, nesting_and_size_are_bounded) {
  EXPECT_FALSE(parse_json(std::string(100, '[')).ok());
  EXPECT_FALSE(parse_json("\"" + std::string(2 << 20, 'x') + "\"").ok());
  EXPECT_FALSE(parse_json("{} {}").ok());
  EXPECT_FALSE(parse_json("").ok());
}

TEST(Name, odd_names_are_refused) {
  EXPECT_TRUE(check_name("name", "web-1").ok());
  for (const char* odd : {"", "-a", "a-", "A", "a/b", "..", "a b", "ä", "a\n"}) {
    EXPECT_FALSE(check_name("name", odd).ok()) << odd;
  }
  EXPECT_FALSE(check_name("name", std::string(64, 'a')).ok());
}

}  // namespace
}  // namespace virga
