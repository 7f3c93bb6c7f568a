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

// Decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101), in PyTorch's order: decay, then
// w -= lr * (m / bias1) / (sqrt(v / bias2) + eps).
void AdamW(float* w, float* m, float* v, const float* grad, idx n, const AdamWArgs& args) {
  const float decay = 1.0f - args.lr * args.weight_decay;
  const float step = args.lr / args.bias1;
  const float root_bias2 = Sqrt1(args.bias2);
  ForVectors(n, [&](idx i, auto part) OPO_LAMBDA {
    const f32x16 g = LoadPart(grad + i, part) * args.grad_scale;
    const f32x16 m0 = LoadPart(m + i, part);
    const f32x16 mi = Fma(g - m0, Splat(1.0f - args.beta1), m0);
    const f32x16 vi = Fma(g * g, Splat(1.0f - args.beta2), LoadPart(v + i, part) * args.beta2);
    const f32x16 denominator = Sqrt(vi) / root_bias2 + args.eps;
    StorePart(m + i, mi, part);
    StorePart(v + i, vi, part);
    StorePart(w + i, LoadPart(w + i, part) * decay - step * (mi / denominator), part);
  });
}

}  // namespace

template <class T>
void FillRows(KernelsOf<T>& table) {
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
  table.adamw = AdamW;
}

}  // namespace opo::OPO_ISA
