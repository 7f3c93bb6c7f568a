// From a row of logits to a token and what is kept of it.
#pragma once

#include "kernels/kernels.h"
#include "rollout/rollout.h"

namespace opo {

struct SampledToken {
  TokenId token = 0;
  float logprob = 0;
  float entropy = 0;
  float sum_sq = 0;
};

// `u` in [0, 1) chooses. Log-prob, entropy and sum of squares are those of the full softmax at the
// config's temperature, also where top-k, top-p or min-p restrict the choice.
SampledToken SampleToken(float* logits, idx vocab, const SamplingConfig& config, double u);

}  // namespace opo
