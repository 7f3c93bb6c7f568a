// Which answers to a problem say the same.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "eval/answer.h"
#include "eval/metrics.h"

namespace opo {

// Whether two answers that a reward's kind found (AnswerFound) are equal: as texts, or, of "math"
// and "countdown", for the math verifier in either direction.
bool SameAnswerFound(const std::string& kind, const std::string& a, const std::string& b);

// The classes of the scored answers to one problem, in the order of their first member, to which
// the others are compared. Answers in which nothing is found are in none. REQUIRES
// ReadsAnswers(kind).
std::vector<VoteClass> VoteClasses(const std::string& kind, std::span<const Answer> answers,
                                   double pass_threshold);

}  // namespace opo
