// E1, E2, E3 and E6 for the learner: same log-probs as the sampler, and the same gradient bits
// whatever the threads and the memory budget.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/parallel.h"
#include "kernels/amx_twin.h"
#include "kernels/gemm.h"
#include "reference/tiny_model.h"
#include "train/learner.h"

namespace opo {
namespace {

constexpr double kTemperature = 0.9;

// Rollouts of the tiny model, with advantages of both signs; the second group has none.
template <class T>
std::vector<RolloutGroup> Rollouts(TinyModel<T>& tiny, Tape<T>* tape = nullptr,
                                   std::size_t samples = 5, idx max_new_tokens = 110) {
  auto groups = MakeGroups({33, 5, 1, 70, 2}, samples, 259);
  SamplingConfig config;
  config.temperature = kTemperature;
  config.max_new_tokens = max_new_tokens;
  const Tokenizer tokenizer = Tokenizer::Bytes();
  Generate(tiny.model, tokenizer, std::span<RolloutGroup>(groups), config, {}, tape);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < samples; ++s) {
      groups[g].rollouts[s].advantage =
          g == 1 ? 0.0 : std::sin(1.0 + static_cast<double>(5 * g + s));
    }
  }
  return groups;
}

template <class T>
std::vector<RolloutGroup> Rollouts() {
  TinyModel<T> tiny(TinyWeights());
  return Rollouts(tiny);
}

std::vector<LearnGroup> WithWeights(const std::vector<RolloutGroup>& groups) {
  std::vector<LearnGroup> learn;
  for (const RolloutGroup& g : groups) {
    learn.push_back({&g, std::vector<double>(g.rollouts.size(), 0.01)});
  }
  return learn;
}

struct Learned {
  Buffer<float> grad;
  LearnResult result;
};

LearnerConfig Config(idx unit_tokens) {
  LearnerConfig config;
  config.unit_tokens = unit_tokens;
  config.inv_temperature = static_cast<float>(1 / kTemperature);
  return config;
}

template <class T>
Learned Learn(const std::vector<RolloutGroup>& groups, const LearnerConfig& config,
              const Weights& weights = TinyWeights(), bool on_policy = false) {
  TinyModel<T> tiny(weights, true);
  Learner<T> learner(tiny.model, weights.layout, config);
  Learned out{Buffer<float>(weights.layout.size), {}};
  auto learn = WithWeights(groups);
  for (LearnGroup& g : learn) g.on_policy = on_policy;
  out.result = learner.Accumulate(learn, OnPolicyLoss, out.grad.data());
  return out;
}

// Bytes of a budget that holds the largest unit, recorded so, and nothing more.
template <class T>
idx LeastMemory(const std::vector<RolloutGroup>& groups, idx unit_tokens,
                Record record = Record::kAll, const Weights& weights = TinyWeights()) {
  TinyModel<T> tiny(weights, true);
  const Learner<T> learner(tiny.model, weights.layout, Config(unit_tokens));
  idx rows = 0;
  for (const Unit& unit : CutUnits(WithWeights(groups), unit_tokens)) {
    rows = std::max(rows, RoundUp(unit.sample_rows + unit.prefix_rows, RowBlock<T>()));
  }
  return rows * learner.row_bytes(record);
}

double Norm(const Buffer<float>& x) {
  double sum = 0;
  for (const float v : x.span()) sum += double{v} * double{v};
  return std::sqrt(sum);
}

double Distance(const Buffer<float>& a, const Buffer<float>& b) {
  double sum = 0;
  for (idx i = 0; i < a.size(); ++i) {
    const double d = double{a[i]} - double{b[i]};
    sum += d * d;
  }
  return std::sqrt(sum);
}

template <class T>
class LearnerExactness : public testing::Test {
 protected:
  void TearDown() override {
    SetNumThreads(0);
    SelectIsa("");
  }
  const std::vector<RolloutGroup>& groups() {
    static const std::vector<RolloutGroup> all = Rollouts<T>();
    return all;
  }
};
using Types = testing::Types<bf16, float>;
TYPED_TEST_SUITE(LearnerExactness, Types);

