#pragma once

#include "driver/block_store_contract.h"

namespace virga {

#define VIRGA_STORE_OK(call)                          \
  do {                                                \
    const auto ok_result = (call);                    \
    ASSERT_TRUE(ok_result.ok()) << ok_result.error().text(); \
  } while (false)

#define VIRGA_STORE_FAILS(call, expected)                          \
  do {                                                             \
    const auto failed_result = (call);                             \
    ASSERT_FALSE(failed_result.ok());                              \
    EXPECT_EQ(failed_result.error().code, expected) << failed_result.error().text(); \
  } while (false)

TEST_P(BlockStoreContract, R_B1_AVolumeIsMadeUsedAndErased) {
  VIRGA_STORE_OK(create());
  VIRGA_STORE_OK(create());
  EXPECT_EQ(seen().size_mib, Mib{16});
  const auto at = attach(1);
  VIRGA_STORE_OK(at);
  EXPECT_TRUE(lab->use(*at, {"read -P 0 0 64k", "write -P 7 64k 64k", "flush"}));
  EXPECT_TRUE(lab->use(*at, {"read -P 7 64k 64k"}));
  EXPECT_LT(seen().used_bytes.value, 1 << 20) << "thin";
  EXPECT_TRUE(seen().served);
  VIRGA_STORE_FAILS(erase(), Errc::conflict);
  VIRGA_STORE_OK(revoke(1));
  VIRGA_STORE_OK(erase());
  VIRGA_STORE_OK(erase());
  EXPECT_TRUE(lab->leftovers(data).empty());
}

TEST_P(BlockStoreContract, R_B2_AnAttachmentIsNamedByItsEpoch) {
  VIRGA_STORE_FAILS(attach(1), Errc::not_found);
  VIRGA_STORE_OK(create());
  const auto first = attach(5);
  VIRGA_STORE_OK(first);
  EXPECT_GE(first->export_name.size(), 32U);
  const auto again = attach(5);
  VIRGA_STORE_OK(again);
  EXPECT_EQ(to_json_text(*again), to_json_text(*first));
  VIRGA_STORE_FAILS(attach(4), Errc::fenced);
  VIRGA_STORE_FAILS(attach(6), Errc::conflict);
  EXPECT_EQ(seen().epochs, (std::vector<Epoch>{{1, 5}}));
  VIRGA_STORE_OK(revoke(5));
  VIRGA_STORE_OK(revoke(5));
  VIRGA_STORE_FAILS(attach(5), Errc::fenced);
  const auto next = attach(6);
  VIRGA_STORE_OK(next);
  EXPECT_NE(next->key, first->key);
  EXPECT_NE(next->export_name, first->export_name);
}

TEST_P(BlockStoreContract, R_B2_A1_06_ARevokedConsumerIsCutOffAndStaysOut) {
  VIRGA_STORE_OK(create());
  const auto at = attach(1);
  VIRGA_STORE_OK(at);
  lab->use_meanwhile(*at, {"write -P 1 0 1M", "sleep 1500", "write -P 2 0 1M"});
  ASSERT_TRUE(lab->run_until([&] { return lab->content(data)[0] == 1; }, seconds(10)));
  VIRGA_STORE_OK(revoke(1));
  const std::string frozen = lab->content(data);
  EXPECT_FALSE(lab->used()) << "its second write fails";
  EXPECT_EQ(lab->content(data), frozen);
  const auto next = attach(2);
  VIRGA_STORE_OK(next);
  EXPECT_FALSE(lab->use(*at, {"write -P 3 0 64k"})) << "its key opens nothing";
  VolumeEndpoint guessed = *at;
  guessed.export_name = next->export_name;
  guessed.port = next->port;
  EXPECT_FALSE(lab->use(guessed, {"write -P 3 0 64k"})) << "nor does the new name with the old key";
  EXPECT_TRUE(lab->use(*next, {"read -P 1 0 1M"}));
}

TEST_P(BlockStoreContract, R_B2_WhatWasRevokedStaysRevokedAfterARestart) {
  VIRGA_STORE_OK(create());
  VIRGA_STORE_OK(attach(3));
  VIRGA_STORE_OK(revoke(3));
  lab->restart_agent();
  EXPECT_EQ(seen().revoked, (Epoch{1, 3}));
  VIRGA_STORE_FAILS(attach(3), Errc::fenced);
  VIRGA_STORE_OK(attach(4));
}

TEST_P(BlockStoreContract, R_B1_ConsumersGoOnWhileTheAgentIsReplaced) {
  VIRGA_STORE_OK(create());
  const auto at = attach(1);
  VIRGA_STORE_OK(at);
  lab->use_meanwhile(*at, {"write -P 1 0 64k", "sleep 700", "write -P 2 0 64k", "flush"});
  ASSERT_TRUE(lab->run_until([&] { return lab->content(data)[0] == 1; }, seconds(10)));
  lab->restart_agent();
  EXPECT_TRUE(lab->used());
  EXPECT_EQ(lab->content(data)[0], 2);
  const auto again = attach(1);
  VIRGA_STORE_OK(again);
  EXPECT_EQ(to_json_text(*again), to_json_text(*at));
}

TEST_P(BlockStoreContract, R_B1_AServerThatEndedIsThereAgainAtTheSamePlace) {
  VIRGA_STORE_OK(create());
  const auto at = attach(1);
  VIRGA_STORE_OK(at);
  EXPECT_TRUE(lab->use(*at, {"write -P 9 0 64k", "flush"}));
  lab->kill_server(data);
  ASSERT_TRUE(lab->run_until([&] { return !seen().served; }, seconds(5)));
  ASSERT_TRUE(lab->run_until([&] { return seen().served; }, seconds(5)));
  EXPECT_TRUE(lab->use(*at, {"read -P 9 0 64k"}));
}

TEST_P(BlockStoreContract, R_B2_AServerThatHangsIsKilledAndTheRevocationHolds) {
  VIRGA_STORE_OK(create());
  const auto at = attach(1);
  VIRGA_STORE_OK(at);
  lab->hang_server(data);
  VIRGA_STORE_OK(revoke(1));
  const auto next = attach(2);
  VIRGA_STORE_OK(next);
  EXPECT_FALSE(lab->use(*at, {"read 0 64k"}));
  EXPECT_TRUE(lab->use(*next, {"read 0 64k"}));
}

TEST_P(BlockStoreContract, R_B2_AHangingServerIsReplacedWhenSomebodyIsLetIn) {
  VIRGA_STORE_OK(create());
  VIRGA_STORE_OK(attach(1));
  lab->hang_server(data);
  const auto beside = attach(2, 1);
  VIRGA_STORE_OK(beside);
  EXPECT_TRUE(lab->use(*beside, {"read 0 64k"}));
}

TEST_P(BlockStoreContract, R_B2_R_B4_AMoveHasTwoAttachmentsAndEndsWithOne) {
  VIRGA_STORE_OK(create());
  const auto source = attach(1);
  VIRGA_STORE_OK(source);
  const auto destination = attach(2, 1);
  VIRGA_STORE_OK(destination);
  EXPECT_EQ(seen().epochs.size(), 2U);
  lab->use_meanwhile(*destination, {"write -P 5 0 64k", "sleep 500", "write -P 6 0 64k", "flush"});
  ASSERT_TRUE(lab->run_until([&] { return lab->content(data)[0] == 5; }, seconds(10)));
  VIRGA_STORE_OK(revoke(1));
  EXPECT_TRUE(lab->used()) << "the one that stays is not disturbed";
  EXPECT_FALSE(lab->use(*source, {"read 0 64k"}));
  EXPECT_EQ(seen().epochs, (std::vector<Epoch>{{1, 2}}));
}

TEST_P(BlockStoreContract, R_B1_AVolumeGrowsAlsoWhileItIsAttached) {
  VIRGA_STORE_OK(create());
  VIRGA_STORE_FAILS(grow(8), Errc::invalid);
  VIRGA_STORE_OK(grow(24));
  const auto at = attach(1);
  VIRGA_STORE_OK(at);
  EXPECT_TRUE(lab->use(*at, {"write -P 4 23M 64k", "flush"}));
  VIRGA_STORE_OK(grow(32));
  EXPECT_EQ(seen().size_mib, Mib{32});
  EXPECT_TRUE(lab->use(*at, {"read -P 4 23M 64k", "write -P 4 31M 64k"}));
}

TEST_P(BlockStoreContract, R_B1_WhatIsNoVolumeIsRefusedByName) {
  VIRGA_STORE_FAILS(create("acme/../etc"), Errc::invalid);
  VIRGA_STORE_FAILS(create("data"), Errc::invalid);
  VIRGA_STORE_FAILS(create("acme/data", 0), Errc::invalid);
  VIRGA_STORE_OK(create());
  VIRGA_STORE_FAILS(create("acme/data", 17), Errc::conflict);
  VIRGA_STORE_FAILS(grow(1), Errc::invalid);
  EXPECT_EQ(lab->store().observe().size(), 1U);
}

}  // namespace virga
