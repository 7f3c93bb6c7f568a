// Answers as sequences of steps: lines.
#pragma once

#include <span>
#include <vector>

#include "text/tokenizer.h"

namespace opo {

// Behind which tokens of an answer a step ends: each whose text holds a line break. The rule looks
// at one token at a time, so that a step that was sampled until its line break, a state that it
// leads to, and an answer that is cut later agree to the token.
std::vector<std::size_t> StepEnds(const Tokenizer& tokenizer, std::span<const TokenId> answer);

}  // namespace opo
