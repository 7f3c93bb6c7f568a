#include "train/given_reference.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/progress.h"
#include "train/collect.h"
#include "train/reference.h"

namespace opo {
namespace {

bool NeedsRefinement(const TrainConfig& config) {
  return (FindAlgorithm(config.algorithm.name).needs & kNeedsRefinement) != 0;
}

}  // namespace

std::string ReferenceFolder(const TrainConfig& config) {
  return config.run.reference_dir.empty() ? config.run.dir + "/reference"
                                          : config.run.reference_dir;
}

std::vector<TokenId> RefinedPrompt(const AlgorithmConfig& config, const PromptRenderer& prompts,
                                   const Problem& problem) {
  nlohmann::ordered_json messages = problem.messages;
  OPO_CHECK(!messages.empty());
  std::size_t at = messages.size() - 1;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (messages[i]["role"] == "user") at = i;
  }
  messages[at]["content"] = config.sr_prompt + messages[at]["content"].get<std::string>();
  return prompts.Render(messages);
}

template <class T>
RolloutGroup GivenReference<T>::Refined(const RolloutGroup& group) const {
  RolloutGroup refined;
  refined.prompt = RefinedPrompt(config_.algorithm, prompts_,
                                 problems_[static_cast<std::size_t>(group.problem)]);
  for (const Rollout& rollout : group.rollouts) {
    refined.rollouts.emplace_back().tokens = rollout.tokens;
  }
  return refined;
}

template <class T>
GivenReference<T>::GivenReference(const Parts& parts, Comm& comm)
    : config_(parts.config),
      problems_(parts.problems),
      prompts_(parts.prompts),
      inv_temperature_(TrainingSampling(parts.config, 0).inv_temperature()) {
  const auto make = [&](const std::function<RolloutGroup(idx)>& group, const std::string& what) {
    std::unique_ptr<Progress> progress;
    return std::make_unique<CachedReference<T>>(
        typename CachedReference<T>::Parts{.model = parts.model,
                                           .weights_digest = parts.weights_digest,
                                           .inv_temperature = inv_temperature_,
                                           .groups = static_cast<idx>(problems_.size()),
                                           .group = group,
                                           .folder = ReferenceFolder(config_),
                                           .writes = parts.writes,
                                           .progress =
                                               [&](idx done, idx all) {
                                                 if (!parts.progress) return;
                                                 if (progress == nullptr)
                                                   progress =
                                                       std::make_unique<Progress>(all, "prompt");
                                                 progress->Update(done, "reference of the " + what);
                                               }},
        comm);
  };
  plain_ = make(parts.group, parts.what + " data");
  if (!NeedsRefinement(config_)) return;
  const idx positions = parts.model.config().max_position;
  refined_ = make(
      [&](idx p) {
        RolloutGroup group = parts.group(p);
        group.problem = p;
        RolloutGroup refined = Refined(group);
        for (const Rollout& rollout : refined.rollouts) {
          const idx length = static_cast<idx>(refined.prompt.size()) + rollout.length();
          if (length <= positions) continue;
          Fail(ErrorCode::kInput,
               "problem {} (id '{}'): with algorithm.sr_prompt before it, prompt and answer have "
               "{} tokens, the model has positions for {}; lower data.sequence_limit and set "
               "data.overlong to drop or truncate, or shorten algorithm.sr_prompt",
               p, problems_[static_cast<std::size_t>(p)].id, length, positions);
        }
        return refined;
      },
      parts.what + " data behind the refinement prompt");
}

template <class T>
idx GivenReference<T>::computed() const {
  return plain_->computed() + (refined_ == nullptr ? 0 : refined_->computed());
}

template <class T>
void GivenReference<T>::Score(Transformer<T>& policy, std::span<RolloutGroup> groups,
                              std::span<const int> owner, Comm& comm) const {
  std::vector<idx> numbers;
  for (const RolloutGroup& group : groups) numbers.push_back(group.problem);
  plain_->Fill(groups, numbers);
  if (refined_ == nullptr) return;
  std::vector<RolloutGroup> refined;
  for (const RolloutGroup& group : groups) refined.push_back(Refined(group));
  const BatchLogProbs logprobs = ScoreShared(policy, refined, owner, inv_temperature_, comm);
  refined_->Fill(refined, numbers);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      Rollout& rollout = groups[g].rollouts[s];
      const std::vector<float>& reference = refined[g].rollouts[s].reference_logprobs;
      rollout.refined_log_ratio = 0;
      for (std::size_t t = 0; t < reference.size(); ++t) {
        if (!rollout.learned.empty() && !rollout.learned[t]) continue;
        rollout.refined_log_ratio +=
            static_cast<double>(logprobs[g][s][t]) - static_cast<double>(reference[t]);
      }
    }
  }
}

template class GivenReference<float>;
template class GivenReference<bf16>;

}  // namespace opo
