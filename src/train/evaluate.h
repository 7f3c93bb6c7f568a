// Evaluation on held-out problems: mean reward (pass rate for 0/1 rewards) and the answers.
#pragma once

#include <span>

#include "rollout/prompts.h"
#include "rollout/rollout.h"
#include "train/scoring.h"
#include "train/trainer.h"

namespace opo {

struct EvalSettings {
  idx samples = 1;
  SamplingConfig
      sampling;            // its seed is used with a step of its own: no draw of training is reused
  TokenCallback on_token;  // groups are problems
  JournalPlace place;
  // The last term of the rewards, without a weight, is a judge: its value is Answer::judge.
  bool judged = false;
};

// The groups of problems [first, first + count), to be sampled: `samples` answers each. What an
// answer becomes depends on its problem and sample alone.
std::vector<RolloutGroup> GroupsToEvaluate(const PromptRenderer& prompts,
                                           std::span<const Problem> problems, std::size_t first,
                                           std::size_t count, idx samples);

// Of several ranks, each takes every so-manieth problem, and all get the whole result. With a
// `reference`, a model of the same vocabulary, the answers have their KL sums. An answer depends on
// its own problem alone, not on the others.
template <class T>
EvalResult Evaluate(Transformer<T>& model, const Tokenizer& tokenizer,
                    const PromptRenderer& prompts, std::span<const Problem> problems,
                    RewardSet& reward, const EvalSettings& settings, Comm& comm = Comm::Alone(),
                    Transformer<T>* reference = nullptr);

// val-core/SOURCE/reward/mean@N as verl has it, and beside it val-aux/SOURCE/reward/pass@k (k:
// powers of two up to N, and N; not verl's best@k, which is a bootstrap),
// val-aux/SOURCE/response_length/ mean and clip_ratio, and val-aux/SOURCE/entropy.
void PutEvalMetrics(const EvalResult& result, const std::string& source, idx samples,
                    nlohmann::ordered_json& metrics);

}  // namespace opo
