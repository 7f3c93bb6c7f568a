// The inner kernel of every matrix product: a tile of R rows times V vectors of packed columns, one
// pass over k in order, one accumulator an output element. Included only by *_isa.cpp.
//
// Order of summation of an element: acc = start; for k (f32), or pairs of k (bf16), ascending: acc
// = acc + a*b. With vdpbf16ps a pair is one instruction (its own rounding, denormals as zero);
// without it a pair is two FMAs, even k first. Nothing depends on R, on V, on the panel, or on who
// else is computed.
#pragma once

#include "kernels/layout.h"
#include "kernels/simd.h"
#if defined(OPO_AMX) || defined(OPO_AMX_TWIN)
#include "kernels/tile_gemm.h"
#endif

namespace opo::OPO_ISA {

// `Vec` is the path's native vector (an element's arithmetic does not depend on the lanes beside
// it). A tile fills the register file: the most rows by two vectors, or fewer rows by more vectors,
// so that there are always more chains than an FMA is long.
#if defined(__AVX512F__)
using Vec = __m512;
OPO_INLINE Vec VecLoad(const float* p) { return _mm512_loadu_ps(p); }
OPO_INLINE void VecStore(float* p, Vec v) { _mm512_storeu_ps(p, v); }
OPO_INLINE Vec VecSplat(float x) { return _mm512_set1_ps(x); }
OPO_INLINE Vec VecFma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
template <class T>
constexpr idx kMicroRows = 12;
#elif defined(__AVX2__)
using Vec = __m256;
OPO_INLINE Vec VecLoad(const float* p) { return _mm256_loadu_ps(p); }
OPO_INLINE void VecStore(float* p, Vec v) { _mm256_storeu_ps(p, v); }
OPO_INLINE Vec VecSplat(float x) { return _mm256_set1_ps(x); }
OPO_INLINE Vec VecFma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
template <class T>
constexpr idx kMicroRows = sizeof(T) == 2 ? 4 : 6;
#else
using Vec = f32x4;
OPO_INLINE Vec VecLoad(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
OPO_INLINE void VecStore(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof(v)); }
OPO_INLINE Vec VecSplat(float x) { return Vec{x, x, x, x}; }
OPO_INLINE Vec VecFma(Vec a, Vec b, Vec c) { return a * b + c; }
template <class T>
constexpr idx kMicroRows = 4;
#endif
constexpr idx kVecLanes = sizeof(Vec) / sizeof(float);
constexpr idx kPanelVectors = kPanel / kVecLanes;
using VecU32 = std::uint32_t __attribute__((vector_size(sizeof(Vec))));

// Vectors of a tile of `rows` rows.
template <class T>
constexpr idx VectorsOf([[maybe_unused]] idx rows) {
#if defined(__AVX512BF16__)
  return rows > 6 ? 2 : rows > 2 ? 4 : 8;
#elif defined(__AVX512F__)
  return sizeof(T) == 2 ? rows > 4 ? 2 : 4 : rows > 6 ? 2 : rows > 2 ? 4 : 8;
#elif defined(__AVX2__)
  return rows > (sizeof(T) == 2 ? 1 : 3) ? 2 : 4;
#else
  return 2;
#endif
}

// Where element (k, column j) of a packed panel stands.
template <class T>
constexpr idx PanelIndex(idx k, idx j) {
  return sizeof(T) == 2 ? (k / 2) * 2 * kPanel + 2 * j + k % 2 : k * kPanel + j;
}

// Memory that a tile asks for while it computes, a bit further on with every k: between the sums a
// request waits for memory and the sums do not, in a burst before them both wait.
struct Ahead {
  // Two stretches, and by how many bytes a turn of the product's loop moves on in each.
  const char* right;
  idx right_step;
  const char* left;
  idx left_step;
  bool rows_of_c;  // of the next panel of these rows as well
};

// Nothing new: what is read at any rate. (To ask for address 0 is to walk the page tables.)
OPO_INLINE Ahead NothingAhead(const void* here) {
  const auto* at = static_cast<const char*>(here);
  return {at, 0, at, 0, false};
}

OPO_INLINE void Ask(Ahead& ahead) {
  __builtin_prefetch(ahead.right, 0, 2);
  __builtin_prefetch(ahead.left, 0, 2);
  ahead.right += ahead.right_step;
  ahead.left += ahead.left_step;
}

// A panel's part of rows of c: each is two lines of a page of its own, which no hardware foresees.
OPO_INLINE void AskForRows(const float* c, idx ldc, idx num_rows) {
  for (idx r = 0; r < num_rows; ++r) {
    __builtin_prefetch(c + r * ldc, 1, 3);
    __builtin_prefetch(c + r * ldc + kLanes, 1, 3);
  }
}

// The left operand `a`: row-major with stride lda, or (kPackedLeft) rows of a packed panel.
// The right one: vectors from the beginning of panel `b` on, the next panel `panel_size` behind.
template <idx R, idx V, bool kPackedLeft>
static __attribute__((noinline)) void MicroTile(const float* a, idx lda, const float* b,
                                                idx panel_size, idx num_k, float* c, idx ldc,
                                                bool from_c, const Ahead& from) {
  Ahead ahead = from;
  Vec acc[R][V];
#pragma GCC unroll 16
  for (idx r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (idx v = 0; v < V; ++v) {
      acc[r][v] = from_c ? VecLoad(c + r * ldc + v * kVecLanes) : VecSplat(0.0f);
    }
  }
  for (idx k = 0; k < num_k; ++k) {
    Vec bv[V];
#pragma GCC unroll 16
    for (idx v = 0; v < V; ++v) {
      bv[v] = VecLoad(b + v / kPanelVectors * panel_size + v % kPanelVectors * kVecLanes);
    }
#pragma GCC unroll 16
    for (idx r = 0; r < R; ++r) {
      const Vec av = VecSplat(kPackedLeft ? a[r] : a[r * lda]);
#pragma GCC unroll 16
      for (idx v = 0; v < V; ++v) acc[r][v] = VecFma(av, bv[v], acc[r][v]);
    }
    Ask(ahead);
    a += kPackedLeft ? kPanel : 1;
    b += kPanel;
  }
#pragma GCC unroll 16
  for (idx r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (idx v = 0; v < V; ++v) VecStore(c + r * ldc + v * kVecLanes, acc[r][v]);
  }
}

template <idx R, idx V, bool kPackedLeft>
static __attribute__((noinline)) void MicroTile(const bf16* a, idx lda, const bf16* b,
                                                idx panel_size, idx num_k, float* c, idx ldc,
                                                bool from_c, const Ahead& from) {
  Ahead ahead = from;
  Vec acc[R][V];
#pragma GCC unroll 16
  for (idx r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (idx v = 0; v < V; ++v) {
      acc[r][v] = from_c ? VecLoad(c + r * ldc + v * kVecLanes) : VecSplat(0.0f);
    }
  }
  for (idx k = 0; k < num_k; k += 2) {
    VecU32 bv[V];
#pragma GCC unroll 16
    for (idx v = 0; v < V; ++v) {
      __builtin_memcpy(&bv[v],
                       b + v / kPanelVectors * panel_size + v % kPanelVectors * 2 * kVecLanes,
                       sizeof(VecU32));
    }
#if !defined(__AVX512BF16__)
    Vec even[V];
    Vec odd[V];
#pragma GCC unroll 16
    for (idx v = 0; v < V; ++v) {
      even[v] = (Vec)(bv[v] << 16);
      odd[v] = (Vec)(bv[v] & 0xffff0000U);
    }
#endif
#pragma GCC unroll 16
    for (idx r = 0; r < R; ++r) {
      std::uint32_t pair;
      __builtin_memcpy(&pair, kPackedLeft ? a + 2 * r : a + r * lda, sizeof(pair));
#if defined(__AVX512BF16__)
      const __m512i av = _mm512_set1_epi32(static_cast<int>(pair));
#pragma GCC unroll 16
      for (idx v = 0; v < V; ++v) {
        acc[r][v] = _mm512_dpbf16_ps(acc[r][v], (__m512bh)av, (__m512bh)bv[v]);
      }
#else
      const VecU32 av = VecU32{} + pair;
      const Vec a_even = (Vec)(av << 16);
      const Vec a_odd = (Vec)(av & 0xffff0000U);
#pragma GCC unroll 16
      for (idx v = 0; v < V; ++v) {
        acc[r][v] = VecFma(a_even, even[v], acc[r][v]);
        acc[r][v] = VecFma(a_odd, odd[v], acc[r][v]);
      }
#endif
    }
    Ask(ahead);
    a += kPackedLeft ? 2 * kPanel : 2;
    b += 2 * kPanel;
  }
#pragma GCC unroll 16
  for (idx r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (idx v = 0; v < V; ++v) VecStore(c + r * ldc + v * kVecLanes, acc[r][v]);
  }
}

// R rows times num_panels panels, kPanels at a time and what is left at once: a pass lasts as long
// as a chain over k however few panels it has.
template <idx R, idx kPanels, bool kPackedLeft, class T>
static void MicroPasses(const T* a, idx lda, const T*& b, idx panel_size, idx& num_panels,
                        idx num_k, float*& c, idx ldc, bool from_c, const Ahead& ahead) {
  for (; num_panels >= kPanels; num_panels -= kPanels) {
    MicroTile<R, kPanels * kPanelVectors, kPackedLeft>(a, lda, b, panel_size, num_k, c, ldc, from_c,
                                                       ahead);
    b += kPanels * panel_size;
    c += kPanels * kPanel;
  }
  if constexpr (kPanels > 2) {
    MicroPasses<R, kPanels - 1, kPackedLeft>(a, lda, b, panel_size, num_panels, num_k, c, ldc,
                                             from_c, ahead);
  }
}

template <idx R, bool kPackedLeft, class T>
static void MicroRows(const T* a, idx lda, const T* b, idx panel_size, idx num_panels, idx num_k,
                      float* c, idx ldc, bool from_c, const Ahead& ahead) {
  constexpr idx kVectors = VectorsOf<T>(R);
  constexpr idx kPart = kVectors < kPanelVectors ? kVectors : kPanelVectors;  // of one panel
  if constexpr (kVectors > kPanelVectors) {
    MicroPasses<R, kVectors / kPanelVectors, kPackedLeft>(a, lda, b, panel_size, num_panels, num_k,
                                                          c, ldc, from_c, ahead);
  }
  for (idx p = 0; p < num_panels; ++p) {
    if (ahead.rows_of_c && p + 1 < num_panels) AskForRows(c + (p + 1) * kPanel, ldc, R);
    for (idx v = 0; v < kPanelVectors; v += kPart) {
      MicroTile<R, kPart, kPackedLeft>(a, lda, b + p * panel_size + v * kVecLanes * kTogether<T>,
                                       panel_size, num_k, c + p * kPanel + v * kVecLanes, ldc,
                                       from_c, ahead);
    }
  }
}

// Rows of a block.
#if defined(OPO_AMX) || defined(OPO_AMX_TWIN)
template <class T>
constexpr idx kBlockRows = sizeof(T) == 2 ? kTileBlock : kMicroRows<T>;
// A tile wants the k of a row side by side.
template <class T>
constexpr bool kLeftInRows = sizeof(T) == 2;
// k that are summed before they are added to a chain.
template <class T>
constexpr idx kChainBlock = sizeof(T) == 2 ? kTileK : kTogether<T>;
using MicroSession = TileSession;
#else
template <class T>
constexpr idx kBlockRows = kMicroRows<T>;
template <class T>
constexpr bool kLeftInRows = false;
template <class T>
constexpr idx kChainBlock = kTogether<T>;
struct MicroSession {};  // what a kernel opens before its first product
#endif

#if defined(OPO_AMX) || defined(OPO_AMX_TWIN)
OPO_INLINE void AskFor(const char* from, idx bytes) {
  for (idx i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}
#endif

// At most kBlockRows rows times num_panels panels.
template <bool kPackedLeft, class T>
static void MicroBlock(const T* a, idx lda, const T* b, idx panel_size, idx num_panels,
                       idx num_rows, idx num_k, float* c, idx ldc, bool from_c,
                       const Ahead& ahead) {
#if defined(OPO_AMX) || defined(OPO_AMX_TWIN)
  if constexpr (sizeof(T) == 2) {
    static_assert(!kPackedLeft);
    // A tile's own loop has no room between the sums.
    const idx turns = CeilDiv(num_k, kTogether<T>);
    AskFor(ahead.right, turns * ahead.right_step);
    AskFor(ahead.left, turns * ahead.left_step);
    TilePanels(a, lda, b, panel_size, num_panels, num_rows, num_k, c, ldc, from_c);
    return;
  }
#endif
  switch (num_rows) {
#define OPO_ROWS(R)                                                                                \
  case R:                                                                                          \
    MicroRows<(R <= kMicroRows<T> ? R : 1), kPackedLeft>(a, lda, b, panel_size, num_panels, num_k, \
                                                         c, ldc, from_c, ahead);                   \
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
    OPO_ROWS(12)
#undef OPO_ROWS
    default:
      break;
  }
}

// Calls body(first, count) for the blocks that `num_rows` rows are cut into: at most kBlockRows
// each and as even as can be, because a block of one row takes as long as one of four.
template <class T, class Body>
OPO_INLINE void ForRowBlocks(idx num_rows, const Body& body) {
  const idx blocks = (num_rows + kBlockRows<T> - 1) / kBlockRows<T>;
  for (idx i = 0, first = 0; i < blocks; ++i) {
    const idx count = (num_rows - first) / (blocks - i);
    body(first, count);
    first += count;
  }
}

// c[r][0..32 num_panels) = (from_c ? c : 0) + a[r][:] . panels, for any number of rows.
template <class T>
static void MicroGemm(const T* a, idx lda, const T* b, idx panel_size, idx num_panels, idx num_rows,
                      idx num_k, float* c, idx ldc, bool from_c) {
  const Ahead nothing = NothingAhead(a);
  ForRowBlocks<T>(num_rows, [&](idx first, idx count) {
    MicroBlock<false>(a + first * lda, lda, b, panel_size, num_panels, count, num_k,
                      c + first * ldc, ldc, from_c, nothing);
  });
}

}  // namespace opo::OPO_ISA
