// Sixteen f32 lanes, whatever the instruction set: the vector type of every kernel. Included only
// by the *_isa.cpp files, each compiled once per path in a namespace of its own (OPO_ISA), with the
// path's flags. Those files use no inline function or template of the standard library: the linker
// could pick the copy that was compiled for a newer CPU and hand it to everybody.
//
// Sums over lanes are one fixed tree: lanes i and i+8, then i+4, i+2, i+1.
#pragma once

#include "base/types.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define OPO_INLINE static inline __attribute__((always_inline))

namespace opo::OPO_ISA {

using f32x16 = float __attribute__((vector_size(64)));
using f32x8 = float __attribute__((vector_size(32)));
using f32x4 = float __attribute__((vector_size(16)));
using i32x16 = std::int32_t __attribute__((vector_size(64)));
using u32x16 = std::uint32_t __attribute__((vector_size(64)));
using u16x16 = std::uint16_t __attribute__((vector_size(32)));

constexpr idx kLanes = 16;

OPO_INLINE f32x16 Splat(float x) { return f32x16{} + x; }

OPO_INLINE f32x16 Load(const float* p) {
  f32x16 v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
OPO_INLINE void Store(float* p, f32x16 v) { __builtin_memcpy(p, &v, sizeof(v)); }

OPO_INLINE f32x16 Load(const bf16* p) {
  u16x16 v;
  __builtin_memcpy(&v, p, sizeof(v));
  return (f32x16)(__builtin_convertvector(v, u32x16) << 16);
}
// Round to nearest, ties to even; NaN stays NaN (its upper half is never all zero after the OR).
OPO_INLINE u16x16 RoundToBf16(f32x16 v) {
  const u32x16 u = (u32x16)v;
  const u32x16 rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
  const u32x16 nan = (u32x16)((u & 0x7fffffffU) > 0x7f800000U);
  return __builtin_convertvector((nan & ((u >> 16) | 0x40U)) | (~nan & rounded), u16x16);
}
OPO_INLINE void Store(bf16* p, f32x16 v) {
  const u16x16 u = RoundToBf16(v);
  __builtin_memcpy(p, &u, sizeof(u));
}
// The first n lanes only; the rest reads as zero, is not written.
template <class T>
OPO_INLINE f32x16 LoadPart(const T* p, idx n) {
  if (n >= kLanes) return Load(p);
  T tmp[kLanes] = {};
  __builtin_memcpy(tmp, p, static_cast<unsigned long>(n) * sizeof(T));
  return Load(tmp);
}
template <class T>
OPO_INLINE void StorePart(T* p, f32x16 v, idx n) {
  if (n >= kLanes) return Store(p, v);
  T tmp[kLanes];
  Store(tmp, v);
  __builtin_memcpy(p, tmp, static_cast<unsigned long>(n) * sizeof(T));
}
// What a value becomes when it is stored as T.
OPO_INLINE f32x16 RoundAs(float, f32x16 v) { return v; }
OPO_INLINE f32x16 RoundAs(bf16, f32x16 v) {
  return (f32x16)(__builtin_convertvector(RoundToBf16(v), u32x16) << 16);
}

// a * b + c: rounded once where the path has FMA, twice on the portable one.
OPO_INLINE f32x16 Fma(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  f32x8 av[2], bv[2], cv[2];
  __builtin_memcpy(av, &a, 64);
  __builtin_memcpy(bv, &b, 64);
  __builtin_memcpy(cv, &c, 64);
  cv[0] = (f32x8)_mm256_fmadd_ps((__m256)av[0], (__m256)bv[0], (__m256)cv[0]);
  cv[1] = (f32x8)_mm256_fmadd_ps((__m256)av[1], (__m256)bv[1], (__m256)cv[1]);
  f32x16 r;
  __builtin_memcpy(&r, cv, 64);
  return r;
#else
  return a * b + c;
#endif
}

OPO_INLINE f32x16 Select(i32x16 mask, f32x16 yes, f32x16 no) {
  return (f32x16)((mask & (i32x16)yes) | (~mask & (i32x16)no));
}
OPO_INLINE f32x16 Max(f32x16 a, f32x16 b) { return Select(a > b, a, b); }

OPO_INLINE float SumLanes(f32x16 v) {
  f32x8 h[2];
  __builtin_memcpy(h, &v, 64);
  const f32x8 v8 = h[0] + h[1];
  f32x4 q[2];
  __builtin_memcpy(q, &v8, 32);
  const f32x4 v4 = q[0] + q[1];
  return (v4[0] + v4[2]) + (v4[1] + v4[3]);
}
OPO_INLINE float MaxLanes(f32x16 v) {
  float m = v[0];
  for (int i = 1; i < 16; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

OPO_INLINE f32x16 LaneIndex() {
  return f32x16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}

// exp(x), error below 2 ulp on [-87, 88]; exactly 0 for x < -87.3 (-inf too), +inf above 88.7;
// NaN stays NaN. Cody-Waite reduction by ln 2, then a degree-6 polynomial (Cephes' expf).
OPO_INLINE f32x16 Exp(f32x16 x) {
  const f32x16 clamped = Select(x < -88.0f, Splat(-88.0f), Select(x > 89.0f, Splat(89.0f), x));
  const f32x16 shifted = Fma(clamped, Splat(1.44269504088896341f), Splat(12582912.0f));
  const f32x16 n = shifted - 12582912.0f;  // nearest integer
  f32x16 r = Fma(n, Splat(-0.693359375f), clamped);
  r = Fma(n, Splat(2.12194440e-4f), r);
  f32x16 p = Splat(1.9875691500e-4f);
  p = Fma(p, r, Splat(1.3981999507e-3f));
  p = Fma(p, r, Splat(8.3334519073e-3f));
  p = Fma(p, r, Splat(4.1665795894e-2f));
  p = Fma(p, r, Splat(1.6666665459e-1f));
  p = Fma(p, r, Splat(5.0000001201e-1f));
  p = Fma(p, r * r, r) + 1.0f;
  // Scale by 2^n in two factors, so that n = 128 does not overflow the exponent field.
  const i32x16 ni = __builtin_convertvector(n, i32x16);
  const i32x16 half = ni >> 1;
  const f32x16 scale1 = (f32x16)((half + 127) << 23);
  const f32x16 scale2 = (f32x16)((ni - half + 127) << 23);
  f32x16 y = p * scale1 * scale2;
  y = Select(x < -87.33654f, Splat(0.0f), y);
  y = Select(x > 88.72283f, Splat(__builtin_inff()), y);
  return Select(x != x, x, y);
}

OPO_INLINE f32x16 Sigmoid(f32x16 x) { return 1.0f / (1.0f + Exp(-x)); }

OPO_INLINE float Exp1(float x) { return Exp(Splat(x))[0]; }

// sqrt of one number; correctly rounded, so the same on every path.
OPO_INLINE float Sqrt1(float x) { return __builtin_sqrtf(x); }

}  // namespace opo::OPO_ISA
