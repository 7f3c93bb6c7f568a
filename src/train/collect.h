// The batch of a step: prompts drawn in the run's order, answers sampled and scored.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "data/data_set.h"
#include "data/prompt_order.h"
#include "rollout/prompts.h"
#include "rollout/rollout.h"
#include "train/config.h"
#include "train/scoring.h"
#include "train/shards.h"

namespace opo {

// Looks at all training prompts before a run begins. data.overlong says what happens to one that is
// longer than data.prompt_limit: Error(kInput) naming the problem, or it is removed, or it is only
// counted, since its beginning is cut when it is drawn. Says in data.notes how many there were.
void FitPrompts(const PromptRenderer& prompts, const DataConfig& config, DataSets& data);

// XXH3-128 over the training problems: a resumed run must find the same.
std::string DataDigest(const DataSets& data);

// How the run samples; `step` is part of the random numbers' key.
SamplingConfig TrainingSampling(const TrainConfig& config, idx step);

// The shard of the group that stands at `place` in a batch.
idx ShardOf(const TrainConfig& config, idx place);

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
  };
  // Goes on behind `position` prompts of the order.
  Collector(const Parts& parts, idx position) : parts_(parts), position_(position) {}

  // rollout.prompts groups. With rollout.dynamic_sampling (DAPO, arXiv 2503.14476), a group whose
  // answers all have the same reward is replaced by the next prompt, until the batch is full or
  // rollout.max_draws batches of prompts were drawn; then the first of the replaced fill it.
  //
  // A rank samples and scores what stands where its shards' groups stand; all ranks get all groups.
  std::vector<RolloutGroup> Collect(idx step, nlohmann::ordered_json& metrics);

  // Who has which shards in this step: dealt by the rows that its prompts, and answers as long as
  // those so far, would take.
  const ShardDeal& deal() const { return deal_; }

  idx position() const { return position_; }  // prompts drawn so far

 private:
  std::vector<RolloutGroup> Draw(idx count, std::map<idx, idx>& occurrences);
  void Deal(std::span<const RolloutGroup> groups);
  Parts parts_;
  idx position_;
  ShardDeal deal_;
  idx answers_ = 0, answer_tokens_ = 0;  // so far
};

}  // namespace opo
