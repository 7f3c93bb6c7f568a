// Sixteen f32 lanes, whatever the instruction set: the vector type of every kernel. Included only
// by the *_isa.cpp files, each compiled once per path in a namespace of its own (OPO_ISA), with the
// path's flags. Those files use no inline function or template of the standard library: the linker
// could pick the copy that was compiled for a newer CPU and hand it to everybody.
//
// Sums over lanes are one fixed tree: lanes i and i+8, then i+4, i+2, i+1.
//
// AVX-512 has a register of 16 lanes. The other paths have two or four smaller ones, as a struct of
// halves: the compiler would keep its own 64-byte vectors in memory there. What follows is written
// for one register (`Native`) and then for the struct, half by half.
#pragma once

#include "base/types.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define OPO_INLINE static inline __attribute__((always_inline))

namespace opo::OPO_ISA {

using f32x8 = float __attribute__((vector_size(32)));
using f32x4 = float __attribute__((vector_size(16)));
using u32x16 = std::uint32_t __attribute__((vector_size(64)));
using u16x16 = std::uint16_t __attribute__((vector_size(32)));

constexpr idx kLanes = 16;

template <class Half>
struct Twice {
  Half lo, hi;
};

#if defined(__AVX512F__)
using Native = float __attribute__((vector_size(64)));
using NativeBits = u32x16;
using NativeMask = __mmask16;
using f32x16 = Native;
using Mask = NativeMask;
#elif defined(__AVX2__)
using Native = f32x8;
using NativeBits = std::uint32_t __attribute__((vector_size(32)));
using NativeMask = std::int32_t __attribute__((vector_size(32)));
using f32x16 = Twice<Native>;
using Mask = Twice<NativeMask>;
#else
using Native = f32x4;
using NativeBits = std::uint32_t __attribute__((vector_size(16)));
using NativeMask = std::int32_t __attribute__((vector_size(16)));
using f32x16 = Twice<Twice<Native> >;
using Mask = Twice<Twice<NativeMask> >;
#endif

#define OPO_OPERATOR(op)                                                  \
  template <class H>                                                      \
  OPO_INLINE Twice<H> operator op(const Twice<H>& a, const Twice<H>& b) { \
    return {a.lo op b.lo, a.hi op b.hi};                                  \
  }                                                                       \
  template <class H>                                                      \
  OPO_INLINE Twice<H> operator op(const Twice<H>& a, float b) {           \
    return {a.lo op b, a.hi op b};                                        \
  }                                                                       \
  template <class H>                                                      \
  OPO_INLINE Twice<H> operator op(float a, const Twice<H>& b) {           \
    return {a op b.lo, a op b.hi};                                        \
  }
OPO_OPERATOR(+)
OPO_OPERATOR(-)
OPO_OPERATOR(*)
OPO_OPERATOR(/)
#undef OPO_OPERATOR
template <class H>
OPO_INLINE Twice<H> operator-(const Twice<H>& a) {
  return {-a.lo, -a.hi};
}

// Loads, stores and lane numbers of a register or a struct of them: with these the compiler builds
// all that follows for both.
OPO_INLINE void LoadTo(Native& v, const float* p) { __builtin_memcpy(&v, p, sizeof(v)); }
OPO_INLINE void LoadTo(Native& v, const bf16* p) {
#if defined(__AVX512F__)
  const __m512i u = _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256((const __m256i*)p));
  v = (Native)_mm512_maskz_slli_epi32(0xffff, u, 16);
#elif defined(__AVX2__)
  const __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  v = (Native)_mm256_slli_epi32(u, 16);
#else
  std::uint16_t u __attribute__((vector_size(8)));
  __builtin_memcpy(&u, p, sizeof(u));
  v = (Native)(__builtin_convertvector(u, NativeBits) << 16);
#endif
}
OPO_INLINE void StoreFrom(float* p, Native v) { __builtin_memcpy(p, &v, sizeof(v)); }
OPO_INLINE void SplatTo(Native& v, float x) {
#if defined(__AVX512F__)
  v = (Native)_mm512_set1_ps(x);
#elif defined(__AVX2__)
  v = (Native)_mm256_set1_ps(x);
#else
  v = Native{x, x, x, x};
#endif
}
template <class H, class T>
OPO_INLINE void LoadTo(Twice<H>& v, const T* p) {
  LoadTo(v.lo, p);
  LoadTo(v.hi, p + sizeof(H) / sizeof(float));
}
template <class H>
OPO_INLINE void StoreFrom(float* p, const Twice<H>& v) {
  StoreFrom(p, v.lo);
  StoreFrom(p + sizeof(H) / sizeof(float), v.hi);
}
template <class H>
OPO_INLINE void SplatTo(Twice<H>& v, float x) {
  SplatTo(v.lo, x);
  SplatTo(v.hi, x);
}

