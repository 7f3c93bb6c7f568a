// The end of the LM head: a row of logits to log-prob, entropy, sum of squares, a sampled token,
// and the gradient. Sampler and learner call the same functions on the same logits.
#include "kernels/simd.h"
#include "kernels/tables.h"

namespace opo::OPO_ISA {
namespace {

// Order: the maximum first; then sums of e = exp(s - max), e * (s - max) and e^2, each a chain of
// block sums (f32, blocks of kHeadBlock entries ascending), a block being 16 lanes and the tree.
TokenStats HeadStats(float* logits, idx vocab, float inv_temp, TokenId target, float* block_sums) {
  const idx padded = RoundUp(vocab, kPad);
  for (idx i = vocab; i < padded; ++i) logits[i] = -__builtin_inff();
  f32x16 lanes_max = Splat(-__builtin_inff());
  for (idx i = 0; i < padded; i += kLanes) lanes_max = Max(lanes_max, Load(logits + i) * inv_temp);
  const float max = MaxLanes(lanes_max);

  float sum = 0;
  float sum_es = 0;
  float sum_ee = 0;
  for (idx block = 0; block * kHeadBlock < padded; ++block) {
    const idx begin = block * kHeadBlock;
    const idx end = begin + kHeadBlock < padded ? begin + kHeadBlock : padded;
    f32x16 e_sum{};
    f32x16 es_sum{};
    f32x16 ee_sum{};
    for (idx i = begin; i < end; i += kLanes) {
      const f32x16 s = Load(logits + i) * inv_temp - max;
      const f32x16 e = Exp(s);
      e_sum = e_sum + e;
      // 0 * -inf would be NaN: where e is 0 the term is 0.
      es_sum = Fma(e, Select(IsZero(e), f32x16{}, s), es_sum);
      ee_sum = Fma(e, e, ee_sum);
    }
    block_sums[block] = SumLanes(e_sum);
    sum += block_sums[block];
    sum_es += SumLanes(es_sum);
    sum_ee += SumLanes(ee_sum);
  }
  const float log_sum = static_cast<float>(__builtin_log(static_cast<double>(sum)));
  TokenStats stats;
  stats.max = max;
  stats.log_sum = log_sum;
  stats.lse = max + log_sum;
  if (target >= 0) stats.logprob = (logits[target] * inv_temp - max) - log_sum;
  stats.entropy = log_sum - sum_es / sum;
  stats.sum_sq = sum_ee / (sum * sum);
  return stats;
}

void HeadPart(float* logits, idx count, float inv_temp, float known_max, TokenId target,
              HeadParts& parts) {
  const idx padded = RoundUp(count, kPad);
  for (idx i = count; i < padded; ++i) logits[i] = -__builtin_inff();
  f32x16 lanes_max = Splat(parts.max);
  for (idx begin = 0; begin < padded; begin += kHeadBlock) {
    const idx end = begin + kHeadBlock < padded ? begin + kHeadBlock : padded;
    f32x16 e_sum{};
    for (idx i = begin; i < end; i += kLanes) {
      const f32x16 s = Load(logits + i) * inv_temp;
      lanes_max = Max(lanes_max, s);
      e_sum = e_sum + Exp(s - known_max);
    }
    parts.sum += SumLanes(e_sum);
  }
  parts.max = MaxLanes(lanes_max);
  if (target >= 0) parts.target_margin = logits[target] * inv_temp - known_max;
}

TokenId HeadPick(const float* logits, idx vocab, float inv_temp, float max, const float* block_sums,
                 double u) {
  const idx num_blocks = (vocab + kHeadBlock - 1) / kHeadBlock;
  double total = 0;
  for (idx b = 0; b < num_blocks; ++b) total += static_cast<double>(block_sums[b]);
  double left = u * total;
  idx block = 0;
  while (block + 1 < num_blocks && left >= static_cast<double>(block_sums[block])) {
    left -= static_cast<double>(block_sums[block]);
    ++block;
  }
  // Within the block one by one; the last entry with any probability takes what rounding leaves.
  idx last = -1;
  for (idx i = block * kHeadBlock; i < vocab && i < (block + 1) * kHeadBlock; i += kLanes) {
    const idx n = vocab - i < kLanes ? vocab - i : kLanes;
    float e[kLanes];
    Store(e, Exp(LoadPart(logits + i, n) * inv_temp - max));
    for (idx j = 0; j < n; ++j) {
      if (e[j] <= 0.0f) continue;
      last = i + j;
      left -= static_cast<double>(e[j]);
      if (left < 0) return static_cast<TokenId>(last);
    }
  }
  if (last >= 0) return static_cast<TokenId>(last);
  // A block without any probability (u rounded past the end): the most likely token.
  idx best = 0;
  for (idx i = 1; i < vocab; ++i) best = logits[i] > logits[best] ? i : best;
  return static_cast<TokenId>(best);
}

template <class T>
void HeadGrad(T* dlogits, const float* logits, idx vocab, float inv_temp, float lse, TokenId target,
              float coef) {
  const idx padded = RoundUp(vocab, kPad);
  const float scale = coef * inv_temp;
  for (idx i = 0; i < padded; i += kLanes) {
    const f32x16 p = Exp(Load(logits + i) * inv_temp - lse);
    Store(dlogits + i, p * -scale);
  }
  if (target < 0) return;
  const float p = Exp1(logits[target] * inv_temp - lse);
  StorePart(dlogits + target, Splat(0.0f + scale * (1.0f - p)), 1);  // never -0
}

// log p is -inf where p rounds to 0, and 0 * -inf would be NaN: there the term is 0.
template <class T>
void HeadEntropyGrad(T* dlogits, const float* logits, idx vocab, float inv_temp,
                     const TokenStats& stats, TokenId target, float coef, float entropy_coef) {
  const idx padded = RoundUp(vocab, kPad);
  const float scale = coef * inv_temp;
  const float entropy_scale = entropy_coef * inv_temp;
  for (idx i = 0; i < padded; i += kLanes) {
    const f32x16 log_p = Load(logits + i) * inv_temp - stats.lse;
    const f32x16 p = Exp(log_p);
    const f32x16 surprise = Select(IsZero(p), f32x16{}, log_p + stats.entropy);
    Store(dlogits + i, p * (surprise * -entropy_scale - scale));
  }
  if (target < 0) return;
  const float log_p = logits[target] * inv_temp - stats.lse;
  const float p = Exp1(log_p);
  const float surprise = p == 0.0f ? 0.0f : p * (log_p + stats.entropy);
  StorePart(dlogits + target, Splat(scale * (1.0f - p) - surprise * entropy_scale + 0.0f), 1);
}

}  // namespace

template <class T>
void FillHead(KernelsOf<T>& table) {
  table.head_grad = HeadGrad<T>;
  table.head_entropy_grad = HeadEntropyGrad<T>;
}
template void FillHead<bf16>(KernelsOf<bf16>& table);
template void FillHead<float>(KernelsOf<float>& table);

void FillHeadShared(Kernels& table) {
  table.head_stats = HeadStats;
  table.head_part = HeadPart;
  table.head_pick = HeadPick;
}

}  // namespace opo::OPO_ISA
