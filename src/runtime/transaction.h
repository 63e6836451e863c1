#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "model/event.h"
#include "model/keys.h"
#include "store/store.h"

namespace virga {

/// The guards and writes of one commit. Every resource written is guarded by the revision it was read at, so that a
/// commit whose outcome is unknown can be tried again without harm.
class Transaction {
 public:
  /// Writes a resource that was read at resource.meta.revision (0 = it must not exist yet).
  template <typename T>
  void put(const T& resource) {
    T stored = resource;
    stored.meta.revision = 0;
    write(keys::of(resource.id()), resource.meta.revision, to_json_text(stored));
  }

  template <typename T>
  void erase(const T& resource) {
    write(keys::of(resource.id()), resource.meta.revision, std::nullopt);
  }

  void write(std::string key, Revision read_at, std::optional<std::string> value) {
    guard(key, read_at);
    writes_.push_back({std::move(key), std::move(value), 0});
  }

  /// Removes a key that lives and goes with a resource of this commit: that one's guard protects it too.
  void erase_with(std::string key) { writes_.push_back({std::move(key), std::nullopt, 0}); }

  /// Holds the commit to what was read of a key that is not written.
  void guard(std::string key, Revision read_at) { guards_.push_back({std::move(key), read_at}); }

  /// Puts an event into the outbox, so that it is journaled if and only if the commit happens.
  void event(std::string outbox_key, const Event& event) {
    writes_.push_back({std::move(outbox_key), to_json_text(event), 0});
  }

  bool empty() const { return writes_.empty(); }
  std::size_t size() const { return guards_.size() + writes_.size(); }
  std::vector<Guard> guards() const { return guards_; }
  std::vector<Write> writes() const { return writes_; }

 private:
  std::vector<Guard> guards_;
  std::vector<Write> writes_;
};

/// Makes names that no other operation or outbox entry of this store has: the view's revision, which every commit
/// raises, and a count within this run.
class NameSource {
 public:
  OperationId operation(Revision revision);
  std::string outbox_key(Revision revision);

 private:
  std::uint64_t count_ = 0;
};

}  // namespace virga
