// E1, E2 and E3 for the sampler: what is recorded for a token depends on its own sequence alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/parallel.h"
#include "reference/tiny_model.h"

namespace opo {
namespace {

const Tokenizer& Bytes() {
  static const Tokenizer tokenizer = Tokenizer::Bytes();
  return tokenizer;
}

const std::vector<idx> kPrompts = {1, 2, 33, 70, 5, 1};

SamplingConfig Sampling() {
  SamplingConfig config;
  config.temperature = 0.9;
  config.max_new_tokens = 120;  // own keys in four blocks
  config.seed = 3;
  config.step = 7;
  return config;
}

template <class T>
std::vector<RolloutGroup> Sample(std::vector<RolloutGroup> groups, const SamplingConfig& config) {
  TinyModel<T> tiny(TinyWeights());
  Generate(tiny.model, Bytes(), std::span<RolloutGroup>(groups), config);
  return groups;
}

idx Longest(const std::vector<RolloutGroup>& groups) {
  idx longest = 0;
  for (const RolloutGroup& g : groups) {
    for (const Rollout& r : g.rollouts) longest = std::max(longest, r.length());
  }
  return longest;
}

template <class T>
class SamplerTest : public testing::Test {
 protected:
  void TearDown() override { SetNumThreads(0); }
};
using Types = testing::Types<bf16, float>;
TYPED_TEST_SUITE(SamplerTest, Types);

TYPED_TEST(SamplerTest, ScoreRepeatsWhatGenerateRecordedBitwise) {
  const SamplingConfig config = Sampling();
  const auto sampled = Sample<TypeParam>(MakeGroups(kPrompts, 4, 259), config);
  ASSERT_GT(Longest(sampled), 3 * kKeyBlock);
  auto scored = sampled;
  for (RolloutGroup& g : scored) {
    for (Rollout& r : g.rollouts) r.logprobs.assign(r.logprobs.size(), 1.0f);
  }
  TinyModel<TypeParam> tiny(TinyWeights());
  Score(tiny.model, std::span<RolloutGroup>(scored), config.inv_temperature());
  for (std::size_t g = 0; g < sampled.size(); ++g) {
    EXPECT_TRUE(SameGroup(sampled[g], scored[g])) << "prompt of " << kPrompts[g];
  }
  EXPECT_EQ(RolloutDigest(sampled), RolloutDigest(scored));
}

// E1, E2 and E3 at once for the other architectures: scored, alone, in other slots and threads.
TYPED_TEST(SamplerTest, EveryArchitectureIsExact) {
  for (const char* variant : kVariants) {
    SamplingConfig config = Sampling();
    config.max_new_tokens = 70;
    const auto sample = [&](std::vector<RolloutGroup> groups) {
      TinyModel<TypeParam> tiny(VariantWeights(variant));
      Generate(tiny.model, Bytes(), std::span<RolloutGroup>(groups), config);
      return groups;
    };
    const auto groups = MakeGroups({1, 33, 5}, 3, 259);
    SetNumThreads(1);
    const auto sampled = sample(groups);
    ASSERT_GT(Longest(sampled), 2 * kKeyBlock);
    SetNumThreads(3);
    auto scored = sampled;
    TinyModel<TypeParam> tiny(VariantWeights(variant));
    Score(tiny.model, std::span<RolloutGroup>(scored), config.inv_temperature());
    EXPECT_EQ(RolloutDigest(sampled), RolloutDigest(scored)) << variant << ": E1";
    config.slots = 2;
    EXPECT_EQ(RolloutDigest(sample(groups)), RolloutDigest(sampled)) << variant << ": slots";
    EXPECT_TRUE(SameGroup(sample({groups[1]})[0], sampled[1])) << variant << ": alone";
  }
}

// The control of E1: one token of the prompt counted as the answer's puts the later keys into other
// blocks.
TYPED_TEST(SamplerTest, ScoringWithOtherKeyBlocksIsNoticed) {
  const SamplingConfig config = Sampling();
  const auto sampled = Sample<TypeParam>(MakeGroups({33}, 4, 259), config);
  auto moved = sampled;
  const TokenId last = moved[0].prompt.back();
  moved[0].prompt.pop_back();
  for (Rollout& r : moved[0].rollouts) r.tokens.insert(r.tokens.begin(), last);
  TinyModel<TypeParam> tiny(TinyWeights());
  Score(tiny.model, std::span<RolloutGroup>(moved), config.inv_temperature());
  idx different = 0;
  for (std::size_t s = 0; s < 4; ++s) {
    const Rollout& a = sampled[0].rollouts[s];
    const Rollout& b = moved[0].rollouts[s];
    for (std::size_t t = 0; t < a.logprobs.size(); ++t) {
      different += SameBits(&a.logprobs[t], &b.logprobs[t + 1], 1) ? 0 : 1;
      // the same number all the same: bf16 rounds 3 layers' activations to 8 bits
      ASSERT_NEAR(a.logprobs[t], b.logprobs[t + 1], sizeof(TypeParam) == 2 ? 0.5 : 1e-3);
    }
  }
  EXPECT_GT(different, 0) << "other key blocks went unnoticed";
}

TYPED_TEST(SamplerTest, AGroupAloneHasTheBitsItHasInABatch) {
  const SamplingConfig config = Sampling();
  const auto groups = MakeGroups(kPrompts, 5, 259);
  const auto batch = Sample<TypeParam>(groups, config);
  idx early = 0;
  for (const RolloutGroup& g : batch) {
    for (const Rollout& r : g.rollouts) early += r.length() < config.max_new_tokens ? 1 : 0;
  }
  EXPECT_GT(early, 0) << "no slot was ever refilled";
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto alone = Sample<TypeParam>({groups[g]}, config);
    EXPECT_TRUE(SameGroup(batch[g], alone[0])) << "group " << g;
  }
}

TYPED_TEST(SamplerTest, TheOrderOfGroupsChangesNoBit) {
  const SamplingConfig config = Sampling();
  const auto groups = MakeGroups(kPrompts, 5, 259);
  const auto batch = Sample<TypeParam>(groups, config);
  std::vector<RolloutGroup> shuffled;
  for (const std::size_t g : {3, 0, 5, 1, 4, 2}) shuffled.push_back(groups[g]);
  shuffled = Sample<TypeParam>(shuffled, config);
  std::size_t i = 0;
  for (const std::size_t g : {3, 0, 5, 1, 4, 2}) {
    EXPECT_TRUE(SameGroup(batch[g], shuffled[i++])) << "group " << g;
  }
}

TYPED_TEST(SamplerTest, TheNumberOfSlotsChangesNoBit) {
  SamplingConfig config = Sampling();
  const auto groups = MakeGroups({1, 33, 70}, 5, 259);
  const std::string all = RolloutDigest(Sample<TypeParam>(groups, config));
  for (const idx slots : {1, 3, 7}) {
    config.slots = slots;
    EXPECT_EQ(RolloutDigest(Sample<TypeParam>(groups, config)), all) << slots << " slots";
  }
}

TYPED_TEST(SamplerTest, MoreSamplesLeaveTheFirstOnesAlone) {
  const SamplingConfig config = Sampling();
  const auto few = Sample<TypeParam>(MakeGroups({33}, 2, 259), config);
  const auto many = Sample<TypeParam>(MakeGroups({33}, 40, 259), config);  // more than a tile
  for (std::size_t s = 0; s < 2; ++s) {
    EXPECT_TRUE(SameRollout(few[0].rollouts[s], many[0].rollouts[s]));
  }
  EXPECT_NE(many[0].rollouts[2].tokens, many[0].rollouts[3].tokens);
}

TYPED_TEST(SamplerTest, ThreadsChangeNoBit) {
  const SamplingConfig config = Sampling();
  const auto groups = MakeGroups(kPrompts, 4, 259);
  SetNumThreads(1);
  const std::string one = RolloutDigest(Sample<TypeParam>(groups, config));
  for (const int threads : {2, 3}) {
    SetNumThreads(threads);
    EXPECT_EQ(RolloutDigest(Sample<TypeParam>(groups, config)), one) << threads << " threads";
  }
}

// The control of E2 and E3: the digest sees one bit of one log-prob.
TYPED_TEST(SamplerTest, OneBitIsNoticed) {
  const auto sampled = Sample<TypeParam>(MakeGroups({5}, 3, 259), Sampling());
  auto changed = sampled;
  float& logprob = changed[0].rollouts[1].logprobs[2];
  logprob = std::nextafter(logprob, 0.0f);
  EXPECT_NE(RolloutDigest(sampled), RolloutDigest(changed));
  EXPECT_FALSE(SameGroup(sampled[0], changed[0]));
}

TYPED_TEST(SamplerTest, SeedStepAndKeyEachChangeTheAnswer) {
  const auto groups = MakeGroups({5}, 1, 259);
  const auto base = Sample<TypeParam>(groups, Sampling());
  SamplingConfig other = Sampling();
  other.seed = 4;
  EXPECT_NE(Sample<TypeParam>(groups, other)[0].rollouts[0].tokens, base[0].rollouts[0].tokens);
  other = Sampling();
  other.step = 8;
  EXPECT_NE(Sample<TypeParam>(groups, other)[0].rollouts[0].tokens, base[0].rollouts[0].tokens);
  auto again = groups;
  again[0].key = PromptKey("", again[0].prompt, 1);
  EXPECT_NE(Sample<TypeParam>(again, Sampling())[0].rollouts[0].tokens, base[0].rollouts[0].tokens);
}

// On the real model, in a few seconds each: E1, E2 (slots, order, alone) and E3.
template <class T>
void CheckSmolLm2() {
  const Weights weights = LoadWeights(SmolLm2Path());
  const Tokenizer tokenizer = Tokenizer::Load(SmolLm2Path());
  TinyModel<T> smol(weights);
  std::vector<RolloutGroup> groups = MakeGroups({1, 2, 33, 70}, 2, 40000);
  groups[0].prompt = tokenizer.Encode("The");
  groups[2].prompt = tokenizer.Encode("Once upon a time, in a village by the sea, there lived");
  SamplingConfig config;
  config.max_new_tokens = 36;
  const auto run = [&](std::vector<RolloutGroup> some) {
    Generate(smol.model, tokenizer, std::span<RolloutGroup>(some), config);
    return some;
  };
  const auto batch = run(groups);
  auto scored = batch;
  Score(smol.model, std::span<RolloutGroup>(scored), 1.0f);
  EXPECT_EQ(RolloutDigest(batch), RolloutDigest(scored)) << "E1";
  config.slots = 3;
  SetNumThreads(1);
  const auto reversed = run({groups[3], groups[2], groups[1], groups[0]});
  SetNumThreads(0);
  for (std::size_t g = 0; g < 4; ++g) {
    EXPECT_TRUE(SameGroup(batch[g], reversed[3 - g])) << "E2, E3: group " << g;
  }
  EXPECT_TRUE(SameGroup(batch[2], run({groups[2]})[0])) << "E2: alone";
}

TEST(SmolLm2, SamplingIsExactInBf16) {
  OPO_NEEDS_SMOLLM2();
  CheckSmolLm2<bf16>();
}
TEST(SmolLm2, SamplingIsExactInF32) {
  OPO_NEEDS_SMOLLM2();
  CheckSmolLm2<float>();
}

}  // namespace
}  // namespace opo
