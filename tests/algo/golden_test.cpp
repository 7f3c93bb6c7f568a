// From rewards to the gradient of the loss, at policies that have moved since they sampled: verl's
// own results, and torch's autograd where verl has no such algorithm. tools/make_algo_goldens.py.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "algo/algorithm.h"

namespace opo {
namespace {

using nlohmann::json;
using Ragged = std::vector<std::vector<double>>;

json Golden(const std::string& name) {
  std::ifstream file(OPO_SOURCE_DIR "/tests/algo/golden/" + name);
  return json::parse(file);
}

struct Case {
  explicit Case(const json& c) : policy(c.at("policy_logprob")) {
    batch = {c.at("rewards"), c.at("lengths"), c.at("groups")};
    for (const auto& row : c.at("rollout_logprob")) rollout.push_back(row);
    for (const auto& row : rollout) batch.logprobs.emplace_back(row);
    if (c.contains("penalties")) batch.token_penalties = c.at("penalties").get<Ragged>();
    if (c.contains("greedy")) batch.greedy_rewards = c.at("greedy").get<std::vector<double>>();
    if (c.contains("sum_sqs")) {
      for (const auto& row : c.at("sum_sqs")) sum_sqs.push_back(row);
      for (const auto& row : sum_sqs) batch.sum_sqs.emplace_back(row);
    }
  }
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

  RewardBatch batch;
  Ragged policy;
  std::vector<std::vector<float>> rollout, sum_sqs;
};

BatchLosses LossesOf(const Case& c, const Algorithm& algorithm, const AlgorithmConfig& config,
                     const AdvantageResult& advantages) {
  if (algorithm.batch_loss != nullptr) {
    return algorithm.batch_loss(
        {c.policy, c.batch.logprobs, c.batch.rewards, advantages.advantages, c.batch.groups},
        config);
  }
  BatchLosses losses;
  for (std::size_t i = 0; i < c.policy.size(); ++i) {
    losses.emplace_back();
    for (std::size_t t = 0; t < c.policy[i].size(); ++t) {
      const double advantage = advantages.token_advantages.empty()
                                   ? advantages.advantages[i]
                                   : advantages.token_advantages[i][t];
      losses[i].push_back(algorithm.token_loss(
          {c.policy[i][t], static_cast<double>(c.rollout[i][t]), advantage}, config));
    }
  }
  return losses;
}

struct Seen {
  int tokens = 0;
  int clipped = 0;
};

// Loss and gradient under the algorithm's own aggregation and clip.
Seen ExpectLoss(const json& golden, const Case& c, const AlgorithmConfig& config,
                double tolerance) {
  const Algorithm& algorithm = FindAlgorithm(config.name);
  const AdvantageResult advantages = algorithm.advantages(c.batch, config);
  if (golden.contains("advantages")) {
    const Ragged expected = golden.at("advantages");
    for (std::size_t i = 0; i < expected.size(); ++i) {
      for (std::size_t t = 0; t < expected[i].size(); ++t) {
        EXPECT_NEAR(advantages.token_advantages.empty() ? advantages.advantages[i]
                                                        : advantages.token_advantages[i][t],
                    expected[i][t], tolerance);
      }
    }
  }
  const BatchLosses losses = LossesOf(c, algorithm, config, advantages);
  const auto weights = TokenWeights(config.loss_agg, c.batch.lengths, golden.value("norm", 0.0));
  double loss = 0;
  Seen seen;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    EXPECT_EQ(losses[i].size(), c.policy[i].size());
    for (std::size_t t = 0; t < losses[i].size(); ++t) {
      loss += weights[i] * losses[i][t].loss;
      EXPECT_NEAR(weights[i] * losses[i][t].dlogprob, golden.at("gradient")[i][t].get<double>(),
                  tolerance);
      ++seen.tokens;
      seen.clipped += losses[i][t].clipped;
    }
  }
  EXPECT_NEAR(loss, golden.at("loss").get<double>(), tolerance);
  return seen;
}

TEST(Verl, FromRewardsToTheGradientAtAPerturbedPolicy) {
  std::map<std::string, Seen> seen;
  const json golden = Golden("verl.json");
  for (const json& c : golden.at("trained")) {
    const std::string name = c.at("algorithm");
    SCOPED_TRACE(name + (c.contains("penalties") ? ", penalties" : ""));
    const AlgorithmConfig config =
        Resolved({.name = name, .handle_zero_tail = c.at("zero_tail"), .gamma = c.at("gamma")});
    // verl adds 1e-8 to the number of tokens where it whitens, and to lengths; where the longest
    // answer is alone, its token baseline is off by that, and A here 0.
    const bool whitens = name.starts_with("reinforce_pp") || name == "otb";
    const bool by_length = config.loss_agg == "seq-mean-token-mean";
    const Seen here = ExpectLoss(c, Case(c), config, whitens || by_length ? 1e-7 : 1e-12);
    if (name != "otb") {  // whose A of about 1e-9 counts as clipped, where it is 0 here
      EXPECT_NEAR(static_cast<double>(here.clipped) / here.tokens, c.at("clip_fraction"), 1e-6);
    }
    seen[name].clipped += here.clipped;
    seen[name].tokens += here.tokens;
  }
  EXPECT_EQ(seen.size(), 10U);
  for (const auto& [name, of] : seen) {
    EXPECT_GT(of.clipped, 2) << name;
    EXPECT_LT(of.clipped, of.tokens - 10) << name;
  }
}

TEST(Torch, LossesThatVerlHasNotAgreeWithAutograd) {
  int clipped = 0;
  std::size_t compared = 0;
  const json golden = Golden("torch.json");
  for (const json& c : golden.at("losses")) {
    const std::string name = c.at("algorithm");
    const std::string weight = c.at("em_pg_weight");
    SCOPED_TRACE(name + " " + weight);
    AlgorithmConfig config = {.name = name, .rebel_eta = c.at("eta")};
    if (!weight.empty()) config.em_pg_weight = weight;
    if (name == "raft_pp") config.clip_dual = 0;  // without effect where A >= 0
    const Seen seen = ExpectLoss(c, Case(c), Resolved(config), 1e-12);
    const bool clips = name == "raft_pp" || name == "dapo";
    EXPECT_EQ(seen.clipped > 0, clips);
    clipped += seen.clipped;
    ++compared;
  }
  EXPECT_EQ(compared, 9U);
  EXPECT_GT(clipped, 4);
}

TEST(Verl, KlEstimatorsAndTheirGradientsAgree) {
  int clamped = 0;
  const json golden = Golden("verl.json");
  for (const json& c : golden.at("kl")) {
    const std::string estimator = c[0];
    SCOPED_TRACE(c.dump());
    const KlTerm term = KlPenalty(estimator, c[1], c[2]);
    EXPECT_NEAR(term.value, c[3].get<double>(), 1e-12 * (1 + std::abs(term.value)));
    EXPECT_NEAR(term.dlogprob, c[4].get<double>(), 1e-12 * (1 + std::abs(term.dlogprob)));
    clamped += estimator == "k3" && term.dlogprob == 0;
  }
  EXPECT_GT(clamped, 5);
}

}  // namespace
}  // namespace opo
