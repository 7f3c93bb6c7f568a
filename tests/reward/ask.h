// Asks one reward outside of a run.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
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

// The start of a file below /proc; "" where it is gone. Such files have no size to map.
inline std::string ProcText(const std::string& path) {
  std::string text(4096, '\0');
  FILE* file = std::fopen(path.c_str(), "r");
  const std::size_t n = file == nullptr ? 0 : std::fread(text.data(), 1, text.size(), file);
  if (file != nullptr) std::fclose(file);
  text.resize(n);
  return text;
}

// Whether the process is gone, or gone but for its entry in the table, within 20 s.
inline bool IsGone(int pid) {
  const double deadline = Seconds() + 20;
  while (Seconds() < deadline) {
    const std::string stat = ProcText("/proc/" + std::to_string(pid) + "/stat");
    if (stat.empty() || stat.find(") Z ") != std::string::npos) return true;
  }
  return false;
}

// The processes of this machine whose command line starts with some 4000 bytes that hold the word.
inline int CountProcesses(const std::string& word) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (ProcText("/proc/" + name + "/cmdline").find(word) != std::string::npos) ++count;
  }
  return count;
}

// Whether there is none within 20 s: the kernel takes a moment to end a namespace.
inline bool NoneLeft(const std::string& word) {
  const double deadline = Seconds() + 20;
  while (CountProcesses(word) > 0) {
    if (Seconds() > deadline) return false;
  }
  return true;
}

}  // namespace opo
