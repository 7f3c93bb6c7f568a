// The kernels of one instruction-set path, as a table of functions: each does its part of the work
// on the calling thread. Threading is kernels/gemm.h and the callers' business.
//
// Shapes: M rows, N outputs, K inputs, D model, H query heads, Hk kv heads, Dh head dim, F ffn,
// V vocabulary. T is bf16 or float. Row strides ("ld") as in kernels/layout.h. `dx` is the gradient
// by x. Sums over a row: 16 lanes over ascending columns, then the tree of kernels/simd.h.
#pragma once

#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"
#include "kernels/layout.h"

namespace opo {

// What a GEMM does with its f32 sums.
enum class GemmOutput {
  kStoreF32,       // c = acc
  kAccumulateF32,  // c = c + ..., the chain continues from c
  kStore,          // out = T(acc)
  kAddResidual,    // out = T(float(residual) + acc); out may be residual
};

template <class T>
struct GemmArgs {
  const T* a = nullptr;  // (M, K), lda; zero from K to the next multiple of 2
  idx lda = 0;
  bool a_packed = false;  // a is what pack_left wrote instead, and lda unused
  const T* b = nullptr;   // packed (N, K)
  idx b_panel = 0;        // elements from one panel of b to the next
  idx m = 0, n = 0, k = 0;
  GemmOutput output = GemmOutput::kStoreF32;
  float* c = nullptr;  // (M, N) f32, ldc; only N columns are written
  idx ldc = 0;
  T* out = nullptr;             // (M, N), ldo; whole panels are written: ldo >= RoundUp(N, 32)
  const T* residual = nullptr;  // (M, N), ldo
  idx ldo = 0;
  bool to_f32() const {
    return output == GemmOutput::kStoreF32 || output == GemmOutput::kAccumulateF32;
  }
};

// One tile of attention: up to kTileRows rows that share a prefix (the prompt), each with own keys.
// Row r's own segment is its sample's tokens; it sees all prefix keys, then own keys 0..own_pos.
// Keys are visited in blocks of kKeyBlock from the start of each segment, prefix first, with an
// online softmax; masked keys contribute exact zeros.
inline constexpr idx kTileRows = 32;

// Consecutive rows of one sample that lie in one own key block.
template <class T>
struct TileSpan {
  idx first_row = 0;
  idx num_rows = 0;
  idx first_pos = 0;                // own position of the span's first row
  const T* const* pages = nullptr;  // own KV pages of this layer, ceil((last pos + 1) / 32) of them
};

template <class T>
struct AttentionTile {
  idx num_rows = 0;
  const T* q[kTileRows];  // rows of (H * Dh)
  T* out[kTileRows];      // rows of (H * Dh)
  float* lse[kTileRows];  // rows of (H): log of the softmax's denominator, for the backward pass
  idx num_prefix = 0;     // keys of the prefix
  const T* const* prefix_pages = nullptr;
  idx num_spans = 0;
  TileSpan<T> spans[kTileRows];
};

struct AttentionShape {
  idx num_heads = 0, num_kv_heads = 0, head_dim = 0;
  float scale = 0;  // 1 / sqrt(Dh)
  idx group() const { return num_heads / num_kv_heads; }
  // One layer's part of a KV page: for each kv head K as a packed panel (32 keys, Dh), then V as
  // packed (Dh, 32 keys).
  idx k_size() const { return PanelSize(head_dim); }
  idx v_size() const { return PackedSize(head_dim, kKeyBlock); }
  idx page_size() const { return num_kv_heads * (k_size() + v_size()); }
};

// The backward pass of one segment of keys against the rows of one sample, one kv head.
template <class T>
struct AttentionGradTile {
  idx num_rows = 0;               // rows of the sample (any number)
  const T* const* q = nullptr;    // row pointers, (H * Dh)
  const T* const* out = nullptr;  // (H * Dh) attention output
  const T* dout = nullptr;        // (num_rows, H * Dh), ldd
  idx ldd = 0;
  const float* const* lse = nullptr;  // (H)
  idx num_keys = 0;
  const T* const* k = nullptr;  // row pointers of keys, (Hk * Dh)
  const T* const* v = nullptr;
  bool causal = false;  // row i sees keys 0..i; else all keys
  float* dq = nullptr;  // (num_rows, H * Dh) f32, ldq: += for this kv head's query heads
  idx ldq = 0;
  float* dk = nullptr;  // (num_keys, Hk * Dh) f32, ldk: += for this kv head
  float* dv = nullptr;
  idx ldk = 0;
};

// What the head says of one row of logits z, at temperature 1/inv_temp: with s = z * inv_temp,
// logprob = s[target] - lse, entropy = lse - sum p s, sum_sq = sum p^2.
struct TokenStats {
  float logprob = 0;
  float entropy = 0;
  float sum_sq = 0;
  float lse = 0;
  float max = 0;  // of s; logprob = (s[target] - max) - log_sum, in this order
  float log_sum = 0;
};

// The softmax's normaliser of a row: lse = max + log_sum, in this order.
struct SoftmaxNorm {
  float max = 0;
  float log_sum = 0;
  float lse() const { return max + log_sum; }
};

// What head_part has seen of a row whose maximum was known before.
struct HeadParts {
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0;            // of exp(s - the known maximum)
  float target_margin = 0;  // s[target] - the known maximum
};

// RMSNorm of each head of q and k, with weights (Dh), padded to 16.
struct QkNorm {
  const float* q_gamma = nullptr;
  const float* k_gamma = nullptr;
  float eps = 0;
};

struct AdamWArgs {
  float lr, beta1, beta2, eps, weight_decay;
  float grad_scale;    // multiplies the gradient first (clipping)
  float bias1, bias2;  // 1 - beta^t
  // For moments in bf16: the place of element 0 in the slab, a multiple of 16, and the random
  // numbers' key. Element e = first + i takes word (e / 16) % 4 of Philox4x32-10 (base/rng.h) at
  // counter (e / 64) * 16 + e % 16: the low half is m's, the high half v's.
  idx first = 0;
  std::uint32_t key[2] = {};
};

template <class T>
struct KernelsOf {
  // A chain of `gemm` over k may be cut, and go on through c, at multiples of this. Where k are
  // rows of samples, units of them are padded to it (train/learner.h).
  idx row_block;
  // Rows [m0, m1) times panels [p0, p1) of args. `scratch`: at least kGemmScratch floats.
  void (*gemm)(const GemmArgs<T>& args, idx m0, idx m1, idx p0, idx p1, float* scratch);
  // Packs rows [32 p0, 32 p1) of src (N, K) f32, reduction over K.
  void (*pack)(T* packed, const float* src, idx lds, idx n, idx k, idx p0, idx p1);
  // Packs columns [32 p0, 32 p1) of src (K, N): reduction over src's rows. num_k is padded to kPad.
  void (*pack_t_f32)(T* packed, const float* src, idx lds, idx num_k, idx n, idx p0, idx p1);
  void (*pack_t)(T* packed, const T* src, idx lds, idx num_k, idx n, idx p0, idx p1);
  // One panel of W^T from packed W, bit for bit what pack_t_f32 gives: outputs [k0, k0 + 32), and
  // for reduction the 32 rows of each of W's `num_panels`, which are `panel_size` elements apart.
  void (*pack_turned)(T* panel, const T* packed, idx panel_size, idx num_panels, idx k0);
  // The same for a left operand, columns being the product's rows. As large as pack_t's, but laid
  // out as this path's gemm likes it: nobody else reads it.
  void (*pack_left)(T* packed, const T* src, idx lds, idx num_k, idx m, idx p0, idx p1);

