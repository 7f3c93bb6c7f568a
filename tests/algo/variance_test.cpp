// The variance lab's arithmetic against exact enumeration of toys whose gradients are known.
#include "algo/variance.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace opo {
namespace {

using Doubles = std::vector<double>;

struct Toy {
  VarianceGroup outcomes;  // each possible answer once
  Doubles probability;
  double Sum(const std::function<double(std::size_t)>& f) const {
    double sum = 0;
    for (std::size_t i = 0; i < probability.size(); ++i) sum += probability[i] * f(i);
    return sum;
  }
  double norm(std::size_t i) const { return outcomes.products[i * outcomes.size() + i]; }
  double best() const {
    return Sum([&](std::size_t i) { return norm(i) * outcomes.rewards[i]; }) /
           Sum([&](std::size_t i) { return norm(i); });
  }
  double mean() const {
    return Sum([&](std::size_t i) { return outcomes.rewards[i]; });
  }
};

Toy FromGradients(const Doubles& probability, const Doubles& rewards, const Doubles& lengths,
                  const std::vector<Doubles>& gradients) {
  Toy toy{{rewards, lengths, lengths, {}}, probability};
  for (const Doubles& a : gradients) {
    for (const Doubles& b : gradients) {
      double sum = 0;
      for (std::size_t e = 0; e < a.size(); ++e) sum += a[e] * b[e];
      toy.outcomes.products.push_back(sum);
    }
  }
  return toy;
}

// Three tokens, each a fair coin with a parameter of its own; one or all three are there. The score
// of a token is x - 0.5, and all must be 1.
Toy Coins() {
  Doubles probability, rewards, lengths;
  std::vector<Doubles> gradients;
  for (const int length : {1, 3}) {
    for (int bits = 0; bits < 1 << length; ++bits) {
      Doubles g(3);
      for (int t = 0; t < length; ++t) g[static_cast<std::size_t>(t)] = (bits >> t & 1) - 0.5;
      probability.push_back(0.5 / (1 << length));
      rewards.push_back(bits + 1 == 1 << length ? 1 : 0);
      lengths.push_back(length);
      gradients.push_back(g);
    }
  }
  return FromGradients(probability, rewards, lengths, gradients);
}

// A softmax over three answers with logits 0.2, -0.1, 0.4: g = onehot - p.
Toy Softmax() {
  Doubles p = {std::exp(0.2), std::exp(-0.1), std::exp(0.4)};
  const double z = p[0] + p[1] + p[2];
  for (double& v : p) v /= z;
  std::vector<Doubles> gradients(3, Doubles(3));
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t e = 0; e < 3; ++e) gradients[i][e] = (i == e ? 1 : 0) - p[e];
  }
  return FromGradients(p, {1, 0, 0.5}, {1, 2, 3}, gradients);
}

TEST(BaselineVariance, WorkedNumbers) {
  const Toy coins = Coins();
  const auto at = [](const Toy& toy, double b) {
    return VarianceOfBaseline(toy.outcomes, toy.probability, b);
  };
  EXPECT_NEAR(coins.mean(), 0.3125, 1e-12);
  EXPECT_NEAR(coins.best(), 0.21875, 1e-12);
  EXPECT_NEAR(at(coins, 0), 0.083008, 5e-7);
  EXPECT_NEAR(at(coins, coins.mean()), 0.063477, 5e-7);
  EXPECT_NEAR(at(coins, coins.best()), 0.059082, 5e-7);
  const Toy softmax = Softmax();
  EXPECT_NEAR(softmax.norm(0), 0.671352, 5e-7);
  EXPECT_NEAR(softmax.norm(1), 0.846343, 5e-7);
  EXPECT_NEAR(softmax.norm(2), 0.521868, 5e-7);
  EXPECT_NEAR(softmax.best(), 0.511459, 5e-7);
  EXPECT_NEAR(at(softmax, 0), 0.237892, 5e-7);
  EXPECT_NEAR(at(softmax, softmax.mean()), 0.067630, 5e-7);
  EXPECT_NEAR(at(softmax, softmax.best()), 0.066948, 5e-7);
}

