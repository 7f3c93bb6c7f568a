#include "algo/variance.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.h"
#include "base/rng.h"

namespace opo {
namespace {

using Doubles = std::vector<double>;

Doubles WeightsOf(const VarianceGroup& group, const VarianceEstimator& estimator) {
  Doubles weights(group.size(), 1.0);
  for (std::size_t i = 0; i < group.size(); ++i) {
    switch (estimator.weights) {
      case BaselineWeights::kLength:
        weights[i] = std::pow(group.lengths[i], estimator.exponent);
        break;
      case BaselineWeights::kToken:
        weights[i] = std::max(0.0, group.token_weights[i]);
        break;
      case BaselineWeights::kNorm:
        weights[i] = group.products[i * group.size() + i];
        break;
      default:
        break;
    }
  }
  return weights;
}

// The weighted mean of the rewards of all answers, or of all but one or two; 0 where no weight is
// left.
class Baseline {
 public:
  Baseline(const VarianceGroup& group, Doubles weights, std::span<const double> m)
      : group_(group), weights_(std::move(weights)) {
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      weights_[i] *= m[i];
      sum_ += weights_[i] * group.rewards[i];
      total_ += weights_[i];
    }
  }
  double total() const { return total_; }
  double All() const { return Ratio(sum_, total_); }
  double But(std::size_t i) const {
    return Ratio(sum_ - weights_[i] * group_.rewards[i], total_ - weights_[i]);
  }
  double But(std::size_t i, std::size_t j) const {
    return Ratio(sum_ - weights_[i] * group_.rewards[i] - weights_[j] * group_.rewards[j],
                 total_ - weights_[i] - weights_[j]);
  }

 private:
  // What is left of the total but rounding is nothing.
  double Ratio(double sum, double total) const { return total > 1e-12 * total_ ? sum / total : 0; }
  const VarianceGroup& group_;
  Doubles weights_;
  double sum_ = 0, total_ = 0;
};

// Sums of a straight line's least squares; those of several sets add up.
struct LineSums {
  double n = 0, x = 0, y = 0, xx = 0, xy = 0, yy = 0;
  void Add(const LineSums& o, double times = 1) {
    n += times * o.n;
    x += times * o.x;
    y += times * o.y;
    xx += times * o.xx;
    xy += times * o.xy;
    yy += times * o.yy;
  }
  LineSums Centred() const {
    if (n == 0) return {};
    return {n, 0, 0, xx - x * x / n, xy - x * y / n, yy - y * y / n};
  }
  double slope() const {
    const LineSums c = Centred();
    return c.xx > 0 ? c.xy / c.xx : 0;
  }
  double r2() const {
    const LineSums c = Centred();
    return c.xx > 0 && c.yy > 0 ? c.xy * c.xy / (c.xx * c.yy) : 0;
  }
};

LineSums SumsOf(const VarianceGroup& group, std::span<const double> m) {
  LineSums sums;
  for (std::size_t i = 0; i < group.size(); ++i) {
    const double norm = group.products[i * group.size() + i];
    if (!(norm > 0) || !(group.lengths[i] > 0)) continue;
    const double x = std::log(group.lengths[i]);
    const double y = std::log(norm);
    sums.Add({1, x, y, x * x, x * y, y * y}, m[i]);
  }
  return sums;
}

// Of a group, or of a resample of groups: everything that the report's figures are ratios of.
struct Totals {
  double groups = 0, gradient_squared = 0;
  Doubles cross_fitted, in_sample, bias_squared;  // of each row
  LineSums line, within;
  void Add(const Totals& o) {
    groups += o.groups;
    gradient_squared += o.gradient_squared;
    const auto add = [](Doubles& to, const Doubles& from) {
      to.resize(from.size());
      for (std::size_t i = 0; i < from.size(); ++i) to[i] += from[i];
    };
    add(cross_fitted, o.cross_fitted);
    add(in_sample, o.in_sample);
    add(bias_squared, o.bias_squared);
    line.Add(o.line);
    within.Add(o.within);
  }
};

Totals Measure(const VarianceGroup& group, std::span<const VarianceEstimator> estimators,
               std::span<const double> m, std::vector<PromptVariance>* details) {
  Totals totals;
  totals.groups = 1;
  totals.gradient_squared = GradientSquared(group, m);
  for (const VarianceEstimator& estimator : estimators) {
    const PromptVariance v = MeasurePrompt(group, estimator, m);
    totals.cross_fitted.push_back(v.cross_fitted);
    totals.in_sample.push_back(v.in_sample);
    totals.bias_squared.push_back(v.bias_squared);
    if (details != nullptr) details->push_back(v);
  }
  totals.line = SumsOf(group, m);
  totals.within = totals.line.Centred();
  return totals;
}

// The middle 95% of values, of which the undefined (NaN) take part at both ends; nothing where they
// reach into them.
std::optional<Interval> Percentiles(double value, Doubles values) {
  const std::size_t all = values.size();
  std::erase_if(values, [](double v) { return std::isnan(v); });
  const std::size_t undefined = all - values.size();
  if (values.empty() || undefined * 40 > all) return std::nullopt;
  return PercentileInterval(value, std::move(values));
}

}  // namespace

