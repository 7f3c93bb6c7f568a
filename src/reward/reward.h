// Rewards: how a finished answer is scored. A reward is a value, a skip, or an error that is
// counted and shown; never a silent zero.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/problem.h"

namespace opo {

enum class FinishReason { kEos, kStop, kLength };
const char* FinishReasonName(FinishReason reason);  // "eos", "stop", "length"

enum class Verdict { kScored, kSkipped, kError };

struct RewardResult {
  Verdict verdict = Verdict::kScored;
  double value = 0;
  std::string note;  // why, in words: what was extracted, or what went wrong
};

class Reward {
 public:
  virtual ~Reward() = default;
  // Must not throw on any completion text, runs in bounded time, keeps no state: may be called from
  // several threads at once.
  virtual RewardResult Score(const Problem& problem, std::string_view completion,
                             FinishReason finish) const = 0;
};

// One term of the configured reward: `kind` of the table in reward.cpp (number, exact, regex,
// format), `pattern` for regex and format, `weight` in the sum.
struct RewardConfig {
  std::string kind = "number";
  std::string pattern = "";
  double weight = 1.0;
};

// The weighted sum of the terms (a skip or an error of one is that of the sum). Throws
// Error(kUsage) naming the key and the known kinds, or the pattern's fault.
std::unique_ptr<Reward> MakeReward(const std::vector<RewardConfig>& terms);
std::vector<std::string> RewardKinds();

}  // namespace opo
