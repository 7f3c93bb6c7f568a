// Per-sample norms and inner products of gradients against backward passes of single samples.
#include "train/sample_gradients.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/parallel.h"
#include "reference/tiny_model.h"
#include "train/learner.h"

namespace opo {
namespace {

constexpr idx kPlenty = idx{1} << 32;

RolloutGroup AGroup(std::vector<idx> lengths, idx prompt_tokens) {
  RolloutGroup group;
  for (idx i = 0; i < prompt_tokens; ++i)
    group.prompt.push_back(static_cast<TokenId>(40 + i * 7 % 90));
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    Rollout rollout;
    for (idx t = 0; t < lengths[s]; ++t) {
      rollout.tokens.push_back(
          static_cast<TokenId>((13 * t + 31 * static_cast<idx>(s) + t * t) % 258));
    }
    rollout.logprobs.resize(rollout.tokens.size());
    rollout.entropies.resize(rollout.tokens.size());
    rollout.sum_sqs.resize(rollout.tokens.size());
    rollout.advantage = 1;
    group.rollouts.push_back(rollout);
  }
  return group;
}

// The gradients of single samples, by the learner: of the loss -log pi(y), so with the other sign,
// which neither norms nor products see.
template <class T>
std::vector<Buffer<float>> SingleGradients(Transformer<T>& model, const SlabLayout& layout,
                                           const RolloutGroup& group, float inv_temperature) {
  std::vector<Buffer<float>> gradients;
  for (const Rollout& rollout : group.rollouts) {
    RolloutGroup one;
    one.prompt = group.prompt;
    one.rollouts = {rollout};
    const LearnGroup learn{&one, {1.0}};
    LearnerConfig config;
    config.inv_temperature = inv_temperature;
    config.memory_bytes = kPlenty;
    Learner<T> learner(model, layout, config);
    gradients.emplace_back(layout.size);
    learner.Accumulate({&learn, 1}, OnPolicyLoss, gradients.back().data());
  }
  return gradients;
}

double Dot(const Buffer<float>& a, const Buffer<float>& b) {
  double sum = 0;
  for (idx i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

ModelConfig Untied() {
  ModelConfig config = TinyConfig();
  config.tied_embeddings = false;
  return config;
}

class PerSample : public testing::TestWithParam<const char*> {
 protected:
  const Weights& weights() const {
    const std::string name = GetParam();
    static const Weights untied = InitWeights(Untied(), 5, 0.15);
    if (name == "untied") return untied;
    return name == "tied" ? TinyWeights() : VariantWeights(name);
  }
};

// Both ways add the same f32 products of the same rows, in other orders: what is left is the
// rounding of chains over at most some hundred rows and 512 elements, of random signs, far below
// 1e-5 of the norms (|g_i| |g_j| for products).
constexpr double kRounding = 1e-5;

TEST_P(PerSample, NormsAndProductsAreThoseOfSinglePasses) {
  const Weights& w = weights();
  const PackedWeights<float> packed(w, true);
  Transformer<float> model(packed);
  for (const idx prompt : {1, 2, 45}) {
    const RolloutGroup group = AGroup({3, 40, 0, 1, 90, 17}, prompt);
    constexpr float kInvTemperature = 1.25f;
    const auto want = SingleGradients(model, w.layout, group, kInvTemperature);
    SampleGradients<float> gradients(model, w.layout, kPlenty, kInvTemperature);
    const auto all = gradients.Compute(group, GradientProducts::kAll);
    const auto norms = gradients.Compute(group, GradientProducts::kNorms);
    EXPECT_TRUE(norms.products.empty());
    const std::size_t num = group.rollouts.size();
    for (std::size_t i = 0; i < num; ++i) {
      const double sq = Dot(want[i], want[i]);
      EXPECT_NEAR(norms.norms[i], sq, kRounding * sq) << "sample " << i << " prompt " << prompt;
      for (std::size_t j = 0; j < num; ++j) {
        EXPECT_NEAR(all.products[i * num + j], Dot(want[i], want[j]),
                    kRounding * std::sqrt(sq * Dot(want[j], want[j])))
            << i << ", " << j << " prompt " << prompt;
      }
      EXPECT_EQ(all.norms[i], all.products[i * num + i]);
    }
    EXPECT_EQ(norms.norms[2], 0) << "an empty answer";
  }
}

// E6 and E3 of this pass: the budget and the threads change no bit of the
// norms.
TEST_P(PerSample, NormsDependOnNeitherMemoryNorThreads) {
  const Weights& w = weights();
  const PackedWeights<float> packed(w, true);
  Transformer<float> model(packed);
  const RolloutGroup group = AGroup({3, 40, 25, 90, 17}, 45);
  SampleGradients<float> plenty(model, w.layout, kPlenty, 1.0f);
  const std::vector<double> want = plenty.Compute(group, GradientProducts::kNorms).norms;
  idx too_little = 0;
  for (idx kb = 100000; kb > 100; kb = kb * 4 / 5) {
    SampleGradients<float> less(model, w.layout, kb << 10, 1.0f);
    try {
      EXPECT_EQ(less.Compute(group, GradientProducts::kNorms).norms, want) << kb << " KB";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      ++too_little;
    }
  }
  EXPECT_GT(too_little, 0) << "layer by layer was tried";
  const int before = NumThreads();
  for (const int threads : {1, 3, 8}) {
    SetNumThreads(threads);
    EXPECT_EQ(plenty.Compute(group, GradientProducts::kNorms).norms, want) << threads;
  }
  SetNumThreads(before);
}

INSTANTIATE_TEST_SUITE_P(Models, PerSample,
                         testing::Values("tied", "untied", "qwen2", "qwen3", "qwen3_yarn",
                                         "qwen3_lora"));

// From the sampler's tape, whole and in part, in bf16: the bits of the recomputed ones, and the
// log-probs are the sampler's.
TEST(SampleGradients, ReadsTheTape) {
  const Weights& w = TinyWeights();
  const PackedWeights<bf16> packed(w, true);
  Transformer<bf16> model(packed);
  const Tokenizer tokenizer = Tokenizer::Bytes();
  std::vector<RolloutGroup> groups(1);
  for (const char c : std::string("a prompt of some length")) groups[0].prompt.push_back(c);
  groups[0].rollouts.resize(5);
  SamplingConfig sampling;
  sampling.max_new_tokens = 40;
  Tape<bf16> tape;
  tape.max_bytes = kPlenty;
  Generate(model, tokenizer, groups, sampling, {}, &tape);
  ASSERT_EQ(groups[0].tape_group, 0);
  SampleGradients<bf16> gradients(model, w.layout, kPlenty, 1.0f);
  const auto want = gradients.Compute(groups[0], GradientProducts::kNorms);
  EXPECT_GT(want.compared_tokens, 5);
  EXPECT_EQ(want.mismatched_tokens, 0);
  const auto taped = gradients.Compute(groups[0], GradientProducts::kNorms, &tape);
  EXPECT_EQ(taped.norms, want.norms);
  EXPECT_EQ(taped.mismatched_tokens, 0);
  // Half of it: the prompt and some samples.
  Tape<bf16> part;
  part.max_bytes = tape.bytes / 2;
  groups[0].tape_group = -1;
  Generate(model, tokenizer, groups, sampling, {}, &part);
  ASSERT_GT(part.rows, 0);
  ASSERT_LT(part.rows, tape.rows);
  EXPECT_EQ(gradients.Compute(groups[0], GradientProducts::kNorms, &part).norms, want.norms);
}

}  // namespace
}  // namespace opo
