#include "kernels/isa_test.h"

namespace opo {
namespace {

using reference::ChainError;
using reference::Complex;
using reference::kStep;
using reference::kUnit;
using reference::kUnitF32;

AttentionShape Shape(idx heads, idx kv_heads, idx dh) {
  AttentionShape shape;
  shape.num_heads = heads;
  shape.num_kv_heads = kv_heads;
  shape.head_dim = dh;
  shape.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dh)));
  return shape;
}

// Keys and values, as rows and as pages.
template <class T>
struct Keys {
  Rows<T> k, v;
  std::vector<Buffer<T>> blocks;
  std::vector<const T*> pages;
  Keys(idx n, std::uint32_t stream, const AttentionShape& shape)
      : k(n, shape.num_kv_heads * shape.head_dim), v(n, shape.num_kv_heads * shape.head_dim) {
    k.Fill(stream, 2.0);
    v.Fill(stream + 1);
    MakePages(shape);
  }
  Keys(const Keys& first, const Keys& second, idx begin, idx end, const AttentionShape& shape)
      : k(end - begin, first.k.cols), v(end - begin, first.k.cols) {
    for (idx i = begin; i < end; ++i) {
      const bool one = i < first.k.num_rows;
      const idx j = one ? i : i - first.k.num_rows;
      std::copy_n((one ? first : second).k.row(j), k.ld, k.row(i - begin));
      std::copy_n((one ? first : second).v.row(j), v.ld, v.row(i - begin));
    }
    MakePages(shape);
  }
  void MakePages(const AttentionShape& shape) {
    for (idx b = 0; b < CeilDiv(k.num_rows, kKeyBlock); ++b) blocks.emplace_back(shape.page_size());
    for (idx i = 0; i < k.num_rows; ++i) {
      ActiveKernels().of<T>().kv_write(blocks[static_cast<std::size_t>(i / kKeyBlock)].data(),
                                       i % kKeyBlock, k.row(i), v.row(i), shape);
    }
    for (const auto& block : blocks) pages.push_back(block.data());
  }
};

// Queries of a sample, and what attention makes of them.
template <class T>
struct Queries {
  Rows<T> q, out;
  Rows<float> lse;
  Queries(idx n, std::uint32_t stream, const AttentionShape& shape)
      : q(n, shape.num_heads * shape.head_dim),
        out(n, shape.num_heads * shape.head_dim),
        lse(n, shape.num_heads, shape.num_heads) {
    q.Fill(stream, 2.0);
  }
};

// Rows [first, first + n) of a sample, which lie in one own key block.
template <class T>
struct Part {
  Queries<T>* queries;
  const Keys<T>* own;
  idx first, n;
};

template <class T>
void Attend(const Keys<T>& prefix, const std::vector<Part<T>>& parts, const AttentionShape& shape) {
  AttentionTile<T> tile;
  tile.num_prefix = prefix.k.num_rows;
  tile.prefix_pages = prefix.pages.data();
  for (const Part<T>& part : parts) {
    tile.spans[tile.num_spans++] = {tile.num_rows, part.n, part.first, part.own->pages.data()};
    for (idx i = part.first; i < part.first + part.n; ++i) {
      tile.q[tile.num_rows] = part.queries->q.row(i);
      tile.out[tile.num_rows] = part.queries->out.row(i);
      tile.lse[tile.num_rows] = part.queries->lse.row(i);
      ++tile.num_rows;
    }
  }
  Buffer<float> scratch(AttentionScratch(shape));
  for (idx i = 0; i < scratch.size(); ++i) scratch[i] = std::nanf("");  // nothing may be read
  for (idx h = 0; h < shape.num_kv_heads; ++h) {
    ActiveKernels().of<T>().attention(tile, h, shape, scratch.data());
  }
}

template <class T>
void Decode(const Keys<T>& prefix, const Keys<T>& own, Queries<T>& queries,
            const AttentionShape& shape) {
  for (idx i = 0; i < queries.q.num_rows; ++i) Attend<T>(prefix, {{&queries, &own, i, 1}}, shape);
}

template <class T>
void Prefill(const Keys<T>& prefix, const Keys<T>& own, Queries<T>& queries,
             const AttentionShape& shape) {
  for (idx i = 0; i < queries.q.num_rows; i += kKeyBlock) {
    const idx n = std::min(kKeyBlock, queries.q.num_rows - i);
    Attend<T>(prefix, {{&queries, &own, i, n}}, shape);
  }
}