  // One step of AdamW with moments of T, all arithmetic in f32. bf16 moments are rounded up or down
  // at random, so that the mean over the random bits is the f32 number (as `round` does, the paths
  // with bf16 instructions take denormals as zero). The update itself uses m and v as they were
  // before.
  void (*adamw)(float* w, T* m, T* v, const float* grad, idx n, const AdamWArgs& args);
  void (*round)(T* y, const float* x, idx n);  // y = T(x), n a multiple of 16
  void (*rms_norm)(T* y, const T* x, const float* gamma, idx d, float eps);
  // x's gradient is added to dx (f32); rstd[0] receives 1 / rms, for rms_norm_dgamma.
  void (*rms_norm_grad)(float* dx, const float* dy, const T* x, const float* gamma, idx d,
                        float eps, float* rstd);
  // dgamma[j] += sum over rows, ascending, of dy * x * rstd, for columns [j0, j1) (multiples of
  // 16).
  void (*rms_norm_dgamma)(float* dgamma, const float* dy, idx ldy, const T* const* x,
                          const float* rstd, idx num_rows, idx j0, idx j1);
  // q, k, v = RoPE(qkv + bias): qkv (H*Dh + 2*Hk*Dh) f32, cos/sin (Dh/2) of the row's position,
  // rotating pairs (i, i + Dh/2); v is only rounded. bias may be null.
  void (*qkv_rope)(T* q, T* k, T* v, const float* qkv, const float* bias, const float* cos,
                   const float* sin, const AttentionShape& shape);
  // The inverse rotation of (dq, dk), and dv: one row of dqkv, as T.
  void (*qkv_rope_grad)(T* dqkv, const float* dq, const float* dk, const float* dv,
                        const float* cos, const float* sin, const AttentionShape& shape);
  // The same with a norm of each head of q and k before RoPE: q_pre (H*Dh) and k_pre (Hk*Dh)
  // receive T(qkv + bias); q and k are RoPE(rms_norm(...)) of those in f32, rounded once.
  void (*qkv_norm_rope)(T* q, T* k, T* v, T* q_pre, T* k_pre, const float* qkv, const float* bias,
                        const QkNorm& norm, const float* cos, const float* sin,
                        const AttentionShape& shape);
  // Its gradient: one row of dqkv, as T. dq and dk: in, by RoPE's output; out, by the norm's, for
  // head_norm_dgamma. rstd (H + Hk) receives 1 / rms of the heads.
  void (*qkv_norm_rope_grad)(T* dqkv, float* dq, float* dk, const float* dv, const T* q_pre,
                             const T* k_pre, const QkNorm& norm, const float* cos, const float* sin,
                             float* rstd, const AttentionShape& shape);
  // dgamma[j] += sum over rows, ascending, and over the heads of a row, of dy * x * rstd, for
  // columns [j0, j1) of a head; j0 is a multiple of 16.
  void (*head_norm_dgamma)(float* dgamma, const float* dy, idx ldy, const T* const* x,
                           const float* rstd, idx ld_rstd, idx num_rows, idx num_heads,
                           idx head_dim, idx j0, idx j1);
  void (*swiglu)(T* y, const T* gate_up, idx f, idx up_offset);  // y = silu(gate) * up
  void (*swiglu_grad)(T* dgate_up, const T* dy, const T* gate_up, idx f, idx up_offset);

