// Matrix products over all threads. Each output element is one chain over k in a fixed order
// (kernels/micro_gemm.h), so neither the number of rows nor the threads change a bit.
#pragma once

#include "base/buffer.h"
#include "kernels/kernels.h"

namespace opo {

// The second operand of a product y = x B^T, B of shape (n, k), packed once for many products.
template <class T>
struct PackedMatrix {
  idx n = 0, k = 0;
  Buffer<T> data;

  // B = src (n, k) f32, rounded to T: y = x W^T.
  void Pack(const float* src, idx lds, idx rows, idx cols);
  // B = src^T, src (k, n) of float or T: dx = dy W with W as src.
  template <class S>
  void PackTransposed(const S* src, idx lds, idx rows, idx cols);

  // B = [left, right], put together from two sources: makes room, then each of the other calls
  // fills the columns from k0 on (a multiple of kPad) up to the next multiple of kPad.
  void Resize(idx rows, idx cols);
  void PackAt(idx k0, const float* src, idx lds, idx cols);  // src (n, cols)
  template <class S>
  void PackTransposedAt(idx k0, const S* src, idx lds, idx rows);  // src (rows, n)
  // The same from the first n columns of a packed W: the bits of PackTransposedAt of what W was
  // packed from.
  void PackTurnedAt(idx k0, const PackedMatrix& w);
  // Columns that are packed already.
  void CopyAt(idx k0, const PackedMatrix& right);

  // B = src (rows, cols), numbers that are of T already: y = x src^T.
  void PackRows(const T* src, idx lds, idx rows, idx cols);
};

// The first operand of a product, given as its transpose: A = src^T, src (k, m).
template <class T>
struct PackedLeft {
  Buffer<T> data;

  void PackTransposed(const T* src, idx lds, idx rows, idx cols);
};

// c = a B^T as args.output says; args.b, n, k are taken from `b`.
template <class T>
void Gemm(GemmArgs<T> args, const PackedMatrix<T>& b);
// The same by rows [first, first + count) of B alone, first a multiple of kPanel.
template <class T>
void GemmPart(GemmArgs<T> args, const PackedMatrix<T>& b, idx first, idx count);

// The same by terms [first, first + count) of every sum alone, first a multiple of kPad. The chain
// goes on from what c holds: in order and accumulated, parts give the bits of the whole.
template <class T>
void GemmTerms(GemmArgs<T> args, const PackedMatrix<T>& b, idx first, idx count);

// What a unit's rows are padded to, with zeros, so that no block of a chain over rows holds rows of
// two units: 1 in f32, 2 in bf16 (a pair is one instruction), 32 on AMX in bf16.
template <class T>
inline idx RowBlock() {
  return ActiveKernels().of<T>().row_block;
}

// dW (n, k) += dy^T x, with dy (rows, n) and x (rows, k): rows a multiple of RowBlock, padding
// rows zero. One chain an element over the rows in order, going on from what dW holds. The buffers
// are scratch that the caller keeps between calls.
template <class T>
struct WeightGradScratch {
  PackedLeft<T> dy;
  PackedMatrix<T> x;

  void PackX(const T* src, idx lds, idx k, idx rows);
};
template <class T>
void WeightGrad(float* dw, idx ldw, const T* dy, idx ldy, idx n, const T* x, idx ldx, idx k,
                idx rows, WeightGradScratch<T>& scratch);
// The same with the x that was packed last, for some rows of dW after others.
template <class T>
void WeightGrad(float* dw, idx ldw, const T* dy, idx ldy, idx n, WeightGradScratch<T>& scratch);

}  // namespace opo