TYPED_TEST(LearnerExactness, LearnerRepeatsTheSamplersLogProbsBitwise) {
  idx tokens = 0;
  idx longest = 0;
  for (std::size_t g = 0; g < this->groups().size(); ++g) {
    for (const Rollout& r : this->groups()[g].rollouts) {
      tokens += g == 1 ? 0 : r.length();  // a group without any gradient is not learned
      longest = std::max(longest, r.length());
    }
  }
  EXPECT_GT(longest, 3 * kKeyBlock);
  for (const idx unit : {64, 256, 100000}) {
    const Learned learned = Learn<TypeParam>(this->groups(), Config(unit));
    EXPECT_EQ(learned.result.compared_tokens, tokens);
    EXPECT_EQ(learned.result.mismatched_tokens, 0);
    EXPECT_EQ(learned.result.logprob_diff_max, 0);
    EXPECT_EQ(learned.result.kl_sum, 0);
    EXPECT_GT(Norm(learned.grad), 0);
  }
}

TYPED_TEST(LearnerExactness, CompareSeesEveryGroupAndNoMismatch) {
  TinyModel<TypeParam> tiny(TinyWeights());
  Learner<TypeParam> learner(tiny.model, TinyWeights().layout, Config(200));
  for (const RolloutGroup& group : this->groups()) {
    const LearnResult result = learner.Compare(group);
    idx tokens = 0;
    for (const Rollout& r : group.rollouts) tokens += r.length();
    EXPECT_EQ(result.compared_tokens, tokens);
    EXPECT_EQ(result.mismatched_tokens, 0);
  }
}

// The controls of E1: one bit of one log-prob; and a sampler that had put the keys into other
// blocks.
TYPED_TEST(LearnerExactness, AMismatchIsCounted) {
  auto changed = this->groups();
  float& logprob = changed[3].rollouts[2].logprobs[0];
  logprob = std::nextafter(logprob, 0.0f);
  EXPECT_EQ(Learn<TypeParam>(changed, Config(256)).result.mismatched_tokens, 1);

  auto moved = this->groups();
  const TokenId last = moved[0].prompt.back();
  moved[0].prompt.pop_back();
  for (Rollout& r : moved[0].rollouts) {
    r.tokens.insert(r.tokens.begin(), last);
    r.logprobs.insert(r.logprobs.begin(), 0.0f);
  }
  TinyModel<TypeParam> tiny(TinyWeights());
  Learner<TypeParam> learner(tiny.model, TinyWeights().layout, Config(256));
  // The five tokens that were moved differ in any case.
  EXPECT_GT(learner.Compare(moved[0]).mismatched_tokens, 5) << "other key blocks went unnoticed";
}

// A vocabulary of several parts, the last one odd, with a chunk of rows that are all known and one
// that are not; and every number that the shortcut takes from the sampler is proved.
TYPED_TEST(LearnerExactness, TheNormsOfTheSamplerChangeNoBitOfTheGradient) {
  ModelConfig shape = TinyWeights().config;
  shape.vocab_size = 2 * kHeadColumns + kHeadBlock + 37;
  const Weights weights = InitWeights(shape, 3, 0.2);
  TinyModel<TypeParam> tiny(weights);
  auto groups = Rollouts(tiny);
  idx tokens = 0;
  for (RolloutGroup& group : groups) {
    for (Rollout& r : group.rollouts) {
      ASSERT_EQ(r.norms.size(), r.tokens.size());
      r.advantage = 0.25 * static_cast<double>(1 + tokens % 3) - 0.4;
      tokens += r.length();
    }
  }
  ASSERT_GT(tokens, kHeadRows);
  const Learned whole = Learn<TypeParam>(groups, Config(256), weights);
  const Learned parts = Learn<TypeParam>(groups, Config(256), weights, true);
  EXPECT_GT(Norm(whole.grad), 0);
  EXPECT_TRUE(SameBits(whole.grad, parts.grad));
  EXPECT_EQ(whole.result.loss, parts.result.loss);
  EXPECT_EQ(parts.result.compared_tokens, tokens);
  EXPECT_EQ(parts.result.mismatched_tokens, 0);
  EXPECT_EQ(parts.result.logprob_diff_max, 0);

  auto changed = groups;
  changed.back().rollouts.back().norms.clear();  // one that was given, beside those sampled
  const Learned both = Learn<TypeParam>(changed, Config(256), weights, true);
  EXPECT_TRUE(SameBits(whole.grad, both.grad));
  EXPECT_EQ(both.result.mismatched_tokens, 0);

  const auto mismatched = [&](auto&& change) {
    changed = groups;
    change(changed[0].rollouts[0]);
    return Learn<TypeParam>(changed, Config(256), weights, true).result.mismatched_tokens;
  };
  const auto next = [](float& x) { x = std::nextafter(x, 1e30f); };
  EXPECT_EQ(mismatched([&](Rollout& r) { next(r.norms[0].max); }), 1);
  EXPECT_EQ(mismatched([&](Rollout& r) { next(r.norms[0].log_sum); }), 1);
  EXPECT_EQ(mismatched([&](Rollout& r) { next(r.logprobs[0]); }), 1);
}

