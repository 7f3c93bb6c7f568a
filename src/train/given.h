// Runs that learn from given answers (Problem::answers): what their settings mean, the groups that
// they learn from, and their evaluation, which is a loss.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "comm/comm.h"
#include "rollout/prompts.h"
#include "rollout/rollout.h"
#include "train/config.h"

namespace opo {

// What the algorithm takes from the data instead of sampling it.
GivenAnswers GivenOf(const TrainConfig& config);
bool IsGiven(const TrainConfig& config);
// Whether given answers are all scored by the policy before it learns from them: something looks at
// their log-probs or values. Else a seeded part of each batch is, for E1 alone.
bool ScoresGiven(const TrainConfig& config);
// Longest prompt with a given answer, for a model of so many positions.
idx SequenceLimit(const TrainConfig& config, idx max_position);
// Throws Error(kUsage) for settings that mean nothing where answers are given, or where they are
// sampled.
void CheckGiven(const TrainConfig& config);

// A problem's prompt and answers as tokens, one rollout an answer in their order, with what is
// learned of each. Of several, those to a model that has a value head alone have one more token, a
// copy of their last, which alone is learned: the row before it says the score. A rollout's reward
// is 0, but of a pair's chosen one its margin. `data.overlong` = "truncate" cuts what is too long.
// Throws Error(kInput) naming the problem.
RolloutGroup GivenGroup(const TrainConfig& config, idx max_position, const Tokenizer& tokenizer,
                        const PromptRenderer& prompts, const Problem& problem);

// The same of a problem whose prompt is sampled, with a demonstration beside it
// (NeedsDemonstrations). Throws Error(kInput) where it is longer than the model can hold, too.
RolloutGroup DemonstrationGroup(const TrainConfig& config, idx max_position,
                                const Tokenizer& tokenizer, const PromptRenderer& prompts,
                                const Problem& problem);

// Whether the problem's prompt or one of its answers is longer than the settings allow; `prompt`
// and `sequence` get the tokens. Throws as GivenGroup.
bool IsOverlong(const TrainConfig& config, idx max_position, const PromptRenderer& prompts,
                const Problem& problem, idx& prompt, idx& sequence);

// Makes `answer` one that a model with a value head alone reads: trailing padding goes (a tokenizer
// may pad with what ends a turn), and one more token comes, a copy of the last, which alone is
// learned. The score is then where transformers and [[reward]] kind = "model" take it: behind the
// last token that is no padding.
void EndInScore(const Tokenizer& tokenizer, std::span<const TokenId> prompt, Rollout& answer);

// Leaves out states whose candidates' values span less than algorithm.min_gap, and says so in the
// notes (direct_advantage). Throws Error(kInput) where none is left.
void DropNarrowStates(const TrainConfig& config, DataSets& data);

// Which of a batch's first `groups` groups are scored for E1 where ScoresGiven() does not ask for
// all: one, by (seed, step).
idx GroupToScore(const TrainConfig& config, idx step, idx groups);

// Scores held-out groups with the policy, each rank its share, has `refer` (may be empty) fill in
// what else their loss looks at, and puts "eval/loss", which is the algorithm's on them, its
// "eval/tokens", and of demonstrations "eval/perplexity". Returns the loss.
template <class T>
double EvaluateGiven(Transformer<T>& model, const TrainConfig& config,
                     std::span<RolloutGroup> groups, Comm& comm,
                     const std::function<void(std::span<RolloutGroup>)>& refer,
                     nlohmann::ordered_json& metrics);

}  // namespace opo
