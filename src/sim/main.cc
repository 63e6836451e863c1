#include "sim/sim_main.h"

int main(int argc, char** argv) { return virga::sim_main(argc, argv); }