TYPED_TEST(LearnerExactness, ThreadsChangeNoBitOfTheGradient) {
  SetNumThreads(1);
  const Learned one = Learn<TypeParam>(this->groups(), Config(256));
  for (const int threads : {2, 3}) {
    SetNumThreads(threads);
    const Learned many = Learn<TypeParam>(this->groups(), Config(256));
    EXPECT_TRUE(SameBits(one.grad, many.grad)) << threads << " threads";
    EXPECT_EQ(one.result.loss, many.result.loss);
  }
}

TYPED_TEST(LearnerExactness, TheMemoryBudgetChangesNoBitOfTheGradient) {
  constexpr idx kUnit = 200;  // two or three units a group
  const idx least = LeastMemory<TypeParam>(this->groups(), kUnit);
  LearnerConfig config = Config(kUnit);
  const Learned all = Learn<TypeParam>(this->groups(), config);
  EXPECT_EQ(all.result.micro_batches, 1);
  std::vector<LearnGroup> learned;
  for (const LearnGroup& g : WithWeights(this->groups())) {
    if (g.group != &this->groups()[1]) learned.push_back(g);
  }
  const auto units = static_cast<idx>(CutUnits(learned, kUnit).size());
  EXPECT_GE(units, 9) << "groups are to have several units";
  idx most = 0;
  for (const double factor : {1.0, 1.3, 1.7, 2.0, 2.6, 3.5, 5.0}) {
    config.memory_bytes = static_cast<idx>(static_cast<double>(least) * factor);
    const Learned part = Learn<TypeParam>(this->groups(), config);
    EXPECT_GT(part.result.micro_batches, 1);
    EXPECT_TRUE(SameBits(all.grad, part.grad)) << part.result.micro_batches << " micro-batches";
    EXPECT_EQ(all.result.loss, part.result.loss);
    EXPECT_EQ(part.result.mismatched_tokens, 0);
    most = std::max(most, part.result.micro_batches);
  }
  EXPECT_GT(most, static_cast<idx>(learned.size())) << "no group was cut between micro-batches";
}

// Where a unit does not fit, its layers are run forward a second time.
TYPED_TEST(LearnerExactness, RecomputeLayerByLayerChangesNoBitOfTheGradient) {
  LearnerConfig config = Config(200);
  const Learned all = Learn<TypeParam>(this->groups(), config);
  EXPECT_EQ(all.result.rows_rerun, 0);
  const idx least = LeastMemory<TypeParam>(this->groups(), 200, Record::kResiduals);
  const idx full = LeastMemory<TypeParam>(this->groups(), 200);
  EXPECT_LT(least, full);
  for (const idx bytes : {least, (least + full) / 2, full - 1}) {
    config.memory_bytes = bytes;
    const Learned part = Learn<TypeParam>(this->groups(), config);
    EXPECT_GT(part.result.rows_rerun, 0);
    EXPECT_EQ(part.result.mismatched_tokens, 0);
    EXPECT_TRUE(SameBits(all.grad, part.grad)) << part.result.rows_rerun << " rows run again";
  }
}

