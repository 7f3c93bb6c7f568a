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
};

// Of several ranks, each takes every so-manieth problem, and all get the whole result.
template <class T>
EvalResult Evaluate(Transformer<T>& model, const Tokenizer& tokenizer,
                    const PromptRenderer& prompts, std::span<const Problem> problems,
                    RewardSet& reward, const EvalSettings& settings, Comm& comm = Comm::Alone());

}  // namespace opo
