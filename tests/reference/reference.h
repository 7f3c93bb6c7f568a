// Plain references in double precision, written from the formulas and not from the kernels. Forward
// functions are templates over the scalar: with std::complex<double> they give derivatives by the
// complex step, d f(x) / dx = Im f(x + ih) / h, which is exact to rounding for any tiny h.
#pragma once

#include <cmath>
#include <complex>
#include <vector>

#include "base/types.h"

namespace opo::reference {

using Complex = std::complex<double>;
inline constexpr double kStep = 1e-40;

inline std::vector<Complex> ToComplex(const std::vector<double>& x) { return {x.begin(), x.end()}; }

// Unit roundoff: the largest relative error of rounding to T.
template <class T>
inline constexpr double kUnit = sizeof(T) == 2 ? 0x1p-8 : 0x1p-24;
inline constexpr double kUnitF32 = 0x1p-24;

template <class T>
double Value(T x) {
  return static_cast<double>(ToF32(x));
}

// A bound for a chain of n multiply-adds in f32, as a multiple of sum |a b|: two roundings a step
// (a product and a sum, where there is no FMA), two more for a start and a store.
inline double ChainError(idx n) { return static_cast<double>(2 * n + 2) * kUnitF32; }

// A sum of n squares over 16 lanes is a chain of n / 16 steps and a tree of four; then a few
// operations more (division, root, two products). 32 of them cover the rest.
inline double NormError(idx d) { return (static_cast<double>(d) / 8 + 32) * kUnitF32; }

// y_i = x_i gamma_i / sqrt(mean x^2 + eps)
template <class S>
std::vector<S> RmsNorm(const std::vector<S>& x, const std::vector<S>& gamma, double eps) {
  S sum = 0;
  for (const S& v : x) sum += v * v;
  const S rms = std::sqrt(sum / static_cast<double>(x.size()) + eps);
  std::vector<S> y;
  for (std::size_t i = 0; i < x.size(); ++i) y.push_back(x[i] / rms * gamma[i]);
  return y;
}

// Rotates the pairs (i, i + n/2) of one head by the angles (cos_i, sin_i).
template <class S>
std::vector<S> Rope(const std::vector<S>& x, const std::vector<double>& cos,
                    const std::vector<double>& sin) {
  const std::size_t half = x.size() / 2;
  std::vector<S> y(x.size());
  for (std::size_t i = 0; i < half; ++i) {
    y[i] = x[i] * cos[i] - x[i + half] * sin[i];
    y[i + half] = x[i + half] * cos[i] + x[i] * sin[i];
  }
  return y;
}

template <class S>
S Swiglu(const S& gate, const S& up) {
  return gate / (1.0 + std::exp(-gate)) * up;
}

// log softmax(z * inv_temp)[target]
template <class S>
S LogProb(const std::vector<S>& z, double inv_temp, std::size_t target) {
  double max = -1e300;
  for (const S& v : z) max = std::max(max, inv_temp * std::real(v));
  S sum = 0;
  for (const S& v : z) sum += std::exp(v * inv_temp - max);
  return z[target] * inv_temp - max - std::log(sum);
}

// The entropy of softmax(z * inv_temp).
template <class S>
S Entropy(const std::vector<S>& z, double inv_temp) {
  double max = -1e300;
  for (const S& v : z) max = std::max(max, inv_temp * std::real(v));
  S sum = 0;
  S weighted = 0;
  for (const S& v : z) {
    const S s = v * inv_temp - max;
    sum += std::exp(s);
    weighted += std::exp(s) * s;
  }
  return std::log(sum) - weighted / sum;
}

// Attention of one query head. Query i sees the first `visible[i]` keys. (rows, Dh) each.
template <class S>
struct Attention {
  std::vector<std::vector<S>> q, k, v;
  std::vector<idx> visible;
  double scale = 1;

  S Score(std::size_t i, std::size_t j) const {
    S s = 0;
    for (std::size_t d = 0; d < q[i].size(); ++d) s += q[i][d] * k[j][d];
    return s * scale;
  }
  // Scores here are small, so there is no maximum to take off: the function stays analytic.
  S LogSumExp(std::size_t i) const {
    S sum = 0;
    for (idx j = 0; j < visible[i]; ++j) sum += std::exp(Score(i, static_cast<std::size_t>(j)));
    return std::log(sum);
  }
  std::vector<S> Output(std::size_t i) const {
    std::vector<S> out(v[0].size());
    S sum = 0;
    for (std::size_t j = 0; j < static_cast<std::size_t>(visible[i]); ++j) {
      const S e = std::exp(Score(i, j));
      sum += e;
      for (std::size_t d = 0; d < out.size(); ++d) out[d] += e * v[j][d];
    }
    for (S& o : out) o /= sum;
    return out;
  }
  // sum over i of dout_i . Output(i)
  S Loss(const std::vector<std::vector<double>>& dout) const {
    S sum = 0;
    for (std::size_t i = 0; i < q.size(); ++i) {
      const std::vector<S> out = Output(i);
      for (std::size_t d = 0; d < out.size(); ++d) sum += out[d] * dout[i][d];
    }
    return sum;
  }
};

// The gradient of Loss in closed form, and beside each entry the sum of the absolute values of what
// it adds up: rounding errors are a multiple of that.
struct AttentionGradient {
  using Rows = std::vector<std::vector<double>>;
  Rows dq, dk, dv, dq_abs, dk_abs, dv_abs;

  AttentionGradient(const Attention<double>& a, const Rows& dout) {
    const auto zeros = [](const Rows& like) {
      return Rows(like.size(), std::vector<double>(like[0].size(), 0.0));
    };
    dq = dq_abs = zeros(a.q);
    dk = dk_abs = dv = dv_abs = zeros(a.k);
    for (std::size_t i = 0; i < a.q.size(); ++i) {
      const std::vector<double> out = a.Output(i);
      const double lse = a.LogSumExp(i);
      double delta = 0;
      double delta_abs = 0;
      for (std::size_t d = 0; d < out.size(); ++d) {
        delta += out[d] * dout[i][d];
        delta_abs += std::abs(out[d] * dout[i][d]);
      }
      for (std::size_t j = 0; j < static_cast<std::size_t>(a.visible[i]); ++j) {
        const double p = std::exp(a.Score(i, j) - lse);
        double dp = 0;
        double dp_abs = 0;
        for (std::size_t d = 0; d < out.size(); ++d) {
          dp += dout[i][d] * a.v[j][d];
          dp_abs += std::abs(dout[i][d] * a.v[j][d]);
        }
        const double ds = p * (dp - delta) * a.scale;
        const double ds_abs = p * (dp_abs + delta_abs) * a.scale;
        for (std::size_t d = 0; d < out.size(); ++d) {
          dv[j][d] += p * dout[i][d];
          dv_abs[j][d] += std::abs(p * dout[i][d]);
          dq[i][d] += ds * a.k[j][d];
          dq_abs[i][d] += ds_abs * std::abs(a.k[j][d]);
          dk[j][d] += ds * a.q[i][d];
          dk_abs[j][d] += ds_abs * std::abs(a.q[i][d]);
        }
      }
    }
  }
};

}  // namespace opo::reference