// E6, the tape: whatever of it there was room for, and whatever the budget of the rest.
TYPED_TEST(LearnerExactness, TheTapeChangesNoBitOfTheGradient) {
  using T = TypeParam;
  const Weights& weights = TinyWeights();
  const Learned want = Learn<T>(this->groups(), Config(200));
  const idx least = LeastMemory<T>(this->groups(), 200, Record::kResiduals);
  idx all_bytes = 0;
  for (const double share : {1.0, 0.0, 0.02, 0.3, 0.6, 0.9}) {
    for (const idx memory : {idx{1} << 30, least}) {
      TinyModel<T> tiny(weights, true);
      Tape<T> tape;
      tape.max_bytes = share == 1.0 ? idx{1} << 40 : static_cast<idx>(share * all_bytes);
      const auto groups = Rollouts(tiny, &tape);
      ASSERT_EQ(RolloutDigest(groups), RolloutDigest(this->groups()));
      if (share == 1.0) all_bytes = tape.bytes;
      EXPECT_LE(tape.bytes, tape.max_bytes);
      idx rows = 0;
      for (const RolloutGroup& g : groups) {
        rows += static_cast<idx>(g.prompt.size()) - 1;
        for (const Rollout& r : g.rollouts) rows += r.length();
      }
      if (share == 1.0) {
        EXPECT_EQ(tape.rows, rows);
      }
      if (share >= 0.3) {
        EXPECT_GT(tape.rows, static_cast<idx>(0.5 * share * rows));
      }

      LearnerConfig config = Config(200);
      config.memory_bytes = memory;
      Learner<T> learner(tiny.model, weights.layout, config);
      const auto check = learner.Recheck(groups, tape, 1, 1, idx{1} << 40);
      EXPECT_EQ(check.rows, tape.rows) << "all rows were asked for";
      EXPECT_EQ(check.mismatched, 0);
      auto learn = WithWeights(groups);
      for (std::size_t g = 0; g < learn.size(); ++g) learn[g].tape_group = static_cast<idx>(g);
      Buffer<float> grad(weights.layout.size);
      const LearnResult result = learner.Accumulate(learn, OnPolicyLoss, grad.data(), &tape);
      EXPECT_TRUE(SameBits(want.grad, grad)) << "share " << share << ", " << memory << " bytes";
      EXPECT_EQ(result.loss, want.result.loss);
      EXPECT_EQ(result.compared_tokens, want.result.compared_tokens);
      EXPECT_EQ(result.mismatched_tokens, 0);
      EXPECT_EQ(result.rows_learned, want.result.rows_learned);
      if (share == 1.0) {
        EXPECT_EQ(result.rows_forward, 0);
      }
      if (share == 0.0) {
        EXPECT_EQ(result.rows_forward, want.result.rows_forward);
      }
    }
  }
}