std::string VarianceEstimator::name() const {
  switch (weights) {
    case BaselineWeights::kNone:
      return "none";
    case BaselineWeights::kMean:
      return "mean";
    case BaselineWeights::kLeaveOneOut:
      return "leave_one_out";
    case BaselineWeights::kLength:
      return exponent == 1 ? "length" : fmt::format("length^{}", exponent);
    case BaselineWeights::kToken:
      return "otb";
    case BaselineWeights::kNorm:
      return "optimal";
  }
  return "";
}

std::vector<VarianceEstimator> VarianceEstimators(std::span<const double> length_exponents) {
  std::vector<VarianceEstimator> all = {
      {BaselineWeights::kNone}, {BaselineWeights::kMean}, {BaselineWeights::kLeaveOneOut}};
  for (const double exponent : length_exponents) {
    all.push_back({BaselineWeights::kLength, exponent});
  }
  all.push_back({BaselineWeights::kToken});
  all.push_back({BaselineWeights::kNorm});
  return all;
}

double VarianceOfBaseline(const VarianceGroup& group, std::span<const double> m, double b) {
  const std::size_t num = group.size();
  double total = 0;
  double second = 0;
  double mean_squared = 0;
  for (std::size_t i = 0; i < num; ++i) {
    total += m[i];
    const double a = group.rewards[i] - b;
    second += m[i] * a * a * group.products[i * num + i];
    for (std::size_t j = 0; j < num; ++j) {
      mean_squared += m[i] * m[j] * a * (group.rewards[j] - b) * group.products[i * num + j];
    }
  }
  return second / total - mean_squared / (total * total);
}

double GradientSquared(const VarianceGroup& group, std::span<const double> m) {
  const std::size_t num = group.size();
  const Baseline mean(group, Doubles(num, 1.0), m);
  double sum = 0;
  double total = 0;
  for (std::size_t i = 0; i < num; ++i) {
    for (std::size_t j = i + 1; j < num; ++j) {
      if (m[i] == 0 || m[j] == 0) continue;
      const double b = mean.But(i, j);
      sum += m[i] * m[j] * (group.rewards[i] - b) * (group.rewards[j] - b) *
             group.products[i * num + j];
      total += m[i] * m[j];
    }
  }
  return total > 0 ? sum / total : 0;
}

PromptVariance MeasurePrompt(const VarianceGroup& group, const VarianceEstimator& estimator,
                             std::span<const double> m) {
  const std::size_t num = group.size();
  const bool none = estimator.weights == BaselineWeights::kNone;
  const Doubles weights = WeightsOf(group, estimator);
  const Baseline baseline(group, weights, m);
  PromptVariance result;
  if (!none) result.baseline = baseline.All();
  double total = 0;
  double second = 0;
  double in_sample_second = 0;
  Doubles advantages(num);
  for (std::size_t i = 0; i < num; ++i) {
    if (m[i] == 0) continue;
    const double others = none ? 0 : baseline.But(i);
    const double norm = group.products[i * num + i];
    const double a = group.rewards[i] - others;
    advantages[i] =
        estimator.weights == BaselineWeights::kLeaveOneOut ? a : group.rewards[i] - result.baseline;
    second += m[i] * a * a * norm;
    in_sample_second += m[i] * advantages[i] * advantages[i] * norm;
    total += m[i];
  }
  double mean_squared = 0;
  double bias = 0;
  double pairs = 0;
  const double weight = baseline.total();
  const bool biased =
      !none && estimator.weights != BaselineWeights::kLeaveOneOut && baseline.total() > 0;
  for (std::size_t i = 0; i < num; ++i) {
    for (std::size_t j = 0; j < num; ++j) {
      const double both = m[i] * m[j];
      if (both == 0) continue;
      mean_squared += both * advantages[i] * advantages[j] * group.products[i * num + j];
      if (i == j || !biased) continue;
      // b minus the others' baseline is w_i (r_i - that) / sum w; here without j too, so that the
      // two factors know nothing of each other.
      const double b = baseline.But(i, j);
      bias += both * weights[i] * (group.rewards[i] - b) * weights[j] * (group.rewards[j] - b) *
              group.products[i * num + j] / (weight * weight);
      pairs += both;
    }
  }
  result.cross_fitted = second / total - GradientSquared(group, m);
  result.in_sample = in_sample_second / total - mean_squared / (total * total);
  result.bias_squared = pairs > 0 ? bias / pairs : 0;
  return result;
}