template <class T>
std::vector<double> Slice(const Rows<T>& rows, idx r, idx head, idx dh) {
  std::vector<double> out;
  for (idx d = 0; d < dh; ++d) out.push_back(rows.at(r, head * dh + d));
  return out;
}

// One query head of a sample, every own row.
template <class T>
reference::Attention<double> HeadOf(const Keys<T>& prefix, const Keys<T>& own, const Rows<T>& q,
                                    idx head, const AttentionShape& shape) {
  reference::Attention<double> a;
  a.scale = double{shape.scale};
  const idx kv = head / shape.group();
  for (const Keys<T>* keys : {&prefix, &own}) {
    for (idx j = 0; j < keys->k.num_rows; ++j) {
      a.k.push_back(Slice(keys->k, j, kv, shape.head_dim));
      a.v.push_back(Slice(keys->v, j, kv, shape.head_dim));
    }
  }
  for (idx i = 0; i < q.num_rows; ++i) {
    a.q.push_back(Slice(q, i, head, shape.head_dim));
    a.visible.push_back(prefix.k.num_rows + i + 1);
  }
  return a;
}

// Relative error of a probability before it is rounded to T: the score's chain over Dh, its scaling
// and the shift by the maximum move the exponent; then Exp (2 ulp), the sums over 32 keys and the
// rescaling by alpha at each block.
double ProbabilityError(const reference::Attention<double>& a, std::size_t i) {
  double worst = 0;
  for (std::size_t j = 0; j < static_cast<std::size_t>(a.visible[i]); ++j) {
    double abs = 0;
    for (std::size_t d = 0; d < a.q[i].size(); ++d) abs += std::abs(a.q[i][d] * a.k[j][d]);
    worst = std::max(worst, a.scale * abs);
  }
  const double blocks = static_cast<double>(a.visible[i]) / 32 + 2;
  return 2 * worst * (ChainError(static_cast<idx>(a.q[i].size())) + 4 * kUnitF32) +
         (48 + 12 * blocks) * kUnitF32;
}

template <class T>
void CheckForward(idx heads, idx kv_heads, idx dh, idx num_prefix) {
  SCOPED_TRACE(testing::Message() << heads << "/" << kv_heads << " heads of " << dh << ", prefix "
                                  << num_prefix << ", " << sizeof(T) << " bytes");
  const AttentionShape shape = Shape(heads, kv_heads, dh);
  const idx rows = 110;  // own keys in four blocks
  const Keys<T> prefix(num_prefix, 50, shape);
  const Keys<T> own(rows, 52, shape);
  Queries<T> decoded(rows, 54, shape);
  Decode(prefix, own, decoded, shape);
  Worst worst("out");
  Worst worst_lse("lse");
  for (idx h = 0; h < heads; ++h) {
    const auto a = HeadOf(prefix, own, decoded.q, h, shape);
    for (const std::size_t i : {0, 1, 31, 32, 63, 64, 96, 109}) {
      const auto want = a.Output(i);
      const double lse = a.LogSumExp(i);
      const double error = ProbabilityError(a, i);
      std::vector<double> abs(want.size());
      for (std::size_t j = 0; j < static_cast<std::size_t>(a.visible[i]); ++j) {
        const double p = std::exp(a.Score(i, j) - lse);
        for (std::size_t d = 0; d < abs.size(); ++d) abs[d] += std::abs(p * a.v[j][d]);
      }
      const auto r = static_cast<idx>(i);
      for (std::size_t d = 0; d < want.size(); ++d) {
        // p is rounded to T, p . V is a chain over all keys, the result is rounded to T.
        worst.Add(r, decoded.out.at(r, h * dh + static_cast<idx>(d)), want[d],
                  abs[d] * (2 * error + kUnit<T> + ChainError(a.visible[i])) +
                      1.01 * kUnit<T> * std::abs(want[d]));
      }
      worst_lse.Add(r, decoded.lse.at(r, h), lse, 2 * error + 4 * kUnitF32 * std::abs(lse));
    }
  }
  Queries<T> prefilled(rows, 54, shape);
  Prefill(prefix, own, prefilled, shape);
  EXPECT_TRUE(SameBits(decoded.out.data, prefilled.out.data));
  EXPECT_TRUE(SameBits(decoded.lse.data, prefilled.lse.data));
}

