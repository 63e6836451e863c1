#include <cstdio>
#include <cstring>

#include "agent/agent_main.h"
#include "agent/leash_main.h"
#include "agent/relay_main.h"
#include "agent/wire_main.h"
#include "lab/bmc_main.h"
#include "lab/dev_main.h"
#include "server/server_main.h"
#include "sim/sim_main.h"

namespace {

struct Program {
  const char* name;
  int (*run)(int argc, char** argv);
};

constexpr Program kPrograms[] = {
    {"server", virga::server_main}, {"agent", virga::agent_main}, {"leash", virga::leash_main},
    {"bmc", virga::bmc_main},       {"dev", virga::dev_main},     {"sim", virga::sim_main},
    {"wire", virga::wire_main},     {"relay", virga::relay_main}};

int usage() {
  std::fprintf(stderr, "usage: virgad PROGRAM [OPTION...]; PROGRAM is one of");
  for (const Program& program : kPrograms) std::fprintf(stderr, " %s", program.name);
  std::fprintf(stderr, "\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  for (const Program& program : kPrograms) {
    if (argc > 1 && std::strcmp(argv[1], program.name) == 0) return program.run(argc - 1, argv + 1);
  }
  return usage();
}
