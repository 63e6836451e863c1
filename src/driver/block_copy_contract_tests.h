#pragma once

#include "driver/block_store_contract.h"

/// Beside block_store_contract_tests.h, for stores that copy volumes: the suite BlockCopyContract.
namespace virga {

TEST_P(BlockCopyContract, R_B1_ACopyHoldsWhatItsSourceHeldAtOneMoment) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  EXPECT_TRUE(use(*at, {Step::writes(1, 0, 16 * kMib)}));
  VIRGA_OK(copy());
  VIRGA_OK(copy());
  ASSERT_TRUE(has_begun());
  EXPECT_EQ(seen("acme/monday").source, data);
  EXPECT_TRUE(use(*at, {Step::writes(2, 0, kMib), Step::writes(2, 15 * kMib, kMib)}));
  EXPECT_FALSE(seen("acme/monday").source.empty()) << "too fast to show anything";
  const auto beside = attach(2, 1);
  VIRGA_OK(beside);
  EXPECT_TRUE(use(*beside, {Step::writes(3, 14 * kMib, kMib)}));
  ASSERT_TRUE(becomes_whole());
  const auto then = attach(1, 0, "acme/monday");
  VIRGA_OK(then);
  EXPECT_TRUE(use(*then, {Step::reads(1, 0, 16 * kMib), Step::writes(4, 0, kMib)}));
  EXPECT_TRUE(use(*at, {Step::reads(2, 0, kMib), Step::reads(1, kMib, 13 * kMib),
                        Step::reads(3, 14 * kMib, kMib), Step::reads(2, 15 * kMib, kMib)}));
  EXPECT_TRUE(seen("acme/monday").taken_at.has_value());
}

TEST_P(BlockCopyContract, R_B1_AVolumeThatNobodyUsesIsCopiedAndStaysThin) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  EXPECT_TRUE(use(*at, {Step::writes(7, 8 * kMib, kBlock)}));
  VIRGA_OK(revoke(1));
  VIRGA_OK(copy("acme/monday", 5));
  ASSERT_TRUE(becomes_whole());
  EXPECT_LT(seen("acme/monday").used_bytes.value, kMib) << "thin";
  EXPECT_EQ(seen("acme/monday").size_mib, Mib{16});
  EXPECT_EQ(seen("acme/monday").revoked, (Epoch{1, 5}));
  EXPECT_FALSE(seen().served);
  VIRGA_FAILS(attach(5, 0, "acme/monday"), Errc::fenced);
  const auto then = attach(6, 0, "acme/monday");
  VIRGA_OK(then);
  EXPECT_TRUE(use(*then, {Step::reads(0, 0, 8 * kMib), Step::reads(7, 8 * kMib, kBlock)}));
  VIRGA_OK(erase());
  EXPECT_TRUE(use(*then, {Step::reads(7, 8 * kMib, kBlock)})) << "it needs its source no more";
}

TEST_P(BlockCopyContract, R_B1_ACopyThatIsNotWholeIsNotUsed) {
  VIRGA_OK(create());
  VIRGA_FAILS(copy("acme/data", 3), Errc::conflict);
  VIRGA_OK(copy());
  VIRGA_FAILS(attach(1, 0, "acme/monday"), Errc::unavailable);
  VIRGA_FAILS(copy("acme/monday", 1), Errc::conflict);
  VIRGA_FAILS(erase(), Errc::conflict);
  VIRGA_OK(erase("acme/monday"));
  EXPECT_TRUE(lab->leftovers(VolumeId("acme/monday")).empty());
  VIRGA_OK(erase());
  VIRGA_FAILS(copy(), Errc::not_found);
  EXPECT_TRUE(lab->store().observe().empty());
}

TEST_P(BlockCopyContract, R_B1_R_F1_CopyingGoesOnAfterARestart) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  EXPECT_TRUE(use(*at, {Step::writes(1, 0, 16 * kMib)}));
  VIRGA_OK(copy());
  ASSERT_TRUE(has_begun());
  lab->restart_agent();
  ASSERT_TRUE(becomes_whole());
  lab->restart_agent();
  EXPECT_TRUE(seen("acme/monday").source.empty());
  const auto then = attach(1, 0, "acme/monday");
  VIRGA_OK(then);
  EXPECT_TRUE(use(*then, {Step::reads(1, 0, 16 * kMib)}));
}

TEST_P(BlockCopyContract, R_B1_R_B2_ACutDoesNotWaitForACopy) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  EXPECT_TRUE(use(*at, {Step::writes(1, 0, kMib)}));
  VIRGA_OK(copy());
  ASSERT_TRUE(has_begun());
  VIRGA_OK(revoke(1));
  EXPECT_FALSE(use(*at, {Step::writes(2, 0, kMib)}));
  ASSERT_TRUE(becomes_whole());
  const auto then = attach(1, 0, "acme/monday");
  VIRGA_OK(then);
  EXPECT_TRUE(use(*then, {Step::reads(1, 0, kMib)}));
}

TEST_P(BlockCopyContract, R_B1_R_F1_ACopyWhoseServerEndsBeginsAnew) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  EXPECT_TRUE(use(*at, {Step::writes(1, 0, 16 * kMib)}));
  VIRGA_OK(copy());
  ASSERT_TRUE(has_begun());
  EXPECT_TRUE(use(*at, {Step::writes(2, 0, 16 * kMib)}));
  ASSERT_FALSE(seen("acme/monday").source.empty()) << "too fast to show anything";
  lab->kill_server(data);
  ASSERT_TRUE(becomes_whole());
  const auto then = attach(1, 0, "acme/monday");
  VIRGA_OK(then);
  EXPECT_TRUE(use(*then, {Step::reads(2, 0, 16 * kMib)})) << "of a later moment, and of one";
}

TEST_P(BlockCopyContract, R_B1_ASourceThatGrowsIsCopiedAnew) {
  VIRGA_OK(create());
  VIRGA_OK(copy());
  ASSERT_TRUE(has_begun());
  VIRGA_OK(grow(24));
  ASSERT_TRUE(becomes_whole());
  EXPECT_EQ(seen("acme/monday").size_mib, Mib{24});
}

}  // namespace virga