// Samples at different places of their answers share a tile in any order.
template <class T>
void CheckCompany() {
  const AttentionShape shape = Shape(3, 1, 32);
  const Keys<T> prefix(45, 60, shape);
  std::vector<Keys<T>> own;
  std::vector<Queries<T>> alone;
  std::vector<Queries<T>> together;
  for (std::uint32_t s = 0; s < 6; ++s) {
    const idx n = 20 + 17 * static_cast<idx>(s);
    own.emplace_back(n, 61 + 3 * s, shape);
    alone.emplace_back(n, 63 + 3 * s, shape);
    together.emplace_back(n, 63 + 3 * s, shape);
    Decode(prefix, own.back(), alone.back(), shape);
  }
  // Tiles of one row of each sample, and of a few rows, from the last sample to the first.
  for (idx i = 0; i < 105; ++i) {
    std::vector<Part<T>> parts;
    for (std::size_t s = 6; s-- > 0;) {
      const idx n = together[s].q.num_rows;
      if (s % 2 == 0) {
        if (i < n) parts.push_back({&together[s], &own[s], i, 1});
      } else if (i % 4 == 0 && i < n) {
        parts.push_back({&together[s], &own[s], i, std::min<idx>(4, n - i)});
      }
    }
    if (!parts.empty()) Attend(prefix, parts, shape);
  }
  for (std::size_t s = 0; s < 6; ++s) {
    EXPECT_TRUE(SameBits(alone[s].out.data, together[s].out.data)) << "sample " << s;
    EXPECT_TRUE(SameBits(alone[s].lse.data, together[s].lse.data)) << "sample " << s;
  }
}

// The control: the same keys with the border of prompt and answer elsewhere, hence with other
// blocks, give other bits.
template <class T>
void CheckPlantedBlocks() {
  const AttentionShape shape = Shape(3, 1, 32);
  const Keys<T> prefix(45, 70, shape);
  const Keys<T> own(70, 72, shape);
  Queries<T> queries(70, 74, shape);
  Prefill(prefix, own, queries, shape);
  const Keys<T> shorter(prefix, own, 0, 21, shape);
  const Keys<T> longer(prefix, own, 21, 115, shape);
  Queries<T> moved(94, 1, shape);
  for (idx i = 0; i < 70; ++i) std::copy_n(queries.q.row(i), queries.q.ld, moved.q.row(i + 24));
  Prefill(shorter, longer, moved, shape);
  idx different = 0;
  for (idx i = 0; i < 70; ++i) {
    different += SameBits(queries.lse.row(i), moved.lse.row(i + 24), 3) ? 0 : 1;
    for (idx c = 0; c < queries.out.cols; ++c) {
      // Still the same function: a rounding of the result, and as much again for what precedes it.
      ASSERT_NEAR(queries.out.at(i, c), moved.out.at(i + 24, c), 4 * kUnit<T> + 64 * kUnitF32);
    }
  }
  EXPECT_GT(different, 0) << "other key blocks went unnoticed";
}

template <class T>
struct GradBuffers {
  Rows<float> dq, dk, dv, prefix_dk, prefix_dv;
  GradBuffers(idx rows, idx num_prefix, const AttentionShape& shape)
      : dq(rows, shape.num_heads * shape.head_dim),
        dk(rows, shape.num_kv_heads * shape.head_dim),
        dv(rows, shape.num_kv_heads * shape.head_dim),
        prefix_dk(num_prefix, shape.num_kv_heads * shape.head_dim),
        prefix_dv(num_prefix, shape.num_kv_heads * shape.head_dim) {
    for (Rows<float>* r : {&dq, &dk, &dv, &prefix_dk, &prefix_dv}) {
      for (idx i = 0; i < r->data.size(); ++i) r->data[i] = 0.5f;  // gradients are added
    }
  }
};

template <class T>
std::vector<const T*> Pointers(const Rows<T>& rows) {
  std::vector<const T*> out;
  for (idx r = 0; r < rows.num_rows; ++r) out.push_back(rows.row(r));
  return out;
}

