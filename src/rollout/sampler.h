// From a row of logits to a token and what is kept of it.
#pragma once

#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "rollout/rollout.h"

namespace opo {

struct SampledToken {
  TokenId token = 0;
  float logprob = 0;
  float entropy = 0;
  float sum_sq = 0;
  SoftmaxNorm norm;
};

// What came before the token.
struct TokenContext {
  std::span<const TokenId> prompt;
  std::span<const TokenId> answer;
};

// `u` in [0, 1) chooses. Log-prob, entropy and sum of squares are those of softmax(logits / T),
// also where the config changes the logits or restricts the choice. logits: (V), padded to kPad.
SampledToken SampleToken(float* logits, idx vocab, const SamplingConfig& config,
                         const TokenContext& context, double u);

// Its parts. Steps 1 to 3 of SamplingConfig, in place, in f32:
void ChangeLogits(float* logits, idx vocab, const SamplingConfig& config,
                  const TokenContext& context);

struct Candidate {
  double p = 0;  // relative to the likeliest token's
  TokenId id = 0;
};
// Steps 4 to 7, in f64 whatever the path: the tokens that are left, likeliest first. REQUIRES a
// temperature above 0 and a finite logit.
void RestrictTokens(const float* logits, idx vocab, const SamplingConfig& config,
                    std::vector<Candidate>& left);

}  // namespace opo