// excess variance = (b - b*)^2 E|g|^2, for any b.
TEST(BaselineVariance, TheExcessIsTheSquaredDistanceFromTheBest) {
  for (const Toy& toy : {Coins(), Softmax()}) {
    const double norm = toy.Sum([&](std::size_t i) { return toy.norm(i); });
    const double least = VarianceOfBaseline(toy.outcomes, toy.probability, toy.best());
    for (double b = -1; b < 2; b += 0.17) {
      const double excess = VarianceOfBaseline(toy.outcomes, toy.probability, b) - least;
      EXPECT_NEAR(excess, (b - toy.best()) * (b - toy.best()) * norm, 1e-12) << b;
    }
  }
}

// Calls visit(group, probability) with every group of `size` answers that the toy can give.
void ForAllGroups(const Toy& toy, std::size_t size,
                  const std::function<void(const VarianceGroup&, double)>& visit) {
  const std::size_t kinds = toy.probability.size();
  std::vector<std::size_t> at(size);
  for (;;) {
    VarianceGroup group;
    double probability = 1;
    for (const std::size_t i : at) {
      group.rewards.push_back(toy.outcomes.rewards[i]);
      group.lengths.push_back(toy.outcomes.lengths[i]);
      group.token_weights.push_back(toy.outcomes.token_weights[i]);
      for (const std::size_t j : at) {
        group.products.push_back(toy.outcomes.products[i * kinds + j]);
      }
      probability *= toy.probability[i];
    }
    visit(group, probability);
    std::size_t digit = 0;
    while (digit < size && ++at[digit] == kinds) at[digit++] = 0;
    if (digit == size) return;
  }
}

// What is measured on a group is on average what it estimates: over all groups of four and of five
// answers of the softmax, weighted by their probabilities.
TEST(MeasurePrompt, IsUnbiased) {
  const Toy toy = Softmax();
  const double norm = toy.Sum([&](std::size_t i) { return toy.norm(i); });
  const double mean_reward = toy.mean();
  const double reward_variance = toy.Sum([&](std::size_t i) {
    return (toy.outcomes.rewards[i] - mean_reward) * (toy.outcomes.rewards[i] - mean_reward);
  });
  double gradient_squared = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      gradient_squared += toy.probability[i] * toy.probability[j] * toy.outcomes.rewards[i] *
                          toy.outcomes.rewards[j] * toy.outcomes.products[i * 3 + j];
    }
  }
  for (const std::size_t size : {std::size_t{4}, std::size_t{5}}) {
    const double k = static_cast<double>(size);
    const Doubles once(size, 1.0);
    double squared = 0, none = 0, mean = 0, loo = 0, mean_bias = 0, all = 0;
    ForAllGroups(toy, size, [&](const VarianceGroup& group, double p) {
      all += p;
      squared += p * GradientSquared(group, once);
      none += p * MeasurePrompt(group, {BaselineWeights::kNone}, once).cross_fitted;
      const PromptVariance m = MeasurePrompt(group, {BaselineWeights::kMean}, once);
      mean += p * m.cross_fitted;
      mean_bias += p * m.bias_squared;
      loo += p * MeasurePrompt(group, {BaselineWeights::kLeaveOneOut}, once).cross_fitted;
    });
    EXPECT_NEAR(all, 1, 1e-12);
    EXPECT_NEAR(squared, gradient_squared, 1e-12);
    EXPECT_NEAR(none, VarianceOfBaseline(toy.outcomes, toy.probability, 0), 1e-12);
    // The others' mean is off by its own variance: the identity, once more.
    const double want = VarianceOfBaseline(toy.outcomes, toy.probability, mean_reward) +
                        reward_variance / (k - 1) * norm;
    // E (b - b*)^2 = (E b - b*)^2 + Var b, and V(E b) has the first term already.
    EXPECT_NEAR(mean, want, 1e-12);
    EXPECT_NEAR(loo, want, 1e-12);
    // The group mean with the answer itself shrinks the gradient by 1/K.
    EXPECT_NEAR(mean_bias, gradient_squared / (k * k), 1e-12);
  }
}

