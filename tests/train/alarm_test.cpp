// The exactness alarm: what was written stays as it was, or the step ends with its place named.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "model/seals.h"
#include "reference/tiny_model.h"
#include "train/learner.h"

namespace opo {
namespace {

template <class T>
class Alarm : public testing::Test {};
using Types = testing::Types<bf16, float>;
TYPED_TEST_SUITE(Alarm, Types);

template <class T>
void FlipBit(T* at, int bit) {
  auto* bytes = reinterpret_cast<std::uint8_t*>(at);
  bytes[bit / 8] = static_cast<std::uint8_t>(bytes[bit / 8] ^ (1U << (bit % 8)));
}

template <class T>
std::vector<RolloutGroup> Sample(TinyModel<T>& tiny, Tape<T>* tape) {
  auto groups = MakeGroups({33, 5, 1}, 3, 259);
  SamplingConfig config;
  config.max_new_tokens = 40;
  Generate(tiny.model, Tokenizer::Bytes(), std::span<RolloutGroup>(groups), config, {}, tape);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    groups[g].number = static_cast<idx>(g);
    for (std::size_t s = 0; s < 3; ++s) groups[g].rollouts[s].advantage = s == 1 ? -1 : 0.5;
  }
  return groups;
}

// Every key and value, one bit each, in every architecture's layout, behind a prefix and without.
TYPED_TEST(Alarm, APageThatChangedIsNamed) {
  using T = TypeParam;
  for (const char* variant : kVariants) {
    TinyModel<T> tiny(VariantWeights(variant));
    const ModelConfig& model = tiny.model.config();
    const auto tokens = RandomTokens(71, 9, model.vocab_size);
    Segment<T> prefix(&tiny.model.pool());
    Segment<T> sample(&tiny.model.pool());
    Run<T> run;
    run.segment = &prefix;
    run.tokens = tokens.data();
    run.count = 37;
    run.outputs = false;
    run.seal = true;
    tiny.model.Forward({&run, 1}, nullptr);
    for (idx r = 37; r < 71; ++r) {  // token by token, as a sampler does
      run.segment = &sample;
      run.prefix = &prefix;
      run.outputs = true;
      run.tokens = tokens.data() + r;
      run.count = 1;
      tiny.model.Forward({&run, 1}, nullptr);
    }
    for (const Segment<T>* segment : {&prefix, &sample}) {
      EXPECT_EQ(FindFlawInPages(*segment, model), std::nullopt) << variant;
      const idx rows = segment->length();
      const idx numbers = rows * model.num_layers * 2 * model.num_kv_heads * model.head_dim;
      std::set<T*> places;
      for (idx i = 0; i < numbers; ++i) {
        T* at = KeyOrValueAt(*segment, model, i);
        places.insert(at);
        if (i % 7 != 0) continue;
        const int bit = static_cast<int>(i % (8 * static_cast<idx>(sizeof(T))));
        FlipBit(at, bit);
        EXPECT_EQ(FindFlawInPages(*segment, model), (Flaw{i % rows, i / rows % model.num_layers}))
            << variant << ", number " << i;
        FlipBit(at, bit);
      }
      EXPECT_EQ(static_cast<idx>(places.size()), numbers) << variant << ": places fall together";
      EXPECT_EQ(FindFlawInPages(*segment, model), std::nullopt) << variant;
    }
  }
}

// Every byte of some rows, and the rows of prompts, which end in the last layer.
TYPED_TEST(Alarm, ARecordThatChangedIsNamed) {
  using T = TypeParam;
  for (const char* variant : kVariants) {
    TinyModel<T> tiny(VariantWeights(variant));
    Tape<T> tape;
    tape.max_bytes = idx{1} << 40;
    Sample(tiny, &tape);
    const ActivationLayout<T>& at = tiny.model.pool().activations();
    const idx layers = tiny.model.config().num_layers;
    for (const Segment<T>* segment :
         {&tape.groups[0].prefix, &tape.groups[0].samples[1], &tape.groups[2].samples[2]}) {
      ASSERT_GT(segment->length(), 0);
      EXPECT_EQ(FindFlawInRecords(*segment, at), std::nullopt) << variant;
      const idx rows = segment->length();
      const idx bytes = rows * layers * (at.kept_layer_bytes + at.rest_layer_bytes);
      for (idx i = 0; i < bytes; i += 331) {
        std::byte* byte = RecordByteAt(*segment, at, i);
        FlipBit(byte, static_cast<int>(i % 8));
        EXPECT_EQ(FindFlawInRecords(*segment, at), (Flaw{i % rows, i / rows % layers}))
            << variant << ", byte " << i;
        FlipBit(byte, static_cast<int>(i % 8));
      }
    }
    const Segment<T>& sample = tape.groups[0].samples[1];
    const idx row = sample.length() - 1;
    FlipBit(sample.Kept(row, 0) + at.final, 3);
    EXPECT_EQ(FindFlawInRecords(sample, at), (Flaw{row, layers})) << variant;
    FlipBit(sample.Kept(row, 0) + at.final, 3);
  }
}

// The learner refuses what it would have learned from, and names it.
TYPED_TEST(Alarm, TheLearnerChecksTheTapeThatItTakes) {
  using T = TypeParam;
  const Weights& weights = TinyWeights();
  for (const bool uniform : {false, true}) {  // a group without a gradient is checked as well
    for (const idx sample : {-1, 0, 2}) {
      TinyModel<T> tiny(weights, true);
      Tape<T> tape;
      tape.max_bytes = idx{1} << 40;
      auto groups = Sample(tiny, &tape);
      std::vector<LearnGroup> learn;
      for (std::size_t g = 0; g < groups.size(); ++g) {
        learn.push_back({&groups[g], std::vector<double>(3, 0.01), static_cast<idx>(g)});
      }
      if (uniform) {
        for (Rollout& rollout : groups[0].rollouts) rollout.advantage = 0;
      }
      auto& group = tape.groups[0];
      Segment<T>& segment =
          sample < 0 ? group.prefix : group.samples[static_cast<std::size_t>(sample)];
      *(segment.Rest(4, 1) + tiny.model.pool().activations().mid) ^= std::byte{16};
      Learner<T> learner(tiny.model, weights.layout, {});
      Buffer<float> grad(weights.layout.size);
      try {
        learner.Accumulate(learn, OnPolicyLoss, grad.data(), &tape);
        FAIL() << "went unnoticed: sample " << sample;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kExactness);
        const std::string place =
            sample < 0 ? "prompt 0 (problem 0), its own token 4, layer 1"
                       : fmt::format("prompt 0 (problem 0), sample {}, token 4, layer 1", sample);
        EXPECT_NE(std::string(error.what()).find(place), std::string::npos) << error.what();
      }
    }
  }
}

