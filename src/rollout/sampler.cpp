#include "rollout/sampler.h"

#include <algorithm>
#include <cmath>

namespace opo {
namespace {

bool Likelier(const Candidate& a, const Candidate& b) {
  return a.p != b.p ? a.p > b.p : a.id < b.id;
}
bool LessLikely(const Candidate& a, const Candidate& b) { return Likelier(b, a); }

TokenId PickRestricted(const float* logits, idx vocab, const SamplingConfig& config, double u) {
  thread_local std::vector<Candidate> left;
  RestrictTokens(logits, vocab, config, left);
  double total = 0;
  for (const Candidate& c : left) total += c.p;
  double rest = u * total;
  for (const Candidate& c : left) {
    rest -= c.p;
    if (rest < 0) return c.id;
  }
  return left.back().id;  // what rounding leaves
}

}  // namespace

void ChangeLogits(float* logits, idx vocab, const SamplingConfig& config,
                  const TokenContext& context) {
  for (const auto& [id, bias] : config.logit_bias) logits[id] += bias;
  // How often a token was met; all zero again when this returns.
  thread_local std::vector<std::int32_t> counts;
  if (static_cast<idx>(counts.size()) < vocab) counts.resize(static_cast<std::size_t>(vocab));
  const auto count_of = [](TokenId id) -> std::int32_t& {
    return counts[static_cast<std::size_t>(id)];
  };
  if (config.repetition_penalty != 1) {
    const auto penalty = static_cast<float>(config.repetition_penalty);
    for (const auto& tokens : {context.prompt, context.answer}) {
      for (const TokenId id : tokens) {
        if (count_of(id)++ > 0) continue;
        logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
      }
    }
    for (const auto& tokens : {context.prompt, context.answer}) {
      for (const TokenId id : tokens) count_of(id) = 0;
    }
  }
  if (config.frequency_penalty != 0 || config.presence_penalty != 0) {
    const auto frequency = static_cast<float>(config.frequency_penalty);
    const auto presence = static_cast<float>(config.presence_penalty);
    for (const TokenId id : context.answer) ++count_of(id);
    for (const TokenId id : context.answer) {
      if (count_of(id) == 0) continue;  // done at its first place
      logits[id] -= frequency * static_cast<float>(count_of(id));
      logits[id] -= presence;
      count_of(id) = 0;
    }
  }
}

void RestrictTokens(const float* logits, idx vocab, const SamplingConfig& config,
                    std::vector<Candidate>& left) {
  const double inv_temp = static_cast<double>(config.inv_temperature());
  const double top = static_cast<double>(*std::max_element(logits, logits + vocab));
  thread_local std::vector<Candidate> all;
  all.resize(static_cast<std::size_t>(vocab));
  for (idx i = 0; i < vocab; ++i) {
    all[static_cast<std::size_t>(i)] = {std::exp((static_cast<double>(logits[i]) - top) * inv_temp),
                                        static_cast<TokenId>(i)};
  }
  if (config.top_k > 0 && config.top_k < vocab) {
    std::partial_sort(all.begin(), all.begin() + config.top_k, all.end(), Likelier);
    all.resize(static_cast<std::size_t>(config.top_k));
  }
  double total = 0;
  for (const Candidate& c : all) total += c.p;
  // What is left is the beginning of the sorted list: a heap sorts no more than that.
  std::make_heap(all.begin(), all.end(), LessLikely);
  left.clear();
  double sum = 0;
  while (!all.empty()) {
    const Candidate next = all.front();
    const bool enough = config.top_p < 1 && sum >= config.top_p * total;
    if (!left.empty() && (enough || next.p <= 0 || next.p < config.min_p)) return;
    left.push_back(next);
    sum += next.p;
    std::pop_heap(all.begin(), all.end(), LessLikely);
    all.pop_back();
  }
}

SampledToken SampleToken(float* logits, idx vocab, const SamplingConfig& config,
                         const TokenContext& context, double u) {
  thread_local std::vector<float> block_sums;
  block_sums.resize(static_cast<std::size_t>(CeilDiv(vocab, kHeadBlock)));
  const Kernels& kernels = ActiveKernels();
  const float inv_temp = config.inv_temperature();
  const TokenStats stats = kernels.head_stats(logits, vocab, inv_temp, -1, block_sums.data());
  float max = stats.max;
  float* from = logits;
  if (config.changes_logits()) {
    thread_local std::vector<float> changed;
    changed.assign(logits, logits + RoundUp(vocab, kPad));
    from = changed.data();
    ChangeLogits(from, vocab, config, context);
    max = kernels.head_stats(from, vocab, inv_temp, -1, block_sums.data()).max;
  }
  SampledToken out;
  if (config.temperature <= 0) {
    out.token = static_cast<TokenId>(std::max_element(from, from + vocab) - from);
  } else if (config.truncates()) {
    out.token = PickRestricted(from, vocab, config, u);
  } else {
    out.token = kernels.head_pick(from, vocab, inv_temp, max, block_sums.data(), u);
  }
  // The learner's expression, operation by operation (head_stats with a target).
  out.logprob = (logits[out.token] * inv_temp - stats.max) - stats.log_sum;
  out.entropy = stats.entropy;
  out.sum_sq = stats.sum_sq;
  out.norm = {stats.max, stats.log_sum};
  return out;
}

}  // namespace opo