OPO_INLINE f32x16 Splat(float x) {
  f32x16 v;
  SplatTo(v, x);
  return v;
}
OPO_INLINE f32x16 Load(const float* p) {
  f32x16 v;
  LoadTo(v, p);
  return v;
}
OPO_INLINE f32x16 Load(const bf16* p) {
  f32x16 v;
  LoadTo(v, p);
  return v;
}
OPO_INLINE void Store(float* p, const f32x16& v) { StoreFrom(p, v); }

// a * b + c: rounded once where the path has FMA, twice on the portable one.
OPO_INLINE Native Fma(Native a, Native b, Native c) {
#if defined(__AVX512F__)
  return (Native)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Native)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

OPO_INLINE NativeMask Less(Native a, Native b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ);
#else
  return a < b;
#endif
}
OPO_INLINE NativeMask IsZero(Native a) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a, _mm512_setzero_ps(), _CMP_EQ_OQ);
#else
  return a == 0.0f;
#endif
}
OPO_INLINE Native Select(NativeMask mask, Native yes, Native no) {
#if defined(__AVX512F__)
  return (Native)_mm512_mask_mov_ps((__m512)no, mask, (__m512)yes);
#elif defined(__AVX2__)
  return (Native)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask);
#else
  return (Native)((mask & (NativeMask)yes) | (~mask & (NativeMask)no));
#endif
}
// a > b ? a : b, hence b where one of them is NaN: what maxps does.
OPO_INLINE Native Max(Native a, Native b) {
#if defined(__AVX512F__)
  return (Native)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Native)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return Select(a > b, a, b);
#endif
}
// Correctly rounded, so the same on every path.
OPO_INLINE Native Sqrt(Native a) {
#if defined(__AVX512F__)
  return (Native)_mm512_maskz_sqrt_ps(0xffff, (__m512)a);
#elif defined(__AVX2__)
  return (Native)_mm256_sqrt_ps((__m256)a);
#else
  return Native{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]),
                __builtin_sqrtf(a[3])};
#endif
}

// exp(x), error below 2 ulp on [-87, 88]; exactly 0 for x < -87.3 (-inf too), +inf above 88.7;
// NaN stays NaN. Cody-Waite reduction by ln 2, then a degree-6 polynomial (Cephes' expf).
OPO_INLINE Native Exp(Native x) {
  const auto splat = [](float c) __attribute__((always_inline)) {
    Native v;
    SplatTo(v, c);
    return v;
  };
#if defined(__AVX512F__)
  // Above 88.7 every result overflows; without the limit p could be anything there.
  const Native limited = (Native)_mm512_maskz_min_ps(0xffff, (__m512)splat(89.0f), (__m512)x);
#else
  const Native limited = x;  // what is wrong out of range is replaced below
#endif
  const Native shifted = Fma(limited, splat(1.44269504088896341f), splat(12582912.0f));
  const Native n = shifted - 12582912.0f;  // nearest integer
  Native r = Fma(n, splat(-0.693359375f), limited);
  r = Fma(n, splat(2.12194440e-4f), r);
  Native p = splat(1.9875691500e-4f);
  p = Fma(p, r, splat(1.3981999507e-3f));
  p = Fma(p, r, splat(8.3334519073e-3f));
  p = Fma(p, r, splat(4.1665795894e-2f));
  p = Fma(p, r, splat(1.6666665459e-1f));
  p = Fma(p, r, splat(5.0000001201e-1f));
  p = Fma(p, r * r, r) + 1.0f;
#if defined(__AVX512F__)
  const __mmask16 not_zero = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.33654f), _CMP_NLT_UQ);
  return (Native)_mm512_maskz_scalef_ps(not_zero, (__m512)p, (__m512)n);