// E1, E3 and E6 at once for the other architectures: threads, micro-batches, layers run again, the
// tape; and the controls of the tape in what only some of them record.
TYPED_TEST(LearnerExactness, EveryArchitectureIsExact) {
  using T = TypeParam;
  for (const char* variant : kVariants) {
    const Weights& weights = VariantWeights(variant);
    SetNumThreads(1);
    constexpr idx kTokens = 70;
    const auto sample = [&](TinyModel<T>& tiny, Tape<T>* tape) {
      return Rollouts(tiny, tape, 3, kTokens);
    };
    TinyModel<T> sampler(weights);
    const auto groups = sample(sampler, nullptr);
    LearnerConfig config = Config(200);
    const Learned all = Learn<T>(groups, config, weights);
    EXPECT_EQ(all.result.mismatched_tokens, 0) << variant;
    EXPECT_GT(all.result.compared_tokens, 0) << variant;
    for (const TensorSpec& t : weights.layout.tensors) {
      const float* grad = all.grad.data() + t.offset;
      EXPECT_TRUE(std::any_of(grad, grad + t.size(), [](float g) { return g != 0; }))
          << variant << ": no gradient by " << t.name;
    }
    SetNumThreads(3);
    for (const Record record : {Record::kAll, Record::kResiduals}) {
      config.memory_bytes = LeastMemory<T>(groups, 200, record, weights);
      const Learned part = Learn<T>(groups, config, weights);
      EXPECT_GT(part.result.micro_batches, 1) << variant;
      EXPECT_EQ(part.result.rows_rerun > 0, record == Record::kResiduals) << variant;
      EXPECT_TRUE(SameBits(all.grad, part.grad)) << variant;
    }
    for (const idx tape_bytes : {idx{1} << 40, idx{1} << 19}) {
      TinyModel<T> tiny(weights, true);
      Tape<T> tape;
      tape.max_bytes = tape_bytes;
      const auto taped = sample(tiny, &tape);
      ASSERT_EQ(RolloutDigest(taped), RolloutDigest(groups)) << variant;
      EXPECT_GT(tape.rows, 0);
      Learner<T> learner(tiny.model, weights.layout, config);
      const auto mismatched = [&] {
        return learner.Recheck(taped, tape, 1, 1, idx{1} << 40).mismatched;
      };
      EXPECT_EQ(mismatched(), 0) << variant;
      if (weights.config.qk_norm && tape_bytes == idx{1} << 40) {
        // A prompt's rows too, and in the last layer.
        const ActivationLayout<T>& at = tiny.model.pool().activations();
        for (std::byte* byte : {tape.groups[3].samples[2].Rest(17, 1) + at.q_pre,
                                tape.groups[3].prefix.Rest(30, 1) + at.k_pre}) {
          *byte ^= std::byte{1};
          EXPECT_EQ(mismatched(), 1) << variant;
          *byte ^= std::byte{1};
        }
      }
      auto learn = WithWeights(taped);
      for (std::size_t g = 0; g < learn.size(); ++g) learn[g].tape_group = static_cast<idx>(g);
      Buffer<float> grad(weights.layout.size);
      learner.Accumulate(learn, OnPolicyLoss, grad.data(), &tape);
      EXPECT_TRUE(SameBits(all.grad, grad)) << variant << ", tape of " << tape.rows << " rows";
    }
  }
}

// Windows of samples too long for the recheck, and its control: one bit of one record.
TYPED_TEST(LearnerExactness, TheRecheckSeesOneBitOfTheTape) {
  using T = TypeParam;
  const Weights& weights = TinyWeights();
  TinyModel<T> tiny(weights, true);
  Tape<T> tape;
  tape.max_bytes = idx{1} << 40;
  const auto groups = Rollouts(tiny, &tape);
  Learner<T> learner(tiny.model, weights.layout, Config(200));
  for (std::uint64_t step = 0; step < 40; ++step) {
    const auto window = learner.Recheck(groups, tape, 7, step, 20);
    EXPECT_EQ(window.mismatched, 0);
    EXPECT_EQ(window.rows, 20);
  }
  const auto flip = [](std::byte* at) { *at ^= std::byte{1}; };
  const auto mismatched = [&] {
    return learner.Recheck(groups, tape, 7, 1, idx{1} << 40).mismatched;
  };
  const ActivationLayout<T>& at = tiny.model.pool().activations();
  for (std::byte* byte :
       {tape.groups[3].samples[2].Rest(17, 1) + at.gate_up,
        tape.groups[3].samples[2].Rest(17, 0) + at.lse, tape.groups[3].prefix.Rest(30, 0) + at.mid,
        tape.groups[0].samples[4].Kept(0, 0) + at.final}) {
    flip(byte);
    EXPECT_EQ(mismatched(), 1);
    flip(byte);
  }
  EXPECT_EQ(mismatched(), 0);
}

