#pragma once

#include <string>
#include <vector>

#include "driver/haproxy/control.h"
#include "driver/load_balancer.h"

namespace virga {

/// What makes the servers of the running HAProxy equal to the wanted ones; empty = they are. A server that is no longer
/// wanted goes to maintenance and stays: deleting one that has had connections was not safe up to HAProxy 2.8.3
/// (haproxy/haproxy#2298, #2323); the next reload forgets it. Pure, like all here.
std::vector<std::string> commands_for(const BalancerSpec& spec, const HaproxyRows& rows);

/// Servers that run and are not wanted.
std::size_t count_unwanted(const BalancerSpec& spec, const HaproxyRows& rows);

/// `old`: of workers that finish what they have; only their sessions count. A server that is not wanted is there while
/// it has sessions.
ObservedBalancer to_observed(const BalancerSpec& spec, const HaproxyRows& rows,
                             const HaproxyRows& old);

/// Of the answer to `show servers state` the servers that are down, so that a new worker does not begin with the belief
/// that they are up. All else a new worker has from its configuration.
std::string keep_down_servers(const BalancerSpec& spec, const std::string& state);

}  // namespace virga
