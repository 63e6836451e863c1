#pragma once

#include "driver/block_store_contract.h"

/// Beside block_store_contract_tests.h, for stores that fill volumes from images: the suite BlockImageContract.
namespace virga {

TEST_P(BlockImageContract, R_B1_AVolumeBeginsWithAnImagesDisk) {
  const ImageDisk image = lab->image(7);
  VIRGA_OK(create_from(image, 5));
  VIRGA_OK(create_from(image, 5));
  VIRGA_FAILS(create_from(image, 6), Errc::conflict);
  ASSERT_TRUE(becomes_whole("acme/data"));
  EXPECT_LT(seen().used_bytes.value, 2 * kMib) << "thin";
  EXPECT_EQ(seen().size_mib, Mib{16});
  VIRGA_FAILS(attach(5), Errc::fenced);
  const auto at = attach(6);
  VIRGA_OK(at);
  EXPECT_TRUE(use(*at, {Step::reads(0, 0, kMib), Step::reads(7, kMib, kMib),
                        Step::reads(0, 2 * kMib, 14 * kMib), Step::writes(8, 0, kMib)}));
  lab->restart_agent();
  EXPECT_TRUE(seen().whole());
  EXPECT_TRUE(use(*at, {Step::reads(8, 0, kMib)})) << "filled once";
}

TEST_P(BlockImageContract, R_B1_R_F1_FillingGoesOnAfterARestart) {
  VIRGA_OK(create_from(lab->image(7), 0));
  lab->restart_agent();
  ASSERT_TRUE(becomes_whole("acme/data"));
  const auto at = attach(1);
  VIRGA_OK(at);
  EXPECT_TRUE(use(*at, {Step::reads(0, 0, kMib), Step::reads(7, kMib, kMib)}));
}

TEST_P(BlockImageContract, R_B1_AVolumeWhoseImageIsNotThereWaitsForIt) {
  ImageDisk image = lab->image(7);
  image.path += "-gone";
  VIRGA_OK(create_from(image, 0));
  lab->run_until([] { return false; }, seconds(1));
  EXPECT_EQ(seen().image, image.path);
  VIRGA_FAILS(attach(1), Errc::unavailable);
  VIRGA_FAILS(grow(24), Errc::unavailable);
  VIRGA_FAILS(copy(), can.copies ? Errc::unavailable : Errc::unsupported);
  VIRGA_OK(erase());
  EXPECT_TRUE(lab->store().observe().empty());
  EXPECT_TRUE(lab->leftovers(data).empty());
}

TEST_P(BlockImageContract, R_B1_AVolumeThatIsBeingFilledCanBeErasedAndMadeAnew) {
  VIRGA_OK(create_from(lab->image(7), 0));
  VIRGA_OK(erase());
  EXPECT_TRUE(lab->leftovers(data).empty());
  VIRGA_OK(create_from(lab->image(9), 1));
  ASSERT_TRUE(becomes_whole("acme/data"));
  const auto at = attach(2);
  VIRGA_OK(at);
  EXPECT_TRUE(use(*at, {Step::reads(9, kMib, kMib)}));
}

}  // namespace virga