  void (*kv_write)(T* page, idx slot, const T* k, const T* v, const AttentionShape& shape);
  void (*attention)(const AttentionTile<T>& tile, idx kv_head, const AttentionShape& shape,
                    float* scratch);
  void (*attention_grad)(const AttentionGradTile<T>& tile, idx kv_head, const AttentionShape& shape,
                         float* scratch);

  // dlogits[j] = T(coef * inv_temp * (1[j == target] - p_j)); logits as given to head_stats.
  // target -1: it is none of them.
  void (*head_grad)(T* dlogits, const float* logits, idx vocab, float inv_temp, float lse,
                    TokenId target, float coef);
  // Each element by its logit alone: a part of the vocabulary is given as a vocabulary.
  // The same, and the entropy's gradient times entropy_coef:
  // dlogits[j] = T(inv_temp * (coef * (1[j == target] - p_j)
  //                            - entropy_coef * p_j * (log p_j + entropy))).
  void (*head_entropy_grad)(T* dlogits, const float* logits, idx vocab, float inv_temp,
                            const TokenStats& stats, TokenId target, float coef,
                            float entropy_coef);
};

struct Kernels {
  std::string_view name;  // the path: portable, avx2, avx512, avx512bf16, amx
  KernelsOf<bf16> b16;
  KernelsOf<float> f32;

