// Asks one reward outside of a run.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "reward/kinds.h"

namespace opo {

inline Problem WithAnswer(const std::string& answer) {
  Problem problem;
  problem.messages = nlohmann::ordered_json::parse(R"([{"role": "user", "content": "What?"}])");
  problem.answer = answer;
  problem.data_source = "test";
  problem.extra = nlohmann::ordered_json::object();
  return problem;
}

// The results of many completions for one problem; each was told once.
inline std::vector<RewardResult> AskAll(Reward& reward, const Problem& problem,
                                        const std::vector<std::string>& completions) {
  static const std::vector<TokenId> tokens = {1, 2, 3};
  std::vector<RewardQuery> queries;
  for (const std::string& completion : completions) {
    queries.push_back({problem, "<user>What?", completion, tokens, FinishReason::kEos});
  }
  std::vector<RewardResult> results(queries.size());
  std::vector<int> told(queries.size());
  reward.Score(queries, results, [&](std::size_t i) { ++told.at(i); });
  EXPECT_EQ(told, std::vector<int>(queries.size(), 1));
  return results;
}

inline RewardResult Ask(Reward& reward, const Problem& problem, const std::string& completion) {
  return AskAll(reward, problem, {completion})[0];
}

// Whether the process is gone, or gone but for its entry in the table, within 20 s.
inline bool IsGone(int pid) {
  const double deadline = Seconds() + 20;
  while (Seconds() < deadline) {
    const std::string path = "/proc/" + std::to_string(pid) + "/stat";
    std::string stat;
    try {
      stat = ReadFile(path);
    } catch (const std::exception&) {
    }
    if (stat.empty() || stat.find(") Z ") != std::string::npos) return true;
  }
  return false;
}

}  // namespace opo