#else
  // p * 2^n: in range the result is a normal number, so n is added to p's exponent; `shifted` holds
  // n in its low bits. x + inf is inf above the range, and NaN for NaN.
  const Native y = (Native)((NativeBits)p + ((NativeBits)shifted << 23));
  const Native positive = Select(Less(x, splat(-87.33654f)), Native{}, y);
  return Select(x <= splat(88.72283f), positive, x + __builtin_inff());
#endif
}

// The bits of `even` and `odd`, which are exact bf16 numbers, side by side: even's in the low half.
OPO_INLINE Native Zip(Native even, Native odd) {
  return (Native)(((NativeBits)even >> 16) | (NativeBits)odd);
}

#if !defined(__AVX512F__)
template <class H>
OPO_INLINE Twice<H> Fma(const Twice<H>& a, const Twice<H>& b, const Twice<H>& c) {
  return {Fma(a.lo, b.lo, c.lo), Fma(a.hi, b.hi, c.hi)};
}
template <class H>
OPO_INLINE auto Less(const Twice<H>& a, const Twice<H>& b) -> Twice<decltype(Less(a.lo, b.lo))> {
  return {Less(a.lo, b.lo), Less(a.hi, b.hi)};
}
template <class H>
OPO_INLINE auto IsZero(const Twice<H>& a) -> Twice<decltype(IsZero(a.lo))> {
  return {IsZero(a.lo), IsZero(a.hi)};
}
template <class M, class H>
OPO_INLINE Twice<H> Select(const Twice<M>& mask, const Twice<H>& yes, const Twice<H>& no) {
  return {Select(mask.lo, yes.lo, no.lo), Select(mask.hi, yes.hi, no.hi)};
}
template <class H>
OPO_INLINE Twice<H> Max(const Twice<H>& a, const Twice<H>& b) {
  return {Max(a.lo, b.lo), Max(a.hi, b.hi)};
}
template <class H>
OPO_INLINE Twice<H> Sqrt(const Twice<H>& a) {
  return {Sqrt(a.lo), Sqrt(a.hi)};
}
template <class H>
OPO_INLINE Twice<H> Exp(const Twice<H>& x) {
  return {Exp(x.lo), Exp(x.hi)};
}
template <class H>
OPO_INLINE Twice<H> Zip(const Twice<H>& even, const Twice<H>& odd) {
  return {Zip(even.lo, odd.lo), Zip(even.hi, odd.hi)};
}
#endif

// Rounds to bf16: to nearest, ties to even; NaN stays NaN (its upper half is never all zero after
// the OR). The avx512bf16 path uses its own instruction throughout, which takes denormals as zero,
// as vdpbf16ps does; all else is the same.
OPO_INLINE NativeBits RoundedBits(Native v) {
#if defined(__AVX512BF16__)
  const __m256i u = (__m256i)_mm512_cvtneps_pbh((__m512)v);
  return (NativeBits)_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, u), 16);
#else
  const NativeBits u = (NativeBits)v;
  const NativeBits rounded = u + 0x7fffU + ((u >> 16) & 1U);