VarianceReport AnalyseVariance(std::span<const VarianceGroup> groups,
                               std::span<const double> length_exponents, std::uint64_t seed,
                               idx resamples) {
  OPO_CHECK(!groups.empty() && !length_exponents.empty());
  const std::vector<VarianceEstimator> estimators = VarianceEstimators(length_exponents);
  constexpr std::size_t kMeanRow = 1;
  constexpr std::size_t kLengthRow = 3;
  const std::size_t optimal_row = estimators.size() - 1;
  VarianceReport report;
  std::vector<Totals> each;
  Totals all;
  for (const VarianceGroup& group : groups) {
    OPO_CHECK(group.size() >= kVarianceSamples);
    const Doubles once(group.size(), 1.0);
    each.push_back(Measure(group, estimators, once, &report.prompts.emplace_back()));
    all.Add(each.back());
  }

  std::vector<Totals> drawn;
  for (idx b = 0; b < resamples; ++b) {
    const auto draw = [&](std::size_t from, std::size_t at) {
      const double u = UniformDraw(
          {seed, static_cast<std::uint64_t>(b), from, 0, static_cast<std::uint32_t>(at)});
      return std::min(from - 1, static_cast<std::size_t>(u * static_cast<double>(from)));
    };
    Totals totals;
    if (groups.size() > 1) {
      for (std::size_t i = 0; i < groups.size(); ++i) totals.Add(each[draw(groups.size(), i)]);
    } else {
      const std::size_t num = groups[0].size();
      Doubles m(num);
      for (std::size_t i = 0; i < num; ++i) m[draw(num, i)] += 1;
      // Baselines and products need other answers than their own.
      if (std::count_if(m.begin(), m.end(), [](double v) { return v > 0; }) < 3) continue;
      totals = Measure(groups[0], estimators, m, nullptr);
    }
    drawn.push_back(std::move(totals));
  }

  const auto interval = [&](const std::function<double(const Totals&)>& figure) {
    Doubles values;
    for (const Totals& totals : drawn) values.push_back(figure(totals));
    return Percentiles(figure(all), std::move(values));
  };
  const auto always = [&](const std::function<double(const Totals&)>& figure) {
    return interval(figure).value_or(Interval{figure(all), figure(all), figure(all)});
  };
  for (std::size_t row = 0; row < estimators.size(); ++row) {
    VarianceReport::Row out;
    out.estimator = estimators[row];
    out.cross_fitted = always([&](const Totals& t) { return t.cross_fitted[row] / t.groups; });
    out.in_sample = always([&](const Totals& t) { return t.in_sample[row] / t.groups; });
    out.relative_to_none = always([&](const Totals& t) {
      return t.cross_fitted[0] != 0 ? t.cross_fitted[row] / t.cross_fitted[0] : std::nan("");
    });
    out.bias = std::sqrt(std::max(0.0, all.bias_squared[row] / all.groups));
    report.rows.push_back(std::move(out));
  }
  report.gradient_norm = std::sqrt(std::max(0.0, all.gradient_squared / all.groups));
  report.slope = always([](const Totals& t) { return t.line.slope(); });
  report.within_slope = always([](const Totals& t) { return t.within.slope(); });
  report.r2 = all.line.r2();
  report.within_r2 = all.within.r2();
  const auto saved = [&](std::size_t row) {
    return always([row](const Totals& t) {
      const double mean = t.cross_fitted[kMeanRow];
      return mean != 0 ? 1 - t.cross_fitted[row] / mean : std::nan("");
    });
  };
  report.length_over_mean = saved(kLengthRow);
  report.optimal_over_mean = saved(optimal_row);
  const auto of_possible = [&](std::size_t from, std::optional<double>& value,
                               std::optional<Interval>& range) {
    const auto figure = [=](const Totals& t) {
      const double possible = t.cross_fitted[from] - t.cross_fitted[optimal_row];
      return possible > 0 ? (t.cross_fitted[from] - t.cross_fitted[kLengthRow]) / possible
                          : std::nan("");
    };
    if (std::isnan(figure(all))) return;
    value = figure(all);
    range = interval(figure);
  };
  of_possible(kMeanRow, report.of_possible, report.of_possible_interval);
  of_possible(0, report.of_possible_from_none, report.of_possible_from_none_interval);
  return report;
}

}  // namespace opo
