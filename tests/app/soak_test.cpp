// Long runs in short: rounds of training in one process, watched.
#include <gtest/gtest.h>

#include "app/program.h"

namespace opo {
namespace {

TEST(Soak, SomeRoundsHoldNothingBack) {
  const ScratchFolder scratch;
  const ProgramResult result = RunProgram({"soak", "--rounds", "6", "--steps", "1",
                                           "--max-growth-mb", "1000", "--folder", scratch / "."});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json report = result.last_line();
  EXPECT_EQ(report["rounds"], 6);
  EXPECT_EQ(report["runs"], 1);
  for (const char* what : {"handles", "threads"}) {
    EXPECT_EQ(report[what]["first"], report[what]["largest"]) << report;
    EXPECT_EQ(report[what]["growth"], 0) << report;
  }
  EXPECT_GT(report["handles"]["last"], 2);
  EXPECT_GT(report["rss_mb"]["first"], 1);
  EXPECT_GE(report["rss_mb"]["largest"], report["rss_mb"]["last"]);
  // Its own folder is gone.
  EXPECT_TRUE(std::filesystem::is_empty(scratch / "."));
}

TEST(Soak, AJudgeThatDiesEndsIt) {
  const ProgramResult result = RunProgram(
      {"soak", "--rounds", "2", "--steps", "1", "--set", "reward.1.command=[\"false\"]"});
  EXPECT_EQ(result.exit_code, 1) << result.out;
  EXPECT_NE(result.err.find("reward"), std::string::npos) << result.err;
}

TEST(Soak, GrowthIsAFault) {
  // Every start makes a little more; the bound of zero shows that the bound is looked at.
  const ProgramResult result =
      RunProgram({"soak", "--rounds", "3", "--steps", "1", "--max-growth-mb", "0"});
  const double growth = result.last_line()["rss_mb"]["growth"].get<double>();
  EXPECT_EQ(result.exit_code, growth > 0 ? 1 : 0) << result.err;
}

}  // namespace
}  // namespace opo
