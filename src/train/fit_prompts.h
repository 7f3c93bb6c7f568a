// Training prompts that are longer than data.prompt_limit.
#pragma once

#include <vector>

#include "base/types.h"
#include "data/data_set.h"
#include "rollout/prompts.h"

namespace opo {

// Looks at all training prompts before a run begins. data.overlong says what happens to a longer
// one: Error(kInput) naming the problem, or it is removed, or it is only counted, since CutPrompt
// cuts it when it is drawn. Says in data.notes how many there were.
void FitPrompts(const PromptRenderer& prompts, const DataConfig& config, DataSets& data);

// data.overlong = "truncate": keeps the last data.prompt_limit tokens.
void CutPrompt(const DataConfig& config, std::vector<TokenId>& prompt);

}  // namespace opo
