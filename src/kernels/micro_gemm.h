// The inner kernel of every matrix product: R rows times one packed panel of 32 columns, one pass
// over k in order, one accumulator an output element. Included only by *_isa.cpp.
//
// Order of summation of an element: acc = start; for k (f32), or pairs of k (bf16), ascending: acc
// = acc + a*b. With vdpbf16ps a pair is one instruction (its own rounding, denormals as zero);
// without it a pair is two FMAs, even k first. Nothing depends on R, on the panel, or on who else
// is computed.
#pragma once

#include "kernels/layout.h"
#include "kernels/simd.h"

namespace opo::OPO_ISA {

// The registers of the path: `Vec` is its native vector (an element's arithmetic does not depend on
// the lanes beside it), a block is kMicroRows rows by kMicroVectors vectors.
#if defined(__AVX512F__)
using Vec = __m512;
constexpr idx kMicroRows = 12;
OPO_INLINE Vec VecLoad(const float* p) { return _mm512_loadu_ps(p); }
OPO_INLINE void VecStore(float* p, Vec v) { _mm512_storeu_ps(p, v); }
OPO_INLINE Vec VecSplat(float x) { return _mm512_set1_ps(x); }
OPO_INLINE Vec VecFma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__)
using Vec = __m256;
constexpr idx kMicroRows = 6;
OPO_INLINE Vec VecLoad(const float* p) { return _mm256_loadu_ps(p); }
OPO_INLINE void VecStore(float* p, Vec v) { _mm256_storeu_ps(p, v); }
OPO_INLINE Vec VecSplat(float x) { return _mm256_set1_ps(x); }
OPO_INLINE Vec VecFma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
#else
using Vec = f32x4;
constexpr idx kMicroRows = 4;
OPO_INLINE Vec VecLoad(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
OPO_INLINE void VecStore(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof(v)); }
OPO_INLINE Vec VecSplat(float x) { return Vec{x, x, x, x}; }
OPO_INLINE Vec VecFma(Vec a, Vec b, Vec c) { return a * b + c; }
#endif
constexpr int kMicroVectors = 2;
constexpr idx kVecLanes = sizeof(Vec) / sizeof(float);
using VecU32 = std::uint32_t __attribute__((vector_size(sizeof(Vec))));

template <idx R>
OPO_INLINE void MicroColumns(const float* a, idx lda, const float* b, idx num_k, float* c, idx ldc,
                             bool from_c) {
  Vec acc[R][kMicroVectors];
  for (idx r = 0; r < R; ++r) {
    for (int v = 0; v < kMicroVectors; ++v) {
      acc[r][v] = from_c ? VecLoad(c + r * ldc + v * kVecLanes) : VecSplat(0.0f);
    }
  }
  for (idx k = 0; k < num_k; ++k) {
    Vec bv[kMicroVectors];
    for (int v = 0; v < kMicroVectors; ++v) bv[v] = VecLoad(b + k * kPanel + v * kVecLanes);
#pragma GCC unroll 16
    for (idx r = 0; r < R; ++r) {
      const Vec av = VecSplat(a[r * lda + k]);
      for (int v = 0; v < kMicroVectors; ++v) acc[r][v] = VecFma(av, bv[v], acc[r][v]);
    }
  }
  for (idx r = 0; r < R; ++r) {
    for (int v = 0; v < kMicroVectors; ++v) VecStore(c + r * ldc + v * kVecLanes, acc[r][v]);
  }
}

template <idx R>
OPO_INLINE void MicroColumns(const bf16* a, idx lda, const bf16* b, idx num_k, float* c, idx ldc,
                             bool from_c) {
  const idx num_pairs = (num_k + 1) / 2;
  Vec acc[R][kMicroVectors];
  for (idx r = 0; r < R; ++r) {
    for (int v = 0; v < kMicroVectors; ++v) {
      acc[r][v] = from_c ? VecLoad(c + r * ldc + v * kVecLanes) : VecSplat(0.0f);
    }
  }
  for (idx p = 0; p < num_pairs; ++p) {
    VecU32 bv[kMicroVectors];
    __builtin_memcpy(bv, b + p * 2 * kPanel, sizeof(bv));
#if !defined(__AVX512BF16__)
    Vec even[kMicroVectors];
    Vec odd[kMicroVectors];
    for (int v = 0; v < kMicroVectors; ++v) {
      even[v] = (Vec)(bv[v] << 16);
      odd[v] = (Vec)(bv[v] & 0xffff0000U);
    }
#endif
#pragma GCC unroll 16
    for (idx r = 0; r < R; ++r) {
      std::uint32_t pair;
      __builtin_memcpy(&pair, a + r * lda + 2 * p, sizeof(pair));
#if defined(__AVX512BF16__)
      const __m512i av = _mm512_set1_epi32(static_cast<int>(pair));
      for (int v = 0; v < kMicroVectors; ++v) {
        acc[r][v] = _mm512_dpbf16_ps(acc[r][v], (__m512bh)av, (__m512bh)bv[v]);
      }
#else
      const Vec a_even = VecSplat(__builtin_bit_cast(float, pair << 16));
      const Vec a_odd = VecSplat(__builtin_bit_cast(float, pair & 0xffff0000U));
      for (int v = 0; v < kMicroVectors; ++v) {
        acc[r][v] = VecFma(a_even, even[v], acc[r][v]);
        acc[r][v] = VecFma(a_odd, odd[v], acc[r][v]);
      }
#endif
    }
  }
  for (idx r = 0; r < R; ++r) {
    for (int v = 0; v < kMicroVectors; ++v) VecStore(c + r * ldc + v * kVecLanes, acc[r][v]);
  }
}

// c[r][0..32) = (from_c ? c : 0) + a[r][:] . panel, for R rows.
template <idx R, class T>
OPO_INLINE void MicroRowsOf(const T* a, idx lda, const T* panel, idx num_k, float* c, idx ldc,
                            bool from_c) {
  constexpr idx kPairWidth = sizeof(T) == 2 ? 2 : 1;
  for (idx column = 0; column < kPanel; column += kMicroVectors * kVecLanes) {
    MicroColumns<R>(a, lda, panel + column * kPairWidth, num_k, c + column, ldc, from_c);
  }
}

// The same for any number of rows.
template <class T>
static void MicroGemm(const T* a, idx lda, const T* panel, idx num_rows, idx num_k, float* c,
                      idx ldc, bool from_c) {
  while (num_rows >= kMicroRows) {
    MicroRowsOf<kMicroRows>(a, lda, panel, num_k, c, ldc, from_c);
    a += kMicroRows * lda;
    c += kMicroRows * ldc;
    num_rows -= kMicroRows;
  }
  switch (num_rows) {
#define OPO_ROWS(R)                                                              \
  case R:                                                                        \
    MicroRowsOf<(R < kMicroRows ? R : 1)>(a, lda, panel, num_k, c, ldc, from_c); \
    break;
    OPO_ROWS(1)
    OPO_ROWS(2)
    OPO_ROWS(3)
    OPO_ROWS(4)
    OPO_ROWS(5)
    OPO_ROWS(6)
    OPO_ROWS(7)
    OPO_ROWS(8)
    OPO_ROWS(9)
    OPO_ROWS(10)
    OPO_ROWS(11)
#undef OPO_ROWS
    default:
      break;
  }
}

}  // namespace opo::OPO_ISA
