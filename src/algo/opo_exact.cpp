// OPO with the gradients' own norms: A_i = r_i - b, b = sum |g_i|^2 r_i / sum |g_i|^2 over the
// answers to one prompt, g_i the gradient of log pi(y_i): the baseline that minimises the variance
// of the policy gradient, with the weights that opo's lengths stand in for (Weaver & Tao 2001;
// Greensmith, Bartlett & Baxter 2004; algorithm "opo" of arXiv 2505.23585). Where all norms are 0,
// b = 0.
#include "algo/advantages.h"
#include "base/error.h"

namespace opo {

AdvantageResult OpoExactAdvantages(const RewardBatch& batch, const AlgorithmConfig&) {
  OPO_CHECK(batch.gradient_norms.size() == batch.rewards.size());
  return CenterRewards(batch, Groups(batch), [&](const RewardBatch& net, Peers group) {
    double weighted = 0;
    double total = 0;
    for (std::size_t i = group.begin; i < group.end; ++i) {
      weighted += net.gradient_norms[i] * net.rewards[i];
      total += net.gradient_norms[i];
    }
    const double baseline = total > 0 ? weighted / total : 0;
    return [=](std::size_t) { return Centering{.baseline = baseline}; };
  });
}

}  // namespace opo