template <class T>
GradBuffers<T> RunGrad(const Keys<T>& prefix, const Keys<T>& own, const Queries<T>& queries,
                       const Rows<T>& dout, const AttentionShape& shape) {
  const idx rows = queries.q.num_rows;
  GradBuffers<T> grads(rows, prefix.k.num_rows, shape);
  const auto q = Pointers(queries.q);
  const auto out = Pointers(queries.out);
  const auto lse = Pointers(queries.lse);
  Buffer<float> scratch(AttentionScratch(shape));
  for (idx i = 0; i < scratch.size(); ++i) scratch[i] = std::nanf("");
  for (const bool causal : {false, true}) {
    const Keys<T>& keys = causal ? own : prefix;
    const auto k = Pointers(keys.k);
    const auto v = Pointers(keys.v);
    AttentionGradTile<T> tile;
    tile.num_rows = rows;
    tile.q = q.data();
    tile.out = out.data();
    tile.dout = dout.data.data();
    tile.ldd = dout.ld;
    tile.lse = lse.data();
    tile.num_keys = keys.k.num_rows;
    tile.k = k.data();
    tile.v = v.data();
    tile.causal = causal;
    tile.dq = grads.dq.data.data();
    tile.ldq = grads.dq.ld;
    tile.dk = (causal ? grads.dk : grads.prefix_dk).data.data();
    tile.dv = (causal ? grads.dv : grads.prefix_dv).data.data();
    tile.ldk = grads.dk.ld;
    for (idx h = 0; h < shape.num_kv_heads; ++h) {
      ActiveKernels().of<T>().attention_grad(tile, h, shape, scratch.data());
    }
  }
  return grads;
}

template <class T>
void CheckGrad(idx heads, idx kv_heads, idx dh, idx num_prefix, idx rows) {
  SCOPED_TRACE(testing::Message() << heads << "/" << kv_heads << " heads of " << dh << ", prefix "
                                  << num_prefix << ", " << rows << " rows, " << sizeof(T)
                                  << " bytes");
  const AttentionShape shape = Shape(heads, kv_heads, dh);
  const Keys<T> prefix(num_prefix, 80, shape);
  const Keys<T> own(rows, 82, shape);
  Queries<T> queries(rows, 84, shape);
  Prefill(prefix, own, queries, shape);
  const Rows<T> dout = std::move(Rows<T>(rows, heads * dh).Fill(85));
  const GradBuffers<T> got = RunGrad(prefix, own, queries, dout, shape);

  // What adds up in double, per kv head: value and sum of absolute values.
  struct Sum {
    Rows<float> shape;  // only for its size
    std::vector<double> value, abs;
    explicit Sum(const Rows<float>& like)
        : shape(like.num_rows, like.cols, like.cols),
          value(static_cast<std::size_t>(like.num_rows * like.cols), 0.5),
          abs(value) {}
    void Add(idx r, idx c, double x, double x_abs) {
      value[static_cast<std::size_t>(r * shape.cols + c)] += x;
      abs[static_cast<std::size_t>(r * shape.cols + c)] += x_abs;
    }
  };
  Sum dq(got.dq);
  Sum dk(got.dk);
  Sum dv(got.dv);
  Sum prefix_dk(got.prefix_dk);
  Sum prefix_dv(got.prefix_dv);
  double error = 0;
  for (idx h = 0; h < heads; ++h) {
    const auto a = HeadOf(prefix, own, queries.q, h, shape);
    std::vector<std::vector<double>> head_dout;
    for (idx i = 0; i < rows; ++i) head_dout.push_back(Slice(dout, i, h, dh));
    const reference::AttentionGradient g(a, head_dout);
    for (std::size_t i = 0; i < a.q.size(); ++i) error = std::max(error, ProbabilityError(a, i));
    const idx kv = h / shape.group();
    for (idx d = 0; d < dh; ++d) {
      const auto e = static_cast<std::size_t>(d);
      for (idx i = 0; i < rows; ++i) {
        const auto r = static_cast<std::size_t>(i);
        dq.Add(i, h * dh + d, g.dq[r][e], g.dq_abs[r][e]);
      }
      for (idx j = 0; j < num_prefix + rows; ++j) {
        const auto r = static_cast<std::size_t>(j);
        const bool in_prefix = j < num_prefix;
        const idx at = in_prefix ? j : j - num_prefix;
        (in_prefix ? prefix_dk : dk).Add(at, kv * dh + d, g.dk[r][e], g.dk_abs[r][e]);
        (in_prefix ? prefix_dv : dv).Add(at, kv * dh + d, g.dv[r][e], g.dv_abs[r][e]);
      }
    }
  }
  // P is off by `error` and rounded to T; dS = P (dO.V - delta): delta comes from an output that
  // was rounded to T, dO.V is a chain over Dh, and dS is rounded to T. Then chains over rows or
  // keys.
  const double chain = ChainError(dh) + ChainError((rows + num_prefix) * shape.group());
  const auto compare = [&](const char* what, const Rows<float>& values, const Sum& sum) {
    if (values.num_rows == 0) return;
    Worst worst(what);
    for (idx r = 0; r < values.num_rows; ++r) {
      for (idx c = 0; c < values.cols; ++c) {
        const auto i = static_cast<std::size_t>(r * values.cols + c);
        worst.Add(r * values.cols + c, values.at(r, c), sum.value[i],
                  sum.abs[i] * (2.1 * kUnit<T> + 4 * error + chain));
      }
    }
  };
  compare("dq", got.dq, dq);
  compare("dk", got.dk, dk);
  compare("dv", got.dv, dv);
  compare("prefix dk", got.prefix_dk, prefix_dk);
  compare("prefix dv", got.prefix_dv, prefix_dv);
}

