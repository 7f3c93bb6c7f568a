// Kernels over rows: norms, RoPE, SwiGLU, rounding; and the optimizer's element-wise ones.
#include "kernels/simd.h"
#include "kernels/tables.h"

namespace opo::OPO_ISA {
namespace {

template <class T>
void Round(T* y, const float* x, idx n) {
  for (idx i = 0; i < n; i += kLanes) Store(y + i, Load(x + i));
}

template <class T>
float ReciprocalRms(const T* x, idx d, float eps) {
  f32x16 sum{};
  for (idx i = 0; i < d; i += kLanes) {
    const f32x16 v = Load(x + i);
    sum = Fma(v, v, sum);
  }
  return 1.0f / Sqrt1(SumLanes(sum) / static_cast<float>(d) + eps);
}

template <class T>
void RmsNorm(T* y, const T* x, const float* gamma, idx d, float eps) {
  const f32x16 rstd = Splat(ReciprocalRms(x, d, eps));
  for (idx i = 0; i < d; i += kLanes) Store(y + i, Load(x + i) * rstd * Load(gamma + i));
}

// y = x rstd gamma. dx = rstd (dy gamma - xhat mean(dy gamma xhat)), xhat = x rstd.
template <class T>
void RmsNormGrad(float* dx, const float* dy, const T* x, const float* gamma, idx d, float eps,
                 float* rstd_out) {
  const float rstd1 = ReciprocalRms(x, d, eps);
  *rstd_out = rstd1;
  const f32x16 rstd = Splat(rstd1);
  f32x16 sum{};
  for (idx i = 0; i < d; i += kLanes) {
    sum = Fma(Load(dy + i) * Load(gamma + i), Load(x + i) * rstd, sum);
  }
  const f32x16 mean = Splat(SumLanes(sum) / static_cast<float>(d));
  for (idx i = 0; i < d; i += kLanes) {
    const f32x16 inner = Load(dy + i) * Load(gamma + i) - Load(x + i) * rstd * mean;
    Store(dx + i, Fma(rstd, inner, Load(dx + i)));
  }
}

// `kVectors` chains side by side: one alone would wait for each of its additions.
template <int kVectors, class T>
OPO_INLINE void DgammaColumns(float* dgamma, const float* dy, idx ldy, const T* const* x,
                              const float* rstd, idx num_rows, idx j) {
  f32x16 sum[kVectors];
  for (int v = 0; v < kVectors; ++v) sum[v] = Load(dgamma + j + v * kLanes);
  for (idx r = 0; r < num_rows; ++r) {
    if (x[r] == nullptr) continue;  // a padding row
    const f32x16 scale = Splat(rstd[r]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const idx at = j + v * kLanes;
      sum[v] = Fma(Load(dy + r * ldy + at), Load(x[r] + at) * scale, sum[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) Store(dgamma + j + v * kLanes, sum[v]);
}

template <class T>
void RmsNormDgamma(float* dgamma, const float* dy, idx ldy, const T* const* x, const float* rstd,
                   idx num_rows, idx j0, idx j1) {
  idx j = j0;
  for (; j + 4 * kLanes <= j1; j += 4 * kLanes) {
    DgammaColumns<4>(dgamma, dy, ldy, x, rstd, num_rows, j);
  }
  for (; j + 2 * kLanes <= j1; j += 2 * kLanes) {
    DgammaColumns<2>(dgamma, dy, ldy, x, rstd, num_rows, j);
  }
  if (j < j1) DgammaColumns<1>(dgamma, dy, ldy, x, rstd, num_rows, j);
}

// (a, b) of a pair, rotated by the row's angle: (a cos - b sin, b cos + a sin).
template <class T>
void RotateHead(T* out, const float* in, const float* bias, const float* cos, const float* sin,
                idx half) {
  ForVectors(half, [&](idx i, auto n) OPO_LAMBDA {
    f32x16 a = LoadPart(in + i, n);
    f32x16 b = LoadPart(in + half + i, n);
    if (bias != nullptr) {
      a = a + LoadPart(bias + i, n);
      b = b + LoadPart(bias + half + i, n);
    }
    const f32x16 c = LoadPart(cos + i, n);
    const f32x16 s = LoadPart(sin + i, n);
    StorePart(out + i, Fma(a, c, -(b * s)), n);
    StorePart(out + half + i, Fma(b, c, a * s), n);
  });
}

// out = T(in + bias).
template <class T>
void RoundPart(T* out, const float* in, const float* bias, idx n) {
  ForVectors(n, [&](idx i, auto part) OPO_LAMBDA {
    f32x16 x = LoadPart(in + i, part);
    if (bias != nullptr) x = x + LoadPart(bias + i, part);
    StorePart(out + i, x, part);
  });
}

template <class T>
void QkvRope(T* q, T* k, T* v, const float* qkv, const float* bias, const float* cos,
             const float* sin, const AttentionShape& shape) {
  const idx dh = shape.head_dim;
  const idx half = dh / 2;
  const auto bias_of = [&](idx offset) { return bias == nullptr ? nullptr : bias + offset; };
  idx at = 0;
  for (idx h = 0; h < shape.num_heads; ++h, at += dh) {
    RotateHead(q + h * dh, qkv + at, bias_of(at), cos, sin, half);
  }
  for (idx h = 0; h < shape.num_kv_heads; ++h, at += dh) {
    RotateHead(k + h * dh, qkv + at, bias_of(at), cos, sin, half);
  }
  RoundPart(v, qkv + at, bias_of(at), shape.num_kv_heads * dh);
}

// RotateHead's gradient; out may be in.
template <class T>
void RotateHeadBack(T* out, const float* in, const float* cos, const float* sin, idx half) {
  ForVectors(half, [&](idx i, auto n) OPO_LAMBDA {
    const f32x16 a = LoadPart(in + i, n);
    const f32x16 b = LoadPart(in + half + i, n);
    const f32x16 c = LoadPart(cos + i, n);
    const f32x16 s = LoadPart(sin + i, n);
    StorePart(out + i, Fma(a, c, b * s), n);
    StorePart(out + half + i, Fma(b, c, -(a * s)), n);
  });
}

template <class T>
void QkvRopeGrad(T* dqkv, const float* dq, const float* dk, const float* dv, const float* cos,
                 const float* sin, const AttentionShape& shape) {
  const idx dh = shape.head_dim;
  const auto rotate_back = [&](const float* in, idx heads) {
    for (idx h = 0; h < heads; ++h, dqkv += dh) {
      RotateHeadBack(dqkv, in + h * dh, cos, sin, dh / 2);
    }
  };
  rotate_back(dq, shape.num_heads);
  rotate_back(dk, shape.num_kv_heads);
  RoundPart(dqkv, dv, nullptr, shape.num_kv_heads * dh);
}

// ReciprocalRms of one head, whose end may be no vector's.
template <class T>
float HeadReciprocalRms(const T* x, idx dh, float eps) {
  f32x16 sum{};
  ForVectors(dh, [&](idx i, auto n) OPO_LAMBDA {
    const f32x16 v = LoadPart(x + i, n);
    sum = Fma(v, v, sum);
  });
  return 1.0f / Sqrt1(SumLanes(sum) / static_cast<float>(dh) + eps);
}

// RotateHead of rms_norm(x).
template <class T>
void NormRotateHead(T* out, const T* x, const float* gamma, float eps, const float* cos,
                    const float* sin, idx dh) {
  const f32x16 rstd = Splat(HeadReciprocalRms(x, dh, eps));
  const idx half = dh / 2;
  ForVectors(half, [&](idx i, auto n) OPO_LAMBDA {
    const f32x16 a = LoadPart(x + i, n) * rstd * LoadPart(gamma + i, n);
    const f32x16 b = LoadPart(x + half + i, n) * rstd * LoadPart(gamma + half + i, n);
    const f32x16 c = LoadPart(cos + i, n);
    const f32x16 s = LoadPart(sin + i, n);
    StorePart(out + i, Fma(a, c, -(b * s)), n);
    StorePart(out + half + i, Fma(b, c, a * s), n);
  });
}

template <class T>
void QkvNormRope(T* q, T* k, T* v, T* q_pre, T* k_pre, const float* qkv, const float* bias,
                 const QkNorm& norm, const float* cos, const float* sin,
                 const AttentionShape& shape) {
  const idx dh = shape.head_dim;
  const idx q_size = shape.num_heads * dh;
  const idx kv_size = shape.num_kv_heads * dh;
  const auto bias_of = [&](idx offset) { return bias == nullptr ? nullptr : bias + offset; };
  RoundPart(q_pre, qkv, bias_of(0), q_size);
  RoundPart(k_pre, qkv + q_size, bias_of(q_size), kv_size);
  RoundPart(v, qkv + q_size + kv_size, bias_of(q_size + kv_size), kv_size);
  for (idx at = 0; at < q_size; at += dh) {
    NormRotateHead(q + at, q_pre + at, norm.q_gamma, norm.eps, cos, sin, dh);
  }
  for (idx at = 0; at < kv_size; at += dh) {
    NormRotateHead(k + at, k_pre + at, norm.k_gamma, norm.eps, cos, sin, dh);
  }
}

// dy becomes its own rotation back, and dx what RmsNormGrad says of it.
template <class T>
float NormRotateHeadGrad(T* dx, float* dy, const T* x, const float* gamma, float eps,
                         const float* cos, const float* sin, idx dh) {
  RotateHeadBack(dy, dy, cos, sin, dh / 2);
  const float rstd1 = HeadReciprocalRms(x, dh, eps);
  const f32x16 rstd = Splat(rstd1);
  f32x16 sum{};
  ForVectors(dh, [&](idx i, auto n) OPO_LAMBDA {
    sum = Fma(LoadPart(dy + i, n) * LoadPart(gamma + i, n), LoadPart(x + i, n) * rstd, sum);
  });
  const f32x16 mean = Splat(SumLanes(sum) / static_cast<float>(dh));
  ForVectors(dh, [&](idx i, auto n) OPO_LAMBDA {
    const f32x16 inner =
        LoadPart(dy + i, n) * LoadPart(gamma + i, n) - LoadPart(x + i, n) * rstd * mean;
    StorePart(dx + i, rstd * inner, n);
  });
  return rstd1;
}

template <class T>
void QkvNormRopeGrad(T* dqkv, float* dq, float* dk, const float* dv, const T* q_pre, const T* k_pre,
                     const QkNorm& norm, const float* cos, const float* sin, float* rstd,
                     const AttentionShape& shape) {
  const idx dh = shape.head_dim;
  for (idx h = 0; h < shape.num_heads; ++h, dqkv += dh) {
    *rstd++ =
        NormRotateHeadGrad(dqkv, dq + h * dh, q_pre + h * dh, norm.q_gamma, norm.eps, cos, sin, dh);
  }
  for (idx h = 0; h < shape.num_kv_heads; ++h, dqkv += dh) {
    *rstd++ =
        NormRotateHeadGrad(dqkv, dk + h * dh, k_pre + h * dh, norm.k_gamma, norm.eps, cos, sin, dh);
  }
  RoundPart(dqkv, dv, nullptr, shape.num_kv_heads * dh);
}

template <class T>
void HeadNormDgamma(float* dgamma, const float* dy, idx ldy, const T* const* x, const float* rstd,
                    idx ld_rstd, idx num_rows, idx num_heads, idx head_dim, idx j0, idx j1) {
  ForVectors(j1 - j0, [&](idx i, auto n) OPO_LAMBDA {
    f32x16 sum = LoadPart(dgamma + j0 + i, n);
    for (idx r = 0; r < num_rows; ++r) {
      if (x[r] == nullptr) continue;  // a padding row
      for (idx h = 0; h < num_heads; ++h) {
        const idx at = h * head_dim + j0 + i;
        sum = Fma(LoadPart(dy + r * ldy + at, n),
                  LoadPart(x[r] + at, n) * Splat(rstd[r * ld_rstd + h]), sum);
      }
    }
    StorePart(dgamma + j0 + i, sum, n);
  });
}

template <class T>
void Swiglu(T* y, const T* gate_up, idx f, idx up_offset) {
  ForVectors(f, [&](idx i, auto n) OPO_LAMBDA {
    const f32x16 g = LoadPart(gate_up + i, n);
    const f32x16 u = LoadPart(gate_up + up_offset + i, n);
    StorePart(y + i, g * Sigmoid(g) * u, n);
  });
}

// silu'(g) = s (1 + g (1 - s)), s = sigmoid(g).
template <class T>
void SwigluGrad(T* dgate_up, const T* dy, const T* gate_up, idx f, idx up_offset) {
  ForVectors(f, [&](idx i, auto n) OPO_LAMBDA {
    const f32x16 g = LoadPart(gate_up + i, n);
    const f32x16 u = LoadPart(gate_up + up_offset + i, n);
    const f32x16 d = LoadPart(dy + i, n);
    const f32x16 s = Sigmoid(g);
    StorePart(dgate_up + i, d * u * s * Fma(g, 1.0f - s, Splat(1.0f)), n);
    StorePart(dgate_up + up_offset + i, d * g * s, n);
  });
}

double SumSquares(const float* x, idx n) {
  double lanes[kLanes] = {};
  for (idx i = 0; i < n; i += kLanes) {
    float part[kLanes];
    Store(part, LoadPart(x + i, n - i));  // a square of zero changes nothing
    for (idx j = 0; j < kLanes; ++j) {
      const double v = part[j];
      lanes[j] += v * v;
    }
  }
  for (idx step = kLanes / 2; step > 0; step /= 2) {
    for (idx j = 0; j < step; ++j) lanes[j] += lanes[j + step];
  }
  return lanes[0];
}

void Add(float* y, const float* x, idx n) {
  ForVectors(n, [&](idx i, auto part) OPO_LAMBDA {
    StorePart(y + i, LoadPart(y + i, part) + LoadPart(x + i, part), part);
  });
}

// Rows [i, i + kI) times rows [j, j + kJ), n at most kDotBlock.
template <int kI, int kJ>
void DotTile(double* products, const float* v, idx ldv, idx num, idx i, idx j, idx n) {
  f32x16 sums[kI][kJ];
  for (int a = 0; a < kI; ++a) {
    for (int b = 0; b < kJ; ++b) sums[a][b] = Splat(0.0f);
  }
  ForVectors(n, [&](idx at, auto part) OPO_LAMBDA {
    f32x16 right[kJ];
    for (int b = 0; b < kJ; ++b) right[b] = LoadPart(v + (j + b) * ldv + at, part);
    for (int a = 0; a < kI; ++a) {
      const f32x16 left = LoadPart(v + (i + a) * ldv + at, part);
      for (int b = 0; b < kJ; ++b) sums[a][b] = Fma(left, right[b], sums[a][b]);
    }
  });
  for (int a = 0; a < kI; ++a) {
    for (int b = 0; b < kJ; ++b) {
      if (i + a <= j + b) {
        products[(i + a) * num + j + b] += static_cast<double>(SumLanes(sums[a][b]));
      }
    }
  }
}

void DotRows(double* products, const float* v, idx ldv, idx num, idx n) {
  for (idx first = 0; first < n; first += kDotBlock) {
    const idx count = n - first < kDotBlock ? n - first : kDotBlock;
    const float* x = v + first;
    idx i = 0;
    for (; i + 4 <= num; i += 4) {
      idx j = i;
      for (; j + 4 <= num; j += 4) DotTile<4, 4>(products, x, ldv, num, i, j, count);
      for (; j < num; ++j) DotTile<4, 1>(products, x, ldv, num, i, j, count);
    }
    for (; i < num; ++i) {
      for (idx j = i; j < num; ++j) DotTile<1, 1>(products, x, ldv, num, i, j, count);
    }
  }
}

// The halves of the products of 32-bit lanes with m.
OPO_INLINE void MultiplyWide(NativeBits a, std::uint32_t m, NativeBits* high, NativeBits* low) {
#if defined(__AVX512F__)
  const __m512i factor = _mm512_set1_epi32(static_cast<int>(m));
  const __m512i even = _mm512_maskz_mul_epu32(0xff, (__m512i)a, factor);
  const __m512i odd =
      _mm512_maskz_mul_epu32(0xff, _mm512_maskz_srli_epi64(0xff, (__m512i)a, 32), factor);
  *low = (NativeBits)_mm512_mask_mov_epi32(even, 0xaaaa, _mm512_maskz_slli_epi64(0xff, odd, 32));
  *high = (NativeBits)_mm512_mask_mov_epi32(_mm512_maskz_srli_epi64(0xff, even, 32), 0xaaaa, odd);
#elif defined(__AVX2__)
  const __m256i factor = _mm256_set1_epi32(static_cast<int>(m));
  const __m256i even = _mm256_mul_epu32((__m256i)a, factor);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), factor);
  *low = (NativeBits)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  *high = (NativeBits)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
#else
  for (unsigned i = 0; i < sizeof(a) / sizeof(a[0]); ++i) {
    const std::uint64_t product = std::uint64_t{a[i]} * m;
    (*high)[i] = static_cast<std::uint32_t>(product >> 32);
    (*low)[i] = static_cast<std::uint32_t>(product);
  }
#endif
}

// Philox4x32-10 (base/rng.h) of kLanes counters {16 block + lane, 0, 0}, 64 bits the first.
OPO_INLINE void Philox(std::uint32_t words[4][kLanes], std::uint64_t block,
                       const std::uint32_t* key) {
  constexpr idx kNative = sizeof(NativeBits) / sizeof(std::uint32_t);
  static const std::uint32_t kLane[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const std::uint64_t first = block * kLanes;
  for (idx at = 0; at < kLanes; at += kNative) {
    NativeBits c0;
    __builtin_memcpy(&c0, kLane + at, sizeof(c0));
    c0 = c0 + static_cast<std::uint32_t>(first);
    NativeBits c1 = NativeBits{} + static_cast<std::uint32_t>(first >> 32);
    NativeBits c2{};
    NativeBits c3{};
    std::uint32_t k0 = key[0];
    std::uint32_t k1 = key[1];
    for (int round = 0; round < 10; ++round) {
      NativeBits high0;
      NativeBits low0;
      NativeBits high1;
      NativeBits low1;
      MultiplyWide(c0, 0xD2511F53U, &high0, &low0);
      MultiplyWide(c2, 0xCD9E8D57U, &high1, &low1);
      c0 = high1 ^ c1 ^ k0;
      c1 = low1;
      c2 = high0 ^ c3 ^ k1;
      c3 = low0;
      k0 += 0x9E3779B9U;
      k1 += 0xBB67AE85U;
    }
    __builtin_memcpy(words[0] + at, &c0, sizeof(c0));
    __builtin_memcpy(words[1] + at, &c1, sizeof(c1));
    __builtin_memcpy(words[2] + at, &c2, sizeof(c2));
    __builtin_memcpy(words[3] + at, &c3, sizeof(c3));
  }
}

// To one of the two bf16 numbers beside v, the upper one in magnitude where the 16 bits, shifted
// down by kShift, are at least 65536 minus what bf16 drops of v: on average v. REQUIRES v finite.
template <int kShift>
OPO_INLINE Native RoundAtRandom(Native v, Native bits) {
  const NativeBits random = ((NativeBits)bits >> kShift) & 0xffffU;
  return (Native)(((NativeBits)v + random) & 0xffff0000U);
}
template <int kShift, class H>
OPO_INLINE Twice<H> RoundAtRandom(const Twice<H>& v, const Twice<H>& bits) {
  return {RoundAtRandom<kShift>(v.lo, bits.lo), RoundAtRandom<kShift>(v.hi, bits.hi)};
}

// Decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101), in PyTorch's order: decay, then
// w -= lr * (m / bias1) / (sqrt(v / bias2) + eps), with m and v not yet rounded.
template <class T>
void AdamW(float* w, T* m, T* v, const float* grad, idx n, const AdamWArgs& args) {
  const float decay = 1.0f - args.lr * args.weight_decay;
  const float step = args.lr / args.bias1;
  const float root_bias2 = Sqrt1(args.bias2);
  std::uint32_t words[4][kLanes];
  idx drawn = -1;  // the block of 64 elements that `words` are of
  ForVectors(n, [&](idx i, auto part) OPO_LAMBDA {
    const f32x16 g = LoadPart(grad + i, part) * args.grad_scale;
    const f32x16 m0 = LoadPart(m + i, part);
    f32x16 mi = Fma(g - m0, Splat(1.0f - args.beta1), m0);
    f32x16 vi = Fma(g * g, Splat(1.0f - args.beta2), LoadPart(v + i, part) * args.beta2);
    const f32x16 denominator = Sqrt(vi) / root_bias2 + args.eps;
    StorePart(w + i, LoadPart(w + i, part) * decay - step * (mi / denominator), part);
    if constexpr (sizeof(T) == sizeof(bf16)) {
      const idx at = args.first + i;
      if (at / (4 * kLanes) != drawn) {
        drawn = at / (4 * kLanes);
        Philox(words, static_cast<std::uint64_t>(drawn), args.key);
      }
      const f32x16 bits = Load(reinterpret_cast<const float*>(words[at / kLanes % 4]));
      mi = RoundAtRandom<0>(mi, bits);
      vi = RoundAtRandom<16>(vi, bits);
    }
    StorePart(m + i, mi, part);
    StorePart(v + i, vi, part);
  });
}

}  // namespace

template <class T>
void FillRows(KernelsOf<T>& table) {
  table.adamw = AdamW<T>;
  table.round = Round<T>;
  table.rms_norm = RmsNorm<T>;
  table.rms_norm_grad = RmsNormGrad<T>;
  table.rms_norm_dgamma = RmsNormDgamma<T>;
  table.qkv_rope = QkvRope<T>;
  table.qkv_rope_grad = QkvRopeGrad<T>;
  table.qkv_norm_rope = QkvNormRope<T>;
  table.qkv_norm_rope_grad = QkvNormRopeGrad<T>;
  table.head_norm_dgamma = HeadNormDgamma<T>;
  table.swiglu = Swiglu<T>;
  table.swiglu_grad = SwigluGrad<T>;
}
template void FillRows<bf16>(KernelsOf<bf16>& table);
template void FillRows<float>(KernelsOf<float>& table);

void FillShared(Kernels& table) {
  table.sum_squares = SumSquares;
  table.add = Add;
  table.dot_rows = DotRows;
}

}  // namespace opo::OPO_ISA
