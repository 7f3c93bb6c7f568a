#include <algorithm>
#include <vector>

#include "base/parallel.h"
#include "rollout/rollout.h"

namespace opo {
template <class T>
void Score(Transformer<T>& model, std::span<RolloutGroup> groups, float inv_temperature) {
  const idx ld = model.ld();
  const Kernels& kernels = ActiveKernels();
  Buffer<T> hidden;
  Buffer<float> logits(kLogitRows * model.ld_logits());
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
    for (Rollout& rollout : group.rollouts) {
      const idx rows = rollout.length();
      rollout.seals.clear();
      rollout.logprobs.assign(rollout.tokens.size(), 0);
      rollout.entropies.assign(rollout.tokens.size(), 0);
      rollout.sum_sqs.assign(rollout.tokens.size(), 0);
      if (rows == 0) continue;
      std::vector<TokenId> input = {group.prompt.back()};
      input.insert(input.end(), rollout.tokens.begin(), rollout.tokens.end() - 1);
      Segment<T> segment(&model.pool());
      Run<T> run;
      run.segment = &segment;
      run.prefix = shared > 0 ? &prefix : nullptr;
      run.tokens = input.data();
      run.count = rows;
      hidden.Reserve(rows * ld);
      model.Forward({&run, 1}, hidden.data());
      for (idx first = 0; first < rows; first += kLogitRows) {
        const idx n = std::min(kLogitRows, rows - first);
        model.Logits(hidden.data() + first * ld, n, logits.data());
        ParallelFor(n, [&](idx r) {
          thread_local std::vector<float> block_sums;
          block_sums.resize(static_cast<std::size_t>(CeilDiv(model.ld_logits(), kHeadBlock)));
          const auto t = static_cast<std::size_t>(first + r);
          const TokenStats stats =
              kernels.head_stats(logits.data() + r * model.ld_logits(), model.config().vocab_size,
                                 inv_temperature, rollout.tokens[t], block_sums.data());
          rollout.logprobs[t] = stats.logprob;
          rollout.entropies[t] = stats.entropy;
          rollout.sum_sqs[t] = stats.sum_sq;
        });
      }
    }
  }
}

template void Score<float>(Transformer<float>&, std::span<RolloutGroup>, float);
template void Score<bf16>(Transformer<bf16>&, std::span<RolloutGroup>, float);

}  // namespace opo
