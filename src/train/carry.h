// Answers that go on over several steps (rollout.window): a step samples at most so many new tokens
// of each. An unfinished one is, in the next step, a group of its own, whose prompt is the answer's
// prompt and tokens so far and whose rollout is that step's window alone: sampler, learner and tape
// know nothing else.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "rollout/rollout.h"
#include "train/config.h"

namespace opo {

class CarriedAnswers {
 public:
  // The settings outlive it.
  explicit CarriedAnswers(const RolloutSettings& rollout) : rollout_(rollout) {}

  idx size() const { return std::ssize(answers_); }
  idx tokens() const;  // of all so far

  // The answers that go on, numbered from 0; `sampling` is the step's.
  std::vector<RolloutGroup> Groups(const SamplingConfig& sampling) const;

  // Of a step's groups, which begin with those of Groups(). Marks what a window left unfinished,
  // which has no reward.
  void MarkUnfinished(std::span<RolloutGroup> groups) const;
  // The finished answers of a group as a whole: their first prompt, all tokens, all text. A group
  // without any has no rollouts.
  RolloutGroup Whole(const RolloutGroup& group, const Tokenizer& tokenizer) const;
  // Forgets the finished ones, and takes up the unfinished ones of step `step`.
  void Advance(std::span<const RolloutGroup> groups, idx step);

  // For a checkpoint. Restore throws Error(kInput) for what State() cannot have written.
  nlohmann::ordered_json State() const;
  void Restore(const nlohmann::ordered_json& state, idx problems, idx vocab_size);

 private:
  struct Answer {
    idx problem = 0;
    std::uint64_t key = 0;  // of its draws
    std::vector<TokenId> prompt, tokens;
  };
  // The answer that the group goes on with; null: it is a new one.
  const Answer* Carried(const RolloutGroup& group) const;
  const RolloutSettings& rollout_;
  std::vector<Answer> answers_;
};

// The draws of an answer that goes on: it left its group in step `step` as sample `sample` of the
// group with this key, and no other draws have that.
std::uint64_t CarriedKey(std::uint64_t key, idx step, idx sample);

}  // namespace opo
