// All that an evaluation says of one set, as JSON. docs/evaluation.md lists the keys.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/answer.h"
#include "eval/metrics.h"
#include "eval/text_metrics.h"

namespace opo {

struct SummarySettings {
  idx samples = 1;  // answers a problem
  std::vector<idx>
      k;  // of pass@k and maj@k, none above `samples`; pass@1 and maj@samples are added
  double pass_threshold = kPassThreshold;
  std::uint64_t seed = 1;                      // of the bootstrap
  std::string reward;                          // the kind, which says how votes are read
  std::vector<idx> repetition = {2, 3, 4, 5};  // the n of Rep-n
  BleuSettings bleu;
};

// The part of all pairs (a, b) of an answer a and one of the others, to the same problem, in which
// the judge prefers a; where it prefers neither, half a pair.
double WinRate(std::span<const Answer> answers, std::span<const Answer> others);

// Rewards of the answers to one problem.
struct ProblemScore {
  idx n = 0;        // scored answers
  idx correct = 0;  // of them
  double reward_mean = 0;
};
// answers[problem * samples + sample], of all problems.
std::vector<ProblemScore> ScoreProblems(std::span<const Answer> answers, idx samples,
                                        double pass_threshold);
// pass@k over the problems with at least k scored answers; nothing where there are none.
std::vector<double> PassValues(std::span<const ProblemScore> problems, idx k);

// Of all answers together: tokens.
struct LengthSummary {
  std::optional<double> mean, std;
  std::optional<double> cv_within;  // mean over problems of deviation / mean
  double truncated = 0;             // part of the answers
  std::optional<double> entropy;    // mean over tokens, nats
};
LengthSummary SummariseLengths(std::span<const Answer> answers, idx samples);

// `ids`: of the problems. Metrics that nothing was left for are null. `others`: of another model,
// `other_samples` a problem, which the judge scored too.
nlohmann::ordered_json SummariseSet(const std::string& name, std::span<const std::string> ids,
                                    std::span<const Answer> answers,
                                    const SummarySettings& settings,
                                    std::span<const Answer> others = {}, idx other_samples = 1);

}  // namespace opo
