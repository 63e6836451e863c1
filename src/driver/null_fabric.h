#pragma once

#include <utility>
#include <vector>

#include "base/loop.h"
#include "driver/fabric.h"

namespace virga {

/// A host without networks, for tests of what needs a Fabric.
class NullFabric final : public Fabric {
 public:
  explicit NullFabric(Loop& loop) : loop_(loop) {}
  void apply(const FabricState&, Callback<void> done) override {
    answer<void>(loop_, std::move(done), {});
  }
  void place(const FabricPlaces&, Callback<void> done) override {
    answer<void>(loop_, std::move(done), {});
  }
  void guard(const FabricGroups& groups, Callback<void> done) override {
    guarded.push_back(groups);
    answer<void>(loop_, std::move(done), {});
  }
  std::uint64_t version() const override { return 0; }
  void open_port(const LaunchNic&, Callback<OpenPort> done) override {
    answer<OpenPort>(loop_, std::move(done), OpenPort{});
  }
  void close_port(const LaunchNic&, Callback<void> done) override {
    answer<void>(loop_, std::move(done), {});
  }

  std::vector<FabricGroups> guarded;  ///< all calls

 private:
  Loop& loop_;
};

}  // namespace virga
