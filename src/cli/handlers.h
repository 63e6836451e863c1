#pragma once

#include <boost/json.hpp>

#include "cli/command.h"

/// What the commands do. Each returns the exit code.
namespace virga::cli {

int list_resources(Session& session, const Invocation& invocation, const std::string& plural);
int get_resource(Session& session, const Invocation& invocation, const std::string& plural);
int delete_resource(Session& session, const Invocation& invocation, const std::string& plural);
int act(Session& session, const Invocation& invocation, const std::string& plural,
        const std::string& action);

int create_cluster(Session& session, const Invocation& invocation);
int set_host_window(Session& session, const Invocation& invocation);
int create_machine(Session& session, const Invocation& invocation);
int create_network(Session& session, const Invocation& invocation);
int create_device(Session& session, const Invocation& invocation);
int create_volume(Session& session, const Invocation& invocation);
int snapshot_volume(Session& session, const Invocation& invocation);
int grow_volume(Session& session, const Invocation& invocation);
int move_volume(Session& session, const Invocation& invocation);
int create_service(Session& session, const Invocation& invocation);
int relocate_service(Session& session, const Invocation& invocation);
int weigh_copy(Session& session, const Invocation& invocation);
int set_certificate(Session& session, const Invocation& invocation);
int scale_service(Session& session, const Invocation& invocation);
int set_objective(Session& session, const Invocation& invocation);
int show_level(Session& session, const Invocation& invocation);
int autoscale_service(Session& session, const Invocation& invocation);
int create_security_group(Session& session, const Invocation& invocation);
int set_security_group(Session& session, const Invocation& invocation);
int set_floating_ranges(Session& session, const Invocation& invocation);
int create_floating_address(Session& session, const Invocation& invocation);
int lead_floating_address(Session& session, const Invocation& invocation);
int release_floating_address(Session& session, const Invocation& invocation);
int create_image(Session& session, const Invocation& invocation);
int create_vm(Session& session, const Invocation& invocation);
int set_vm(Session& session, const Invocation& invocation);
int set_device(Session& session, const Invocation& invocation);
int give_up_device(Session& session, const Invocation& invocation);
int create_tenant(Session& session, const Invocation& invocation);
int set_tenant_regions(Session& session, const Invocation& invocation);
int set_volume_regions(Session& session, const Invocation& invocation);
int set_host_region(Session& session, const Invocation& invocation);
int set_vm_groups(Session& session, const Invocation& invocation);
int act_on_vm(Session& session, const Invocation& invocation, const std::string& action);
int show_console(Session& session, const Invocation& invocation);
int show_peers(Session& session, const Invocation& invocation);
int list_events(Session& session, const Invocation& invocation);
int list_usage(Session& session, const Invocation& invocation);
int show_usage_points(Session& session, const Invocation& invocation);
int show_bill(Session& session, const Invocation& invocation);
int make_join_token(Session& session, const Invocation& invocation);
int show_whatif(Session& session, const Invocation& invocation);
int apply_file(Session& session, const Invocation& invocation);

int write_backup(Session& session, const Invocation& invocation);
int verify_audit(Session& session, const Invocation& invocation);
int restore_backup_file(Session& session, const Invocation& invocation);
int build_image(Session& session, const Invocation& invocation);
int import_image_file(Session& session, const Invocation& invocation);
int import_vm(Session& session, const Invocation& invocation);
int show_lab(Session& session, const Invocation& invocation);
int fail_lab(Session& session, const Invocation& invocation);
int heal_lab(Session& session, const Invocation& invocation);
int attach_lab_client(Session& session, const Invocation& invocation);
int run_simulator(Session& session, const Invocation& invocation);

/// GETs what is no resource and prints it: JSON, or else YAML.
int show_document(Session& session, const std::string& target);

/// Prints one resource in the session's format.
int show_one(Session& session, const std::string& plural, const boost::json::value& resource);

/// After a dry run: tells of a VM that would find no host.
void warn_unplaced(Session& session, const boost::json::value& vm);

}  // namespace virga::cli