  // Statistics of a row of logits (V, padded to kPad with anything: the pads are overwritten with
  // -inf); target -1: no log-prob. `block_sums`: CeilDiv(V, kHeadBlock) sums of exp(s -
  // max), for head_pick.
  TokenStats (*head_stats)(float* logits, idx vocab, float inv_temp, TokenId target,
                           float* block_sums);
  // The same of a part of the row, `count` entries of it; parts are given in ascending order, and
  // all but the last are multiples of kHeadBlock: `parts.sum` then has the bits of head_stats' own.
  // target -1: it is none of them.
  void (*head_part)(float* logits, idx count, float inv_temp, float known_max, TokenId target,
                    HeadParts& parts);
  // The token whose slice of the cumulative distribution holds u in [0, 1).
  TokenId (*head_pick)(const float* logits, idx vocab, float inv_temp, float max,
                       const float* block_sums, double u);
  double (*sum_squares)(const float* x, idx n);  // f64, 16 lanes; at most a few thousand elements
  void (*add)(float* y, const float* x, idx n);  // y += x
  // products (num, num) += v v^T for i <= j, v (num, n) with rows ldv apart: f32 over at most
  // kDotBlock elements, then f64.
  void (*dot_rows)(double* products, const float* v, idx ldv, idx num, idx n);

  template <class T>
  const KernelsOf<T>& of() const;
};
template <>
inline const KernelsOf<bf16>& Kernels::of<bf16>() const {
  return b16;
}
template <>
inline const KernelsOf<float>& Kernels::of<float>() const {
  return f32;
}

inline constexpr idx kDotBlock = 512;   // elements that dot_rows sums in f32; a multiple of 16
inline constexpr idx kHeadBlock = 512;  // vocabulary entries a block sum covers; a multiple of kPad
inline constexpr idx kGemmRows = 512;   // rows of a GEMM block, at most; a multiple of kPanel
inline constexpr idx kGemmK = 2048;     // k of a GEMM block; longer sums go through memory
// Of packed activations, which are in the cache, a block of rows meets this much one panel after
// the other: its rows of c pass in longer stretches.
inline constexpr idx kGemmPanelsBytes = idx{80} << 10;
inline constexpr idx kGemmScratch = kGemmRows * kPanel;
// Floats of scratch that `attention` and `attention_grad` need.
idx AttentionScratch(const AttentionShape& shape);

// The path in use: the best one that this machine has and that passes its self-test, or the one
// that was forced. Chosen at the first call.
const Kernels& ActiveKernels();
// Names of all paths, best first, and whether this machine can run them.
struct IsaPath {
  std::string_view name;
  bool available;
};
std::vector<IsaPath> IsaPaths();
// Forces a path (--isa); "" chooses. Throws Error(kUsage) where it is unknown or not available.
void SelectIsa(std::string_view name);
// Makes a table the active one that is not among the paths (a test's), if it passes the self-test.
void SelectKernels(const Kernels& table);
// Output bits of a fixed GEMM, exp and log-prob on the active path, as hex: the fingerprint that
// manifests keep and a resume compares.
std::string IsaFingerprint();

}  // namespace opo
