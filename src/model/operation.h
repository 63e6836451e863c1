#pragma once

#include <boost/json.hpp>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "model/host.h"
#include "model/meta.h"

namespace virga {

enum class OperationKind {
  start_vm,
  stop_vm,
  migrate_vm,
  fence_host,
  delete_vm,
  fence_vm,
  move_disk,
};
BOOST_DESCRIBE_ENUM(OperationKind, start_vm, stop_vm, migrate_vm, fence_host, delete_vm, fence_vm,
                    move_disk)

enum class OperationState {
  running,  ///< steps are being taken
  undoing,  ///< a step failed or somebody cancelled: undo steps are being taken
  succeeded,
  failed,      ///< undone; `error` says why
  cancelled,   ///< undone on request
  superseded,  ///< a newer operation on the subject took over; its effects are refused by epoch
};
BOOST_DESCRIBE_ENUM(OperationState, running, undoing, succeeded, failed, cancelled, superseded)

/// What an operation carries from the decision to its steps. Only the fields of its kind are set.
struct OperationArguments {
  HostId source;          ///< migrate_vm, stop_vm: where it runs
  HostId destination;     ///< start_vm, migrate_vm: where it shall run
  Epoch epoch;            ///< epoch that the effects carry
  Epoch next_epoch;       ///< migrate_vm: of the incoming copy
  LostCopies lost;        ///< start_vm after a failure: why no older copy can act
  std::string boot_id;    ///< fence_host: the boot to be fenced
  bool force = false;     ///< stop_vm: without asking the guest
  bool ask_only = false;  ///< fence_host: read the power state, switch nothing
  VolumeId volume{};      ///< move_disk
  DeviceId device{};      ///< move_disk: where the volume shall be
};
BOOST_DESCRIBE_STRUCT(OperationArguments, (),
                      (source, destination, epoch, next_epoch, lost, boot_id, force, ask_only,
                       volume, device))

struct OperationStep {
  std::string name;
  WallTime began_at;
  WallTime ended_at;
  std::string error;  ///< of the last try; empty = none
};
BOOST_DESCRIBE_STRUCT(OperationStep, (), (name, began_at, ended_at, error))

struct Operation {
  Meta meta;  ///< name = id; tenant = the subject's
  OperationKind kind = OperationKind::start_vm;
  std::string subject;  ///< store key of what it works on: "vm/acme/web"
  std::string reason;   ///< why it was decided, for people
  OperationArguments arguments;
  OperationState state = OperationState::running;
  int cursor = 0;                    ///< index of the step to be taken next
  std::vector<OperationStep> steps;  ///< history, one entry a step taken
  WallTime deadline_at;              ///< of the whole operation
  std::string error;
  std::string correlation;  ///< from the request that caused it
  bool cancel_requested = false;
  int progress_percent = 0;
  boost::json::object facts;  ///< measured: bytes moved, downtime_ms ...

  OperationId id() const { return OperationId(meta.name); }
  bool ended() const { return state >= OperationState::succeeded; }
};
BOOST_DESCRIBE_STRUCT(Operation, (),
                      (meta, kind, subject, reason, arguments, state, cursor, steps, deadline_at,
                       error, correlation, cancel_requested, progress_percent, facts))

// Read and written in one translation unit (model/json.cc): reflection is dear to compile.
extern template json::value to_json<Operation>(const Operation&);
extern template Result<Operation> from_json<Operation>(const json::value&, UnknownFields);

}  // namespace virga