TEST(MeasurePrompt, AdvantagesAreThoseOfTheAlgorithms) {
  VarianceGroup group{{1, 0, 1, 0}, {10, 30, 20, 40}, {0.4, 0.8, 0.5, 1.1}, Doubles(16)};
  for (std::size_t i = 0; i < 4; ++i) group.products[i * 5] = static_cast<double>(i + 1);
  const Doubles once(4, 1.0);
  const auto baseline = [&](BaselineWeights weights, double exponent = 1) {
    return MeasurePrompt(group, {weights, exponent}, once).baseline;
  };
  EXPECT_EQ(baseline(BaselineWeights::kNone), 0);
  EXPECT_NEAR(baseline(BaselineWeights::kMean), 0.5, 1e-12);
  EXPECT_NEAR(baseline(BaselineWeights::kLength), 0.3, 1e-12);
  EXPECT_NEAR(baseline(BaselineWeights::kLength, 1.6), 0.211951, 5e-7);
  EXPECT_NEAR(baseline(BaselineWeights::kLength, -1), 0.72, 1e-12);
  EXPECT_NEAR(baseline(BaselineWeights::kToken), 0.9 / 2.8, 1e-12);
  EXPECT_NEAR(baseline(BaselineWeights::kNorm), 4.0 / 10, 1e-12);
  // Leave-one-out advantages 2/3, -2/3, 2/3, -2/3 on diagonal products 1, 2, 3, 4.
  const double in_sample = MeasurePrompt(group, {BaselineWeights::kLeaveOneOut}, once).in_sample;
  EXPECT_NEAR(in_sample, 4.0 / 9 * (10.0 / 4 - 10.0 / 16), 1e-12);
}

// Where |g|^2 is the length, the length's baseline is the best one: it takes all of the gain, and
// the fit has slope 1.
TEST(AnalyseVariance, FindsALengthThatIsTheNorm) {
  std::vector<VarianceGroup> groups;
  for (std::size_t p = 0; p < 6; ++p) {
    VarianceGroup group;
    const std::size_t num = 8;
    group.products.resize(num * num);
    for (std::size_t i = 0; i < num; ++i) {
      const double length = static_cast<double>(1 + (i * 7 + p * 3) % 23);
      group.lengths.push_back(length);
      group.token_weights.push_back(1);
      group.rewards.push_back(length < 9 && (i + p) % 3 != 0 ? 1 : 0);
      group.products[i * num + i] = length;
    }
    groups.push_back(group);
  }
  const Doubles exponents = {1, 2};
  const VarianceReport report = AnalyseVariance(groups, exponents, 7, 200);
  ASSERT_EQ(report.rows.size(), 7U);
  EXPECT_EQ(report.rows[3].estimator.name(), "length");
  EXPECT_EQ(report.rows[4].estimator.name(), "length^2");
  EXPECT_NEAR(report.slope.value, 1, 1e-12);
  EXPECT_NEAR(report.within_slope.value, 1, 1e-12);
  EXPECT_NEAR(report.r2, 1, 1e-12);
  EXPECT_NEAR(report.rows[3].cross_fitted.value, report.rows[6].cross_fitted.value, 1e-12);
  ASSERT_TRUE(report.of_possible.has_value());
  EXPECT_NEAR(*report.of_possible, 1, 1e-12);
  EXPECT_LE(report.rows[1].cross_fitted.low, report.rows[1].cross_fitted.value);
  EXPECT_GE(report.rows[1].cross_fitted.high, report.rows[1].cross_fitted.value);
  EXPECT_LT(report.rows[1].cross_fitted.low, report.rows[1].cross_fitted.high);
  // The seed decides the intervals, and nothing else.
  const VarianceReport again = AnalyseVariance(groups, exponents, 7, 200);
  const VarianceReport other = AnalyseVariance(groups, exponents, 8, 200);
  EXPECT_EQ(again.rows[1].cross_fitted.low, report.rows[1].cross_fitted.low);
  EXPECT_NE(other.rows[1].cross_fitted.low, report.rows[1].cross_fitted.low);
  EXPECT_EQ(other.rows[1].cross_fitted.value, report.rows[1].cross_fitted.value);
  // One prompt: over its answers.
  const VarianceReport one = AnalyseVariance({groups.data(), 1}, exponents, 7, 200);
  EXPECT_LT(one.rows[1].cross_fitted.low, one.rows[1].cross_fitted.high);
}

}  // namespace
}  // namespace opo
