// The bytes that judges outside of the process answer with, as results. Anything may come: what is
// no answer is an error with the reason "garbage", never a number.
#pragma once

#include <span>
#include <string_view>

#include "base/types.h"
#include "reward/reward.h"

namespace opo {

// A score of a judge is finite and no larger than this: beyond it is a broken judge.
inline constexpr double kLargestScore = 1e9;

// A line of a reward program, without its line end, to the request `id`: a number (true and false
// are 1 and 0), null (skipped), {"error": "text"} (an error with the reason "program"), or an
// object with "score" (a number or null). Of its other keys, "id" must be that of the request,
// numbers are logged, texts are quoted in the note, anything else is of no account.
RewardResult ReadProgramReply(std::string_view line, idx id);

// The body of an HTTP judge's answer to results.size() queries: {"rewards": [number or null, ...],
// "scores": the same, logged as "score" (optional), "extra_logs": {name: number or list}
// (optional)}. A bare list stands for "rewards". A fault of the body is the error of all.
void ReadHttpReply(std::string_view body, std::span<RewardResult> results);

}  // namespace opo
