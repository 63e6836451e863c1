#pragma once

#include "driver/block_store_contract.h"

namespace virga {

// Each store has either of the last two, and not every one has a server.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BlockServerContract);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BlockFenceContract);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BlockNoFenceContract);

TEST_P(BlockStoreContract, R_B1_AVolumeIsMadeUsedAndErased) {
  VIRGA_OK(create());
  VIRGA_OK(create());
  EXPECT_EQ(seen().size_mib, Mib{16});
  const auto at = attach(1);
  VIRGA_OK(at);
  EXPECT_TRUE(use(*at, {Step::reads(0, 0, kBlock), Step::writes(7, kBlock, kBlock)}));
  EXPECT_TRUE(use(*at, {Step::reads(7, kBlock, kBlock)}));
  EXPECT_LT(seen().used_bytes.value, 1 << 20) << "thin";
  EXPECT_TRUE(seen().served);
  VIRGA_FAILS(erase(), Errc::conflict);
  VIRGA_OK(release(1));
  VIRGA_OK(erase());
  VIRGA_OK(erase());
  EXPECT_TRUE(lab->leftovers(data).empty());
}

TEST_P(BlockStoreContract, R_B2_AnAttachmentIsNamedByItsEpoch) {
  VIRGA_FAILS(attach(1), Errc::not_found);
  VIRGA_OK(create());
  const auto first = attach(5);
  VIRGA_OK(first);
  EXPECT_GE(std::max(first->export_name.size(), first->key.size()), 32U);
  const auto again = attach(5);
  VIRGA_OK(again);
  EXPECT_EQ(to_json_text(*again), to_json_text(*first));
  VIRGA_FAILS(attach(4), Errc::fenced);
  VIRGA_FAILS(attach(6), Errc::conflict);
  EXPECT_EQ(seen().epochs, (std::vector<Epoch>{{1, 5}}));
  VIRGA_OK(release(5));
  VIRGA_OK(release(5));
  VIRGA_FAILS(attach(5), Errc::fenced);
  const auto next = attach(6);
  VIRGA_OK(next);
  EXPECT_EQ(next->protocol, can.protocol);
  EXPECT_NE(next->export_name + next->key, first->export_name + first->key);
}

TEST_P(BlockFenceContract, R_B2_A1_06_ARevokedConsumerIsCutOffAndStaysOut) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  lab->use_meanwhile(*at, {Step::writes(1, 0, kMib), Step::pauses(lab->pause()),
                           Step::writes(2, 0, kMib)});
  ASSERT_TRUE(lab->run_until([&] { return lab->first_byte(data) == 1; }, seconds(10)));
  VIRGA_OK(revoke(1));
  EXPECT_FALSE(lab->used()) << "its second write fails";
  EXPECT_EQ(lab->first_byte(data), 1);
  const auto next = attach(2);
  VIRGA_OK(next);
  EXPECT_FALSE(use(*at, {Step::writes(3, 0, kBlock)})) << "its key opens nothing";
  VolumeEndpoint guessed = *at;
  guessed.export_name = next->export_name;
  guessed.port = next->port;
  EXPECT_FALSE(use(guessed, {Step::writes(3, 0, kBlock)}))
      << "nor does the new name with the old key";
  EXPECT_TRUE(use(*next, {Step::reads(1, 0, kMib)}));
}

TEST_P(BlockFenceContract, R_B2_A1_06_ABusyConsumerIsCutInTheMiddleOfItsWrites) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  std::vector<Step> steps;
  for (int round = 0; round < 3000; ++round)
    steps.push_back(Step::writes(1 + round % 100, 0, 4 * kBlock));
  steps.insert(steps.end(), {Step::pauses(lab->pause()), Step::writes(1, 0, kBlock)});  // if it is quick
  lab->use_meanwhile(*at, steps);
  ASSERT_TRUE(lab->run_until([&] { return lab->first_byte(data) > 0; }, seconds(10)));
  VIRGA_OK(revoke(1));
  const int last = lab->first_byte(data);
  EXPECT_FALSE(lab->run_until([&] { return lab->first_byte(data) != last; }, milliseconds(500)));
  EXPECT_FALSE(lab->used()) << "it has not written all";
  EXPECT_EQ(lab->first_byte(data), last);
}

