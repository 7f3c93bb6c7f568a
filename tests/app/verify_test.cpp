// opo verify: the lines it prints, and what stops it.
#include <gtest/gtest.h>

#include <algorithm>

#include "app/program.h"

namespace opo {
namespace {

using nlohmann::json;

TEST(Verify, SumsUpInItsLastLine) {
  const std::string cases =
      "{\"gold\":\"1/2\",\"pred\":\"\\\\boxed{0.5}\",\"expected\":true,\"id\":7}\n"
      "{\"gold\":\"1/2\",\"pred\":\"nothing\",\"expected\":true}\n\n"
      "{\"gold\":\"3\",\"pred\":\"4\",\"expected\":false}\n";
  ProgramResult result = RunProgram({"verify", "--cases", "-"}, -1, SIGKILL, cases);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const json summary = result.last_line();
  EXPECT_EQ(summary["cases"], 3);
  EXPECT_EQ(summary["correct"], 2);
  EXPECT_GT(summary["per_second"], 0.0);
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 1);

  result = RunProgram({"verify", "--cases", "-", "--each"}, -1, SIGKILL, cases);
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 4);
  const json first = json::parse(result.out.substr(0, result.out.find('\n')));
  EXPECT_EQ(first, json({{"verdict", "correct"},
                         {"gold", "1/2"},
                         {"pred", "\\boxed{0.5}"},
                         {"extracted", "0.5"},
                         {"why", "the same value"}}));
}

TEST(Verify, CountsVerdictsWithoutLabels) {
  const ProgramResult result =
      RunProgram({"verify", "--cases", "-"}, -1, SIGKILL,
                 "{\"gold\":\"2\",\"pred\":\"2\"}\n{\"gold\":\"2\",\"pred\":\"\"}\n");
  EXPECT_EQ(result.last_line()["verdicts"], json({{"correct", 1}, {"no_answer", 1}}));
  EXPECT_FALSE(result.last_line().contains("correct"));
}

TEST(Verify, ExplainsOneAnswer) {
  const ProgramResult result =
      RunProgram({"verify", "--gold", "x>3", "--pred", "so $(3,\\infty)$"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("correct"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("the same set of reals"), std::string::npos) << result.out;
}

TEST(Verify, NamesFileAndLineOfABadCase) {
  const auto error = [](const std::string& input) {
    const ProgramResult result = RunProgram({"verify", "--cases", "-"}, -1, SIGKILL, input);
    EXPECT_EQ(result.exit_code, 3) << input;
    return result.err;
  };
  const std::string good = "{\"gold\":\"1\",\"pred\":\"1\",\"expected\":true}\n";
  EXPECT_NE(error(good + "{\"gold\":\"1\"}\n").find("line 2: has no `pred`"), std::string::npos);
  EXPECT_NE(error("{\"gold\":1,\"pred\":\"1\"}\n").find("line 1: `gold` is not a string"),
            std::string::npos);
  EXPECT_NE(error(good + "not json\n").find("line 2"), std::string::npos);
  EXPECT_NE(error(good + "{\"gold\":\"1\",\"pred\":\"1\"}\n").find("line 2: `expected`"),
            std::string::npos);
  EXPECT_NE(error(good + "{\"gold\":\"1\",\"pred\":\"1\",\"expected\":\"yes\"}\n").find("line 2"),
            std::string::npos);
  EXPECT_NE(error("").find("holds no cases"), std::string::npos);
  EXPECT_EQ(RunProgram({"verify"}).exit_code, 2);
  EXPECT_EQ(RunProgram({"verify", "--each", "--gold", "1"}).exit_code, 2);
}

}  // namespace
}  // namespace opo