class AttentionTest : public IsaTest {};
OPO_ON_ALL_PATHS(AttentionTest);

TEST_P(AttentionTest, AgreesWithDoublePrecisionAndDecodeEqualsPrefillBitwise) {
  for (const idx prefix : {0, 1, 31, 32, 33, 100}) {
    CheckForward<bf16>(3, 1, 32, prefix);
    CheckForward<float>(3, 1, 32, prefix);
  }
  for (const idx dh : {16, 64}) {
    CheckForward<bf16>(3, 1, dh, 33);
    CheckForward<float>(3, 1, dh, 33);
    CheckForward<bf16>(2, 2, dh, 33);
    CheckForward<float>(2, 2, dh, 33);
  }
  CheckForward<bf16>(7, 1, 80, 33);  // a group that fills no vector, a partial panel of head dims
  CheckForward<float>(7, 1, 80, 33);
}
TEST_P(AttentionTest, ARowsBitsDoNotDependOnItsCompany) {
  CheckCompany<bf16>();
  CheckCompany<float>();
}
TEST_P(AttentionTest, OtherKeyBlocksAreNoticed) {
  CheckPlantedBlocks<bf16>();
  CheckPlantedBlocks<float>();
}
TEST_P(AttentionTest, GradientAgreesWithTheClosedForm) {
  for (const idx prefix : {0, 1, 33, 70}) {
    CheckGrad<bf16>(3, 1, 32, prefix, 70);
    CheckGrad<float>(3, 1, 32, prefix, 70);
  }
  for (const idx rows : {1, 5, 32, 33}) {
    CheckGrad<bf16>(3, 1, 16, 7, rows);
    CheckGrad<float>(3, 1, 16, 7, rows);
    CheckGrad<bf16>(4, 2, 64, 40, rows);
    CheckGrad<float>(2, 2, 64, 40, rows);
  }
  CheckGrad<bf16>(7, 1, 80, 33, 37);
  CheckGrad<float>(7, 1, 80, 33, 37);
}

// The closed form that the kernels are held against, itself against complex steps.
TEST(AttentionReference, ClosedFormAgreesWithComplexSteps) {
  const AttentionShape shape = Shape(1, 1, 8);
  const Keys<float> prefix(5, 90, shape);
  const Keys<float> own(6, 92, shape);
  const Queries<float> queries(6, 94, shape);
  const auto a = HeadOf(prefix, own, queries.q, 0, shape);
  std::vector<std::vector<double>> dout;
  for (idx i = 0; i < 6; ++i) {
    dout.emplace_back();
    for (idx d = 0; d < 8; ++d) dout.back().push_back(Draw(95, 8 * i + d));
  }
  const reference::AttentionGradient closed(a, dout);
  reference::Attention<Complex> probe;
  probe.scale = a.scale;
  probe.visible = a.visible;
  for (const auto& row : a.q) probe.q.emplace_back(row.begin(), row.end());
  for (const auto& row : a.k) probe.k.emplace_back(row.begin(), row.end());
  for (const auto& row : a.v) probe.v.emplace_back(row.begin(), row.end());
  const auto check = [&](std::vector<std::vector<Complex>>& x,
                         const std::vector<std::vector<double>>& want) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      for (std::size_t d = 0; d < x[i].size(); ++d) {
        const Complex value = x[i][d];
        x[i][d] += Complex(0, kStep);
        EXPECT_NEAR(probe.Loss(dout).imag() / kStep, want[i][d], 1e-12);
        x[i][d] = value;
      }
    }
  };
  check(probe.q, closed.dq);
  check(probe.k, closed.dk);
  check(probe.v, closed.dv);
}

}  // namespace
}  // namespace opo
