#include "driver/hypervisor_contract_tests.h"

#include <array>
#include <map>

#include "sim/sim_hypervisor.h"

/// The simulated hypervisor keeps the promises of the one for QEMU: the same suite in virtual time.
namespace virga {
namespace {

using sim::Copy;
using sim::HostTruth;
using sim::WorldChange;

class NoLeash : public ProcessGuard {
 public:
  Result<void> guard(const std::string&, int) override { return {}; }
  void release(const std::string&) override {}
  void extend(Instant, Duration) override {}
  bool armed() const override { return true; }
};

class SimLab : public HypervisorLab {
 public:
  SimLab() {
    for (int index = 0; index < 2; ++index) {
      HostTruth& truth =
          world_.add_host(HostId("host-" + std::to_string(index + 1)), {{8000}, {8192}});
      agents_[static_cast<std::size_t>(index)] = std::make_unique<Agent>(*this, truth);
    }
  }

  Hypervisor& host(int index) override { return agent(index).hypervisor; }
  NullFabric& fabric(int index) override { return agent(index).fabric; }

  VmLaunch launch(const std::string& name, std::uint64_t epoch) override {
    VmLaunch made;
    made.vm = VmId("acme/" + name);
    made.epoch = {1, epoch};
    made.memory_mib = {128};
    return made;
  }

  void restart_agent(int index) override {
    auto& place = agents_[static_cast<std::size_t>(index)];
    HostTruth& truth = place->truth;
    place.reset();
    place = std::make_unique<Agent>(*this, truth);
  }

  void kill_vm(int index, const VmId& vm) override {
    world_.end_copy(agent(index).truth, vm, "process killed");
  }
  void hang_vm(int index, const VmId& vm) override { agent(index).truth.copies.at(vm).deaf = true; }

  std::optional<ObservedVm> told(int index, const VmId& vm) override {
    const auto found = agent(index).told.find(vm);
    if (found == agent(index).told.end()) return std::nullopt;
    return found->second;
  }

  std::vector<std::string> leftovers(int index, const VmId& vm) override {
    if (agent(index).truth.copies.count(vm) == 0) return {};
    return {"a process of " + vm.value};
  }

  bool run_until(const std::function<bool()>& condition, Duration deadline) override {
    return loop_.run_until_true(condition, deadline);
  }

 private:
  struct Agent : HypervisorSink {
    Agent(SimLab& lab, HostTruth& host)
        : truth(host),
          process(lab.loop_),
          hypervisor({lab.world_, lab.migrations_, host, process, guard, fabric}) {
      truth.listener = [this](WorldChange change, const Copy& copy) {
        hypervisor.copy_changed(copy, change == WorldChange::ended);
      };
      bool opened = false;
      hypervisor.open(*this, [&](const Result<HypervisorInfo>& info) { opened = info.ok(); });
      EXPECT_TRUE(lab.run_until([&] { return opened; }, seconds(1)));
    }
    ~Agent() override {
      process.end();
      truth.listener = nullptr;
    }
    void vm_changed(const ObservedVm& now, const std::string&) override { told[now.vm] = now; }

    HostTruth& truth;
    SimProcess process;
    NoLeash guard;
    NullFabric fabric{process};
    sim::SimHypervisor hypervisor;
    std::map<VmId, ObservedVm> told;
  };

  Agent& agent(int index) { return *agents_[static_cast<std::size_t>(index)]; }

  SimLoop loop_;
  sim::World world_{loop_, sim::WorldOptions{}};
  sim::Migrations migrations_{world_};
  std::array<std::unique_ptr<Agent>, 2> agents_;
};

std::unique_ptr<HypervisorLab> make_sim_lab() { return std::make_unique<SimLab>(); }

INSTANTIATE_TEST_SUITE_P(Simulated, HypervisorContract, testing::Values(&make_sim_lab));

}  // namespace
}  // namespace virga
