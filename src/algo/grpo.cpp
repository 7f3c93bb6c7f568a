// GRPO: A_i = (r_i - mean) / (std + 1e-6) over the answers to one prompt (arXiv 2402.03300). The
// std divides by n - 1 and the 1e-6 is verl's; TRL adds 1e-4, oat 1e-8, OpenRLHF 1e-9. Responses
// without tokens count in mean and std, as in verl.
#include <cmath>

#include "algo/advantages.h"

namespace opo {

AdvantageResult GrpoAdvantages(const RewardBatch& batch, const AlgorithmConfig&) {
  return CenterRewards(batch, Groups(batch), [&](const RewardBatch& net, Peers group) {
    const double mean = MeanReward(net, group);
    double squares = 0;
    for (std::size_t i = group.begin; i < group.end; ++i) {
      const double deviation = net.rewards[i] - mean;
      squares += deviation * deviation;
    }
    const double scale = 1.0 / (std::sqrt(squares / (group.size() - 1)) + 1e-6);
    return [=](std::size_t) { return Centering{.baseline = mean, .scale = scale}; };
  });
}

}  // namespace opo
