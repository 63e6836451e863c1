#pragma once

#include <string>
#include <vector>

#include "base/loop.h"
#include "base/reflect.h"

/// What may go wrong while something moves: every fault at every phase of every move and of a fence, with every kind of
/// disk. The whole matrix, and a part of it in which each two of these meet. Of tests only.
namespace virga::sim {

enum class Story {
  vm_moves,           ///< alive, from host to host, as ordered
  vm_is_fenced,       ///< its host is heard no more and runs on; it starts elsewhere
  volume_moves,       ///< to another device, under its guest
  service_relocates,  ///< a copy of it is duplicated, redirected from, and retired
};
BOOST_DESCRIBE_ENUM(Story, vm_moves, vm_is_fenced, volume_moves, service_relocates)

/// How the guest that it is about keeps its data: the drivers, as the cloud sees them.
enum class Disks {
  files,     ///< of the shared directory, behind its locks
  volume,    ///< of a storage device
  mirrored,  ///< a volume in two places
};
BOOST_DESCRIBE_ENUM(Disks, files, volume, mirrored)

enum class Phase { before, under_way, hand_over, after };
BOOST_DESCRIBE_ENUM(Phase, before, under_way, hand_over, after)

enum class Party { server, source, destination, storage, peer };
BOOST_DESCRIBE_ENUM(Party, server, source, destination, storage, peer)

enum class Trouble {
  killed_server,
  killed_agent,
  killed_leash,
  killed_qemu,
  killed_volume_server,
  killed_balancer,
  power,         ///< of the party's host is lost
  hang,          ///< the party's host stands still
  silence,       ///< two parties hear nothing of each other; everybody else does
  silence_there,  ///< the second hears nothing of the first
  silence_back,   ///< the first hears nothing of the second
};
BOOST_DESCRIBE_ENUM(Trouble, killed_server, killed_agent, killed_leash, killed_qemu,
                    killed_volume_server, killed_balancer, power, hang, silence, silence_there,
                    silence_back)

struct FaultCase {
  Story story = Story::vm_moves;
  Disks disks = Disks::files;
  Phase phase = Phase::before;
  Trouble trouble = Trouble::killed_server;
  Party one = Party::server;
  Party other = Party::server;      ///< of a silence
  Duration length = seconds(8);  ///< then all is made good; what was killed for longer is not started before
  bool bmcs = true;              ///< those of the hosts concerned answer meanwhile

  bool silence() const { return trouble >= Trouble::silence; }
  friend bool operator==(const FaultCase&, const FaultCase&) = default;
};

/// "silence_there of storage and peer", "power of source".
std::string trouble_of(const FaultCase& fault);
/// All of it in a few words, unique.
std::string name_of(const FaultCase& fault);

/// Every case that can be.
std::vector<FaultCase> fault_matrix();

/// Of `all` so many that each story with its disks meets each trouble and each phase, each trouble each phase, and each
/// of these each length and each state of the BMCs, as far as they do in `all`. Cost: O(all * result).
std::vector<FaultCase> pairwise(const std::vector<FaultCase>& all);

/// How one of them went.
struct FaultOutcome {
  std::vector<std::string> wrong;  ///< a sentence each; empty = as promised
  std::vector<std::string> kinds;  ///< of the events since the order, each once, in their order
  std::string journal;
};

/// Plays it on a new simulated cloud of five hosts, until everything has been settled for 20 s. Cost: 7 ms.
FaultOutcome play(const FaultCase& fault);

/// The cases and what they came to, for readers.
std::string fault_matrix_markdown(const std::vector<FaultCase>& cases,
                                  const std::vector<FaultOutcome>& outcomes);

}  // namespace virga::sim
