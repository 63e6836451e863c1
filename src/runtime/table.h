#pragma once

#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

namespace virga {

/// Resources of one kind, in order of id, shared copy-on-write: taking a copy is O(1); changing one that somebody
/// else holds copies the pointers once, never the resources.
///
/// Each of `Groups` is a way to find resources by something else than their id: it names the `Key` and says, by
/// `each(resource, tell)`, under which keys a resource is found.
template <typename T, typename... Groups>
class Table {
 public:
  using IdType = decltype(std::declval<const T&>().id());
  using Map = std::map<IdType, std::shared_ptr<const T>>;

  const T* find(const IdType& id) const {
    const auto found = map_->find(id);
    return found == map_->end() ? nullptr : found->second.get();
  }
  std::shared_ptr<const T> share(const IdType& id) const {
    const auto found = map_->find(id);
    return found == map_->end() ? nullptr : found->second;
  }
  const Map& all() const { return *map_; }
  std::size_t size() const { return map_->size(); }

  /// The resources of a group, in order of id. O(their number).
  template <typename Group>
  std::vector<const T*> in(const typename Group::Key& key) const {
    std::vector<const T*> found;
    const auto& index = *std::get<Index<Group>>(indices_).map;
    const auto entry = index.find(key);
    if (entry == index.end()) return found;
    found.reserve(entry->second->size());
    for (const auto& [id, resource] : *entry->second) found.push_back(resource.get());
    return found;
  }

  /// The one with the lowest id; nullptr = none.
  template <typename Group>
  const T* first(const typename Group::Key& key) const {
    const auto& index = *std::get<Index<Group>>(indices_).map;
    const auto entry = index.find(key);
    return entry == index.end() ? nullptr : entry->second->begin()->second.get();
  }

  /// A table of one group alone, however many others there are. O(their number).
  template <typename Group>
  Table only(const typename Group::Key& key) const {
    Table alone;
    const auto& index = *std::get<Index<Group>>(indices_).map;
    const auto entry = index.find(key);
    if (entry == index.end()) return alone;
    for (const auto& [id, resource] : *entry->second) alone.put(resource);
    return alone;
  }

  template <typename Group>
  std::size_t count(const typename Group::Key& key) const {
    const auto& index = *std::get<Index<Group>>(indices_).map;
    const auto entry = index.find(key);
    return entry == index.end() ? 0 : entry->second->size();
  }

  void put(std::shared_ptr<const T> resource) {
    const IdType id = resource->id();
    std::shared_ptr<const T>& place = own(map_)[id];
    if (place != nullptr) (leave<Groups>(id, *place), ...);
    (enter<Groups>(id, resource), ...);
    place = std::move(resource);
  }
  void erase(const IdType& id) {
    const auto found = map_->find(id);
    if (found == map_->end()) return;
    (leave<Groups>(id, *found->second), ...);
    own(map_).erase(id);
  }

 private:
  template <typename Group>
  struct Index {
    using Entries = std::map<typename Group::Key, std::shared_ptr<Map>>;
    std::shared_ptr<Entries> map = std::make_shared<Entries>();
  };

  template <typename M>
  static M& own(std::shared_ptr<M>& shared) {
    if (shared == nullptr) shared = std::make_shared<M>();
    if (shared.use_count() > 1) shared = std::make_shared<M>(*shared);
    return *shared;
  }
  template <typename Group>
  void enter(const IdType& id, const std::shared_ptr<const T>& resource) {
    auto& index = std::get<Index<Group>>(indices_).map;
    Group::each(*resource, [&](const auto& key) { own(own(index)[key])[id] = resource; });
  }
  template <typename Group>
  void leave(const IdType& id, const T& resource) {
    auto& index = std::get<Index<Group>>(indices_).map;
    Group::each(resource, [&](const auto& key) {
      const auto entry = own(index).find(key);
      own(entry->second).erase(id);
      if (entry->second->empty()) index->erase(entry);
    });
  }

  std::shared_ptr<Map> map_ = std::make_shared<Map>();
  std::tuple<Index<Groups>...> indices_;
};

}  // namespace virga
