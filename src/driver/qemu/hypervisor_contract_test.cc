#include "driver/hypervisor_contract_tests.h"

#include "driver/qemu/test_lab.h"

namespace virga {
namespace {

std::unique_ptr<HypervisorLab> make_qemu_lab() { return std::make_unique<QemuLab>(); }

INSTANTIATE_TEST_SUITE_P(Qemu, HypervisorContract, testing::Values(&make_qemu_lab));

}  // namespace
}  // namespace virga
