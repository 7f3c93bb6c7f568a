#include "base/fault.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"

namespace opo {
namespace {

class FaultTest : public testing::Test {
 protected:
  void TearDown() override {
    SetFaults("");
    SetFaultStep(-1);
    SetFaultRank(0);
  }
};

TEST_F(FaultTest, NothingStrikesWhereNothingIsSet) {
  std::vector<float> values(3, 1.0f);
  EXPECT_FALSE(FaultsArmed());
  EXPECT_FALSE(CorruptNumbers("gradient", std::span(values)));
  EXPECT_FALSE(FaultAt("write", "").has_value());
  FaultPoint("anywhere");
}

TEST_F(FaultTest, ANumberBecomesNaNInfiniteOrAnother) {
  SetFaults("nan:a:index=1;inf:b:index=5;flip:c:bit=31;flip:d:bit=15;nan:e");
  std::vector<float> values(3, 1.0f);
  EXPECT_TRUE(CorruptNumbers("a", std::span(values)));
  EXPECT_TRUE(std::isnan(values[1]));
  EXPECT_FALSE(CorruptNumbers("a", std::span(values))) << "it strikes once";
  EXPECT_TRUE(CorruptNumbers("b", std::span(values)));
  EXPECT_TRUE(std::isinf(values[2])) << "5 mod 3";
  EXPECT_TRUE(CorruptNumbers("c", std::span(values)));
  EXPECT_EQ(values[0], -1.0f);
  std::vector<bf16> half(2, ToBf16(1.0f));
  EXPECT_TRUE(CorruptNumbers("d", std::span(half)));
  EXPECT_EQ(ToF32(half[0]), -1.0f);
  std::vector<double> wide(2, 1.0);
  EXPECT_TRUE(CorruptNumbers("e", std::span(wide)));
  EXPECT_TRUE(std::isnan(wide[0]));
}

TEST_F(FaultTest, StepRankOccasionAndPathSelect) {
  SetFaults("nan:x:step=3:rank=1:nth=2:count=2;fsync:EIO:path=metrics");
  const auto strikes = [] { return FaultAt("nan", "x").has_value(); };
  EXPECT_FALSE(strikes());
  SetFaultStep(3);
  EXPECT_FALSE(strikes());
  SetFaultRank(1);
  EXPECT_FALSE(strikes()) << "the first occasion passes";
  EXPECT_TRUE(strikes());
  EXPECT_TRUE(strikes());
  EXPECT_FALSE(strikes());
  EXPECT_FALSE(FaultAt("fsync", "", "run/samples.jsonl").has_value());
  const auto fault = FaultAt("fsync", "", "run/metrics.jsonl");
  ASSERT_TRUE(fault.has_value());
  EXPECT_EQ(fault->target, "EIO");
}

TEST_F(FaultTest, AWriteStrikesWhereItsBytesReachTheLimitAndEverAfter) {
  SetFaults("write:ENOSPC:after=100");
  EXPECT_FALSE(FaultAt("write", "", "f", 60).has_value());
  auto fault = FaultAt("write", "", "f", 60);
  ASSERT_TRUE(fault.has_value());
  EXPECT_EQ(fault->after, 40) << "these bytes still fit";
  fault = FaultAt("write", "", "f", 1);
  ASSERT_TRUE(fault.has_value());
  EXPECT_EQ(fault->after, 0);
}

TEST_F(FaultTest, PointsThrow) {
  SetFaults("throw:there");
  FaultPoint("here");
  EXPECT_THROW(FaultPoint("there"), Error);
  SetFaults("kill:there");
  EXPECT_EXIT(FaultPoint("there"), testing::KilledBySignal(SIGKILL), "strikes");
}

TEST_F(FaultTest, WhatCannotBeReadIsNamed) {
  const auto refused = [](const char* text, const char* mentions) {
    try {
      SetFaults(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      EXPECT_NE(std::string(error.what()).find(mentions), std::string::npos) << error.what();
    }
  };
  refused("bang:weight", "nan, inf");
  refused("nan", "no target");
  refused("nan:", "no target");
  refused("nan:weight:stop=3", "none of step");
  refused("nan:weight:step=three", "\"three\"");
  refused("nan:weight:step=-1", "\"-1\"");
  EXPECT_FALSE(FaultsArmed());
}

}  // namespace
}  // namespace opo