// Where a sample found no room on the tape, the learner attends to the pages that the sampler left.
TYPED_TEST(Alarm, TheLearnerChecksThePromptsPagesThatItTakes) {
  using T = TypeParam;
  const Weights& weights = TinyWeights();
  TinyModel<T> tiny(weights, true);
  Tape<T> tape;
  tape.max_bytes = idx{1} << 40;
  Sample(tiny, &tape);
  tape.max_bytes = tape.bytes * 2 / 3;
  tape.Clear();
  auto groups = Sample(tiny, &tape);
  const auto with_pages = std::find_if(tape.groups.begin(), tape.groups.end(), [](const auto& g) {
    return g.prefix.record() == Record::kAll && g.prefix.has_pages();
  });
  ASSERT_NE(with_pages, tape.groups.end());
  const auto g = static_cast<std::size_t>(with_pages - tape.groups.begin());
  FlipBit(KeyOrValueAt(with_pages->prefix, tiny.model.config(), 2), 7);
  std::vector<LearnGroup> learn;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    learn.push_back({&groups[i], std::vector<double>(3, 0.01), static_cast<idx>(i)});
  }
  Learner<T> learner(tiny.model, weights.layout, {});
  Buffer<float> grad(weights.layout.size);
  try {
    learner.Accumulate(learn, OnPolicyLoss, grad.data(), &tape);
    FAIL() << "went unnoticed";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kExactness);
    const std::string place =
        fmt::format("prompt {} (problem 0), its own token 2, layer 0: its key or value", g);
    EXPECT_NE(std::string(error.what()).find(place), std::string::npos) << error.what();
  }
}

