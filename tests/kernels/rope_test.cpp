// RoPE of q and k, with and without a norm of their heads before it, and its gradient.
#include "kernels/isa_test.h"

namespace opo {
namespace {

using reference::Complex;
using reference::kStep;
using reference::kUnit;
using reference::kUnitF32;
using reference::NormError;
using reference::ToComplex;

constexpr float kEps = 1e-5f;

struct RopeCase {
  AttentionShape shape;
  idx width;
  std::vector<float> cos, sin;
  RopeCase(idx heads, idx kv_heads, idx dh) : width((heads + 2 * kv_heads) * dh) {
    shape.num_heads = heads;
    shape.num_kv_heads = kv_heads;
    shape.head_dim = dh;
    for (idx i = 0; i < RoundUp(dh / 2, 16); ++i) {
      const double angle = 3.0 * Draw(20, i);
      cos.push_back(static_cast<float>(std::cos(angle)));
      sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  bool Rotated(idx head) const { return head < shape.num_heads + shape.num_kv_heads; }
};

template <class T>
void CheckRope(idx heads, idx kv_heads, idx dh, bool with_bias) {
  const RopeCase c(heads, kv_heads, dh);
  const Rows<float> qkv = std::move(Rows<float>(1, c.width).Fill(21, 3.0));
  const Rows<float> bias = std::move(Rows<float>(1, c.width).Fill(22));
  Rows<T> q(1, heads * dh);
  Rows<T> k(1, kv_heads * dh);
  Rows<T> v(1, kv_heads * dh);
  ActiveKernels().of<T>().qkv_rope(q.row(0), k.row(0), v.row(0), qkv.row(0),
                                   with_bias ? bias.row(0) : nullptr, c.cos.data(), c.sin.data(),
                                   c.shape);
  std::vector<double> got = q.values(0);
  for (const Rows<T>* part : {&k, &v}) {
    const auto values = part->values(0);
    got.insert(got.end(), values.begin(), values.end());
  }
  const std::vector<double> cos(c.cos.begin(), c.cos.end());
  const std::vector<double> sin(c.sin.begin(), c.sin.end());
  Worst worst("qkv_rope");
  for (idx head = 0; head < heads + 2 * kv_heads; ++head) {
    std::vector<double> x;
    double largest = 0;
    for (idx i = 0; i < dh; ++i) {
      const double b = with_bias ? bias.at(0, head * dh + i) : 0.0;
      x.push_back(qkv.at(0, head * dh + i) + b);
      largest = std::max(largest, std::abs(qkv.at(0, head * dh + i)) + std::abs(b));
    }
    const auto want = c.Rotated(head) ? reference::Rope(x, cos, sin) : x;
    for (idx i = 0; i < dh; ++i) {
      const double w = want[static_cast<std::size_t>(i)];
      // two additions, two products and a sum of parts no larger than `largest`, then a rounding
      const double error = 8 * kUnitF32 * largest;
      worst.Add(head * dh + i, got[static_cast<std::size_t>(head * dh + i)], w,
                error + kUnit<T> * (std::abs(w) + error));
    }
  }
}

// A rotation's gradient is the rotation back; what is checked is <dy, R x> = <R' dy, x> entry by
// entry: R' dy [i] = <dy, R e_i>.
template <class T>
void CheckRopeGrad(idx heads, idx kv_heads, idx dh) {
  const RopeCase c(heads, kv_heads, dh);
  const Rows<float> dq = std::move(Rows<float>(1, heads * dh).Fill(23));
  const Rows<float> dk = std::move(Rows<float>(1, kv_heads * dh).Fill(24));
  const Rows<float> dv = std::move(Rows<float>(1, kv_heads * dh).Fill(25));
  Rows<T> dqkv(1, c.width);
  ActiveKernels().of<T>().qkv_rope_grad(dqkv.row(0), dq.row(0), dk.row(0), dv.row(0), c.cos.data(),
                                        c.sin.data(), c.shape);
  std::vector<double> dy = dq.values(0);
  for (const Rows<float>* part : {&dk, &dv}) {
    const auto values = part->values(0);
    dy.insert(dy.end(), values.begin(), values.end());
  }
  const std::vector<double> cos(c.cos.begin(), c.cos.end());
  const std::vector<double> sin(c.sin.begin(), c.sin.end());
  Worst worst("qkv_rope_grad");
  for (idx at = 0; at < c.width; ++at) {
    const idx head = at / dh;
    double want = dy[static_cast<std::size_t>(at)];
    if (c.Rotated(head)) {
      std::vector<double> unit(static_cast<std::size_t>(dh));
      unit[static_cast<std::size_t>(at % dh)] = 1;
      const auto column = reference::Rope(unit, cos, sin);
      want = 0;
      for (idx i = 0; i < dh; ++i) {
        want += dy[static_cast<std::size_t>(head * dh + i)] * column[static_cast<std::size_t>(i)];
      }
    }
    // two products of numbers below 1, and a sum
    worst.Add(at, dqkv.at(0, at), want, 8 * kUnitF32 + kUnit<T> * (std::abs(want) + 8 * kUnitF32));
  }
  for (idx i = c.width; i < dqkv.ld; ++i) ASSERT_EQ(dqkv.at(0, i), 0.0) << "pads stay zero";
}

// q, k and their norms' weights for heads of one width; rows of qkv as the product gives them.
template <class T>
struct QkNormCase : RopeCase {
  idx heads, dh, rows = 5;
  Rows<float> qkv, gamma;
  Rows<T> q, k, v, q_pre, k_pre;
  std::vector<double> cos64, sin64;
  QkNormCase(idx q_heads, idx kv_heads, idx head_dim, const float* bias)
      : RopeCase(q_heads, kv_heads, head_dim),
        heads(q_heads + kv_heads),
        dh(head_dim),
        qkv(std::move(Rows<float>(rows, width).Fill(40, 3.0))),
        gamma(std::move(Rows<float>(2, dh).Fill(41, 2.0))),
        q(rows, q_heads * dh),
        k(rows, kv_heads * dh),
        v(rows, kv_heads * dh),
        q_pre(rows, q_heads * dh),
        k_pre(rows, kv_heads * dh),
        cos64(cos.begin(), cos.end()),
        sin64(sin.begin(), sin.end()) {
    for (idx r = 0; r < rows; ++r) {
      ActiveKernels().of<T>().qkv_norm_rope(q.row(r), k.row(r), v.row(r), q_pre.row(r),
                                            k_pre.row(r), qkv.row(r), bias, norm(), cos.data(),
                                            sin.data(), shape);
    }
  }
  QkNorm norm() const { return {gamma.row(0), gamma.row(1), kEps}; }
  bool is_q(idx head) const { return head < shape.num_heads; }
  // A head of what was stored before the norm.
  std::vector<double> Pre(idx r, idx head) const {
    const Rows<T>& from = is_q(head) ? q_pre : k_pre;
    const idx at = (is_q(head) ? head : head - shape.num_heads) * dh;
    std::vector<double> out;
    for (idx i = 0; i < dh; ++i) out.push_back(from.at(r, at + i));
    return out;
  }
  std::vector<double> Gamma(idx head) const { return gamma.values(is_q(head) ? 0 : 1); }
};

template <class T>
void CheckQkNormRope(idx heads, idx kv_heads, idx dh, bool with_bias) {
  const Rows<float> bias = std::move(Rows<float>(1, (heads + 2 * kv_heads) * dh).Fill(42));
  const QkNormCase<T> c(heads, kv_heads, dh, with_bias ? bias.row(0) : nullptr);
  Worst worst_pre("q_pre, k_pre, v");
  Worst worst("qkv_norm_rope");
  for (idx r = 0; r < c.rows; ++r) {
    for (idx at = 0; at < c.width; ++at) {
      const double b = with_bias ? bias.at(0, at) : 0.0;
      const double want = c.qkv.at(r, at) + b;
      const double got = at < heads * dh                ? c.q_pre.at(r, at)
                         : at < (heads + kv_heads) * dh ? c.k_pre.at(r, at - heads * dh)
                                                        : c.v.at(r, at - (heads + kv_heads) * dh);
      const double error = kUnitF32 * std::abs(want);  // one addition
      worst_pre.Add(at, got, want, error + kUnit<T> * (std::abs(want) + error));
    }
    for (idx head = 0; head < c.heads; ++head) {
      const auto normed = reference::RmsNorm(c.Pre(r, head), c.Gamma(head), double{kEps});
      const auto want = reference::Rope(normed, c.cos64, c.sin64);
      for (idx i = 0; i < dh; ++i) {
        const double a = normed[static_cast<std::size_t>(i % (dh / 2))];
        const double b = normed[static_cast<std::size_t>(i % (dh / 2) + dh / 2)];
        const double w = want[static_cast<std::size_t>(i)];
        // the norm's error, then two products and a sum
        const double error = (NormError(dh) + 4 * kUnitF32) * (std::abs(a) + std::abs(b));
        const double got =
            c.is_q(head) ? c.q.at(r, head * dh + i) : c.k.at(r, (head - heads) * dh + i);
        worst.Add(head * dh + i, got, w, error + kUnit<T> * (std::abs(w) + error));
      }
    }
    for (const Rows<T>* part : {&c.q, &c.k, &c.v, &c.q_pre, &c.k_pre}) {
      for (idx i = part->cols; i < part->ld; ++i) ASSERT_EQ(part->at(r, i), 0.0) << "pads";
    }
  }
}

// The gradient of <dq, q> + <dk, k> + <dv, v> by what the norm reads and by its weights; row 3 is
// padding.
template <class T>
void CheckQkNormRopeGrad(idx heads, idx kv_heads, idx dh) {
  const QkNormCase<T> c(heads, kv_heads, dh, nullptr);
  Rows<float> dq = std::move(Rows<float>(c.rows, heads * dh).Fill(43));
  Rows<float> dk = std::move(Rows<float>(c.rows, kv_heads * dh).Fill(44));
  const Rows<float> dq0 = std::move(Rows<float>(c.rows, heads * dh).Fill(43));
  const Rows<float> dk0 = std::move(Rows<float>(c.rows, kv_heads * dh).Fill(44));
  const Rows<float> dv = std::move(Rows<float>(c.rows, kv_heads * dh).Fill(45));
  Rows<float> dgamma = std::move(Rows<float>(2, dh).Fill(46));
  const Rows<float> dgamma0 = std::move(Rows<float>(2, dh).Fill(46));
  Rows<T> dqkv(c.rows, c.width);
  Rows<float> rstd(c.rows, c.heads);
  std::vector<const T*> q_pre(static_cast<std::size_t>(c.rows));
  std::vector<const T*> k_pre(static_cast<std::size_t>(c.rows));
  const KernelsOf<T>& kernels = ActiveKernels().of<T>();
  for (idx r = 0; r < c.rows; ++r) {
    if (r == 3) continue;
    const auto i = static_cast<std::size_t>(r);
    q_pre[i] = c.q_pre.row(r);
    k_pre[i] = c.k_pre.row(r);
    kernels.qkv_norm_rope_grad(dqkv.row(r), dq.row(r), dk.row(r), dv.row(r), q_pre[i], k_pre[i],
                               c.norm(), c.cos.data(), c.sin.data(), rstd.row(r), c.shape);
  }
  for (idx j = 0; j < dh; j += 16) {
    const idx end = std::min(j + 16, dh);
    kernels.head_norm_dgamma(dgamma.row(0), dq.row(0), dq.ld, q_pre.data(), rstd.row(0), rstd.ld,
                             c.rows, heads, dh, j, end);
    kernels.head_norm_dgamma(dgamma.row(1), dk.row(0), dk.ld, k_pre.data(), rstd.row(0) + heads,
                             rstd.ld, c.rows, kv_heads, dh, j, end);
  }
  const auto dy_of = [&](const Rows<float>& q_rows, const Rows<float>& k_rows, idx r, idx head) {
    const Rows<float>& from = c.is_q(head) ? q_rows : k_rows;
    const idx at = (c.is_q(head) ? head : head - heads) * dh;
    std::vector<double> out;
    for (idx i = 0; i < dh; ++i) out.push_back(from.at(r, at + i));
    return out;
  };
  // The derivative of <dy, rope(rms_norm(x, gamma))> by entry i of x or of gamma.
  const auto derivative = [&](idx r, idx head, bool by_gamma, std::size_t i) {
    auto x = ToComplex(c.Pre(r, head));
    auto gamma = ToComplex(c.Gamma(head));
    (by_gamma ? gamma : x)[i] += Complex(0, kStep);
    const auto y = reference::Rope(reference::RmsNorm(x, gamma, double{kEps}), c.cos64, c.sin64);
    const auto dy = dy_of(dq0, dk0, r, head);
    double sum = 0;
    for (std::size_t j = 0; j < dy.size(); ++j) sum += dy[j] * y[j].imag() / kStep;
    return sum;
  };
  Worst worst("dqkv");
  std::vector<double> want(static_cast<std::size_t>(2 * dh));
  std::vector<double> abs(static_cast<std::size_t>(2 * dh));
  for (idx r = 0; r < c.rows; ++r) {
    if (r == 3) continue;
    for (idx head = 0; head < c.heads; ++head) {
      const auto x = c.Pre(r, head);
      const auto gamma = c.Gamma(head);
      const auto dy = dy_of(dq0, dk0, r, head);
      double squares = 0;
      for (const double value : x) squares += value * value;
      const double scale = 1 / std::sqrt(squares / static_cast<double>(dh) + double{kEps});
      // |dy| rotated back is at most |a| + |b| of its pair
      std::vector<double> back;
      for (idx i = 0; i < dh; ++i) {
        back.push_back(std::abs(dy[static_cast<std::size_t>(i % (dh / 2))]) +
                       std::abs(dy[static_cast<std::size_t>(i % (dh / 2) + dh / 2)]));
      }
      double mean_abs = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        mean_abs += std::abs(back[i] * gamma[i] * x[i]) * scale / static_cast<double>(dh);
      }
      for (std::size_t i = 0; i < x.size(); ++i) {
        const idx at = head * dh + static_cast<idx>(i);
        const double by_x = derivative(r, head, false, i);
        const double terms =
            scale * (std::abs(back[i] * gamma[i]) + std::abs(x[i]) * scale * mean_abs);
        const double error = 2 * NormError(dh) * terms;
        worst.Add(at, dqkv.at(r, at), by_x, error + kUnit<T> * (std::abs(by_x) + error));
        const std::size_t j = (c.is_q(head) ? 0 : static_cast<std::size_t>(dh)) + i;
        want[j] += derivative(r, head, true, i);
        abs[j] += back[i] * std::abs(x[i]) * scale;
      }
    }
    for (idx i = 0; i < kv_heads * dh; ++i) {
      const double value = dv.at(r, i);
      worst.Add(i, dqkv.at(r, c.heads * dh + i), value, kUnit<T> * std::abs(value));
    }
    for (idx i = c.width; i < dqkv.ld; ++i) ASSERT_EQ(dqkv.at(r, i), 0.0) << "pads stay zero";
  }
  Worst worst_gamma("dgamma of a head's norm");
  for (idx i = 0; i < 2 * dh; ++i) {
    const double before = dgamma0.at(i / dh, i % dh);
    const auto j = static_cast<std::size_t>(i);
    const double all = std::abs(before) + abs[j];
    worst_gamma.Add(i, dgamma.at(i / dh, i % dh), before + want[j],
                    (NormError(dh) + reference::ChainError(c.rows * heads)) * all);
  }
  for (idx i = dh; i < dgamma.ld; ++i) ASSERT_EQ(dgamma.at(1, i), 0.0) << "pads stay zero";
}

// The chain goes on from what is there: rows in one call, in two, and in another order.
template <class T>
void CheckHeadNormChain() {
  const QkNormCase<T> c(3, 1, 24, nullptr);
  const Rows<float> dy = std::move(Rows<float>(c.rows, 3 * 24).Fill(47));
  const Rows<float> rstd = std::move(Rows<float>(c.rows, 4).Fill(48, 2.0));
  const auto run = [&](const std::vector<std::pair<idx, idx>>& parts) {
    Rows<float> dgamma = std::move(Rows<float>(1, 24).Fill(49));
    for (const auto& [first, count] : parts) {
      std::vector<const T*> x;
      for (idx r = first; r < first + count; ++r) x.push_back(c.q_pre.row(r));
      for (const idx j : {0, 16}) {
        ActiveKernels().of<T>().head_norm_dgamma(dgamma.row(0), dy.row(first), dy.ld, x.data(),
                                                 rstd.row(first), rstd.ld, count, 3, 24, j,
                                                 std::min<idx>(j + 16, 24));
      }
    }
    return std::vector<float>(dgamma.row(0), dgamma.row(0) + 24);
  };
  const auto whole = run({{0, 5}});
  EXPECT_TRUE(SameBits(whole, run({{0, 2}, {2, 3}})));
  EXPECT_FALSE(SameBits(whole, run({{2, 3}, {0, 2}}))) << "another order of rows went unnoticed";
}

class RopeTest : public IsaTest {};
OPO_ON_ALL_PATHS(RopeTest);

TEST_P(RopeTest, RopeAgreesWithDoublePrecision) {
  for (const idx dh : {8, 16, 32, 64}) {
    for (const bool bias : {false, true}) {
      CheckRope<bf16>(3, 1, dh, bias);
      CheckRope<float>(4, 2, dh, bias);
    }
  }
}
TEST_P(RopeTest, RopeGradientIsTheTransposedRotation) {
  for (const idx dh : {8, 16, 32, 64}) {
    CheckRopeGrad<bf16>(3, 1, dh);
    CheckRopeGrad<float>(4, 2, dh);
  }
}
// Heads that end between two vectors and between two halves of one.
TEST_P(RopeTest, QkNormAndRopeAgreeWithDoublePrecision) {
  for (const idx dh : {6, 8, 24, 32, 40, 128}) {
    for (const bool bias : {false, true}) {
      CheckQkNormRope<bf16>(3, 1, dh, bias);
      CheckQkNormRope<float>(4, 2, dh, bias);
    }
  }
}
TEST_P(RopeTest, QkNormAndRopeGradientsAgreeWithComplexSteps) {
  for (const idx dh : {6, 8, 24, 32, 40, 128}) {
    CheckQkNormRopeGrad<bf16>(3, 1, dh);
    CheckQkNormRopeGrad<float>(4, 2, dh);
  }
}
TEST_P(RopeTest, HeadNormGradientIsAChainOverRows) {
  CheckHeadNormChain<bf16>();
  CheckHeadNormChain<float>();
}

}  // namespace
}  // namespace opo