TEST_P(BlockNoFenceContract, R_B2_A1_06_WhatCannotBeCutIsNeverCalledCut) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  lab->use_meanwhile(*at, {Step::writes(1, 0, kMib), Step::pauses(lab->pause()),
                           Step::writes(2, 0, kMib)});
  ASSERT_TRUE(lab->run_until([&] { return lab->first_byte(data) == 1; }, seconds(10)));
  VIRGA_FAILS(revoke(1), Errc::unavailable);
  EXPECT_EQ(seen().revoked, (Epoch{1, 1}));
  EXPECT_EQ(seen().epochs, (std::vector<Epoch>{{1, 1}})) << "it may still write";
  VIRGA_FAILS(attach(1), Errc::fenced);
  VIRGA_FAILS(attach(2), Errc::conflict);
  VIRGA_FAILS(erase(), Errc::conflict);
  lab->restart_agent();
  VIRGA_FAILS(revoke(1), Errc::unavailable);
  EXPECT_EQ(seen().epochs.size(), 1U);
  EXPECT_TRUE(lab->used()) << "nobody has cut it off";
  EXPECT_EQ(lab->first_byte(data), 2);
  VIRGA_OK(release(1));
  const auto next = attach(2);
  VIRGA_OK(next);
  EXPECT_FALSE(use(*at, {Step::writes(3, 0, kBlock)})) << "its key opens nothing";
  EXPECT_TRUE(use(*next, {Step::reads(2, 0, kMib)}));
}

TEST_P(BlockStoreContract, R_B2_WhatWasRevokedStaysRevokedAfterARestart) {
  VIRGA_OK(create());
  VIRGA_OK(attach(3));
  VIRGA_OK(release(3));
  lab->restart_agent();
  EXPECT_EQ(seen().revoked, (Epoch{1, 3}));
  VIRGA_FAILS(attach(3), Errc::fenced);
  VIRGA_OK(attach(4));
}

TEST_P(BlockStoreContract, R_B2_AttachmentsOfAnEarlierVolumeOfTheNameAreRefused) {
  VIRGA_OK(create("acme/data", 16, 7));
  VIRGA_FAILS(attach(7), Errc::fenced);
  VIRGA_OK(attach(8));
}

TEST_P(BlockStoreContract, R_B1_ConsumersGoOnWhileTheAgentIsReplaced) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  lab->use_meanwhile(*at, {Step::writes(1, 0, kBlock), Step::pauses(lab->pause()),
                           Step::writes(2, 0, kBlock)});
  ASSERT_TRUE(lab->run_until([&] { return lab->first_byte(data) == 1; }, seconds(10)));
  lab->restart_agent();
  EXPECT_TRUE(lab->used());
  EXPECT_EQ(lab->first_byte(data), 2);
  const auto again = attach(1);
  VIRGA_OK(again);
  EXPECT_EQ(to_json_text(*again), to_json_text(*at));
}

TEST_P(BlockServerContract, R_B2_AServerKnowsThatNobodyIsIn) {
  VIRGA_OK(create());
  const auto first = attach(1);
  VIRGA_OK(first);
  VIRGA_OK(revoke(1));
  VIRGA_OK(revoke(1));
  const auto next = attach(2);
  VIRGA_OK(next);
  EXPECT_FALSE(use(*first, {Step::reads(0, 0, kBlock)}));
  EXPECT_TRUE(use(*next, {Step::reads(0, 0, kBlock)}));
  EXPECT_NE(next->key, first->key);
}

TEST_P(BlockServerContract, R_B1_AServerThatEndedIsThereAgainAtTheSamePlace) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  EXPECT_TRUE(use(*at, {Step::writes(9, 0, kBlock)}));
  lab->kill_server(data);
  ASSERT_TRUE(lab->run_until([&] { return !seen().served; }, seconds(5)));
  ASSERT_TRUE(lab->run_until([&] { return seen().served; }, seconds(5)));
  EXPECT_TRUE(use(*at, {Step::reads(9, 0, kBlock)}));
}

TEST_P(BlockServerContract, R_B2_AServerThatHangsIsKilledAndTheRevocationHolds) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  lab->hang_server(data);
  VIRGA_OK(revoke(1));
  const auto next = attach(2);
  VIRGA_OK(next);
  EXPECT_FALSE(use(*at, {Step::reads(0, 0, kBlock)}));
  EXPECT_TRUE(use(*next, {Step::reads(0, 0, kBlock)}));
}

