// An evaluated answer: what the metrics read of it.
#pragma once

#include <cmath>
#include <optional>
#include <string>

#include "base/types.h"
#include "reward/reward.h"

namespace opo {

// Sums over an answer's tokens of d = log-prob - reference log-prob (k1) and of exp(-d) + d - 1
// (k3), in nats.
struct KlSums {
  double k1 = 0, k3 = 0;
  void Add(double logprob, double reference) {
    const double d = logprob - reference;
    k1 += d;
    k3 += std::exp(-d) + d - 1;
  }
};

struct Answer {
  idx problem = 0, sample = 0;
  std::string prompt;
  std::string gold;
  std::string text;
  idx length = 0;  // tokens
  FinishReason finish = FinishReason::kLength;
  RewardResult reward;
  double entropy = 0;           // sum over its tokens, in nats, of softmax(logits / T)
  std::optional<KlSums> kl;     // where there is a reference model
  std::optional<double> judge;  // its score by the judge, where there is one

  bool scored() const { return reward.verdict == Verdict::kScored; }
  bool truncated() const { return finish == FinishReason::kLength; }
};

}  // namespace opo
