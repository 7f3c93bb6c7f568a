// The lines of samples.jsonl: what a step's policy answered, for people and for the report.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "rollout/prompts.h"
#include "rollout/rollout.h"
#include "train/config.h"

namespace opo {

// Longest text of a prompt or an answer in a line; what is longer ends there, and "cut" says so.
inline constexpr std::size_t kSampleTextBytes = 16384;

// One line an answer, of the first monitor.samples_per_step groups:
//   training/global_step, step, group and sample (from 0), problem (its row), input, output, gts
//   (gold), score, verdict, note (what was found in the answer), reward (what the algorithm saw),
//   baseline, advantage, finish_reason, length (tokens);
//   cut: true where input, output or gts was longer than kSampleTextBytes;
//   tokens: {text, logprob, entropy, advantage (where tokens differ)}, parallel arrays of the
//   answer's first tokens, rounded to 4 decimals, where monitor.tokens_per_step still has room:
//   groups with a gradient come first. A character of several tokens is the last one's text.
std::vector<nlohmann::ordered_json> SampleLines(idx step, std::span<const RolloutGroup> groups,
                                                std::span<const Problem> problems,
                                                const PromptRenderer& prompts,
                                                const Tokenizer& tokenizer,
                                                const MonitorConfig& config);

}  // namespace opo
