#include "rollout/sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace opo {
namespace {

// Truncated sampling in the order that llama.cpp and transformers agree on: top-k, then top-p over
// what is left, then min-p relative to the most likely. Ties go to the lower token id.
TokenId PickTruncated(const float* logits, idx vocab, const SamplingConfig& config,
                      const TokenStats& stats, double u) {
  struct Candidate {
    double p;
    TokenId id;
  };
  std::vector<Candidate> all(static_cast<std::size_t>(vocab));
  const double inv_temp = static_cast<double>(config.inv_temperature());
  for (idx i = 0; i < vocab; ++i) {
    all[static_cast<std::size_t>(i)] = {
        std::exp(static_cast<double>(logits[i]) * inv_temp - static_cast<double>(stats.max)),
        static_cast<TokenId>(i)};
  }
  std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return a.p != b.p ? a.p > b.p : a.id < b.id;
  });
  if (config.top_k > 0 && config.top_k < vocab) all.resize(static_cast<std::size_t>(config.top_k));
  double total = 0;
  for (const Candidate& c : all) total += c.p;
  if (config.top_p < 1.0) {
    double sum = 0;
    std::size_t keep = 0;
    while (keep < all.size() && (keep == 0 || sum < config.top_p * total)) sum += all[keep++].p;
    all.resize(keep);
    total = sum;
  }
  if (config.min_p > 0) {
    const double least = config.min_p * all.front().p;
    while (all.size() > 1 && all.back().p < least) {
      total -= all.back().p;
      all.pop_back();
    }
  }
  double left = u * total;
  for (const Candidate& c : all) {
    left -= c.p;
    if (left < 0) return c.id;
  }
  return all.back().id;
}

}  // namespace

SampledToken SampleToken(float* logits, idx vocab, const SamplingConfig& config, double u) {
  thread_local std::vector<float> block_sums;
  block_sums.resize(static_cast<std::size_t>(CeilDiv(RoundUp(vocab, kPad), kHeadBlock)));
  const Kernels& kernels = ActiveKernels();
  const float inv_temp = config.inv_temperature();
  const TokenStats stats = kernels.head_stats(logits, vocab, inv_temp, -1, block_sums.data());
  SampledToken out;
  if (config.temperature <= 0) {
    out.token = static_cast<TokenId>(std::max_element(logits, logits + vocab) - logits);
  } else if (config.top_k > 0 || config.top_p < 1.0 || config.min_p > 0) {
    out.token = PickTruncated(logits, vocab, config, stats, u);
  } else {
    out.token = kernels.head_pick(logits, vocab, inv_temp, stats.max, block_sums.data(), u);
  }
  // The learner's expression, operation by operation (head_stats with a target).
  out.logprob = (logits[out.token] * inv_temp - stats.max) - stats.log_sum;
  out.entropy = stats.entropy;
  out.sum_sq = stats.sum_sq;
  return out;
}

}  // namespace opo
