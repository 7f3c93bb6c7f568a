#include "kernels/isa_test.h"

namespace opo {
namespace {

using reference::Complex;
using reference::kStep;
using reference::kUnit;
using reference::kUnitF32;

struct HeadRow {
  idx vocab;
  float inv_temp;
  Buffer<float> logits;  // padded with rubbish: head_stats must overwrite it
  std::vector<double> s, p;
  std::vector<float> block_sums;
  double max = -1e300, lse = 0, entropy = 0, sum_sq = 0, centered = 0, largest = 0;

  HeadRow(idx v, float temperature, double scale)
      : vocab(v),
        inv_temp(1 / temperature),
        logits(RoundUp(v, kPad)),
        block_sums(static_cast<std::size_t>(CeilDiv(RoundUp(v, kPad), kHeadBlock))) {
    for (idx i = 0; i < logits.size(); ++i) logits[i] = 1000.0f;
    for (idx i = 0; i < v; ++i) logits[i] = static_cast<float>(scale * Draw(40, i));
    Reference();
  }
  void Reference() {
    s.clear();
    p.clear();
    max = -1e300;
    for (idx i = 0; i < vocab; ++i) s.push_back(double{inv_temp} * double{logits[i]});
    for (const double x : s) max = std::max(max, x);
    double sum = 0;
    for (const double x : s) sum += std::exp(x - max);
    lse = max + std::log(sum);
    entropy = sum_sq = centered = largest = 0;
    for (const double x : s) {
      p.push_back(std::exp(x - lse));
      if (p.back() > 0) entropy -= p.back() * (x - lse);
      sum_sq += p.back() * p.back();
      centered += p.back() * std::abs(x - max);
      if (std::isfinite(x)) largest = std::max(largest, std::abs(x));
    }
  }
  // Relative error of a sum of exp(s - max): s and s - max are rounded, which moves e by that much;
  // Exp (2 ulp); a chain of 32 in a block, a tree, and the chain over blocks.
  double SumError() const {
    return (4 * largest + 8 + 32 + 5 + static_cast<double>(block_sums.size())) * kUnitF32;
  }
  TokenStats Stats(TokenId target) {
    return ActiveKernels().head_stats(logits.data(), vocab, inv_temp, target, block_sums.data());
  }
};

class HeadTest : public IsaTest {};
OPO_ON_ALL_PATHS(HeadTest);

TEST_P(HeadTest, StatisticsAgreeWithDoublePrecision) {
  for (const idx vocab : {1, 2, 31, 259, 511, 512, 513, 1030, 49152}) {
    for (const double scale : {0.01, 1.0, 30.0}) {
      HeadRow row(vocab, 0.7f, scale);
      for (const idx target : {idx{0}, vocab / 2, vocab - 1}) {
        const TokenStats got = row.Stats(static_cast<TokenId>(target));
        const double want = row.s[static_cast<std::size_t>(target)] - row.lse;
        const double error = row.SumError();
        EXPECT_NEAR(got.logprob, want, error + 4 * kUnitF32 * (row.largest + std::abs(want)));
        EXPECT_NEAR(got.lse, row.lse, error + 4 * kUnitF32 * (row.largest + std::abs(row.lse)));
        EXPECT_NEAR(got.entropy, row.entropy, 2 * error * (1 + row.centered + row.entropy));
        EXPECT_NEAR(got.sum_sq, row.sum_sq, 4 * error * row.sum_sq);
      }
      double sum = 0;
      for (const float b : row.block_sums) sum += double{b};
      EXPECT_NEAR(sum, std::exp(row.lse - row.max), sum * row.SumError());
    }
  }
}

// The learner that knows a row's norm takes the row in parts.
TEST_P(HeadTest, PartsHaveTheBitsOfTheWhole) {
  for (const idx vocab : {1, 37, 512, 513, 1030, 5000}) {
    for (const idx step : {kHeadBlock, 4 * kHeadBlock}) {
      HeadRow row(vocab, 0.7f, 5.0);
      const auto target = static_cast<TokenId>(2 * vocab / 3);
      const TokenStats whole = row.Stats(target);
      HeadParts parts;
      for (idx first = 0; first < vocab; first += step) {
        const idx count = std::min(step, vocab - first);
        Buffer<float> part(RoundUp(count, kPad));
        for (idx i = 0; i < part.size(); ++i) {
          part[i] = i < count ? row.logits[first + i] : 1000.0f;  // rubbish, to be overwritten
        }
        const bool here = target >= first && target < first + count;
        ActiveKernels().head_part(part.data(), count, row.inv_temp, whole.max,
                                  here ? static_cast<TokenId>(target - first) : -1, parts);
      }
      EXPECT_EQ(parts.max, whole.max);
      EXPECT_EQ(static_cast<float>(std::log(double{parts.sum})), whole.log_sum);
      EXPECT_EQ(parts.target_margin - whole.log_sum, whole.logprob);
    }
  }
}

// The learner computes with a target, the sampler picks first and repeats the expression: the sums
// may not depend on the target.
TEST_P(HeadTest, TheTargetChangesNoSum) {
  HeadRow row(1030, 1.3f, 5.0);
  const TokenStats none = row.Stats(-1);
  for (const TokenId target : {0, 17, 1029}) {
    const TokenStats got = row.Stats(target);
    EXPECT_EQ(got.lse, none.lse);
    EXPECT_EQ(got.entropy, none.entropy);
    EXPECT_EQ(got.sum_sq, none.sum_sq);
    EXPECT_EQ(got.logprob, (row.logits[target] * row.inv_temp - none.max) - none.log_sum);
  }
}

TEST_P(HeadTest, ImpossibleTokensHaveNoPart) {
  HeadRow row(600, 1.0f, 2.0);
  for (idx i = 0; i < 600; ++i) {
    if (i % 3 == 0) row.logits[i] = -std::numeric_limits<float>::infinity();
  }
  row.Reference();
  const TokenStats got = row.Stats(1);
  EXPECT_NEAR(got.logprob, row.s[1] - row.lse, 1e-5);
  EXPECT_NEAR(got.entropy, row.entropy, 1e-4);
  for (int i = 0; i < 1000; ++i) {
    const TokenId id = ActiveKernels().head_pick(row.logits.data(), 600, 1.0f, got.max,
                                                 row.block_sums.data(), i / 1000.0);
    ASSERT_NE(id % 3, 0);
  }
}

TEST_P(HeadTest, NanIsNeverHidden) {
  HeadRow row(100, 1.0f, 2.0);
  row.logits[57] = std::nanf("");
  EXPECT_TRUE(std::isnan(row.Stats(3).logprob));
}

// With u on an even grid of N points a token of probability p is picked N p times, give or take
// one.
TEST_P(HeadTest, PicksFollowTheProbabilities) {
  for (const idx vocab : {1, 7, 259, 1030}) {
    HeadRow row(vocab, 0.8f, 4.0);
    const TokenStats stats = row.Stats(-1);
    constexpr int kDraws = 20000;
    std::vector<int> count(static_cast<std::size_t>(vocab));
    TokenId before = 0;
    for (int i = 0; i < kDraws; ++i) {
      const TokenId id =
          ActiveKernels().head_pick(row.logits.data(), vocab, row.inv_temp, stats.max,
                                    row.block_sums.data(), (i + 0.5) / kDraws);
      ASSERT_GE(id, before) << "the cumulative distribution runs by token id";
      ASSERT_LT(id, vocab);
      before = id;
      ++count[static_cast<std::size_t>(id)];
    }
    for (idx i = 0; i < vocab; ++i) {
      const auto j = static_cast<std::size_t>(i);
      EXPECT_NEAR(count[j], kDraws * row.p[j], 1 + kDraws * row.SumError()) << "token " << i;
    }
  }
}

TEST_P(HeadTest, PicksAtTheEndsAreTheFirstAndTheLastPossibleToken) {
  const double below_one = std::nextafter(1.0, 0.0);
  HeadRow row(1500, 1.0f, 3.0);
  const auto pick = [&](double u) {
    const TokenStats stats = row.Stats(-1);
    return ActiveKernels().head_pick(row.logits.data(), row.vocab, 1.0f, stats.max,
                                     row.block_sums.data(), u);
  };
  EXPECT_EQ(pick(0.0), 0);
  EXPECT_EQ(pick(below_one), 1499);
  // Now the first and the last block have no probability at all.
  for (idx i = 0; i < 1500; ++i) {
    if (i < 520 || i > 1000) row.logits[i] = -200.0f;
  }
  EXPECT_EQ(pick(0.0), 520);
  EXPECT_EQ(pick(below_one), 1000);
  // One token has it all.
  row.logits[700] = 300.0f;
  for (const double u : {0.0, 0.5, below_one}) EXPECT_EQ(pick(u), 700);
}

template <class T>
void CheckHeadGrad(idx vocab) {
  HeadRow row(vocab, 0.9f, 3.0);
  const auto target = static_cast<TokenId>(vocab / 3);
  const TokenStats stats = row.Stats(target);
  const float coef = -1.7f;
  Rows<T> dlogits(1, vocab);
  ActiveKernels().of<T>().head_grad(dlogits.row(0), row.logits.data(), vocab, row.inv_temp,
                                    stats.lse, target, coef);
  std::vector<Complex> z;
  for (idx i = 0; i < vocab; ++i) z.emplace_back(double{row.logits[i]});
  Worst worst("head_grad");
  for (idx i = 0; i < vocab; ++i) {
    const auto j = static_cast<std::size_t>(i);
    z[j] += Complex(0, kStep);
    const double want =
        double{coef} *
        reference::LogProb(z, double{row.inv_temp}, static_cast<std::size_t>(target)).imag() /
        kStep;
    z[j] -= Complex(0, kStep);
    // p from an lse that is off by SumError, with s - lse rounded; 1 - p at the target.
    const double scale = std::abs(double{coef} * double{row.inv_temp});
    const double p_error = row.p[j] * (row.SumError() + 4 * kUnitF32 * (row.largest + 10));
    const double error =
        scale * (p_error + (i == target ? 4 * kUnitF32 : 0)) + 8 * kUnitF32 * std::abs(want);
    worst.Add(i, dlogits.at(0, i), want, error + kUnit<T> * (std::abs(want) + error));
  }
  for (idx i = vocab; i < dlogits.ld; ++i) ASSERT_EQ(dlogits.at(0, i), 0.0) << "pads stay zero";
  // Without a target: the same bits but for its own.
  Rows<T> others(1, vocab);
  ActiveKernels().of<T>().head_grad(others.row(0), row.logits.data(), vocab, row.inv_temp,
                                    stats.lse, -1, coef);
  for (idx i = 0; i < vocab; ++i) {
    EXPECT_EQ(others.at(0, i) == dlogits.at(0, i), i != target) << i;
  }
}

TEST_P(HeadTest, GradientAgreesWithComplexSteps) {
  for (const idx vocab : {3, 64, 259, 600}) {
    CheckHeadGrad<bf16>(vocab);
    CheckHeadGrad<float>(vocab);
  }
}

template <class T>
void CheckHeadEntropyGrad(idx vocab, double scale, float coef, float entropy_coef) {
  HeadRow row(vocab, 0.9f, scale);
  const auto target = static_cast<TokenId>(vocab / 3);
  const TokenStats stats = row.Stats(target);
  Rows<T> dlogits(1, vocab);
  ActiveKernels().of<T>().head_entropy_grad(dlogits.row(0), row.logits.data(), vocab, row.inv_temp,
                                            stats, target, coef, entropy_coef);
  std::vector<Complex> z;
  for (idx i = 0; i < vocab; ++i) z.emplace_back(double{row.logits[i]});
  Worst worst("head_entropy_grad");
  for (idx i = 0; i < vocab; ++i) {
    const auto j = static_cast<std::size_t>(i);
    z[j] += Complex(0, kStep);
    const double want = (double{coef} * reference::LogProb(z, double{row.inv_temp},
                                                           static_cast<std::size_t>(target)) +
                         double{entropy_coef} * reference::Entropy(z, double{row.inv_temp}))
                            .imag() /
                        kStep;
    z[j] -= Complex(0, kStep);
    // As in CheckHeadGrad; and log p + entropy, each off by what its parts are.
    const double s_error = row.SumError() + 4 * kUnitF32 * (row.largest + 10);
    const double entropy_error = 2 * row.SumError() * (1 + row.centered + row.entropy);
    const double surprise = std::abs(row.s[j] - row.lse + row.entropy);
    const double error =
        double{row.inv_temp} *
            (std::abs(double{coef}) * (row.p[j] * s_error + (i == target ? 4 * kUnitF32 : 0)) +
             std::abs(double{entropy_coef}) * row.p[j] *
                 (surprise * s_error + s_error + entropy_error + 8 * kUnitF32 * surprise)) +
        8 * kUnitF32 * std::abs(want);
    worst.Add(i, dlogits.at(0, i), want, error + kUnit<T> * (std::abs(want) + error));
  }
  for (idx i = vocab; i < dlogits.ld; ++i) ASSERT_EQ(dlogits.at(0, i), 0.0) << "pads stay zero";
}

TEST_P(HeadTest, TheEntropysGradientAgreesWithComplexSteps) {
  for (const idx vocab : {3, 64, 259}) {
    for (const double scale : {0.3, 3.0}) {
      for (const auto& [coef, entropy] : {std::pair(-1.7f, 0.4f), std::pair(0.0f, -2.0f)}) {
        CheckHeadEntropyGrad<bf16>(vocab, scale, coef, entropy);
        CheckHeadEntropyGrad<float>(vocab, scale, coef, entropy);
      }
    }
  }
}

template <class T>
void CheckNoEntropyTerm(HeadRow& row) {
  const TokenStats stats = row.Stats(70);
  Rows<T> without(1, row.vocab);
  Rows<T> with(1, row.vocab);
  const auto& kernels = ActiveKernels().of<T>();
  kernels.head_grad(without.row(0), row.logits.data(), row.vocab, row.inv_temp, stats.lse, 70,
                    0.3f);
  kernels.head_entropy_grad(with.row(0), row.logits.data(), row.vocab, row.inv_temp, stats, 70,
                            0.3f, 0.0f);
  EXPECT_EQ(
      std::memcmp(without.row(0), with.row(0), static_cast<std::size_t>(without.ld) * sizeof(T)),
      0);
  kernels.head_entropy_grad(with.row(0), row.logits.data(), row.vocab, row.inv_temp, stats, 70,
                            0.3f, 1.0f);
  for (idx i = 0; i < without.ld; ++i) ASSERT_TRUE(std::isfinite(with.at(0, i))) << i;
}

// And where a probability rounds to 0, or is 0, the term is 0 and no NaN.
TEST_P(HeadTest, WithACoefficientOf0TheBitsAreThoseWithoutEntropy) {
  HeadRow row(600, 1.0f, 2.0);
  for (idx i = 0; i < 600; i += 3) row.logits[i] = -150.0f;
  for (idx i = 0; i < 600; i += 5) row.logits[i] = -std::numeric_limits<float>::infinity();
  row.logits[70] = 1.0f;
  CheckNoEntropyTerm<bf16>(row);
  CheckNoEntropyTerm<float>(row);
}

template <class T>
void CheckGradientInParts(HeadRow& row, idx cut) {
  constexpr TokenId kTarget = 70;
  const TokenStats stats = row.Stats(kTarget);
  const auto& kernels = ActiveKernels().of<T>();
  Rows<T> whole(1, row.vocab), parts(1, row.vocab);
  for (const bool entropy : {false, true}) {
    const auto run = [&](T* to, idx first, idx count) {
      const TokenId target =
          kTarget >= first && kTarget < first + count ? kTarget - static_cast<TokenId>(first) : -1;
      if (entropy) {
        kernels.head_entropy_grad(to, row.logits.data() + first, count, row.inv_temp, stats, target,
                                  0.3f, 0.5f);
      } else {
        kernels.head_grad(to, row.logits.data() + first, count, row.inv_temp, stats.lse, target,
                          0.3f);
      }
    };
    run(whole.row(0), 0, row.vocab);
    run(parts.row(0) + cut, cut, row.vocab - cut);
    run(parts.row(0), 0, cut);
    EXPECT_EQ(
        std::memcmp(whole.row(0), parts.row(0), static_cast<std::size_t>(whole.ld) * sizeof(T)), 0)
        << cut;
  }
}
TEST_P(HeadTest, GradientsOfPartsHaveTheBitsOfTheWhole) {
  HeadRow row(150, 1.25f, 2.0);
  for (const idx cut : {32, 64, 96, 128}) {
    CheckGradientInParts<bf16>(row, cut);
    CheckGradientInParts<float>(row, cut);
  }
}

// head_grad with coef -1, temperature 1 and lse 0 writes exp(logit) of every token but the
// target's.
TEST_P(HeadTest, ExpIsGoodToTwoUlp) {
  constexpr idx kCount = 1 << 16;
  Buffer<float> x(kCount + 32);
  Buffer<float> y(kCount + 32);
  for (idx i = 0; i < kCount; ++i) {
    x[i] = static_cast<float>(-87.0 + 175.0 * static_cast<double>(i) / kCount);
  }
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> special = {0.0f, -0.0f, 1e-30f, -inf, inf, -88.0f, 89.0f, -1e30f, 1e30f};
  for (std::size_t i = 0; i < special.size(); ++i) x[kCount + static_cast<idx>(i)] = special[i];
  ActiveKernels().f32.head_grad(y.data(), x.data(), kCount + 32, 1.0f, 0.0f, kCount + 31, -1.0f);
  Worst worst("exp");
  for (idx i = 0; i < kCount; ++i) {
    const double want = std::exp(double{x[i]});
    worst.Add(i, y[i], want, 4 * kUnitF32 * want);  // 2 ulp are 4 roundoffs at most
  }
  const std::vector<float> expected = {1.0f, 1.0f, 1.0f, 0.0f, inf, 0.0f, inf, 0.0f, inf};
  for (std::size_t i = 0; i < special.size(); ++i) {
    EXPECT_EQ(y[kCount + static_cast<idx>(i)], expected[i]) << special[i];
  }
}

}  // namespace
}  // namespace opo