TYPED_TEST(LearnerExactness, ABudgetBelowOneUnitIsAUsageError) {
  LearnerConfig config = Config(200);
  config.memory_bytes = LeastMemory<TypeParam>(this->groups(), 200, Record::kResiduals) - 1;
  try {
    Learn<TypeParam>(this->groups(), config);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("memory_mb"), std::string::npos) << error.what();
  }
}

// The controls of E3 and E6: the same gradient with the sums over rows in another order (the
// samples of each group from last to first) has other bits, and is the same gradient.
TYPED_TEST(LearnerExactness, AnotherOrderOfRowsIsNoticed) {
  const Learned right = Learn<TypeParam>(this->groups(), Config(200));
  auto reversed = this->groups();
  for (RolloutGroup& g : reversed) std::reverse(g.rollouts.begin(), g.rollouts.end());
  const Learned other = Learn<TypeParam>(reversed, Config(200));
  EXPECT_EQ(other.result.mismatched_tokens, 0) << "E2: a sample's place changes nothing";
  EXPECT_FALSE(SameBits(right.grad, other.grad)) << "another order of rows went unnoticed";
  // f32 sums of a few thousand rows; the terms are the same numbers.
  EXPECT_LT(Distance(right.grad, other.grad), 1e-3 * Norm(right.grad));
}

// Units cut elsewhere move the zero rows between them. A chain that takes rows one by one does not
// notice zeros; vdpbf16ps takes them in pairs, tiles in blocks of 32, and there the bits must
// differ: this is why unit_tokens belongs to the manifest.
TYPED_TEST(LearnerExactness, OtherUnitsAreNoticedWhereRowsAreSummedInPairs) {
  const std::string_view path = ActiveKernels().name;
  const bool pairs = sizeof(TypeParam) == 2 && (path == "avx512bf16" || path == "amx");
  const Learned one = Learn<TypeParam>(this->groups(), Config(200));
  const Learned other = Learn<TypeParam>(this->groups(), Config(64));
  if (pairs) {
    EXPECT_FALSE(SameBits(one.grad, other.grad)) << "other units went unnoticed";
  }
  EXPECT_LT(Distance(one.grad, other.grad), 1e-3 * Norm(one.grad));
}

// E6 where a cut is most dangerous: units that end in the middle of a pair of rows, and a budget
// under which the prompt's dK and dV must survive from one micro-batch to the next.
TYPED_TEST(LearnerExactness, ACutGroupKeepsItsPromptsGradient) {
  const std::vector<RolloutGroup> one = {this->groups()[3]};
  LearnerConfig config = Config(1);  // a unit a sample
  const Learned all = Learn<TypeParam>(one, config);
  EXPECT_EQ(all.result.micro_batches, 1);
  config.memory_bytes = LeastMemory<TypeParam>(one, 1);
  const Learned part = Learn<TypeParam>(one, config);
  EXPECT_GE(part.result.micro_batches, 3);
  EXPECT_TRUE(SameBits(all.grad, part.grad));
}

TYPED_TEST(LearnerExactness, TheContractHoldsOnEveryInstructionSetPath) {
  const auto check = [](std::string_view path, const std::vector<RolloutGroup>& groups) {
    LearnerConfig config = Config(200);
    const Learned all = Learn<TypeParam>(groups, config);
    EXPECT_EQ(all.result.mismatched_tokens, 0) << path;
    EXPECT_GT(all.result.compared_tokens, 0) << path;
    config.memory_bytes = LeastMemory<TypeParam>(groups, 200);
    EXPECT_TRUE(SameBits(all.grad, Learn<TypeParam>(groups, config).grad)) << path;
  };
  for (const IsaPath& path : IsaPaths()) {
    if (!path.available) continue;
    SelectIsa(path.name);
    check(path.name, Rollouts<TypeParam>());
  }
  // Its units are padded to more rows than the others'. The tiles are scalar: fewer tokens.
  SelectKernels(AmxTwinKernels());
  TinyModel<TypeParam> tiny(TinyWeights());
  check(kAmxTwin, Rollouts<TypeParam>(tiny, nullptr, 2, 40));
}

