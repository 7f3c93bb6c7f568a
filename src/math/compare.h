// Whether two answers, as trees, say the same.
#pragma once

#include <string>

#include "math/evaluate.h"
#include "math/tree.h"

namespace opo {

// `why` becomes the rule that decided.
bool SameAnswer(const MathNode& gold, const MathNode& answer, MathTree& tree, MathWork& work,
                std::string* why);

}  // namespace opo
