#include "server/core/perimeter.h"

#include "model/keys.h"

namespace virga {
namespace {

std::string_view below(std::string_view key, std::string_view kind) {
  return key.starts_with(kind) ? key.substr(kind.size()) : std::string_view();
}

std::string tenant_of(const SecurityGroupId& group) {
  return group.value.substr(0, group.value.find('/'));
}

std::set<SecurityGroupId> named_by(const SecurityGroup& group) {
  std::set<SecurityGroupId> named;
  for (const SecurityRule& rule : group.spec.rules) {
    if (!rule.remote_group.empty())
      named.insert(SecurityGroupId(qualified(group.meta.tenant, rule.remote_group)));
  }
  return named;
}

}  // namespace

Perimeter::KnownPort Perimeter::look_at(const PortId& id) const {
  KnownPort seen;
  const Port* port = view_.ports.find(id);
  const Network* network = port == nullptr ? nullptr : view_.networks.find(port->spec.network);
  if (network == nullptr) return seen;
  const std::string& address = port->spec.address;
  seen = {port->spec.vm,
          network->spec.vni,
          address.substr(0, address.find('/')),
          port->spec.security_groups,
          {}};
  const Vm* vm = view_.vms.find(port->spec.vm);
  if (vm == nullptr) return seen;
  for (const HostId& host : {vm->status.host, vm->status.migration.destination}) {
    if (!host.empty()) seen.hosts.insert(host);
  }
  return seen;
}

void Perimeter::enter(const PortId& id, std::map<HostId, News>& news, std::set<Part>& memberships) {
  KnownPort now = look_at(id);
  const auto found = ports_.find(id);
  const KnownPort before = found == ports_.end() ? KnownPort() : found->second;
  if (before.groups.empty() && now.groups.empty()) return;
  if (before == now) return;
  const bool joins =
      before.groups != now.groups || before.vni != now.vni || before.address != now.address;
  for (const HostId& host : now.hosts) {
    if (joins || !before.hosts.contains(host)) news[host].ports.insert(id);
  }
  if (joins) {
    for (const SecurityGroupId& group : before.groups) {
      members_[group].erase(id);
      memberships.insert({before.vni, group});
    }
    for (const SecurityGroupId& group : now.groups) {
      members_[group].insert(id);
      memberships.insert({now.vni, group});
    }
  }
  if (now.groups.empty()) {
    ports_.erase(id);
  } else {
    ports_[id] = std::move(now);
  }
}

/// Who names a group whose members changed must know.
void Perimeter::enter_members(const std::set<Part>& memberships,
                              std::map<HostId, News>& news) const {
  std::map<std::string, std::vector<const SecurityGroup*>> of_tenant;
  for (const auto& [id, group] : view_.security_groups.all()) {
    if (!memberships.empty()) of_tenant[tenant_of(id)].push_back(group.get());
  }
  for (const auto& [vni, changed] : memberships) {
    for (const SecurityGroup* group : of_tenant[tenant_of(changed)]) {
      const auto having = members_.find(group->id());
      if (having == members_.end() || !named_by(*group).contains(changed)) continue;
      for (const PortId& id : having->second) {
        const KnownPort& port = ports_.at(id);
        if (port.vni != vni) continue;
        for (const HostId& host : port.hosts) news[host].members.insert({vni, changed});
      }
    }
  }
}

void Perimeter::load() {
  ports_.clear();
  members_.clear();
  std::map<HostId, News> ignored;
  std::set<Part> memberships;
  for (const auto& [id, port] : view_.ports.all()) enter(id, ignored, memberships);
}

void Perimeter::changed(const std::vector<Change>& changes) {
  std::set<PortId> affected;
  std::map<HostId, News> news;
  std::set<Part> memberships;
  std::set<SecurityGroupId> groups;
  for (const Change& change : changes) {
    const std::string_view key = change.entry.key;
    if (const auto port = below(key, keys::kPort); !port.empty())
      affected.insert(PortId(std::string(port)));
    if (const auto group = below(key, keys::kSecurityGroup); !group.empty())
      groups.insert(SecurityGroupId(std::string(group)));
    const auto vm = below(key, keys::kVm);
    if (vm.empty()) continue;
    for (const Port* port : view_.ports_of(VmId(std::string(vm)))) affected.insert(port->id());
  }
  for (const PortId& id : affected) enter(id, news, memberships);
  for (const SecurityGroupId& group : groups) {
    const auto having = members_.find(group);
    if (having == members_.end()) continue;
    for (const PortId& id : having->second) {
      const KnownPort& port = ports_.at(id);
      for (const HostId& host : port.hosts) news[host].rules.insert({port.vni, group});
    }
  }
  enter_members(memberships, news);
  for (auto& [host, of_host] : news) tell_(host, message_of(std::move(of_host)));
}

void Perimeter::connected(const HostId& host) {
  const Host* stored = view_.hosts.find(host);
  if (stored == nullptr || view_.networks_of(stored->spec.cluster).empty()) return;
  News news;
  for (const Vm* vm : view_.vms_on(host)) {
    for (const Port* port : view_.ports_of(vm->id())) news.ports.insert(port->id());
  }
  FabricGroups groups = message_of(std::move(news));
  groups.whole = true;
  tell_(host, groups);
}

/// A port with all that its groups need.
FabricGroups Perimeter::message_of(News news) const {
  FabricGroups message;
  for (const PortId& id : news.ports) {
    const KnownPort port = look_at(id);
    PortGroups told{id.value, port.vni, port.address, {}};
    for (const SecurityGroupId& group : port.groups) {
      told.groups.push_back(group.value);
      news.rules.insert({port.vni, group});
    }
    message.ports.push_back(std::move(told));
  }
  for (const auto& [vni, id] : news.rules) {
    const SecurityGroup* group = view_.security_groups.find(id);
    if (group == nullptr) continue;
    GroupRules told{vni, id.value, group->spec.rules};
    for (SecurityRule& rule : told.rules) {
      if (!rule.remote_group.empty())
        rule.remote_group = qualified(group->meta.tenant, rule.remote_group);
    }
    message.rules.push_back(std::move(told));
    for (const SecurityGroupId& named : named_by(*group)) news.members.insert({vni, named});
  }
  for (const auto& [vni, id] : news.members) {
    GroupMembers told{vni, id.value, {}};
    const auto having = members_.find(id);
    for (const PortId& port : having == members_.end() ? std::set<PortId>() : having->second) {
      if (ports_.at(port).vni == vni) told.addresses.push_back(ports_.at(port).address);
    }
    message.members.push_back(std::move(told));
  }
  return message;
}

}  // namespace virga