TYPED_TEST(Alarm, TheFirstMismatchHasItsPlace) {
  using T = TypeParam;
  const Weights& weights = TinyWeights();
  TinyModel<T> tiny(weights, true);
  auto groups = Sample(tiny, static_cast<Tape<T>*>(nullptr));
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) EXPECT_EQ(FirstBrokenToken(rollout), -1);
  }
  Rollout& changed = groups[1].rollouts[2];
  ASSERT_GT(changed.length(), 4);
  FlipBit(&changed.logprobs[3], 0);
  FlipBit(&changed.logprobs[4], 0);
  EXPECT_EQ(FirstBrokenToken(changed), 3);
  std::vector<LearnGroup> learn;
  for (const RolloutGroup& group : groups) {
    learn.push_back({&group, std::vector<double>(3, 0.01), -1});
  }
  Learner<T> learner(tiny.model, weights.layout, {});
  Buffer<float> grad(weights.layout.size);
  const LearnResult result = learner.Accumulate(learn, OnPolicyLoss, grad.data());
  EXPECT_EQ(result.mismatched_tokens, 2);
  EXPECT_EQ(result.mismatched_group, 1);
  EXPECT_EQ(result.mismatched_sample, 2);
  EXPECT_EQ(result.mismatched_token, 3);
  // Each number of a token, and the token.
  FlipBit(&changed.logprobs[3], 0);
  FlipBit(&changed.logprobs[4], 0);
  EXPECT_EQ(FirstBrokenToken(changed), -1);
  FlipBit(&changed.tokens[2], 0);
  EXPECT_EQ(FirstBrokenToken(changed), 2);
  FlipBit(&changed.tokens[2], 0);
  FlipBit(&changed.sum_sqs[0], 31);
  EXPECT_EQ(FirstBrokenToken(changed), 0);
  FlipBit(&changed.sum_sqs[0], 31);
  FlipBit(&changed.entropies.back(), 5);
  EXPECT_EQ(FirstBrokenToken(changed), changed.length() - 1);
}

// Every part of the packed weights has a name of its own, and a flip in each is found, after an
// update too.
TYPED_TEST(Alarm, PackedWeightsThatChangedAreNamed) {
  using T = TypeParam;
  for (const char* variant : kVariants) {
    const Weights& weights = VariantWeights(variant);
    PackedWeights<T> packed(weights, true);
    EXPECT_EQ(packed.FindFlaw(), "");
    std::set<std::byte*> bytes;
    std::set<std::string> names;
    for (idx i = 0; i < 200; ++i) {
      std::byte* byte = packed.ByteAt(i);
      bytes.insert(byte);
      FlipBit(byte, static_cast<int>(i % 8));
      const std::string name = packed.FindFlaw();
      EXPECT_NE(name, "") << variant << " " << i;
      names.insert(name);
      FlipBit(byte, static_cast<int>(i % 8));
    }
    EXPECT_EQ(packed.FindFlaw(), "");
    // Two layers of norms and products, in both directions or with an adapter; final norm, head,
    // embedding.
    EXPECT_GT(names.size(), 2U * 10 + 3) << variant;
    EXPECT_GT(bytes.size(), names.size());
    EXPECT_TRUE(names.contains("layer 1, down_proj")) << variant;
    FlipBit(packed.ByteAt(1), 0);
    if (weights.base == nullptr) {
      packed.Update(weights);  // writes all of it anew
      EXPECT_EQ(packed.FindFlaw(), "") << variant;
    }
    PackedWeights<T> to_sample(weights, false);
    FlipBit(to_sample.ByteAt(1), 0);
    EXPECT_EQ(to_sample.FindFlaw(), "") << "nothing is hashed where nothing is learned";
  }
}

}  // namespace
}  // namespace opo
