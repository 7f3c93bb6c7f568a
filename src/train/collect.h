// The batch of a step: prompts drawn in the run's order, answers sampled and scored.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "data/data_set.h"
#include "data/prompt_order.h"
#include "rollout/prompts.h"
#include "rollout/rollout.h"
#include "train/carry.h"
#include "train/config.h"
#include "train/learner.h"
#include "train/scoring.h"
#include "train/shards.h"

namespace opo {

// Looks at all training prompts before a run begins, and at given answers, those of the evaluation
// too. data.overlong says what happens to one that is longer than data.prompt_limit, or with its
// answer than SequenceLimit(): Error(kInput) naming the problem, or it is removed, or it is only
// counted, since it is cut when it is drawn. Says in data.notes how many there were.
void FitPrompts(const PromptRenderer& prompts, const TrainConfig& config, idx max_position,
                DataSets& data);

// XXH3-128 over the training problems: a resumed run must find the same.
std::string DataDigest(const DataSets& data);

// How the run samples; `step` is part of the random numbers' key.
SamplingConfig TrainingSampling(const TrainConfig& config, idx step);

// The shard of the group that stands at `place` in a batch.
idx ShardOf(const TrainConfig& config, idx place);
// The ranks of the first `groups` places.
std::vector<int> OwnersOf(const TrainConfig& config, const ShardDeal& deal, std::size_t groups);
// Deals a batch's shards by the rows of its prompts and answers; those not sampled yet count as
// `length` tokens.
ShardDeal DealGroups(const TrainConfig& config, std::span<const RolloutGroup> groups, idx length,
                     int ranks);
// What each shard learns of a batch: `weights`, one an answer in order, are the answers' tokens';
// `complete` sets the rest of a LearnGroup.
std::vector<std::vector<LearnGroup>> ByShard(const TrainConfig& config,
                                             std::span<const RolloutGroup> groups,
                                             std::span<const double> weights,
                                             const std::function<void(LearnGroup&)>& complete);

template <class T>
class Collector {
 public:
  // What it works with; all of it outlives the collector.
  struct Parts {
    const TrainConfig& config;
    Transformer<T>& model;
    const Tokenizer& tokenizer;
    const PromptRenderer& prompts;
    const std::vector<Problem>& problems;
    const PromptOrder& order;
    RewardSet& rewards;
    RewardJournal& journal;
    Tape<T>& tape;  // filled with this rank's groups
    Comm& comm;
    // Takes the place of what the rules said of this rank's answers (aihf).
    std::function<void(std::span<RolloutGroup> own)> reward = {};
  };
  // Goes on behind `position` prompts of the order.
  Collector(const Parts& parts, idx position)
      : parts_(parts), position_(position), carried_(parts.config.rollout) {}

  // rollout.prompts groups. With rollout.dynamic_sampling (DAPO, arXiv 2503.14476), a group whose
  // answers all have the same reward is replaced by the next prompt, until the batch is full or
  // rollout.max_draws batches of prompts were drawn; then the first of the replaced fill it.
  //
  // Where the algorithm compares with the greedy answer, each group has that too, rewarded in the
  // journal's phase "greedy".
  //
  // A rank samples and scores what stands where its shards' groups stand; all ranks get all groups.
  //
  // Where the algorithm takes the data's own answers (train/given.h) these stand there instead, and
  // are scored by the policy as far as something asks for it.
  std::vector<RolloutGroup> Collect(idx step, nlohmann::ordered_json& metrics);

  // Who has which shards in this step: dealt by the rows that its prompts, and answers as long as
  // those so far, would take.
  const ShardDeal& deal() const { return deal_; }
  std::vector<int> Owners(std::size_t groups) const {
    return OwnersOf(parts_.config, deal_, groups);
  }

  // Of rollout.window: the answers that the last step finished, whole, and those that go on.
  std::vector<RolloutGroup>& finished() { return finished_; }
  CarriedAnswers& carried() { return carried_; }

  idx position() const { return position_; }  // prompts drawn so far

 private:
  std::vector<RolloutGroup> CollectGiven(idx step, nlohmann::ordered_json& metrics);
  std::vector<RolloutGroup> Draw(idx count, std::map<idx, idx>& occurrences);
  // With rollout.window: first the answers that go on, then as many new prompts as keep the number
  // of answers; of finished ones alone the reward is asked.
  std::vector<RolloutGroup> CollectWindow(idx step, nlohmann::ordered_json& metrics);
  void AnswerGreedily(idx step, std::span<RolloutGroup> groups);
  void Deal(std::span<const RolloutGroup> groups);
  Parts parts_;
  idx position_;
  ShardDeal deal_;
  idx answers_ = 0, answer_tokens_ = 0;  // so far
  CarriedAnswers carried_;
  std::vector<RolloutGroup> finished_;
};

}  // namespace opo
