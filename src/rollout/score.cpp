#include <algorithm>
#include <utility>
#include <vector>

#include "base/parallel.h"
#include "rollout/rollout.h"

namespace opo {
template <class T>
void Score(Transformer<T>& model, std::span<RolloutGroup> groups, float inv_temperature) {
  const idx ld = model.ld();
  const Kernels& kernels = ActiveKernels();
  const ModelConfig& config = model.config();
  Buffer<T> hidden;
  Buffer<float> logits, values;
  for (RolloutGroup& group : groups) {
    Segment<T> prefix(&model.pool());
    const idx shared = static_cast<idx>(group.prompt.size()) - 1;
    if (shared > 0) {
      Run<T> run;
      run.segment = &prefix;
      run.tokens = group.prompt.data();
      run.count = shared;
      run.outputs = false;
      model.Forward({&run, 1}, nullptr);
    }
    // Answers side by side, as many as a call of the sampler may have rows.
    std::size_t next = 0;
    while (next < group.rollouts.size()) {
      std::vector<Segment<T>> segments;
      std::vector<std::vector<TokenId>> inputs;
      std::vector<Run<T>> runs;
      std::vector<std::pair<Rollout*, std::size_t>> tokens;  // one a row
      while (next < group.rollouts.size()) {
        Rollout& rollout = group.rollouts[next];
        if (!runs.empty() && static_cast<idx>(tokens.size()) + rollout.length() > kPrefillRows) {
          break;
        }
        ++next;
        rollout.seals.clear();
        rollout.norms.clear();
        const std::size_t of_logits = config.has_logits ? rollout.tokens.size() : 0;
        rollout.logprobs.assign(of_logits, 0);
        rollout.entropies.assign(of_logits, 0);
        rollout.sum_sqs.assign(of_logits, 0);
        if (config.has_values) rollout.values.assign(rollout.tokens.size(), 0);
        if (rollout.tokens.empty()) continue;
        inputs.push_back(SampleInput(group, rollout));
        for (std::size_t t = 0; t < rollout.tokens.size(); ++t) tokens.emplace_back(&rollout, t);
        Run<T>& run = runs.emplace_back();
        run.prefix = shared > 0 ? &prefix : nullptr;
        run.count = rollout.length();
      }
      if (runs.empty()) continue;
      for (std::size_t i = 0; i < runs.size(); ++i) {
        segments.emplace_back(&model.pool());
        runs[i].tokens = inputs[i].data();
      }
      for (std::size_t i = 0; i < runs.size(); ++i) runs[i].segment = &segments[i];
      const idx rows = static_cast<idx>(tokens.size());
      hidden.Reserve(rows * ld);
      model.Forward(runs, hidden.data());
      if (config.has_values) {
        values.Reserve(rows);
        model.Values(hidden.data(), rows, values.data());
        for (idx r = 0; r < rows; ++r) {
          const auto& [rollout, t] = tokens[static_cast<std::size_t>(r)];
          rollout->values[t] = values[r];
        }
      }
      if (!config.has_logits) continue;
      logits.Reserve(std::min(rows, kLogitRows) * model.ld_logits());
      for (idx first = 0; first < rows; first += kLogitRows) {
        const idx n = std::min(kLogitRows, rows - first);
        model.Logits(hidden.data() + first * ld, n, logits.data());
        ParallelFor(n, [&](idx r) {
          thread_local std::vector<float> block_sums;
          block_sums.resize(static_cast<std::size_t>(CeilDiv(config.vocab_size, kHeadBlock)));
          const auto& [rollout, t] = tokens[static_cast<std::size_t>(first + r)];
          const TokenStats stats =
              kernels.head_stats(logits.data() + r * model.ld_logits(), config.vocab_size,
                                 inv_temperature, rollout->tokens[t], block_sums.data());
          rollout->logprobs[t] = stats.logprob;
          rollout->entropies[t] = stats.entropy;
          rollout->sum_sqs[t] = stats.sum_sq;
        });
      }
    }
  }
}

template void Score<float>(Transformer<float>&, std::span<RolloutGroup>, float);
template void Score<bf16>(Transformer<bf16>&, std::span<RolloutGroup>, float);

}  // namespace opo