TYPED_TEST(LearnerExactness, GroupsWithoutGradientAreSkippedBitwise) {
  std::vector<RolloutGroup> others = this->groups();
  others.erase(others.begin() + 1);
  EXPECT_TRUE(SameBits(Learn<TypeParam>(this->groups(), Config(200)).grad,
                       Learn<TypeParam>(others, Config(200)).grad));
}

TYPED_TEST(LearnerExactness, AnEmptyCompletionHasNoRows) {
  auto with_empty = this->groups();
  with_empty[0].rollouts.insert(with_empty[0].rollouts.begin() + 2, Rollout{});
  with_empty[0].rollouts[2].advantage = 1;
  EXPECT_TRUE(SameBits(Learn<TypeParam>(this->groups(), Config(200)).grad,
                       Learn<TypeParam>(with_empty, Config(200)).grad));
}

TEST(CutUnits, DependOnLengthsAloneAndPromptsEndTheLast) {
  RolloutGroup group;
  group.prompt = {1, 2, 3, 4};
  for (const std::size_t n : {10, 20, 70, 5, 5}) {
    group.rollouts.emplace_back();
    group.rollouts.back().tokens.assign(n, 7);
  }
  const LearnGroup learn{&group, std::vector<double>(5, 1.0)};
  const auto units = CutUnits({&learn, 1}, 30);
  ASSERT_EQ(units.size(), 3U);
  EXPECT_EQ(units[0].num_samples, 2);
  EXPECT_EQ(units[0].rows(), 30);
  EXPECT_EQ(units[1].first_sample, 2);
  EXPECT_EQ(units[1].num_samples, 1);  // longer than a unit: one of its own
  EXPECT_EQ(units[1].rows(), 70);
  EXPECT_FALSE(units[1].last);
  EXPECT_EQ(units[2].sample_rows, 10);
  EXPECT_EQ(units[2].prefix_rows, 3);
  EXPECT_TRUE(units[2].last);
}

template <class T>
void CheckSmolLm2() {
  const Weights weights = LoadWeights(SmolLm2Path());
  const Tokenizer tokenizer = Tokenizer::Load(SmolLm2Path());
  auto groups = MakeGroups({1, 33}, 2, 40000);
  groups[0].prompt = tokenizer.Encode("The");
  SamplingConfig config;
  config.temperature = kTemperature;
  config.max_new_tokens = 40;
  TinyModel<T> smol(weights, true);
  Generate(smol.model, tokenizer, std::span<RolloutGroup>(groups), config);
  for (RolloutGroup& g : groups) {
    g.rollouts[0].advantage = 1;
    g.rollouts[1].advantage = -0.5;
  }
  const auto learn = WithWeights(groups);
  const auto run = [&](idx memory_rows) {
    LearnerConfig learner_config = Config(50);
    Learner<T> sizes(smol.model, weights.layout, learner_config);
    learner_config.memory_bytes = memory_rows * sizes.row_bytes();
    Learner<T> learner(smol.model, weights.layout, learner_config);
    Learned out{Buffer<float>(weights.layout.size), {}};
    out.result = learner.Accumulate(learn, OnPolicyLoss, out.grad.data());
    EXPECT_EQ(out.result.mismatched_tokens, 0);
    EXPECT_GT(out.result.compared_tokens, 0);
    return out;
  };
  const Learned all = run(100000);
  EXPECT_EQ(all.result.micro_batches, 1);
  SetNumThreads(3);
  const Learned part = run(96);
  SetNumThreads(0);
  EXPECT_GT(part.result.micro_batches, 1);
  EXPECT_TRUE(SameBits(all.grad, part.grad)) << "E3, E6";
  EXPECT_GT(Norm(all.grad), 0);
}

TEST(SmolLm2, LearningIsExactInBf16) {
  OPO_NEEDS_SMOLLM2();
  CheckSmolLm2<bf16>();
}
TEST(SmolLm2, LearningIsExactInF32) {
  OPO_NEEDS_SMOLLM2();
  CheckSmolLm2<float>();
}

}  // namespace
}  // namespace opo
