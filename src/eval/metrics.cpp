#include "eval/metrics.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/rng.h"

namespace opo {
namespace {

double Choose(idx n, idx k) {
  double ways = 1;
  for (idx i = 1; i <= k; ++i) {
    ways = ways * static_cast<double>(n - k + i) / static_cast<double>(i);
  }
  return ways;
}

// The chance that one class of `votes` answers wins among k drawn ones, ties shared equally.
// `others` are the votes of the other classes, and `silent` answers do not vote.
double WinChance(idx votes, const std::vector<idx>& others, idx silent, idx n, idx k) {
  double wins = 0;
  for (idx v = 1; v <= std::min(votes, k); ++v) {
    // ways[r][t]: so many ways to draw r of the others, at most v a class and exactly v in t.
    const idx rest = k - v;
    const auto width = static_cast<std::size_t>(rest / v + 1);
    std::vector<double> ways(static_cast<std::size_t>(rest + 1) * width);
    for (idx r = 0; r <= std::min(rest, silent); ++r) {
      ways[static_cast<std::size_t>(r) * width] = Choose(silent, r);
    }
    for (const idx size : others) {
      std::vector<double> next(ways.size());
      for (idx u = 0; u <= std::min({size, v, rest}); ++u) {
        const double chosen = Choose(size, u);
        const std::size_t tie = u == v ? 1 : 0;
        for (idx r = 0; r + u <= rest; ++r) {
          const double* from = &ways[static_cast<std::size_t>(r) * width];
          double* to = &next[static_cast<std::size_t>(r + u) * width];
          for (std::size_t t = 0; t + tie < width; ++t) to[t + tie] += chosen * from[t];
        }
      }
      ways = std::move(next);
    }
    const double* all = &ways[static_cast<std::size_t>(rest) * width];
    for (std::size_t t = 0; t < width; ++t) {
      wins += Choose(votes, v) * all[t] / static_cast<double>(t + 1);
    }
  }
  return wins / Choose(n, k);
}

double Mean(std::span<const double> values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

}  // namespace

std::vector<idx> PowersUpTo(idx n) {
  std::vector<idx> powers;
  for (idx k = 1; k < n; k *= 2) powers.push_back(k);
  powers.push_back(n);
  return powers;
}

double PassAtK(idx n, idx c, idx k) {
  OPO_CHECK(c >= 0 && c <= n && k >= 1 && k <= n);
  if (n - c < k) return 1;
  double none = 1;
  for (idx j = n - c + 1; j <= n; ++j) none *= 1 - static_cast<double>(k) / static_cast<double>(j);
  return 1 - none;
}

double MajorityAtK(std::span<const VoteClass> classes, idx n, idx k) {
  OPO_CHECK(k >= 1 && k <= n && (k == n || n <= kMaxVoters));
  idx silent = n;
  idx most = 0;
  for (const VoteClass& c : classes) {
    OPO_CHECK(c.votes > 0);
    silent -= c.votes;
    most = std::max(most, c.votes);
  }
  OPO_CHECK(silent >= 0);
  const auto worth = [](const VoteClass& c) { return c.right / static_cast<double>(c.votes); };
  double sum = 0;
  if (k == n) {
    double winners = 0;
    for (const VoteClass& c : classes) {
      if (c.votes != most) continue;
      sum += worth(c);
      ++winners;
    }
    return winners > 0 ? sum / winners : 0;
  }
  std::map<idx, double> chances;  // equal classes win equally often
  for (std::size_t i = 0; i < classes.size(); ++i) {
    const auto [chance, fresh] = chances.try_emplace(classes[i].votes, 0);
    if (fresh) {
      std::vector<idx> others;
      for (std::size_t j = 0; j < classes.size(); ++j) {
        if (j != i) others.push_back(classes[j].votes);
      }
      chance->second = WinChance(classes[i].votes, others, silent, n, k);
    }
    sum += chance->second * worth(classes[i]);
  }
  return sum;
}

std::optional<Interval> BootstrapMean(std::span<const double> values, std::uint64_t seed,
                                      idx resamples) {
  if (values.empty()) return std::nullopt;
  const auto n = static_cast<double>(values.size());
  std::vector<double> means(static_cast<std::size_t>(resamples));
  for (std::size_t r = 0; r < means.size(); ++r) {
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double u =
          UniformDraw({seed, 0, 0, static_cast<std::uint32_t>(r), static_cast<std::uint32_t>(i)});
      sum += values[static_cast<std::size_t>(u * n)];
    }
    means[r] = sum / n;
  }
  return PercentileInterval(Mean(values), std::move(means));
}

std::optional<double> MeanOf(std::span<const double> values) {
  if (values.empty()) return std::nullopt;
  return Mean(values);
}

std::optional<double> DeviationOf(std::span<const double> values) {
  if (values.size() < 2) return std::nullopt;
  const double mean = Mean(values);
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

std::optional<double> CorrelationOf(std::span<const double> x, std::span<const double> y) {
  OPO_CHECK(x.size() == y.size());
  if (x.size() < 2) return std::nullopt;
  const double mean_x = Mean(x);
  const double mean_y = Mean(y);
  double xx = 0;
  double yy = 0;
  double xy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mean_x) * (x[i] - mean_x);
    yy += (y[i] - mean_y) * (y[i] - mean_y);
    xy += (x[i] - mean_x) * (y[i] - mean_y);
  }
  if (xx == 0 || yy == 0) return std::nullopt;
  return xy / std::sqrt(xx * yy);
}

}  // namespace opo
