#include "train/nonfinite.h"

#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/fault.h"
#include "base/file.h"

namespace opo {

using nlohmann::ordered_json;

namespace {

constexpr const char* kReferenceLogProb = "reference log-prob";
constexpr const char* kValue = "value";  // the critic's
constexpr double kLargestNorm = 1e18;    // of a gradient: its square is an f32

// JSON has no word for them.
ordered_json NumberOf(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

template <class T>
ordered_json NumbersOf(const std::vector<T>& values) {
  ordered_json all = ordered_json::array();
  for (const T v : values) all.push_back(NumberOf(static_cast<double>(v)));
  return all;
}

ordered_json AnswerOf(const Rollout& rollout) {
  ordered_json answer;
  answer["text"] = rollout.text;
  answer["tokens"] = rollout.tokens;
  answer["logprobs"] = NumbersOf(rollout.logprobs);
  answer["scored"] = rollout.scored();
  answer["reward"] = NumberOf(rollout.reward);
  answer["advantage"] = NumberOf(rollout.advantage);
  if (!rollout.token_advantages.empty()) {
    answer["token_advantages"] = NumbersOf(rollout.token_advantages);
  }
  if (!rollout.reference_logprobs.empty()) {
    answer["reference_logprobs"] = NumbersOf(rollout.reference_logprobs);
  }
  return answer;
}

std::optional<NonFinite> NonFiniteIn(const Rollout& rollout, std::string_view what) {
  const auto first_of = [&](const auto& values, bool lasting) -> std::optional<NonFinite> {
    for (std::size_t t = 0; t < values.size(); ++t) {
      if (std::isfinite(values[t])) continue;
      return NonFinite{std::string(what), fmt::format(", token {}", t),
                       static_cast<double>(values[t]), lasting};
    }
    return std::nullopt;
  };
  // Of answers that are not scored too: it is the same policy.
  if (what == "log-prob") return first_of(rollout.logprobs, true);
  if (what == kReferenceLogProb) return first_of(rollout.reference_logprobs, true);
  if (what == kValue) return first_of(rollout.values, true);
  const double value = what == "reward" ? rollout.reward : rollout.advantage;
  if (!rollout.scored()) return std::nullopt;
  if (!std::isfinite(value)) return NonFinite{std::string(what), "", value};
  return what == "advantage" ? first_of(rollout.token_advantages, false) : std::nullopt;
}

const char* CureOf(const std::string& what) {
  if (what == "reward" || what == "advantage") return "Look at the reward of these answers";
  if (what == kValue) return "Look at critic.init, or try a smaller critic.lr";
  if (what == "log-prob" || what == kReferenceLogProb)
    return "Look at the weights that the run began with";
  if (what == "moment") return "Continue the run from its newest checkpoint (`opo train --resume`)";
  return "Try a smaller train.lr or model.dtype = \"f32\"";
}

}  // namespace

std::optional<NonFinite> NonFiniteInBatch(std::span<const RolloutGroup> groups,
                                          const Weights& weights) {
  // What comes first in a step is the cause of what follows from it.
  for (const char* what : {"log-prob", kReferenceLogProb, kValue, "reward", "advantage"}) {
    for (std::size_t g = 0; g < groups.size(); ++g) {
      for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
        auto found = NonFiniteIn(groups[g].rollouts[s], what);
        if (!found) continue;
        found->where = fmt::format("prompt {}, answer {}{}", g, s, found->where);
        if (found->what != std::string_view("log-prob")) return found;
        const std::string weight = FindNonFinite(weights.layout, weights.slab);
        if (!weight.empty()) {
          found->where += "; the first weight that is not finite: " + weight;
        }
        return found;
      }
    }
  }
  return std::nullopt;
}

std::optional<NonFinite> NonFiniteInUpdate(double loss, double norm, const Buffer<float>& grad,
                                           AdamW& optimizer, const SlabLayout& layout, Comm& comm) {
  if (!std::isfinite(norm)) return NonFinite{"gradient", FindNonFinite(layout, grad, comm), norm};
  if (!(norm <= kLargestNorm)) return NonFinite{"gradient", "its norm, too large for AdamW", norm};
  if (!std::isfinite(loss)) return NonFinite{"loss", "", loss};
  const std::string moment = optimizer.FindBadMoment(layout);
  if (!moment.empty()) {
    return NonFinite{"moment", moment, std::numeric_limits<double>::quiet_NaN(), true};
  }
  return std::nullopt;
}

std::string NonFiniteGuard::WriteBatch(idx step, const NonFinite& found,
                                       std::span<const RolloutGroup> groups) const {
  ordered_json batch;
  batch["training/global_step"] = step;
  batch["what"] = found.what;
  batch["where"] = found.where;
  batch["value"] = NumberOf(found.value);
  for (const RolloutGroup& group : groups) {
    const Problem& problem = problems_[static_cast<std::size_t>(group.problem)];
    ordered_json entry;
    entry["problem"] = group.problem;
    entry["id"] = problem.id;
    entry["prompt"] = prompts_.RenderText(problem.messages);
    entry["prompt_tokens"] = group.prompt;
    for (const Rollout& rollout : group.rollouts) entry["answers"].push_back(AnswerOf(rollout));
    batch["groups"].push_back(std::move(entry));
  }
  const std::string folder = config_.run.dir + "/nonfinite";
  const std::string path = fmt::format("{}/step_{:06}.json", folder, step);
  try {
    std::error_code ignored;  // the file's own error names the folder
    std::filesystem::create_directories(folder, ignored);
    WriteFileAtomically(path,
                        batch.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n");
  } catch (const Error& error) {  // a full disk must not hide what was found
    return fmt::format("the batch could not be written: {}", error.what());
  }
  return fmt::format("the batch is in {}", path);
}

void NonFiniteGuard::Report(idx step, const NonFinite& found, std::span<const RolloutGroup> groups,
                            Comm& comm) {
  // The others wait for the root: the first one to fail ends the job.
  const std::string written =
      comm.Broadcast(comm.root() ? WriteBatch(step, found, groups) : std::string());
  const std::string what =
      fmt::format("step {}: the {} is not finite{}{}; the weights were not changed, and {}", step,
                  found.what, found.where.empty() ? "" : ", first at ", found.where, written);
  if (config_.train.on_nonfinite == "skip" && !found.lasting) {
    ++skipped_;
    if (comm.root()) fmt::print(stderr, "warning: {}. The update is left out\n", what);
    return;
  }
  Fail(ErrorCode::kWork, "{}. {}{}", what, CureOf(found.what),
       found.lasting ? "" : "; train.on_nonfinite = \"skip\" would leave the update out");
}

}  // namespace opo
