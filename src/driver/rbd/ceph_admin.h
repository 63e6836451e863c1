#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "driver/rbd/monitor_link.h"
#include "driver/rbd/rbd_store.h"

namespace virga {

/// One volume in Ceph: a namespace of the pool with one image.
struct CephImage {
  std::string space;  ///< the namespace; begins the names of its users, a dot behind
  std::string name;

  std::string user_prefix() const { return "client." + space + "."; }
};

/// Who had the image open and was cut off.
struct CephCut {
  std::set<std::string> users;  ///< "client.NAME"
  bool unknown = false;         ///< a client whose user no monitor knows any more
};

/// What Ceph is told: its monitors by a link of this object, about images with the program rbd. Blocking: on a thread
/// that may wait. All words of one object have one deadline together. Errors: timeout, unavailable (in Ceph's words).
/// Not thread-safe.
class CephAdmin {
 public:
  CephAdmin(const AsioLoop& clock, const RbdOptions& options, Instant until);

  /// An empty image; one that is there is removed before.
  Result<void> make(const CephImage& image, Mib size_mib);
  Result<void> grow(const CephImage& image, Mib size_mib);

  /// With its namespace. What is not there counts as removed.
  Result<void> remove(const CephImage& image);
  Result<Bytes> used(const CephImage& image);

  /// "client.NAME" of all that may use the image's namespace.
  Result<std::set<std::string>> users(const CephImage& image);

  /// `key`: as Ceph writes it. The user is there already: no change.
  Result<void> add_user(const CephImage& image, const std::string& user, const std::string& key);
  Result<void> remove_user(const std::string& user);

  /// Puts on the blocklist whoever has the image open and is not known to be one of `spared`, and breaks their locks.
  Result<CephCut> cut(const CephImage& image, const std::set<std::string>& spared);

 private:
  struct Client {
    std::string address;  ///< ADDRESS:PORT/NONCE
    std::string lock;     ///< empty = it owns none
    std::string locker;
  };

  Result<std::string> say(const std::vector<std::string>& words);
  Result<void> tell(const std::vector<std::string>& words);
  Result<std::string> ask_monitors(const boost::json::object& command,
                                   const std::string& input = {}, const std::string& monitor = {});
  std::string path_of(const CephImage& image) const;
  Result<std::vector<Client>> clients(const CephImage& image);
  Result<std::map<std::string, std::string>> sessions();  ///< address -> user

  const AsioLoop& clock_;
  const RbdOptions& options_;
  const Instant until_;
  std::shared_ptr<MonitorLink> link_;  ///< opened with the first question
};

}  // namespace virga