TEST_P(BlockServerContract, R_B2_AHangingServerIsReplacedWhenSomebodyIsLetIn) {
  VIRGA_OK(create());
  VIRGA_OK(attach(1));
  lab->hang_server(data);
  const auto beside = attach(2, 1);
  VIRGA_OK(beside);
  EXPECT_TRUE(use(*beside, {Step::reads(0, 0, kBlock)}));
}

TEST_P(BlockStoreContract, R_B2_R_B4_AMoveHasTwoAttachmentsAndEndsWithOne) {
  VIRGA_OK(create());
  const auto source = attach(1);
  VIRGA_OK(source);
  const auto destination = attach(2, 1);
  VIRGA_OK(destination);
  EXPECT_EQ(seen().epochs.size(), 2U);
  lab->use_meanwhile(*destination, {Step::writes(5, 0, kBlock), Step::pauses(lab->pause()),
                                    Step::writes(6, 0, kBlock)});
  ASSERT_TRUE(lab->run_until([&] { return lab->first_byte(data) == 5; }, seconds(10)));
  VIRGA_OK(release(1));
  EXPECT_TRUE(lab->used()) << "the one that stays is not disturbed";
  EXPECT_FALSE(use(*source, {Step::reads(0, 0, kBlock)}));
  EXPECT_EQ(seen().epochs, (std::vector<Epoch>{{1, 2}}));
}

TEST_P(BlockStoreContract, R_B2_R_B4_AMoveThatFailsEndsTheNewerAttachmentAlone) {
  VIRGA_OK(create());
  const auto source = attach(1);
  VIRGA_OK(source);
  const auto destination = attach(2, 1);
  VIRGA_OK(destination);
  lab->use_meanwhile(*source, {Step::writes(5, 0, kBlock), Step::pauses(milliseconds(500))});
  ASSERT_TRUE(lab->run_until([&] { return lab->first_byte(data) == 5; }, seconds(10)));
  VIRGA_OK(detach(2));
  EXPECT_TRUE(lab->used()) << "the one that stays is not disturbed";
  EXPECT_FALSE(use(*destination, {Step::reads(0, 0, kBlock)}));
  EXPECT_EQ(seen().epochs, (std::vector<Epoch>{{1, 1}}));
  VIRGA_FAILS(attach(2, 1), Errc::fenced);
  VIRGA_OK(attach(3, 1));
}

TEST_P(BlockStoreContract, R_B1_AVolumeGrowsAlsoWhileItIsAttached) {
  VIRGA_OK(create());
  VIRGA_FAILS(grow(8), Errc::invalid);
  VIRGA_OK(grow(24));
  auto at = attach(1);
  VIRGA_OK(at);
  EXPECT_TRUE(use(*at, {Step::writes(4, 23 * kMib, kBlock)}));
  if (!can.grows_attached) {
    VIRGA_FAILS(grow(32), Errc::conflict);
    EXPECT_EQ(seen().size_mib, Mib{24});
    VIRGA_OK(release(1));
  }
  VIRGA_OK(grow(32));
  if (!can.grows_attached) at = attach(2);
  VIRGA_OK(at);
  EXPECT_EQ(seen().size_mib, Mib{32});
  EXPECT_TRUE(use(*at, {Step::reads(4, 23 * kMib, kBlock), Step::writes(4, 31 * kMib, kBlock)}));
}

TEST_P(BlockStoreContract, R_B1_WhatIsNoVolumeIsRefusedByName) {
  for (const char* name : {"acme/../etc", "data"}) VIRGA_FAILS(create(name), Errc::invalid);
  VIRGA_FAILS(create("acme/data", 0), Errc::invalid);
  VIRGA_OK(create());
  VIRGA_FAILS(create("acme/data", 17), Errc::conflict);
  VIRGA_FAILS(create("acme/data", 16, 3), Errc::conflict);  // another volume of the name
  if (!can.copies) VIRGA_FAILS(copy(), Errc::unsupported);
  EXPECT_EQ(lab->store().observe().size(), 1U);
}

}  // namespace virga
