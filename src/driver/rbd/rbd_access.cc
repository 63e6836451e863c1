#include "driver/rbd/rbd_access.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "driver/rbd/cephx_key.h"

namespace virga {
namespace {

constexpr Duration kWithin = seconds(9);
constexpr Duration kUsageEvery = seconds(60);

std::string user_of(const AttachmentRecord& attachment) {
  return "client." + attachment.export_name;
}

/// "v.acme.data." of the export names without its last dot, so that users of a namespace are known
/// by their names.
CephImage image_of(const VolumeId& volume) {
  const std::string prefix = export_prefix(volume);
  return {prefix.substr(0, prefix.size() - 1), volume.value.substr(volume.value.find('/') + 1)};
}

std::set<std::string> users_of(const VolumeRecord& record) {
  std::set<std::string> users;
  for (const AttachmentRecord& one : admitted_of(record)) users.insert(user_of(one));
  return users;
}

/// Nobody new gets in as one of them; then who is in is cut.
Result<CephCut> shut_out(CephAdmin& admin, const CephImage& image,
                         const std::set<std::string>& there,
                         const std::set<std::string>& admitted) {
  for (const std::string& user : there) {
    if (admitted.contains(user)) continue;
    if (auto removed = admin.remove_user(user); !removed) return removed.error();
  }
  return admin.cut(image, admitted);
}

}  // namespace

RbdAccess::RbdAccess(VolumeContext& context, const RbdOptions& options, VolumeFolder folder,
                     const VolumeId& volume)
    : VolumeAccess(std::move(folder)),
      context_(context),
      options_(options),
      image_(image_of(volume)),
      usage_(context.loop) {
  look_at_usage();
}

CephAdmin RbdAccess::admin() const {
  return CephAdmin(context_.loop, options_, context_.loop.now() + kWithin);
}

Result<void> RbdAccess::make_medium(const VolumeRecord& record) const {
  return admin().make(image_, record.size_mib);
}

Result<void> RbdAccess::grow_medium(const VolumeRecord&, Mib size_mib) const {
  return admin().grow(image_, size_mib);
}

Result<void> RbdAccess::remove_medium(const VolumeRecord&) const { return admin().remove(image_); }

void RbdAccess::look_at_usage() {
  usage_.set_after(kUsageEvery, [this] {
    context_.worker.run<Bytes>(
        [admin = admin(), image = image_]() mutable { return admin.used(image); },
        [this, alive = std::weak_ptr(alive_)](Result<Bytes> used) {
          if (alive.expired()) return;
          if (used) used_ = used->value;
          look_at_usage();
        });
  });
}

/// Those of the record that are revoked and whose end was seen.
void RbdAccess::note(const CephCut& cut, const VolumeRecord& record) {
  cut_.insert(cut.users.begin(), cut.users.end());
  std::vector<std::string> doubtful;
  for (const AttachmentRecord& one : record.attachments) {
    const std::string user = user_of(one);
    if (one.epoch <= record.revoked && !cut_.contains(user)) doubtful.push_back(user);
  }
  // Whom no monitor knows any more can only be the one that is missing.
  if (cut.unknown && doubtful.size() == 1) cut_.insert(doubtful.front());
}

void RbdAccess::serve(const VolumeRecord& record, Callback<void> done) {
  const auto admitted = admitted_of(record);
  const bool hunt = admitted.size() != record.attachments.size();
  const auto job = [image = image_, admitted, users = users_of(record),
                    hunt](CephAdmin& admin) -> Result<CephCut> {
    const auto there = admin.users(image);
    if (!there) return there.error();
    const bool stale = !std::includes(users.begin(), users.end(), there->begin(), there->end());
    CephCut cut;
    if (hunt || stale) {
      auto ended = shut_out(admin, image, *there, users);
      if (!ended) return ended;
      cut = *ended;
    }
    for (const AttachmentRecord& one : admitted) {
      if (there->contains(user_of(one))) continue;
      auto added = admin.add_user(image, user_of(one), cephx_key(one.key));
      if (!added) return added.error();
    }
    return cut;
  };
  work(job, record, [this, done = std::move(done)](Result<void> served) {
    served_ = served.ok();
    done(std::move(served));
  });
}

void RbdAccess::cut(const VolumeRecord& record, Callback<void> done) {
  if (admitted_of(record).empty()) served_ = false;
  const auto job = [image = image_, users = users_of(record)](CephAdmin& admin) -> Result<CephCut> {
    const auto there = admin.users(image);
    if (!there) return there.error();
    return shut_out(admin, image, *there, users);
  };
  work(job, record, std::move(done));
}

void RbdAccess::work(std::function<Result<CephCut>(CephAdmin&)> job, const VolumeRecord& record,
                     Callback<void> done) {
  context_.worker.run<CephCut>(
      [admin = admin(), job = std::move(job)]() mutable { return job(admin); },
      [this, record, done = std::move(done), alive = std::weak_ptr(alive_)](Result<CephCut> cut) {
        if (alive.expired()) return;
        if (!cut) return done(cut.error());
        note(*cut, record);
        done({});
      });
}

void RbdAccess::prove_ended(const VolumeRecord& record, Callback<void> done) {
  for (const AttachmentRecord& one : record.attachments) {
    if (one.epoch > record.revoked || cut_.contains(user_of(one))) continue;
    return answer<void>(
        context_.loop, std::move(done),
        make_error(Errc::unavailable,
                   "no client of " + user_of(one) +
                       " is in sight: it has ended, or it is cut off and may come back within an "
                       "hour; release it when its end is known"));
  }
  answer<void>(context_.loop, std::move(done), {});
}

VolumeEndpoint RbdAccess::endpoint(const VolumeRecord&, const AttachmentRecord& attachment) const {
  return {"rbd",
          options_.monitors,
          0,
          options_.pool + "/" + image_.space + "/" + image_.name,
          attachment.export_name,
          cephx_key(attachment.key)};
}

}  // namespace virga
