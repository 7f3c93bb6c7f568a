#include "train/critic.h"

#include <algorithm>

#include "base/error.h"
#include "base/fault.h"
#include "model/load.h"
#include "train/collect.h"
#include "train/policy.h"
#include "train/reference.h"
#include "train/step_metrics.h"

namespace opo {

using nlohmann::ordered_json;

namespace {

constexpr Heads kValueHead = {.logits = false, .values = true};

// The config whose policy the critic begins as.
TrainConfig BeginningOf(const TrainConfig& config) {
  TrainConfig beginning = config;
  if (config.critic.init != kCriticOfPolicy) beginning.model.path = config.critic.init;
  return beginning;
}

// Both read the same token ids.
void CheckTokenizer(const std::string& path, const Tokenizer& policy) {
  const Tokenizer critic = Tokenizer::Load(TokenizerPath(path));
  const auto differ = [&](const std::string& how) {
    Fail(ErrorCode::kUsage,
         "critic.init = {}: its tokenizer is not the policy's: {}; take a model with the policy's "
         "tokenizer, or critic.init = \"policy\"",
         path, how);
  };
  if (critic.vocab_size() != policy.vocab_size()) {
    differ(fmt::format("it has {} entries, not {}", critic.vocab_size(), policy.vocab_size()));
  }
  const TokenId id = policy.FirstDifference(critic);
  if (id < 0) return;
  differ(fmt::format("token {} is \"{}\" there and \"{}\" here", id,
                     critic.TokenBytes(id, /*skip_special=*/false),
                     policy.TokenBytes(id, /*skip_special=*/false)));
}

template <class T>
typename Trainable<T>::Settings SettingsOf(const TrainConfig& config, idx micro_batch_bytes) {
  return {.name = "critic",
          .base = BasePath(BeginningOf(config)),
          .optimizer = CriticOptimizer(config),
          .updates = config.train.steps * UpdatesPerBatch(config),
          .micro_batch_bytes = micro_batch_bytes,
          .inv_temperature = 1};
}

Weights WeightsOf(const TrainConfig& config, const Tokenizer& tokenizer) {
  const TrainConfig beginning = BeginningOf(config);
  if (config.critic.init != kCriticOfPolicy) CheckTokenizer(config.critic.init, tokenizer);
  Weights weights = PolicyWeights(beginning, tokenizer, kValueHead);
  if (tokenizer.vocab_size() > weights.config.vocab_size) {
    Fail(ErrorCode::kInput, "critic.init = {}: the tokenizer has {} entries, its vocabulary {}",
         config.critic.init, tokenizer.vocab_size(), weights.config.vocab_size);
  }
  return weights;
}

}  // namespace

ModelConfig CriticShape(const TrainConfig& config, const ModelConfig& policy) {
  ModelConfig shape = policy;
  if (config.critic.init != kCriticOfPolicy) {
    const TrainConfig beginning = BeginningOf(config);
    shape = PolicyShape(beginning, PolicyTokenizer(beginning), kValueHead);
  }
  shape.has_logits = false;
  shape.has_values = true;
  return shape;
}

template <class T>
Critic<T>::Critic(const Parts& parts, const Tokenizer& tokenizer, idx micro_batch_bytes)
    : parts_(parts),
      model_(SettingsOf<T>(parts.config, micro_batch_bytes), WeightsOf(parts.config, tokenizer),
             parts.comm) {}

template <class T>
void Critic<T>::Score(idx step, std::span<RolloutGroup> groups, std::span<const int> owner) {
  parts_.comm.Note("values", step);
  BatchLogProbs values = ScoreShared(model_.model(), groups, owner, 1.0f, parts_.comm);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      Rollout& rollout = groups[g].rollouts[s];
      rollout.values = std::move(values[g][s]);
      CorruptNumbers("value", std::span(rollout.values));
    }
  }
}

template <class T>
void Critic<T>::Update(idx step, std::span<const RolloutGroup> groups, const ShardDeal& deal,
                       ordered_json& metrics) {
  const auto batch = static_cast<idx>(groups.size());
  const bool any = std::any_of(groups.begin(), groups.end(), [](const RolloutGroup& group) {
    return std::any_of(group.rollouts.begin(), group.rollouts.end(),
                       [](const Rollout& rollout) { return !rollout.returns.empty(); });
  });
  if (!any) return;
  const idx mini = MiniBatchPrompts(parts_.config);
  const idx per_epoch = CeilDiv(batch, mini);
  const idx updates = per_epoch * parts_.config.train.epochs;
  LearnResult all;
  for (idx u = 0; u < updates; ++u) {
    const idx first = u % per_epoch * mini;
    const idx count = std::min(batch - first, mini);
    const LearnResult result =
        Step(step, groups.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
             deal, u, metrics);
    all.Add(result);
    if (u > 0) continue;
    metrics["exact/compared_values"] = result.compared_tokens;
    metrics["exact/mismatched_values"] = result.mismatched_tokens;
  }
  PutValueLoss(all, updates, metrics);
}

// One optimizer step; as the policy's, Updater::Step().
template <class T>
LearnResult Critic<T>::Step(idx step, std::span<const RolloutGroup> groups, const ShardDeal& deal,
                            idx update, ordered_json& metrics) {
  const TrainConfig& config = parts_.config;
  parts_.comm.Note("learning of the critic", step);
  std::vector<idx> lengths;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& r : group.rollouts) lengths.push_back(std::ssize(r.returns));
  }
  const std::vector<double> weights = TokenWeights("token-mean", lengths, 0);
  const auto shards =
      ByShard(config, groups, weights, [](LearnGroup& learn) { learn.more_terms = true; });
  const double clip = ValueClip(config);
  const auto loss = [clip](const Rollout& rollout, idx t, const HeadOutput& output) -> TokenTerms {
    if (rollout.returns.empty()) return {};
    const auto at = static_cast<std::size_t>(t);
    TokenTerms terms =
        ValueLoss(output.value, static_cast<double>(rollout.values[at]), rollout.returns[at], clip);
    terms.value_loss = terms.loss.loss;
    terms.value_clipped = terms.loss.clipped;
    return terms;
  };
  const std::optional<NonFinite> bad = NonFiniteInBatch(groups, model_.weights());
  LearnResult sum;
  if (bad) {
    parts_.guard.Report(step, *bad, groups, parts_.comm);
  } else {
    sum = model_.Accumulate(step, shards, deal, loss);
  }
  model_.CheckPacked(step);
  if (bad) {
    model_.PutNoUpdate(metrics);
    return sum;
  }
  if (update == 0 && sum.mismatched_tokens > 0) {
    const auto group = std::find_if(groups.begin(), groups.end(), [&](const RolloutGroup& g) {
      return g.number == sum.mismatched_group;
    });
    Fail(
        ErrorCode::kExactness,
        "step {}: {} of {} values of the critic differ from those that the advantages were made of "
        "(at most by {:.3g}){}: {}",
        step, sum.mismatched_tokens, sum.compared_tokens, sum.logprob_diff_max,
        group == groups.end()
            ? ""
            : ", first at " + PlaceOf(*group, sum.mismatched_sample, sum.mismatched_token),
        kContractBroken);
  }
  model_.Update(step, sum, groups, parts_.guard, metrics);
  return sum;
}

template class Critic<float>;
template class Critic<bf16>;

}  // namespace opo