#if defined(__AVX512F__)
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
  const NativeBits all = (NativeBits)_mm512_mask_or_epi32((__m512i)rounded, nan, (__m512i)u,
                                                          _mm512_set1_epi32(0x400000));
#else
  const NativeBits all = (NativeBits)Select(v != v, (Native)(u | 0x400000U), (Native)rounded);
#endif
  return all & 0xffff0000U;
#endif
}
#if defined(__AVX512F__)
OPO_INLINE u16x16 RoundToBf16(const f32x16& v) {
#if defined(__AVX512BF16__)
  return (u16x16)_mm512_cvtneps_pbh((__m512)v);
#else
  return (u16x16)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)(RoundedBits(v) >> 16));
#endif
}
OPO_INLINE f32x16 RoundAs(bf16, const f32x16& v) { return (f32x16)RoundedBits(v); }
#elif defined(__AVX2__)
OPO_INLINE u16x16 RoundToBf16(const f32x16& v) {
  const __m256i pairs =
      _mm256_packus_epi32((__m256i)(RoundedBits(v.lo) >> 16), (__m256i)(RoundedBits(v.hi) >> 16));
  return (u16x16)_mm256_permute4x64_epi64(pairs, 0xd8);  // packus works on each half by itself
}
OPO_INLINE f32x16 RoundAs(bf16, const f32x16& v) {
  return {(Native)RoundedBits(v.lo), (Native)RoundedBits(v.hi)};
}
#else
OPO_INLINE f32x16 RoundAs(bf16, const f32x16& v) {
  return {{(Native)RoundedBits(v.lo.lo), (Native)RoundedBits(v.lo.hi)},
          {(Native)RoundedBits(v.hi.lo), (Native)RoundedBits(v.hi.hi)}};
}
OPO_INLINE u16x16 RoundToBf16(const f32x16& v) {
  u16x16 u;
  std::uint32_t bits[kLanes];
  const f32x16 rounded = RoundAs(bf16{}, v);
  __builtin_memcpy(bits, &rounded, sizeof(bits));
  for (int i = 0; i < 16; ++i) u[i] = static_cast<std::uint16_t>(bits[i] >> 16);
  return u;
}
#endif
// What a value becomes when it is stored as T.
OPO_INLINE f32x16 RoundAs(float, const f32x16& v) { return v; }

OPO_INLINE void Store(bf16* p, const f32x16& v) {
  const u16x16 u = RoundToBf16(v);
  __builtin_memcpy(p, &u, sizeof(u));
}

OPO_INLINE f32x16 LaneIndex() {
  static const float kIndex[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return Load(kIndex);
}

// The first n lanes only (n may be larger): the rest reads as zero, is not written.
#if defined(__AVX512F__)
OPO_INLINE Mask FirstLanes(idx n) {
  return static_cast<Mask>(n >= kLanes ? 0xffffU : n <= 0 ? 0U : (1U << n) - 1U);
}
OPO_INLINE f32x16 LoadPart(const float* p, idx n) {
  return (f32x16)_mm512_maskz_loadu_ps(FirstLanes(n), p);
}
OPO_INLINE f32x16 LoadPart(const bf16* p, idx n) {
  const __m256i u = _mm256_maskz_loadu_epi16(FirstLanes(n), p);
  return (f32x16)_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, u), 16);
}
OPO_INLINE void StorePart(float* p, const f32x16& v, idx n) {
  _mm512_mask_storeu_ps(p, FirstLanes(n), (__m512)v);
}
OPO_INLINE void StorePart(bf16* p, const f32x16& v, idx n) {
  _mm256_mask_storeu_epi16(p, FirstLanes(n), (__m256i)RoundToBf16(v));
}
#else
OPO_INLINE Mask FirstLanes(idx n) { return Less(LaneIndex(), Splat(static_cast<float>(n))); }
template <class T>
OPO_INLINE f32x16 LoadPart(const T* p, idx n) {
  if (n >= kLanes) return Load(p);
  T tmp[kLanes] = {};
  __builtin_memcpy(tmp, p, static_cast<unsigned long>(n) * sizeof(T));
  return Load(tmp);
}
template <class T>
OPO_INLINE void StorePart(T* p, const f32x16& v, idx n) {
  if (n >= kLanes) return Store(p, v);
  T tmp[kLanes];
  Store(tmp, v);
  __builtin_memcpy(p, tmp, static_cast<unsigned long>(n) * sizeof(T));
}
#endif

