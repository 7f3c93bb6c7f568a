#include <array>
#include <bit>
#include <limits>
#include <string_view>

#include "kernels/isa_test.h"

namespace opo {
namespace {

using reference::Complex;
using reference::kStep;
using reference::kUnit;
using reference::kUnitF32;
using reference::NormError;
using reference::ToComplex;
using reference::Value;

constexpr float kEps = 1e-5f;

template <class T>
void CheckRmsNorm(idx d) {
  Rows<T> x = std::move(Rows<T>(3, d).Fill(1, 2.0));
  x.row(2)[0] = FromF32<T>(500.0f);  // an outlier, as residual streams have them
  const Rows<float> gamma = std::move(Rows<float>(1, d).Fill(2));
  Rows<T> y(3, d);
  Worst worst("rms_norm");
  for (idx r = 0; r < 3; ++r) {
    ActiveKernels().of<T>().rms_norm(y.row(r), x.row(r), gamma.row(0), d, kEps);
    const auto want = reference::RmsNorm(x.values(r), gamma.values(0), static_cast<double>(kEps));
    for (idx i = 0; i < d; ++i) {
      const double w = want[static_cast<std::size_t>(i)];
      worst.Add(r * d + i, y.at(r, i), w, std::abs(w) * (kUnit<T> + NormError(d)) * 1.01);
    }
    for (idx i = d; i < RoundUp(d, 16); ++i) ASSERT_EQ(y.at(r, i), 0.0) << "pads stay zero";
  }
}

template <class T>
void CheckRmsNormGrad(idx d) {
  const idx rows = 5;
  const Rows<T> x = std::move(Rows<T>(rows, d).Fill(3, 2.0));
  const Rows<float> gamma = std::move(Rows<float>(1, d).Fill(4));
  const Rows<float> dy = std::move(Rows<float>(rows, d).Fill(5));
  Rows<float> dx = std::move(Rows<float>(rows, d).Fill(6));
  Rows<float> dgamma = std::move(Rows<float>(1, d).Fill(7));
  const Rows<float> dx0 = std::move(Rows<float>(rows, d).Fill(6));
  const Rows<float> dgamma0 = std::move(Rows<float>(1, d).Fill(7));
  std::vector<float> rstd(rows);
  std::vector<const T*> inputs(rows);
  for (idx r = 0; r < rows; ++r) {
    const auto i = static_cast<std::size_t>(r);
    ActiveKernels().of<T>().rms_norm_grad(dx.row(r), dy.row(r), x.row(r), gamma.row(0), d, kEps,
                                          &rstd[i]);
    inputs[i] = r == 3 ? nullptr : x.row(r);  // a padding row
  }
  const auto& kernels = ActiveKernels().of<T>();
  kernels.rms_norm_dgamma(dgamma.row(0), dy.row(0), dy.ld, inputs.data(), rstd.data(), rows, 0, 16);
  kernels.rms_norm_dgamma(dgamma.row(0), dy.row(0), dy.ld, inputs.data(), rstd.data(), rows, 16,
                          RoundUp(d, 16));
  Worst worst_x("dx");
  for (idx r = 0; r < rows; ++r) {
    // sum of the terms' absolute values: rstd (|dy gamma| + |xhat| mean |dy gamma xhat|)
    double squares = 0;
    for (idx i = 0; i < d; ++i) squares += x.at(r, i) * x.at(r, i);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(d) + double{kEps});
    double mean_abs = 0;
    for (idx i = 0; i < d; ++i) {
      mean_abs +=
          std::abs(dy.at(r, i) * gamma.at(0, i) * x.at(r, i)) * scale / static_cast<double>(d);
    }
    for (idx i = 0; i < d; ++i) {
      auto probe = ToComplex(x.values(r));
      probe[static_cast<std::size_t>(i)] += Complex(0, kStep);
      const auto y = reference::RmsNorm(probe, ToComplex(gamma.values(0)), double{kEps});
      double want = dx0.at(r, i);
      for (idx j = 0; j < d; ++j) {
        want += dy.at(r, j) * y[static_cast<std::size_t>(j)].imag() / kStep;
      }
      const double abs = scale * (std::abs(dy.at(r, i) * gamma.at(0, i)) +
                                  std::abs(x.at(r, i)) * scale * mean_abs);
      worst_x.Add(r * d + i, dx.at(r, i), want,
                  2 * NormError(d) * abs + 2 * kUnitF32 * (std::abs(dx0.at(r, i)) + abs));
    }
  }
  Worst worst_gamma("dgamma");
  for (idx i = 0; i < d; ++i) {
    double want = dgamma0.at(0, i);
    double abs = std::abs(want);
    for (idx r = 0; r < rows; ++r) {
      if (r == 3) continue;
      auto probe = ToComplex(gamma.values(0));
      probe[static_cast<std::size_t>(i)] += Complex(0, kStep);
      const auto y = reference::RmsNorm(ToComplex(x.values(r)), probe, double{kEps});
      const double term = dy.at(r, i) * y[static_cast<std::size_t>(i)].imag() / kStep;
      want += term;
      abs += std::abs(term);
    }
    worst_gamma.Add(i, dgamma.at(0, i), want, (NormError(d) + reference::ChainError(rows)) * abs);
  }
}

template <class T>
Rows<T> GateUp(idx f) {
  Rows<T> gate_up = std::move(Rows<T>(1, 2 * f).Fill(26, 8.0));
  const std::array<float, 6> extremes = {0.0f, -0.0f, 40.0f, -40.0f, 120.0f, -120.0f};
  for (std::size_t i = 0; i < extremes.size(); ++i) gate_up.row(0)[i] = FromF32<T>(extremes[i]);
  return gate_up;
}

// Exp, a sum, a division and two products: 16 roundings and the error of Exp (2 ulp) are ample.
// Below 1e-36 the result may be flushed to zero.
constexpr double kSwigluError = 16 * kUnitF32;
constexpr double kTiny = 1e-36;

template <class T>
void CheckSwiglu(idx f) {
  const Rows<T> gate_up = GateUp<T>(f);
  Rows<T> y(1, f);
  ActiveKernels().of<T>().swiglu(y.row(0), gate_up.row(0), f, f);
  Worst worst("swiglu");
  for (idx i = 0; i < f; ++i) {
    const double want = reference::Swiglu(gate_up.at(0, i), gate_up.at(0, f + i));
    worst.Add(i, y.at(0, i), want, std::abs(want) * (kUnit<T> + kSwigluError) * 1.01 + kTiny);
  }
  for (idx i = f; i < y.ld; ++i) ASSERT_EQ(y.at(0, i), 0.0) << "pads stay zero";
}

template <class T>
void CheckSwigluGrad(idx f) {
  const Rows<T> gate_up = GateUp<T>(f);
  const Rows<T> dy = std::move(Rows<T>(1, f).Fill(27));
  Rows<T> dgate_up(1, 2 * f);
  ActiveKernels().of<T>().swiglu_grad(dgate_up.row(0), dy.row(0), gate_up.row(0), f, f);
  Worst worst("swiglu_grad");
  for (idx i = 0; i < f; ++i) {
    const double g = gate_up.at(0, i);
    const double u = gate_up.at(0, f + i);
    const double d = dy.at(0, i);
    const double by_gate = d * reference::Swiglu(Complex(g, kStep), Complex(u)).imag() / kStep;
    const double by_up = d * reference::Swiglu(Complex(g), Complex(u, kStep)).imag() / kStep;
    // silu' = s (1 + g (1 - s)) cancels: its error goes with s (1 + |g|).
    const double s = 1 / (1 + std::exp(-g));
    const double abs = std::abs(d * u) * s * (1 + std::abs(g));
    worst.Add(i, dgate_up.at(0, i), by_gate,
              kSwigluError * abs + kUnit<T> * std::abs(by_gate) * 1.01 + kTiny);
    worst.Add(f + i, dgate_up.at(0, f + i), by_up,
              std::abs(by_up) * (kUnit<T> + kSwigluError) * 1.01 + kTiny);
  }
}

// The paths whose own instruction rounds to bf16 take denormals as zero.
bool FlushesDenormals() {
  const std::string_view name = ActiveKernels().name;
  return name == "avx512bf16" || name == "amx";
}

template <class T>
void CheckRound() {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::array<float, 32> x = {
      0.0f,        -0.0f, 1.0f,    1.00390625f, 1.01171875f, -1.00390625f, 3e38f,    -3.4e38f,
      1e-40f,      0.1f,  -0.3f,   65504.0f,    7e-39f,      1e30f,        2.5f,     -1e-20f,
      -1e-40f,     kInf,  -kInf,   0x1p-126f,   -0x1p-126f,  0x1.ffp127f,  3.4e38f,  1e-45f,
      0x1.01p-126, 1.5f,  -1e-45f, 0x1.03p10f,  0x1.01p10f,  -0x1.fep127f, 3.39e38f, 0x1p-127f};
  std::array<T, 32> y;
  ActiveKernels().of<T>().round(y.data(), x.data(), 32);
  for (std::size_t i = 0; i < 32; ++i) {
    const bool flushed =
        sizeof(T) == 2 && FlushesDenormals() && !std::isnormal(x[i]) && std::isfinite(x[i]);
    const T want = FromF32<T>(flushed ? std::copysign(0.0f, x[i]) : x[i]);
    EXPECT_TRUE(SameBits(&y[i], &want, 1)) << x[i];
  }
  // NaN stays NaN, also where its payload is in the half that is dropped.
  std::array<float, 16> nan;
  nan.fill(std::bit_cast<float>(0x7f800001U));
  nan[1] = std::bit_cast<float>(0xff80ffffU);
  nan[2] = std::bit_cast<float>(0x7fffffffU);
  ActiveKernels().of<T>().round(y.data(), nan.data(), 16);
  for (std::size_t i = 0; i < 16; ++i) EXPECT_TRUE(std::isnan(ToF32(y[i]))) << i;
}

void CheckAdamW() {
  const idx n = 45;
  Rows<float> w = std::move(Rows<float>(1, n).Fill(28));
  Rows<float> m = std::move(Rows<float>(1, n).Fill(29, 0.1));
  Rows<float> v(1, n);
  const Rows<float> g = std::move(Rows<float>(1, n).Fill(30, 5.0));
  for (idx i = 0; i < n; ++i) v.row(0)[i] = static_cast<float>(0.01 * (1 + Draw(31, i)));
  for (idx i = n; i < w.ld; ++i) w.row(0)[i] = 7.0f;
  const auto w0 = w.values(0);
  const auto m0 = m.values(0);
  const auto v0 = v.values(0);
  const AdamWArgs args{0.01f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.25f, 0.271f, 0.002997f};
  ActiveKernels().f32.adamw(w.row(0), m.row(0), v.row(0), g.row(0), n, args);
  Worst worst("adamw");
  for (idx i = 0; i < n; ++i) {
    const auto j = static_cast<std::size_t>(i);
    const double grad = g.at(0, i) * 0.25;
    const double m1 = double{args.beta1} * m0[j] + (1 - double{args.beta1}) * grad;
    const double v1 = double{args.beta2} * v0[j] + (1 - double{args.beta2}) * grad * grad;
    const double update = double{args.lr} * (m1 / double{args.bias1}) /
                          (std::sqrt(v1 / double{args.bias2}) + double{args.eps});
    const double w1 = w0[j] * (1 - double{args.lr} * double{args.weight_decay}) - update;
    // m cancels against g; a dozen operations in all.
    const double m_error = 4 * kUnitF32 * (std::abs(m0[j]) + std::abs(grad));
    worst.Add(i, m.at(0, i), m1, m_error);
    worst.Add(i, v.at(0, i), v1, 6 * kUnitF32 * v1);
    worst.Add(i, w.at(0, i), w1,
              4 * kUnitF32 * std::abs(w0[j]) + std::abs(update) * 16 * kUnitF32 +
                  std::abs(update / m1) * m_error);
  }
  for (idx i = n; i < w.ld; ++i) ASSERT_EQ(w.at(0, i), 7.0) << "nothing behind n is touched";
}

class RowsTest : public IsaTest {};
OPO_ON_ALL_PATHS(RowsTest);

TEST_P(RowsTest, RmsNormAgreesWithDoublePrecision) {
  for (const idx d : {16, 40, 48, 96, 576, 2048}) {
    CheckRmsNorm<bf16>(d);
    CheckRmsNorm<float>(d);
  }
}
TEST_P(RowsTest, RmsNormGradientsAgreeWithComplexSteps) {
  for (const idx d : {32, 40, 96}) {
    CheckRmsNormGrad<bf16>(d);
    CheckRmsNormGrad<float>(d);
  }
}
TEST_P(RowsTest, SwigluAgreesWithDoublePrecision) {
  for (const idx f : {7, 16, 37, 160}) {
    CheckSwiglu<bf16>(f);
    CheckSwiglu<float>(f);
  }
}
TEST_P(RowsTest, SwigluGradientAgreesWithComplexSteps) {
  for (const idx f : {7, 16, 37, 160}) {
    CheckSwigluGrad<bf16>(f);
    CheckSwigluGrad<float>(f);
  }
}
TEST_P(RowsTest, RoundingIsToNearestEven) {
  CheckRound<bf16>();
  CheckRound<float>();
}
TEST_P(RowsTest, AdamWAgreesWithDoublePrecision) { CheckAdamW(); }

TEST_P(RowsTest, SumOfSquaresIsExactToDoublePrecision) {
  for (const idx n : {1, 15, 16, 17, 4096}) {
    const Rows<float> x = std::move(Rows<float>(1, n).Fill(32, 3.0));
    long double want = 0;
    for (idx i = 0; i < n; ++i) want += static_cast<long double>(x.at(0, i)) * x.at(0, i);
    // squares of f32 are exact in f64; a chain of n / 16 and a tree of four
    EXPECT_NEAR(ActiveKernels().sum_squares(x.row(0), n), static_cast<double>(want),
                static_cast<double>(want) * (static_cast<double>(n) / 16 + 5) * 0x1p-53);
  }
}

TEST_P(RowsTest, DotProductsOfRowsAgreeWithDoublePrecision) {
  for (const idx num : {1, 3, 4, 9}) {
    for (const idx n : {1, 17, 512, 1300}) {
      const Rows<float> v = std::move(Rows<float>(num, n).Fill(35, 2.0));
      std::vector<double> products(static_cast<std::size_t>(num * num), 0.25);
      ActiveKernels().dot_rows(products.data(), v.row(0), v.ld, num, n);
      for (idx i = 0; i < num; ++i) {
        for (idx j = 0; j < num; ++j) {
          double want = 0.25;
          double sizes = 0;
          for (idx e = 0; e < n && i <= j; ++e) {
            want += v.at(i, e) * v.at(j, e);
            sizes += std::abs(v.at(i, e) * v.at(j, e));
          }
          // f32 over 512 elements: chains of 32, a tree of four, and the products' own rounding.
          EXPECT_NEAR(products[static_cast<std::size_t>(i * num + j)], want, sizes * 37 * 0x1p-24)
              << i << ", " << j << " of " << num << ", " << n;
        }
      }
    }
  }
}

TEST_P(RowsTest, AddAddsAndStopsAtItsEnd) {
  Rows<float> y = std::move(Rows<float>(1, 45).Fill(33));
  const Rows<float> x = std::move(Rows<float>(1, 45).Fill(34));
  const auto y0 = y.values(0);
  ActiveKernels().add(y.row(0), x.row(0), 37);
  for (idx i = 0; i < 45; ++i) {
    const float before = static_cast<float>(y0[static_cast<std::size_t>(i)]);
    EXPECT_EQ(y.row(0)[i], i < 37 ? before + x.row(0)[i] : before);
  }
}

}  // namespace
}  // namespace opo
