#include "model/cluster.h"
#include "model/event.h"
#include "model/floating_address.h"
#include "model/image.h"
#include "model/launch.h"
#include "model/network.h"
#include "model/operation.h"
#include "model/volume.h"
#include "model/security_group.h"
#include "model/service.h"
#include "model/tenant.h"

namespace virga {

template json::value to_json<Host>(const Host&);
template Result<Host> from_json<Host>(const json::value&, UnknownFields);
template json::value to_json<Machine>(const Machine&);
template Result<Machine> from_json<Machine>(const json::value&, UnknownFields);
template json::value to_json<Cluster>(const Cluster&);
template Result<Cluster> from_json<Cluster>(const json::value&, UnknownFields);
template json::value to_json<Vm>(const Vm&);
template Result<Vm> from_json<Vm>(const json::value&, UnknownFields);
template json::value to_json<Network>(const Network&);
template Result<Network> from_json<Network>(const json::value&, UnknownFields);
template json::value to_json<Port>(const Port&);
template Result<Port> from_json<Port>(const json::value&, UnknownFields);
template json::value to_json<Device>(const Device&);
template Result<Device> from_json<Device>(const json::value&, UnknownFields);
template json::value to_json<Volume>(const Volume&);
template Result<Volume> from_json<Volume>(const json::value&, UnknownFields);
template json::value to_json<Tenant>(const Tenant&);
template Result<Tenant> from_json<Tenant>(const json::value&, UnknownFields);
template json::value to_json<SecurityGroup>(const SecurityGroup&);
template Result<SecurityGroup> from_json<SecurityGroup>(const json::value&, UnknownFields);
template json::value to_json<FloatingAddress>(const FloatingAddress&);
template Result<FloatingAddress> from_json<FloatingAddress>(const json::value&, UnknownFields);
template json::value to_json<Service>(const Service&);
template Result<Service> from_json<Service>(const json::value&, UnknownFields);
template json::value to_json<Image>(const Image&);
template Result<Image> from_json<Image>(const json::value&, UnknownFields);
template json::value to_json<Operation>(const Operation&);
template Result<Operation> from_json<Operation>(const json::value&, UnknownFields);
template json::value to_json<Event>(const Event&);
template Result<Event> from_json<Event>(const json::value&, UnknownFields);
template json::value to_json<VmLaunch>(const VmLaunch&);
template Result<VmLaunch> from_json<VmLaunch>(const json::value&, UnknownFields);

}  // namespace virga