// body(i, lanes) for i = 0, 16, ... below n; `lanes`, for LoadPart and StorePart, says in its type
// that a vector is whole, so that only the last one costs masks.
struct Whole {};
template <class T>
OPO_INLINE f32x16 LoadPart(const T* p, Whole) {
  return Load(p);
}
template <class T>
OPO_INLINE void StorePart(T* p, const f32x16& v, Whole) {
  Store(p, v);
}
template <class Body>
OPO_INLINE void ForVectors(idx n, const Body& body) {
  idx i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, Whole{});
  if (i < n) body(i, n - i);
}
#define OPO_LAMBDA __attribute__((always_inline))  // behind a lambda's parameters

// The sum in the fixed tree, the maximum in any order (NaN lanes may be lost).
OPO_INLINE float SumLanes(f32x4 v) {
#if defined(__AVX2__)
  const f32x4 pair = v + (f32x4)_mm_movehl_ps((__m128)v, (__m128)v);
  return pair[0] + pair[1];
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}
OPO_INLINE float MaxLanes(f32x4 v) {
#if defined(__AVX2__)
  const __m128 pair = _mm_max_ps((__m128)v, _mm_movehl_ps((__m128)v, (__m128)v));
  return _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)));
#else
  const float a = v[0] > v[2] ? v[0] : v[2];
  const float b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
#endif
}
#if defined(__AVX2__)
OPO_INLINE float SumLanes(f32x8 v) {
  return SumLanes((f32x4)_mm256_castps256_ps128((__m256)v) +
                  (f32x4)_mm256_extractf128_ps((__m256)v, 1));
}
OPO_INLINE float MaxLanes(f32x8 v) {
  return MaxLanes(
      (f32x4)_mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1)));
}
#endif
#if defined(__AVX512F__)
OPO_INLINE Twice<f32x8> Halves(f32x16 v) {
  return {__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
          __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)};
}
OPO_INLINE float SumLanes(f32x16 v) { return SumLanes(Halves(v).lo + Halves(v).hi); }
OPO_INLINE float MaxLanes(f32x16 v) {
  return MaxLanes((f32x8)_mm256_max_ps((__m256)Halves(v).lo, (__m256)Halves(v).hi));
}
#else
template <class H>
OPO_INLINE float SumLanes(const Twice<H>& v) {
  return SumLanes(v.lo + v.hi);
}
template <class H>
OPO_INLINE float MaxLanes(const Twice<H>& v) {
  return MaxLanes(Max(v.lo, v.hi));
}
#endif

