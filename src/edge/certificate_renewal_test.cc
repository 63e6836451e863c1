#include "edge/certificate_renewal.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "sim/sim_loop.h"

namespace virga {
namespace {

using std::chrono::hours;

constexpr Duration kDay = hours(24);

/// A certificate of 30 days that was issued just now, and somebody who is asked for the next one.
class CertificateRenewalTest : public ::testing::Test {
 protected:
  CertificateRenewalTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "virga-cert-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    authority_.emplace(*CertificateAuthority::open(folder_));
    first_ = issue(30 * kDay);
    const WallTime issued = life_of(first_.certificate)->begins;
    loop_.jump_wall(milliseconds(issued.unix_ms - loop_.wall_now().unix_ms));
    renewal_.emplace(
        loop_, [this](Callback<TlsIdentity> done) { asked(std::move(done)); },
        [this](const TlsIdentity& identity) {
          used_ = identity;
          return may_use_;
        });
  }
  ~CertificateRenewalTest() override { std::filesystem::remove_all(folder_); }

  TlsIdentity issue(Duration valid) const {
    return *authority_->issue({"agent:host-1", {}, {}, valid});
  }

  void asked(Callback<TlsIdentity> done) {
    ++asked_;
    loop_.post([done = std::move(done), answer = answer_] { done(answer); });
  }

  SimLoop loop_;
  std::string folder_;
  std::optional<CertificateAuthority> authority_;
  TlsIdentity first_;
  Result<TlsIdentity> answer_ = make_error(Errc::unavailable, "the server is away");
  Result<void> may_use_;
  TlsIdentity used_;
  int asked_ = 0;
  std::optional<CertificateRenewal> renewal_;
};

TEST_F(CertificateRenewalTest, R_F13_another_one_is_asked_for_when_a_third_of_its_life_is_left) {
  answer_ = issue(60 * kDay);  // as of now, not as of then
  ASSERT_TRUE(renewal_->start(first_.certificate).ok());
  loop_.run_for(20 * kDay - hours(1));
  EXPECT_EQ(asked_, 0);
  loop_.run_for(hours(2));
  EXPECT_EQ(asked_, 1);
  EXPECT_EQ(used_.certificate, answer_->certificate);
  loop_.run_for(18 * kDay);
  EXPECT_EQ(asked_, 1) << "the new one is good for another month";
  answer_ = issue(90 * kDay);
  loop_.run_for(3 * kDay);
  EXPECT_EQ(asked_, 2);
  EXPECT_EQ(used_.certificate, answer_->certificate);
}

TEST_F(CertificateRenewalTest, R_F13_it_is_asked_again_until_there_is_one_that_can_be_used) {
  ASSERT_TRUE(renewal_->start(first_.certificate).ok());
  loop_.run_for(21 * kDay);
  EXPECT_GE(asked_, 140);
  EXPECT_LE(asked_, 146) << "about every ten minutes";
  EXPECT_TRUE(used_.empty());
  answer_ = TlsIdentity{"none", "none", "none"};
  loop_.run_for(hours(5));
  EXPECT_TRUE(used_.empty()) << "what is no certificate is not used";
  answer_ = issue(60 * kDay);
  may_use_ = make_error(Errc::exhausted, "the disk is full");
  loop_.run_for(10 * kDay);
  EXPECT_GT(asked_, 10 * 23) << "also after its end";
  may_use_ = {};
  loop_.run_for(hours(1) + seconds(1));
  const int last = asked_;
  loop_.run_for(5 * kDay);
  EXPECT_EQ(asked_, last);
}

TEST_F(CertificateRenewalTest, R_F13_one_that_ended_while_its_host_was_off_is_replaced_at_once) {
  loop_.jump_wall(40 * kDay);
  answer_ = issue(60 * kDay);
  ASSERT_TRUE(renewal_->start(first_.certificate).ok());
  loop_.run_for(seconds(1));
  EXPECT_EQ(used_.certificate, answer_->certificate);
  EXPECT_EQ(renewal_->start("none").error().code, Errc::invalid);
}

TEST_F(CertificateRenewalTest, R_F13_what_a_clock_that_was_ahead_has_issued_is_replaced) {
  answer_ = issue(60 * kDay);
  loop_.jump_wall(-10 * kDay);
  ASSERT_TRUE(renewal_->start(first_.certificate).ok());
  loop_.run_for(hours(1));
  EXPECT_GT(asked_, 0) << "it begins in ten days";
  EXPECT_TRUE(used_.empty()) << "so does the other one";
  loop_.jump_wall(10 * kDay);
  loop_.run_for(hours(1));
  const int last = asked_;
  loop_.run_for(kDay);
  EXPECT_EQ(asked_, last) << "the clock is right again, and so is the certificate";
}

TEST_F(CertificateRenewalTest, R_F13_a_short_life_is_looked_at_often_and_who_ends_hears_no_more) {
  first_ = issue(seconds(24));
  ASSERT_TRUE(renewal_->start(first_.certificate).ok());
  loop_.run_for(seconds(15));
  EXPECT_EQ(asked_, 0);
  ASSERT_TRUE(loop_.run_until_true([this] { return asked_ > 0; }, seconds(2)));
  answer_ = issue(60 * kDay);
  renewal_.reset();
  loop_.run_for(seconds(60));
  EXPECT_EQ(asked_, 1);
  EXPECT_TRUE(used_.empty());
}

}  // namespace
}  // namespace virga
