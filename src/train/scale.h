// What several ranks cost: a model of a step's communication (docs/scaling.md). `opo bench scale`
// compares it with what it measures, `opo plan` predicts with it.
#pragma once

#include "model/config.h"
#include "train/config.h"
#include "train/plan.h"

namespace opo {

// What joins two ranks: each sends and receives at this rate at the same time.
struct Network {
  double latency_s = 50e-6;
  double bytes_per_s = 1.25e9;
};

// What a step moves, in bytes.
struct RankMessages {
  idx slab = 0;      // gradient, weights: f32
  idx last = 0;      // of the gradient: final only when the backward pass ends (the embedding)
  idx segments = 1;  // pieces of the gradient that become final one after the other
  idx rollouts = 0;  // of one rank: tokens and what was recorded of them
  explicit RankMessages(const ModelConfig& model, idx tokens_of_rank = 0);
};

struct RankCosts {
  // Seconds.
  double rollouts = 0;       // to all ranks, through the root
  double reduce = 0;         // the gradient's sum, as long as nothing hides it
  double reduce_hidden = 0;  // of that, behind the backward pass
  double share = 0;          // the new weights to all
  double total() const { return rollouts + reduce - reduce_hidden + share; }
  double bytes = 0;  // sent by a rank
};

// `backward_s`: how long the last shard's backward pass goes on after its first layer is done.
RankCosts PlanRankCosts(const RankMessages& messages, idx ranks, const Network& net,
                        double backward_s);

// A step of a config on several ranks, each a machine of its own.
struct RankedStep {
  RankCosts costs;
  double compute = 0;    // seconds of a rank with its share of the prompts
  double imbalance = 0;  // seconds that it waits for the rank with the longest answers, on average
  double total() const { return compute + imbalance + costs.total(); }
};

// `time`: of the whole step on one such machine. The prompts are dealt out where `weak` is false,
// so that ranks beyond their number have none; else every rank has all of them. `length_cv`: the
// standard deviation of answers' lengths, as a part of their mean; the longest of many ranks is
// that of independent normal sums, 1 + length_cv sqrt(2 ln ranks / answers of a rank).
RankedStep PlanRankedStep(const StepTimePlan& time, const TrainConfig& config,
                          const ModelConfig& model, idx completion_tokens, idx ranks,
                          const Network& net, double length_cv, bool weak);

}  // namespace opo
