// opo explain and opo algorithms: the numbers they print, and what they ask for or refuse.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "app/program.h"

namespace opo {
namespace {

using nlohmann::json;

std::vector<std::string> Words(const std::string& algorithm, std::vector<std::string> more) {
  more.insert(more.begin(), {"explain", "--algo", algorithm});
  return more;
}

json Explain(const std::string& algorithm, std::vector<std::string> more) {
  more.push_back("--json");
  const ProgramResult result = RunProgram(Words(algorithm, std::move(more)));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 1) << result.out;
  return result.last_line();
}

void ExpectNear(const json& got, const std::vector<double>& expected) {
  ASSERT_EQ(got.size(), expected.size()) << got;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(got[i].get<double>(), expected[i], 1e-6) << got;
  }
}

const std::vector<std::string> kGroupA = {"--rewards", "1,0,1,0", "--lengths", "10,30,20,40"};

std::vector<std::string> GroupA(std::vector<std::string> more) {
  more.insert(more.begin(), kGroupA.begin(), kGroupA.end());
  return more;
}

TEST(Explain, OneGroup) {
  const json opo = Explain("opo", kGroupA);
  EXPECT_NEAR(opo["baseline"].get<double>(), 0.3, 1e-12);
  ExpectNear(opo["baselines"], {0.3, 0.3, 0.3, 0.3});
  ExpectNear(opo["advantages"], {0.7, -0.3, 0.7, -0.3});
  ExpectNear(opo["token_weights"], {0.01, 0.01, 0.01, 0.01});
  EXPECT_EQ(opo["loss_agg"], "token-mean");
  EXPECT_EQ(opo["source"], "arXiv 2505.23585");
  EXPECT_NE(opo["formula"].get<std::string>().find("sum_j l_j"), std::string::npos);
  EXPECT_FALSE(opo.contains("token_advantages"));

  EXPECT_NEAR(Explain("opo", GroupA({"--length-exponent", "1.6"}))["baseline"].get<double>(),
              0.211951, 1e-6);
  // An answer's own baseline, where that leaves the answer out.
  ExpectNear(Explain("rloo", kGroupA)["baseline"], {1.0 / 3, 2.0 / 3, 1.0 / 3, 2.0 / 3});
  ExpectNear(Explain("gspo", kGroupA)["token_weights"], {0.025, 0.25 / 30, 0.0125, 0.00625});
  const json dr_grpo = Explain("dr_grpo", GroupA({"--set", "norm=50"}));
  EXPECT_EQ(dr_grpo["norm"], 50.0);
  ExpectNear(dr_grpo["token_weights"], {0.005, 0.005, 0.005, 0.005});
  EXPECT_EQ(Explain("dr_grpo", kGroupA)["norm"], 40.0);
}

TEST(Explain, SeveralGroups) {
  const std::vector<std::string> both = {"--rewards",           "1,0,1,0,0,0,1", "--lengths",
                                         "10,30,20,40,5,15,30", "--groups",      "7,7,7,7,3,3,3"};
  const json opo = Explain("opo", both);
  ExpectNear(opo["baseline"], {0.3, 0.6});
  ExpectNear(opo["baselines"], {0.3, 0.3, 0.3, 0.3, 0.6, 0.6, 0.6});
  ExpectNear(opo["advantages"], {0.7, -0.3, 0.7, -0.3, -0.6, -0.6, 0.4});
  ExpectNear(Explain("opo_batch", both)["baseline"], {0.4, 0.4});
}

TEST(Explain, WhatOtherAlgorithmsNeed) {
  const std::vector<std::string> two = {"--rewards", "1,0", "--lengths", "2,3"};
  auto words = two;
  words.insert(words.end(), {"--greedy", "1"});
  ExpectNear(Explain("remax", words)["advantages"], {0, -1});
  words.insert(words.end(), {"--penalties", "0.25,0.5;0,0,-1"});
  const json remax = Explain("remax", words);
  ExpectNear(remax["token_advantages"][0], {-0.75, -0.5});
  ExpectNear(remax["token_advantages"][1], {0, 0, 0});

  const json otb = Explain("otb", {"--rewards", "1,0", "--probs", "0.5,0.8,0.9;0.25,0.6",
                                   "--sum-sqs", "0.4,0.7,0.82;0.3,0.5"});
  ExpectNear(otb["token_advantages"][0], {0.666667, 0.6875, 0});
  ExpectNear(otb["token_advantages"][1], {-0.333333, -0.3125});
  const json tail =
      Explain("otb", {"--rewards", "1,0", "--probs", "0.5,0.8,0.9;0.25,0.6", "--sum-sqs",
                      "0.4,0.7,0.82;0.3,0.5", "--set", "handle_zero_tail=true"});
  ExpectNear(tail["token_advantages"][0], {0.666667, 0.6875, 1});

  const json ppo = Explain(
      "ppo", {"--rewards", "1", "--values", "0.5,0.6,0.7", "--set", "whiten_advantages=no"});
  ExpectNear(ppo["token_advantages"][0], {0.46575, 0.385, 0.3});
  ExpectNear(ppo["returns"][0], {0.96575, 0.985, 1});
  const json window = Explain("t_ppo", {"--rewards", "1", "--values", "0.5,0.6,0.7", "--unfinished",
                                        "1", "--set", "whiten_advantages=no"});
  ExpectNear(window["token_advantages"][0], {0.195, 0.1, 0});
  EXPECT_TRUE(window["returns"][0].empty());
}

