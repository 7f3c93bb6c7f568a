// The layouts that every instruction-set path shares.
//
// Rows: activations are row-major with a row stride ("ld") that is a multiple of kPad elements; the
// elements behind the last column are zero, and kernels keep them so. Kernels therefore run over
// whole vectors.
//
// Packed matrices: the second operand of a GEMM, y[m][n] = sum_k a[m][k] * b[n][k], in panels of
// kPanel columns n. A panel holds its k in pairs for bf16 (as vdpbf16ps and AMX read them),
//   panel[(k / 2) * 2 * kPanel + 2 * (n % kPanel) + k % 2],
// and one by one for f32: panel[k * kPanel + n % kPanel]. Columns behind N and k behind K are zero;
// k is padded to kPad.
#pragma once

#include "base/types.h"

namespace opo {

inline constexpr idx kPad = 32;    // row strides, and the k of packed matrices
inline constexpr idx kPanel = 32;  // columns of a packed panel
// k of a packed panel that lie side by side, and that one turn of a product's loop takes.
template <class T>
inline constexpr idx kTogether = sizeof(T) == 2 ? 2 : 1;
inline constexpr idx kKeyBlock = 32;  // keys of an attention block; tokens of a KV page
inline constexpr idx kRowBlock = 32;  // a multiple of every path's row_block

// The row stride of matrices as wide as the vocabulary. Rows a multiple of 4 KB apart would share
// the same few sets of every cache, and a block of them could not stay in any: they move on by one
// kPad.
inline constexpr idx WideStride(idx n) {
  const idx ld = RoundUp(n, kPad);
  return ld % 1024 == 0 ? ld + kPad : ld;
}

inline constexpr idx PackedSize(idx n, idx k) { return RoundUp(n, kPanel) * RoundUp(k, kPad); }
inline constexpr idx PanelSize(idx k) { return RoundUp(k, kPad) * kPanel; }

}  // namespace opo
