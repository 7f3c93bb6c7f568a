// How the gradient of a matrix is taken apart by samples: made, or its norm as a ghost. Parts of
// sample_gradients.cpp.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "base/parallel.h"
#include "kernels/gemm.h"
#include "train/sample_gradients.h"

namespace opo {

inline constexpr idx kMadeFloats = idx{8} << 20;    // of gradients that are held at once
inline constexpr idx kAddColumns = 16 * kDotBlock;  // of a task of AddDots

// Rows [first, first + count) of a pass: a sample's.
struct RowRange {
  idx first = 0, count = 0;
};

// sums += the dot products of the rows of v (num, n): all of them as (num, num), i <= j, or each
// with itself as (num).
inline void AddDots(std::span<double> sums, GradientProducts what, const float* v, idx ldv, idx num,
                    idx n) {
  const auto dot_rows = ActiveKernels().dot_rows;
  const idx tasks = CeilDiv(n, kAddColumns);
  std::vector<double> parts(static_cast<std::size_t>(tasks) * sums.size());
  ParallelFor(tasks, [&](idx task) {
    double* part = parts.data() + task * static_cast<idx>(sums.size());
    const idx first = task * kAddColumns;
    const idx count = std::min(kAddColumns, n - first);
    if (what == GradientProducts::kAll) {
      dot_rows(part, v + first, ldv, num, count);
    } else {
      for (idx i = 0; i < num; ++i) dot_rows(part + i, v + i * ldv + first, ldv, 1, count);
    }
  });
  for (std::size_t i = 0; i < parts.size(); ++i) sums[i % sums.size()] += parts[i];
}

// y (m, n) f32 = a b^T of the rows of a and b.
template <class T>
void MultiplyRows(float* y, const T* a, idx lda, idx m, const T* b, idx ldb, idx n, idx k) {
  thread_local PackedMatrix<T> packed;
  packed.PackRows(b, ldb, n, k);
  GemmArgs<T> args;
  args.a = a;
  args.lda = lda;
  args.m = m;
  args.c = y;
  args.ldc = n;
  Gemm(args, packed);
}

// |dy^T x|^2 without making it. dy (rows, n), x (rows, k), n and k even.
template <class T>
double GhostNorm(const T* dy, idx lddy, idx n, const T* x, idx ldx, idx k, idx rows) {
  thread_local Buffer<float> squares;
  const idx size = rows * rows;
  squares.Reserve(2 * size);
  MultiplyRows(squares.data(), dy, lddy, rows, dy, lddy, rows, n);
  MultiplyRows(squares.data() + size, x, ldx, rows, x, ldx, rows, k);
  double products[4] = {};
  ActiveKernels().dot_rows(products, squares.data(), size, 2, size);
  return products[1];
}

// The multiply-adds of the products by rows against those of the matrix itself.
inline bool GhostIsCheaper(idx rows, idx n, idx k) {
  return n % 2 == 0 && k % 2 == 0 && rows * (n + k) < n * k;
}

// Runs body(i) for each sample: side by side where there are enough of them, else each on all
// threads.
template <class Body>
void ForSamples(std::size_t num, const Body& body) {
  if (static_cast<idx>(num) >= NumThreads()) {
    ParallelFor(static_cast<idx>(num), [&](idx i) { body(static_cast<std::size_t>(i)); });
  } else {
    for (std::size_t i = 0; i < num; ++i) body(i);
  }
}

// dw (n, k) = dy^T x over the rows of a range.
template <class T>
void MakeGradient(float* dw, const T* dy, idx lddy, idx n, const T* x, idx ldx, idx k,
                  RowRange range) {
  thread_local WeightGradScratch<T> scratch;
  std::fill_n(dw, n * k, 0.0f);
  WeightGrad(dw, k, dy + range.first * lddy, lddy, n, x + range.first * ldx, ldx, k, range.count,
             scratch);
}

}  // namespace opo