TEST(Explain, IsATableForPeople) {
  const ProgramResult result = RunProgram(Words("opo", kGroupA));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (const char* text : {"formula", "0.300000", "-0.300000", "0.01", "2505.23585",
                           "length_exponent = 1", "clip_high = 0.2"}) {
    EXPECT_NE(result.out.find(text), std::string::npos) << text << "\n" << result.out;
  }
}

TEST(Explain, SaysWhatIsMissingOrWrong) {
  const auto refused = [](const std::string& algorithm, const std::vector<std::string>& more,
                          const std::string& text) {
    const ProgramResult result = RunProgram(Words(algorithm, more));
    EXPECT_EQ(result.exit_code, 2) << result.out;
    EXPECT_NE(result.err.find(text), std::string::npos) << result.err;
  };
  refused("opoo", kGroupA, "did you mean 'opo'");
  refused("opo", {"--rewards", "1,0"}, "--lengths");
  refused("opo", {"--rewards", "1,0", "--lengths", "3"}, "1 given for 2 rewards");
  refused("opo", {"--rewards", "1,x", "--lengths", "3,4"}, "--rewards: 'x'");
  refused("opo", {"--rewards", "1,nan", "--lengths", "3,4"}, "--rewards: 'nan'");
  refused("opo", {"--rewards", "1e308,-1e308", "--lengths", "3,4"}, "smaller numbers");
  refused("opo", {"--rewards", "1,,0", "--lengths", "3,4,5"}, "--rewards: ''");
  refused("opo", {"--rewards", "1,0", "--lengths", "3,4.5"}, "--lengths: '4.5'");
  refused("opo", {"--rewards", "1,0", "--lengths", "3,-4"}, "--lengths: -4");
  refused("opo", GroupA({"--groups", "0,1,0,1"}), "do not stand together");
  refused("opo", GroupA({"--groups", "0,1"}), "2 given for 4 rewards");
  refused("opo", GroupA({"--greedy", "1"}), "--greedy: opo does not look at it");
  refused("grpo", GroupA({"--length-exponent", "2"}), "algorithm.length_exponent");
  refused("opo", GroupA({"--set", "lenght_exponent=2"}), "length_exponent");
  refused("opo", GroupA({"--set", "name=grpo"}), "--algo");
  refused("remax", kGroupA, "--greedy");
  refused("remax", GroupA({"--greedy", "1,0"}), "2 given for 1 prompts");
  refused("otb", kGroupA, "--probs");
  refused("otb", {"--rewards", "1", "--probs", "0.5,0.4"}, "--sum-sqs");
  refused("otb", {"--rewards", "1", "--probs", "0.5,0.4", "--sum-sqs", "0.5"},
          "answer 0 has 2 tokens and 1 numbers");
  refused("otb", {"--rewards", "1", "--probs", "0.5,1.4", "--sum-sqs", "0.5,0.5"}, "1.4");
}

TEST(Algorithms, HaveALineEach) {
  const ProgramResult text = RunProgram({"algorithms"});
  EXPECT_EQ(text.exit_code, 0);
  const ProgramResult lines = RunProgram({"algorithms", "--json"});
  std::istringstream in(lines.out);
  std::set<std::string> names;
  for (std::string line; std::getline(in, line);) {
    const json algorithm = json::parse(line);
    const std::string name = algorithm.at("algorithm");
    names.insert(name);
    EXPECT_FALSE(algorithm.at("formula").get<std::string>().empty()) << name;
    EXPECT_NE(text.out.find(name + " "), std::string::npos) << name;
  }
  EXPECT_EQ(std::count(text.out.begin(), text.out.end(), '\n'),
            static_cast<std::ptrdiff_t>(names.size()));
  for (const char* name : {"opo", "opo_batch", "opo_loo", "otb", "reinforce", "grpo", "dr_grpo",
                           "dapo", "rloo", "remax", "reinforce_pp", "reinforce_pp_baseline", "gspo",
                           "cispo", "raft", "raft_pp", "reinforce_rej", "em_pg", "rebel"}) {
    EXPECT_EQ(names.count(name), 1U) << name;
  }
}

}  // namespace
}  // namespace opo
