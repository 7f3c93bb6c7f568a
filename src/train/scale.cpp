#include "train/scale.h"

#include <algorithm>
#include <cmath>

#include "model/weights.h"
#include "train/shards.h"

namespace opo {
namespace {

// Of a token between ranks: id, log-prob, entropy, sum of squares, and some bytes of text.
constexpr idx kTokenBytes = 20;

}  // namespace

RankMessages::RankMessages(const ModelConfig& model, idx tokens_of_rank) {
  const SlabLayout layout(model);
  slab = layout.size * 4;
  segments = model.num_layers + 1;
  if (layout.embed >= 0) last = model.vocab_size * model.hidden_size * 4;
  rollouts = tokens_of_rank * kTokenBytes;
}

RankCosts PlanRankCosts(const RankMessages& messages, idx ranks, const Network& net,
                        double backward_s) {
  RankCosts costs;
  if (ranks < 2) return costs;
  const double r = static_cast<double>(ranks);
  const double others = (r - 1) / r;
  const double depth = std::ceil(std::log2(r));
  const auto seconds = [&](double bytes) { return bytes / net.bytes_per_s; };
  const double slab = static_cast<double>(messages.slab);

  // Every rank sends each other one its part of the slab, a piece a segment that lies in it.
  const double pieces = r - 1 + static_cast<double>(messages.segments);
  costs.reduce = pieces * net.latency_s + seconds(others * slab);
  const double exposed = net.latency_s + seconds(others * static_cast<double>(messages.last));
  costs.reduce_hidden = std::min(costs.reduce - std::min(costs.reduce, exposed), backward_s);
  costs.share = (r - 1) * net.latency_s + seconds(others * slab);

  // To the root, and from there along a binomial tree whose first rank sends it `depth` times.
  const double all = r * static_cast<double>(messages.rollouts) + slab / 4 / kSlabBlock * 8;
  costs.rollouts = (r - 1 + 4 * depth) * net.latency_s + seconds((1 + depth) * all);
  costs.bytes = 2 * others * slab + static_cast<double>(messages.rollouts);
  return costs;
}

RankedStep PlanRankedStep(const StepTimePlan& time, const TrainConfig& config,
                          const ModelConfig& model, idx completion_tokens, idx ranks,
                          const Network& net, double length_cv, bool weak) {
  const idx prompts = config.rollout.prompts;
  const idx own = weak ? prompts : CeilDiv(prompts, std::min(ranks, prompts));
  const double share = static_cast<double>(own) / static_cast<double>(prompts);
  const double answers = static_cast<double>(own * config.rollout.samples);
  RankedStep step;
  step.compute = (time.total() - time.update) * share + time.update;
  step.imbalance = step.compute * length_cv *
                   std::sqrt(2 * std::log(static_cast<double>(std::max<idx>(1, ranks))) / answers);
  step.costs = PlanRankCosts(RankMessages(model, own * config.rollout.samples * completion_tokens),
                             ranks, net,
                             time.backward * share * static_cast<double>(model.num_layers - 1) /
                                 static_cast<double>(std::max<idx>(1, model.num_layers)));
  return step;
}

}  // namespace opo