// dst = src^T for a 16x16 block of 32-bit values of any kind; strides in such values.
#if defined(__AVX512F__)
OPO_INLINE void Transpose16(float* dst, idx ldd, const float* src, idx lds) {
  __m512 a[16];
  __m512 b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(src + i * lds);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_maskz_unpacklo_ps(0xffff, a[i], a[i + 1]);
    b[i + 1] = _mm512_maskz_unpackhi_ps(0xffff, a[i], a[i + 1]);
  }
  // a[4 i + c]: for each quarter q of a register, column 4 q + c of rows 4 i to 4 i + 3.
  const auto pairs = [&](int i, bool high) OPO_LAMBDA {
    const __m512d x = (__m512d)b[i];
    const __m512d y = (__m512d)b[i + 2];
    return (__m512)(high ? _mm512_maskz_unpackhi_pd(0xff, x, y)
                         : _mm512_maskz_unpacklo_pd(0xff, x, y));
  };
  for (int i = 0; i < 16; i += 4) {
    a[i] = pairs(i, false);
    a[i + 1] = pairs(i, true);
    a[i + 2] = pairs(i + 1, false);
    a[i + 3] = pairs(i + 1, true);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512 even0 = _mm512_maskz_shuffle_f32x4(0xffff, a[c], a[4 + c], 0x88);
    const __m512 even1 = _mm512_maskz_shuffle_f32x4(0xffff, a[8 + c], a[12 + c], 0x88);
    const __m512 odd0 = _mm512_maskz_shuffle_f32x4(0xffff, a[c], a[4 + c], 0xdd);
    const __m512 odd1 = _mm512_maskz_shuffle_f32x4(0xffff, a[8 + c], a[12 + c], 0xdd);
    _mm512_storeu_ps(dst + c * ldd, _mm512_maskz_shuffle_f32x4(0xffff, even0, even1, 0x88));
    _mm512_storeu_ps(dst + (4 + c) * ldd, _mm512_maskz_shuffle_f32x4(0xffff, odd0, odd1, 0x88));
    _mm512_storeu_ps(dst + (8 + c) * ldd, _mm512_maskz_shuffle_f32x4(0xffff, even0, even1, 0xdd));
    _mm512_storeu_ps(dst + (12 + c) * ldd, _mm512_maskz_shuffle_f32x4(0xffff, odd0, odd1, 0xdd));
  }
}
#elif defined(__AVX2__)
OPO_INLINE void Transpose8(float* dst, idx ldd, const float* src, idx lds) {
  __m256 a[8];
  __m256 b[8];
  // Rows i and i + 4 share a register, so that the rest is within its halves.
  for (int i = 0; i < 4; ++i) {
    for (int h = 0; h < 2; ++h) {
      const __m256 low = _mm256_castps128_ps256(_mm_loadu_ps(src + i * lds + 4 * h));
      a[i + 4 * h] = _mm256_insertf128_ps(low, _mm_loadu_ps(src + (i + 4) * lds + 4 * h), 1);
    }
  }
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const __m256 x = b[i + j];
      const __m256 y = b[i + j + 2];
      _mm256_storeu_ps(dst + (i + 2 * j) * ldd, _mm256_shuffle_ps(x, y, 0x44));
      _mm256_storeu_ps(dst + (i + 2 * j + 1) * ldd, _mm256_shuffle_ps(x, y, 0xee));
    }
  }
}
OPO_INLINE void Transpose16(float* dst, idx ldd, const float* src, idx lds) {
  for (int i = 0; i < 16; i += 8) {
    for (int j = 0; j < 16; j += 8) Transpose8(dst + j * ldd + i, ldd, src + i * lds + j, lds);
  }
}
#else
OPO_INLINE void Transpose16(float* dst, idx ldd, const float* src, idx lds) {
  std::uint32_t block[kLanes][kLanes];
  for (int i = 0; i < 16; ++i) __builtin_memcpy(block[i], src + i * lds, sizeof(block[i]));
  for (int j = 0; j < 16; ++j) {
    std::uint32_t column[kLanes];
    for (int i = 0; i < 16; ++i) column[i] = block[i][j];
    __builtin_memcpy(dst + j * ldd, column, sizeof(column));
  }
}
#endif

OPO_INLINE f32x16 Sigmoid(const f32x16& x) { return 1.0f / (1.0f + Exp(-x)); }

OPO_INLINE float Exp1(float x) {
  Native v;
  SplatTo(v, x);
  return Exp(v)[0];
}

// sqrt of one number; correctly rounded, so the same on every path.
OPO_INLINE float Sqrt1(float x) { return __builtin_sqrtf(x); }

}  // namespace opo::OPO_ISA
