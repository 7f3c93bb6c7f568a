#include "kernels/gemm.h"

#include "base/parallel.h"
#include "kernels/isa_test.h"

namespace opo {
namespace {

using reference::ChainError;
using reference::kUnit;

template <class T>
PackedMatrix<T> Packed(const Rows<float>& w) {
  PackedMatrix<T> packed;
  packed.Pack(w.data.data(), w.ld, w.num_rows, w.cols);
  return packed;
}

// a B^T and sum |a b|, with b rounded to T.
struct Product {
  std::vector<double> sum, abs;
  template <class T>
  Product(const Rows<T>& a, const Rows<float>& w, T) {
    for (idx m = 0; m < a.num_rows; ++m) {
      for (idx n = 0; n < w.num_rows; ++n) {
        double s = 0;
        double t = 0;
        for (idx k = 0; k < a.cols; ++k) {
          const double product = a.at(m, k) * reference::Value(FromF32<T>(w.row(n)[k]));
          s += product;
          t += std::abs(product);
        }
        sum.push_back(s);
        abs.push_back(t);
      }
    }
  }
};

template <class T>
Rows<float> StoreF32(const Rows<T>& a, const PackedMatrix<T>& b, idx k) {
  Rows<float> c(a.num_rows, b.n);
  GemmArgs<T> args;
  args.a = a.data.data();
  args.lda = a.ld;
  args.m = a.num_rows;
  args.c = c.data.data();
  args.ldc = c.ld;
  EXPECT_EQ(b.k, k);
  Gemm(args, b);
  return c;
}

// All four outputs of one shape. The bound is that of a chain of k steps (reference::ChainError),
// plus one rounding to T of the result where it is stored as T.
template <class T>
void CheckShape(idx m, idx n, idx k) {
  SCOPED_TRACE(testing::Message() << m << " x " << n << " x " << k << ", " << sizeof(T)
                                  << " bytes");
  const Rows<T> a = std::move(Rows<T>(m, k).Fill(1));
  const Rows<float> w = std::move(Rows<float>(n, k).Fill(2));
  const PackedMatrix<T> b = Packed<T>(w);
  const Product want(a, w, T{});
  const double chain = ChainError(k + 1);
  GemmArgs<T> args;
  args.a = a.data.data();
  args.lda = a.ld;
  args.m = m;

  for (const bool accumulate : {false, true}) {
    Rows<float> c(m, n, n + 3);  // rows that a whole panel would overrun
    for (idx i = 0; i < c.data.size(); ++i) c.data[i] = accumulate ? 0.5f : -777.0f;
    args.output = accumulate ? GemmOutput::kAccumulateF32 : GemmOutput::kStoreF32;
    args.c = c.data.data();
    args.ldc = c.ld;
    // Columns behind N of the last row may not be touched either: the buffer ends there.
    Gemm(args, b);
    Worst worst(accumulate ? "accumulate" : "store f32");
    for (idx r = 0; r < m; ++r) {
      for (idx j = 0; j < n; ++j) {
        const auto i = static_cast<std::size_t>(r * n + j);
        const double start = accumulate ? 0.5 : 0.0;
        worst.Add(r * n + j, c.at(r, j), start + want.sum[i], chain * (start + want.abs[i]));
      }
      for (idx j = n; j < c.ld; ++j) ASSERT_EQ(c.row(r)[j], accumulate ? 0.5f : -777.0f);
    }
  }

  Rows<T> residual = std::move(Rows<T>(m, n).Fill(3));
  for (const bool add : {false, true}) {  // store, add in place
    Rows<T> out(m, n);
    args.output = add ? GemmOutput::kAddResidual : GemmOutput::kStore;
    if (add) std::copy_n(residual.data.data(), residual.data.size(), out.data.data());
    args.out = out.data.data();
    args.residual = out.data.data();
    args.ldo = out.ld;
    Gemm(args, b);
    Worst worst(add ? "add" : "store");
    for (idx r = 0; r < m; ++r) {
      for (idx j = 0; j < n; ++j) {
        const auto i = static_cast<std::size_t>(r * n + j);
        const double start = add ? residual.at(r, j) : 0;
        const double sum = start + want.sum[i];
        const double error = chain * (std::abs(start) + want.abs[i]);
        worst.Add(r * n + j, out.at(r, j), sum, error + kUnit<T> * (std::abs(sum) + error));
      }
      for (idx j = n; j < out.ld; ++j) ASSERT_EQ(out.at(r, j), 0.0) << "pads stay zero";
    }
  }
}

template <class T>
void CheckShapes() {
  for (idx m = 1; m <= 25; ++m) CheckShape<T>(m, 37, 45);  // every residue of every block of rows
  for (const idx n : {1, 15, 16, 17, 31, 32, 33, 64, 95}) CheckShape<T>(13, n, 34);
  for (const idx m : {1, 2, 5}) {  // few rows take several panels a pass, and the rest at once
    for (idx n = 33; n <= 13 * kPanel; n += kPanel) CheckShape<T>(m, n, 6);
  }
  for (const idx k : {1, 2, 3, 31, 32, 33, 63, 64}) CheckShape<T>(5, 33, k);
  for (const idx k : {2047, 2048, 2049, 4131}) CheckShape<T>(3, 40, k);  // more than a block of k
  CheckShape<T>(2 * kGemmRows + 7, 65, 19);
}

// One row, wherever it stands and whoever is beside it, has the same bits.
template <class T>
void CheckRowInvariance() {
  const idx n = 71;
  const idx k = 2100;
  const Rows<T> a = std::move(Rows<T>(40, k).Fill(5));
  const PackedMatrix<T> b = Packed<T>(std::move(Rows<float>(n, k).Fill(6)));
  const Rows<float> all = StoreF32(a, b, k);
  for (idx size = 1; size <= 25; ++size) {
    Rows<T> batch(size, k);
    for (idx r = 0; r < size; ++r) {
      std::copy_n(a.row((r * 7 + size) % 40), a.ld, batch.row(r));
    }
    const Rows<float> c = StoreF32(batch, b, k);
    for (idx r = 0; r < size; ++r) {
      ASSERT_TRUE(SameBits(c.row(r), all.row((r * 7 + size) % 40), n))
          << "row " << r << " of " << size << ", " << sizeof(T) << " bytes";
    }
  }
}

template <class T>
void CheckThreads() {
  const Rows<T> a = std::move(Rows<T>(211, 96).Fill(7));
  const PackedMatrix<T> b = Packed<T>(std::move(Rows<float>(259, 96).Fill(8)));
  SetNumThreads(1);
  const Rows<float> one = StoreF32(a, b, 96);
  for (const int threads : {2, 3, 5}) {
    SetNumThreads(threads);
    const Rows<float> c = StoreF32(a, b, 96);
    EXPECT_TRUE(SameBits(one.data, c.data)) << threads << " threads";
  }
  SetNumThreads(0);
}

// What the chains of E6 rest on: a sum that is left in f32 memory and taken up again is the same
// sum. And the control: two partial sums that are added at the end are not.
template <class T>
void CheckSplitK() {
  const idx k = 320;
  const idx cut = 96;
  const Rows<T> a = std::move(Rows<T>(19, k).Fill(9));
  const Rows<float> w = std::move(Rows<float>(45, k).Fill(10));
  const Rows<float> whole = StoreF32(a, Packed<T>(w), k);
  PackedMatrix<T> left;
  PackedMatrix<T> right;
  left.Pack(w.data.data(), w.ld, 45, cut);
  right.Pack(w.data.data() + cut, w.ld, 45, k - cut);
  const auto run = [&](const PackedMatrix<T>& b, const T* from, GemmOutput output, Rows<float>& c) {
    GemmArgs<T> args;
    args.a = from;
    args.lda = a.ld;
    args.m = a.num_rows;
    args.output = output;
    args.c = c.data.data();
    args.ldc = c.ld;
    Gemm(args, b);
  };
  Rows<float> chained(19, 45);
  run(left, a.data.data(), GemmOutput::kStoreF32, chained);
  run(right, a.data.data() + cut, GemmOutput::kAccumulateF32, chained);
  EXPECT_TRUE(SameBits(whole.data, chained.data));
  Rows<float> part1(19, 45);
  Rows<float> part2(19, 45);
  run(left, a.data.data(), GemmOutput::kStoreF32, part1);
  run(right, a.data.data() + cut, GemmOutput::kStoreF32, part2);
  ActiveKernels().add(part1.data.data(), part2.data.data(), part1.data.size());
  EXPECT_FALSE(SameBits(whole.data, part1.data)) << "a split of k went unnoticed";
}

// layout.h, element by element.
template <class T>
double PackedAt(const PackedMatrix<T>& b, idx n, idx k) {
  const T* panel = b.data.data() + n / 32 * (RoundUp(b.k, 32) * 32);
  const idx at = sizeof(T) == 2 ? (k / 2) * 64 + 2 * (n % 32) + k % 2 : k * 32 + n % 32;
  return reference::Value(panel[at]);
}

template <class T>
void CheckPacking(idx n, idx k) {
  const Rows<float> w = std::move(Rows<float>(n, k, k + 1).Fill(11));
  Rows<float> wt(k, n, n + 5);
  Rows<T> wt_rounded(k, n, n + 5);
  Rows<T> w_rounded(n, k, k + 3);
  for (idx i = 0; i < n; ++i) {
    for (idx j = 0; j < k; ++j) {
      w_rounded.row(i)[j] = FromF32<T>(w.row(i)[j]);
      wt.row(j)[i] = w.row(i)[j];
      wt_rounded.row(j)[i] = FromF32<T>(w.row(i)[j]);
    }
  }
  PackedMatrix<T> packed[5];
  for (PackedMatrix<T>& p : packed) {  // dirty memory: packing must write the zeros itself
    p.data.Reserve(PackedSize(n, k));
    for (idx i = 0; i < p.data.size(); ++i) p.data[i] = FromF32<T>(99.0f);
  }
  packed[0].Pack(w.data.data(), w.ld, n, k);
  packed[1].PackTransposed(wt.data.data(), wt.ld, k, n);
  packed[2].PackTransposed(wt_rounded.data.data(), wt.ld, k, n);
  PackedMatrix<T> transposed;
  transposed.Pack(wt.data.data(), wt.ld, k, n);
  packed[3].Resize(n, k);
  packed[3].PackTurnedAt(0, transposed);
  packed[4].PackRows(w_rounded.data.data(), w_rounded.ld, n, k);
  for (const PackedMatrix<T>& p : packed) {
    for (idx i = 0; i < RoundUp(n, 32); ++i) {
      for (idx j = 0; j < RoundUp(k, 32); ++j) {
        const double want = i < n && j < k ? reference::Value(FromF32<T>(w.row(i)[j])) : 0.0;
        ASSERT_EQ(PackedAt(p, i, j), want) << n << " x " << k << " at " << i << ", " << j;
      }
    }
  }
}

// Terms in parts, accumulated in order, give the bits of the whole sums.
template <class T>
void CheckTerms(idx m, idx n, const std::vector<idx>& cuts) {
  const idx k = cuts.back();
  const Rows<float> a_f32 = std::move(Rows<float>(m, k).Fill(12));
  const PackedMatrix<T> b = Packed<T>(std::move(Rows<float>(n, k).Fill(17)));
  Rows<T> a(m, k);
  for (idx r = 0; r < m; ++r) {
    for (idx j = 0; j < k; ++j) a.row(r)[j] = FromF32<T>(a_f32.row(r)[j]);
  }
  const Rows<float> want = StoreF32(a, b, k);
  Rows<float> got(m, n);
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    const idx count = cuts[i + 1] - cuts[i];
    Rows<T> part(m, count);
    for (idx r = 0; r < m; ++r) std::copy_n(a.row(r) + cuts[i], count, part.row(r));
    GemmArgs<T> args;
    args.a = part.data.data();
    args.lda = part.ld;
    args.m = m;
    args.output = i == 0 ? GemmOutput::kStoreF32 : GemmOutput::kAccumulateF32;
    args.c = got.data.data();
    args.ldc = got.ld;
    GemmTerms(args, b, cuts[i], count);
  }
  for (idx r = 0; r < m; ++r) ASSERT_TRUE(SameBits(got.row(r), want.row(r), n)) << r << " of " << m;
}

// A packed left operand gives the bits of the same rows, row-major.
template <class T>
void CheckPackedLeft(idx m, idx n, idx k) {
  const Rows<float> a_f32 = std::move(Rows<float>(m, k).Fill(12));
  Rows<T> a(m, k);
  for (idx r = 0; r < m; ++r) {
    for (idx j = 0; j < k; ++j) a.row(r)[j] = FromF32<T>(a_f32.row(r)[j]);
  }
  const PackedMatrix<T> b = Packed<T>(std::move(Rows<float>(n, k).Fill(17)));
  const Rows<float> want = StoreF32(a, b, k);
  Rows<T> a_t(k, m);
  for (idx r = 0; r < m; ++r) {
    for (idx j = 0; j < k; ++j) a_t.row(j)[r] = a.row(r)[j];
  }
  PackedLeft<T> left;
  left.PackTransposed(a_t.data.data(), a_t.ld, k, m);
  Rows<float> got(m, n);
  GemmArgs<T> args;
  args.a = left.data.data();
  args.a_packed = true;
  args.m = m;
  args.c = got.data.data();
  args.ldc = got.ld;
  Gemm(args, b);
  for (idx r = 0; r < m; ++r) ASSERT_TRUE(SameBits(got.row(r), want.row(r), n)) << r << " of " << m;
}

template <class T>
Rows<float> RunWeightGrad(const Rows<T>& dy, const Rows<T>& x, const std::vector<idx>& cuts) {
  Rows<float> dw(dy.cols, x.cols, x.cols);
  for (idx i = 0; i < dw.data.size(); ++i) dw.data[i] = 0.25f;
  WeightGradScratch<T> scratch;
  idx first = 0;
  for (const idx end : cuts) {
    WeightGrad(dw.data.data(), dw.ld, dy.row(first), dy.ld, dy.cols, x.row(first), x.ld, x.cols,
               end - first, scratch);
    first = end;
  }
  return dw;
}

template <class T>
void CheckWeightGrad(idx n, idx k, idx rows) {
  const Rows<T> dy = std::move(Rows<T>(rows, n).Fill(13));
  const Rows<T> x = std::move(Rows<T>(rows, k).Fill(14));
  const Rows<float> dw = RunWeightGrad(dy, x, {rows});
  Worst worst("dW");
  for (idx i = 0; i < n; ++i) {
    for (idx j = 0; j < k; ++j) {
      double sum = 0.25;
      double abs = 0.25;
      for (idx r = 0; r < rows; ++r) {
        sum += dy.at(r, i) * x.at(r, j);
        abs += std::abs(dy.at(r, i) * x.at(r, j));
      }
      worst.Add(i * k + j, dw.at(i, j), sum, ChainError(rows) * abs);
    }
  }
}

// Cutting the rows into several calls changes nothing, and nor do padding rows; another order of
// the rows does.
template <class T>
void CheckWeightGradCuts() {
  const idx rows = 256;
  const idx block = RowBlock<T>();
  const Rows<T> dy = std::move(Rows<T>(rows, 43).Fill(15));
  const Rows<T> x = std::move(Rows<T>(rows, 35).Fill(16));
  const Rows<float> whole = RunWeightGrad(dy, x, {rows});
  EXPECT_TRUE(SameBits(whole.data, RunWeightGrad(dy, x, {block, 4 * block, 160, rows}).data));
  EXPECT_TRUE(SameBits(whole.data, RunWeightGrad(dy, x, {rows - block, rows}).data));
  Rows<T> dy_padded(rows, 43);
  std::copy_n(dy.row(0), (rows - block) * dy.ld, dy_padded.row(0));
  EXPECT_TRUE(SameBits(RunWeightGrad(dy_padded, x, {rows - block}).data,
                       RunWeightGrad(dy_padded, x, {rows}).data));
  Rows<T> dy_swapped(rows, 43);
  Rows<T> x_swapped(rows, 35);
  for (idx r = 0; r < rows; ++r) {
    std::copy_n(dy.row(r ^ 32), dy.ld, dy_swapped.row(r));  // neighbouring blocks change places
    std::copy_n(x.row(r ^ 32), x.ld, x_swapped.row(r));
  }
  EXPECT_FALSE(SameBits(whole.data, RunWeightGrad(dy_swapped, x_swapped, {rows}).data))
      << "another order of the rows went unnoticed";
}

class GemmTest : public IsaTest {};
OPO_ON_ALL_PATHS(GemmTest);

TEST_P(GemmTest, AllOutputsAgreeWithDoublePrecision) {
  CheckShapes<bf16>();
  CheckShapes<float>();
}
TEST_P(GemmTest, ARowsBitsDoNotDependOnItsBatch) {
  CheckRowInvariance<bf16>();
  CheckRowInvariance<float>();
}
TEST_P(GemmTest, BitsDoNotDependOnThreads) {
  CheckThreads<bf16>();
  CheckThreads<float>();
}
TEST_P(GemmTest, AChainGoesOnThroughMemoryAndASplitIsNoticed) {
  CheckSplitK<bf16>();
  CheckSplitK<float>();
}
TEST_P(GemmTest, PackingFollowsTheLayout) {
  for (const idx n : {1, 16, 33, 70}) {
    for (const idx k : {1, 2, 17, 32, 45, 64}) {
      CheckPacking<bf16>(n, k);
      CheckPacking<float>(n, k);
    }
  }
}
TEST_P(GemmTest, APackedLeftOperandGivesTheSameBits) {
  for (const idx m : {1, 5, 13, 31, 32, 33, 70, 230}) {
    CheckPackedLeft<bf16>(m, 37, 45);
    CheckPackedLeft<float>(m, 37, 45);
  }
  CheckPackedLeft<bf16>(40, 70, 2100);
  CheckPackedLeft<float>(40, 70, 2100);
}
TEST_P(GemmTest, TermsInPartsGiveTheSameBits) {
  for (const idx m : {1, 7, 40}) {
    CheckTerms<bf16>(m, 70, {0, 32, 96, 173});
    CheckTerms<float>(m, 70, {0, 32, 96, 173});
  }
  CheckTerms<bf16>(33, 37, {0, 2048, 4096, 4133});
  CheckTerms<float>(33, 37, {0, 2048, 4096, 4133});
}
TEST_P(GemmTest, WeightGradAgreesWithDoublePrecision) {
  for (const idx rows : {1, 35, 96, 2110}) {
    CheckWeightGrad<bf16>(45, 39, RoundUp(rows, RowBlock<bf16>()));
    CheckWeightGrad<float>(45, 39, RoundUp(rows, RowBlock<float>()));
  }
  // Several panels to a block of rows: by rows, by panels in tasks of some, by each.
  for (const idx rows : {32, 128, 512}) {
    CheckWeightGrad<bf16>(203, 615, rows);
    CheckWeightGrad<float>(203, 615, rows);
  }
}
TEST_P(GemmTest, WeightGradMayBeCutAnywhereAndReorderedNowhere) {
  CheckWeightGradCuts<bf16>();
  CheckWeightGradCuts<float>();
}

}  // namespace
}  // namespace opo
