// Losses of preferences on models: against TRL's DPOTrainer.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "model/load.h"
#include "reference/golden_gradient.h"
#include "train/objective.h"

namespace opo {
namespace {

using nlohmann::json;

std::string Golden(const std::string& name) {
  return std::string(OPO_SOURCE_DIR) + "/tests/golden/" + name;
}

class Trl : public testing::TestWithParam<const char*> {};

TEST_P(Trl, LossMetricsAndGradientAgreeWithDpoTrainer) {
  const json golden = json::parse(ReadFile(Golden("preference/cases.json")));
  const json& c = golden["cases"][GetParam()];
  const std::string folder = Golden(golden["model"].get<std::string>());
  const Weights weights = LoadWeights(folder);
  Weights scaled = LoadWeights(folder);
  for (float& w : scaled.slab.span()) w *= golden["reference_factor"].get<float>();

  std::vector<RolloutGroup> groups;
  for (const json& row : golden["rows"]) {
    if (groups.size() == c["pairs"].get<std::size_t>()) break;
    RolloutGroup& group = groups.emplace_back();
    group.prompt = row["prompt_ids"].get<std::vector<TokenId>>();
    for (const char* key : {"chosen_ids", "rejected_ids"}) {
      Rollout& rollout = group.rollouts.emplace_back();
      rollout.tokens = row[key].get<std::vector<TokenId>>();
      rollout.scores.total.verdict = Verdict::kScored;
    }
  }
  const PackedWeights<float> packed(weights, true);
  Transformer<float> model(packed);
  Score<float>(model, groups, 1.0f);
  {
    const PackedWeights<float> packed_reference(scaled, false);
    Transformer<float> reference(packed_reference);
    const std::vector<int> owner(groups.size(), 0);
    const BatchLogProbs logprobs = ScoreShared(reference, groups, owner, 1.0f, Comm::Alone());
    for (std::size_t g = 0; g < groups.size(); ++g) {
      for (std::size_t s = 0; s < 2; ++s) {
        groups[g].rollouts[s].reference_logprobs = logprobs[g][s];
      }
    }
  }

  AlgorithmConfig config;
  config.name = c["loss_type"][0] == "ipo" ? "ipo" : "dpo";
  config.beta = c["beta"];
  config.label_smoothing = c.value("label_smoothing", 0.0);
  const UpdateLoss loss(config, true, groups);
  std::vector<idx> lengths;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) lengths.push_back(rollout.length());
  }
  const std::vector<double> token_weights = TokenWeights(Resolved(config).loss_agg, lengths, 0);
  std::vector<LearnGroup> learn;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    EXPECT_TRUE(loss.HasMoreTerms(groups[g]));
    learn.push_back({&groups[g], {token_weights[2 * g], token_weights[2 * g + 1]}, -1, true});
  }
  Learner<float> learner(model, weights.layout, LearnerConfig{.unit_tokens = 32});
  Buffer<float> grad(weights.layout.size);
  const LearnResult result = learner.Accumulate(learn, std::cref(loss), grad.data());
  EXPECT_EQ(result.mismatched_tokens, 0);
  // TRL takes log-probs in f32 and sums up to 34 of them, of size 100 together: 1e-5 of a sum,
  // which the loss takes beta times, or, squared, 2 (h - 1 / (2 beta)) times.
  const double tolerance = 2e-5 * std::max(1.0, c["loss"].get<double>());
  EXPECT_NEAR(result.loss, c["loss"].get<double>(), tolerance);
  nlohmann::ordered_json metrics;
  loss.PutMetrics(metrics);
  for (const auto& [name, value] : c["metrics"].items()) {
    EXPECT_NEAR(metrics.at(name).get<double>(), value.get<double>(), 1e-4) << name;
  }
  ExpectGradient(weights.layout, grad.data(), Golden("preference/grads.safetensors"),
                 std::string(GetParam()) + "/");
}

INSTANTIATE_TEST_SUITE_P(Golden, Trl,
                         testing::Values("sigmoid", "sigmoid_strong", "ipo", "smoothed"),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace opo
