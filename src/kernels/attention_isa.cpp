// Attention, forward and backward, one kv head of one tile at a time. Decode, prefill and learner
// call the same forward kernel; what differs is only how many rows a tile has.
//
// Forward, per row: for each key block in order, with s_j = scale * (q . k_j):
//   m' = max(m, max s), p_j = exp(s_j - m'), a = exp(m - m'), l = l a + sum p, o = o a + p . V
// p is rounded to T before p . V, the sum is over unrounded p. out = T(o / l), lse = m + log l.
#include "kernels/micro_gemm.h"
#include "kernels/tables.h"

namespace opo::OPO_ISA {
namespace {

idx Min(idx a, idx b) { return a < b ? a : b; }

// Hands out parts of the caller's scratch.
class Scratch {
 public:
  explicit Scratch(float* base) : at_(base) {}
  float* Floats(idx n) {
    float* p = at_;
    at_ += RoundUp(n, kLanes);
    return p;
  }
  template <class T>
  T* Rows(idx n) {
    return reinterpret_cast<T*>(Floats(n));  // as if T were float: never too small
  }

 private:
  float* at_;
};

template <class T>
void CopyRow(T* dst, const T* src, idx n, idx padded) {
  constexpr idx kVector = 64 / sizeof(T);
  idx i = 0;
  for (; i + kVector <= n; i += kVector) __builtin_memcpy(dst + i, src + i, 64);
  for (; i < n; ++i) dst[i] = src[i];
  for (; i < padded; ++i) dst[i] = T{};
}

template <class T>
void PutKey(T* panel, idx slot, const T* row, idx dh) {
  if constexpr (sizeof(T) == 2) {
    const idx pairs = dh / 2;
    for (idx p = 0; p < pairs; ++p) {
      __builtin_memcpy(panel + (p * kPanel + slot) * 2, row + 2 * p, 4);
    }
  } else {
    for (idx d = 0; d < dh; ++d) panel[d * kPanel + slot] = row[d];
  }
}

// Key `slot` of a matrix packed for a reduction over keys (columns are head dims).
template <class T>
void PutValue(T* packed, idx slot, const T* row, idx dh) {
  for (idx d = 0; d < dh; d += kPanel, packed += PanelSize(kKeyBlock)) {
    const idx n = Min(kPanel, dh - d);
    if constexpr (sizeof(T) == 2) {
      // Bytes of the slot beside it are not touched: another thread may be writing them.
      T* pair = packed + (slot / 2) * 2 * kPanel + slot % 2;
      for (idx j = 0; j < n; ++j) pair[2 * j] = row[d + j];
    } else {
      __builtin_memcpy(packed + slot * kPanel, row + d, static_cast<unsigned long>(n) * sizeof(T));
    }
  }
}

template <class T>
void KvWrite(T* page, idx slot, const T* k, const T* v, const AttentionShape& shape) {
  for (idx h = 0; h < shape.num_kv_heads; ++h) {
    T* base = page + h * (shape.k_size() + shape.v_size());
    PutKey(base, slot, k + h * shape.head_dim, shape.head_dim);
    PutValue(base + shape.k_size(), slot, v + h * shape.head_dim, shape.head_dim);
  }
}

// The online softmax's state of the rows of a tile: (row, head of the group), row major.
template <class T>
struct TileState {
  const T* q;  // (rows, ld)
  idx ld;      // RoundUp(Dh, 32)
  float* o;    // (rows, ld)
  float* max;  // max and sum: with room for a vector behind the last row
  float* sum;
  float* scores;  // (rows, 32)
  T* p;           // (rows, 32)
};

// The softmax of a key block's scores for rows [r0, r1): p, and the state's maximum and sum; o is
// rescaled unless it is still empty. Row r sees the first keys(r) keys, all 32 unless kMasked; with
// kWide false there are 16 keys at most. What is one number a row is computed for 16 rows at once.
template <bool kMasked, bool kWide, class T, class Keys>
void SoftmaxRows(const TileState<T>& s, idx r0, idx r1, const Keys& keys, float scale, bool empty) {
  const f32x16 minus_inf = Splat(-__builtin_inff());
  for (idx first = r0; first < r1; first += kLanes) {
    const idx n = Min(kLanes, r1 - first);
    const float* scores = s.scores + (first - r0) * kPanel;
    const auto score = [&](idx i, idx j) OPO_LAMBDA {
      const f32x16 x = Load(scores + i * kPanel + j) * scale;
      return kMasked ? Select(FirstLanes(keys(first + i) - j), x, minus_inf) : x;
    };
    const f32x16 old_max = Load(s.max + first);  // lanes behind n: computed, not kept
    const f32x16 old_sum = Load(s.sum + first);
    float max[kLanes];
    float sum[kLanes];
    Store(max, old_max);
    Store(sum, old_sum);
    for (idx i = 0; i < n; ++i) {
      max[i] = MaxLanes(kWide ? Max(score(i, 0), score(i, kLanes)) : score(i, 0));
    }
    const f32x16 new_max = Max(Load(max), old_max);
    const f32x16 new_alpha = Exp(old_max - new_max);
    float alpha[kLanes];
    Store(max, new_max);
    Store(alpha, new_alpha);
    T* p = s.p + (first - r0) * kPanel;
    for (idx i = 0; i < n; ++i, p += kPanel) {
      f32x16 total = Exp(score(i, 0) - max[i]);
      Store(p, total);
      if constexpr (kWide) {
        const f32x16 p1 = Exp(score(i, kLanes) - max[i]);
        Store(p + kLanes, p1);
        total = total + p1;
      }
      sum[i] = SumLanes(total);
      if (empty) continue;
      float* o = s.o + (first + i) * s.ld;
      for (idx d = 0; d < s.ld; d += kLanes) Store(o + d, Load(o + d) * alpha[i]);
    }
    Store(s.max + first, Select(FirstLanes(n), new_max, old_max));
    Store(s.sum + first, Select(FirstLanes(n), old_sum * new_alpha + Load(sum), old_sum));
  }
}

// Asks for the quarters [first, last) of a head's part of a page. Few rows take less time over a
// block than the next one's keys and values need from memory, so that requests for these are made
// all along it.
template <class T>
OPO_INLINE void AskForQuarters(const T* page, idx first, idx last, const AttentionShape& shape) {
  const auto* bytes = reinterpret_cast<const char*>(page);
  const idx quarter = (shape.k_size() + shape.v_size()) * static_cast<idx>(sizeof(T)) / 4;
  for (idx i = first * quarter; i < last * quarter; i += 64) __builtin_prefetch(bytes + i, 0, 3);
}

// One key block against rows [r0, r1). Row r sees the block's first keys(r) keys, none more than
// num_keys; `whole`: all rows see 32. `empty`: it is the rows' first block. `next`: the page to be
// asked for.
template <class T, class Keys>
void AttendBlock(const TileState<T>& s, idx r0, idx r1, idx num_keys, const Keys& keys, bool whole,
                 bool empty, const T* page, const T* next, const AttentionShape& shape) {
  AskForQuarters(next, 0, 1, shape);
  MicroGemm(s.q + r0 * s.ld, s.ld, page, 0, 1, r1 - r0, shape.head_dim, s.scores, kPanel, false);
  AskForQuarters(next, 1, 3, shape);
  if (whole) {
    SoftmaxRows<false, true>(s, r0, r1, keys, shape.scale, empty);
  } else if (num_keys > kLanes) {
    SoftmaxRows<true, true>(s, r0, r1, keys, shape.scale, empty);
  } else {
    SoftmaxRows<true, false>(s, r0, r1, keys, shape.scale, empty);
  }
  AskForQuarters(next, 3, 4, shape);
  MicroGemm(s.p, kPanel, page + shape.k_size(), PanelSize(kKeyBlock), s.ld / kPanel, r1 - r0,
            num_keys, s.o + r0 * s.ld, s.ld, !empty);
}

template <class T>
void Attention(const AttentionTile<T>& tile, idx kv_head, const AttentionShape& shape,
               float* memory) {
  [[maybe_unused]] const MicroSession session;
  const idx dh = shape.head_dim;
  const idx group = shape.group();
  const idx rows = tile.num_rows * group;
  const idx head0 = kv_head * group;
  const idx ld = RoundUp(dh, kPad);
  Scratch scratch(memory);
  T* q = scratch.Rows<T>(rows * ld);
  TileState<T> s{q,
                 ld,
                 scratch.Floats(rows * ld),
                 scratch.Floats(rows + kLanes),
                 scratch.Floats(rows + kLanes),
                 scratch.Floats(rows * kPanel),
                 scratch.Rows<T>(rows * kPanel)};
  for (idx r = 0; r < tile.num_rows; ++r) {
    for (idx h = 0; h < group; ++h) {
      CopyRow(q + (r * group + h) * ld, tile.q[r] + (head0 + h) * dh, dh, ld);
    }
  }
  for (idx r = 0; r < rows; ++r) {
    s.max[r] = -3.0e38f;  // below any score, finite: exp(max - max') is exactly 0 at first
    s.sum[r] = 0;
  }

  const idx head_base = kv_head * (shape.k_size() + shape.v_size());
  // The page behind block b of span i (-1: of the prefix), in the order of the loops below; behind
  // the last one that one again.
  const auto page_after = [&](idx i, idx b) {
    const T* const* pages = i < 0 ? tile.prefix_pages : tile.spans[i].pages;
    const idx keys = i < 0 ? tile.num_prefix : tile.spans[i].first_pos + tile.spans[i].num_rows;
    if ((b + 1) * kKeyBlock < keys) return pages[b + 1] + head_base;
    return (i + 1 < tile.num_spans ? tile.spans[i + 1].pages[0] : pages[b]) + head_base;
  };
  for (idx b = 0; b * kKeyBlock < tile.num_prefix; ++b) {
    const T* page = tile.prefix_pages[b] + head_base;
    const idx n = Min(kKeyBlock, tile.num_prefix - b * kKeyBlock);
    const T* next = page_after(-1, b);
    AttendBlock(
        s, 0, rows, n, [n](idx) { return n; }, n == kKeyBlock, b == 0, page, next, shape);
  }
  for (idx i = 0; i < tile.num_spans; ++i) {
    const TileSpan<T>& span = tile.spans[i];
    const idx r0 = span.first_row * group;
    const idx r1 = r0 + span.num_rows * group;
    const idx last = span.first_pos + span.num_rows - 1;
    for (idx b = 0; b * kKeyBlock <= last; ++b) {
      const T* page = span.pages[b] + head_base;
      const T* next = page_after(i, b);
      const idx first_key = b * kKeyBlock;
      AttendBlock(
          s, r0, r1, Min(kKeyBlock, last + 1 - first_key),
          [&](idx r) { return span.first_pos + (r - r0) / group + 1 - first_key; },
          span.first_pos + 1 - first_key >= kKeyBlock, b == 0 && tile.num_prefix == 0, page, next,
          shape);
    }
  }

  for (idx r = 0; r < tile.num_rows; ++r) {
    for (idx h = 0; h < group; ++h) {
      const idx at = r * group + h;
      const float inverse = 1.0f / s.sum[at];
      T* out = tile.out[r] + (head0 + h) * dh;
      const float* o = s.o + at * ld;
      ForVectors(dh,
                 [&](idx i, auto n) OPO_LAMBDA { StorePart(out + i, Load(o + i) * inverse, n); });
      tile.lse[r][head0 + h] =
          s.max[at] + static_cast<float>(__builtin_log(static_cast<double>(s.sum[at])));
    }
  }
}

// Rows packed for a reduction over rows: columns are head dims, `rows` is rounded up with zeros.
template <class T>
void PackOverRows(T* packed, const T* src, idx ld, idx rows, idx dh) {
  const idx panel_size = PanelSize(rows);
  for (idx d = 0; d < RoundUp(dh, kPanel); d += kPanel, packed += panel_size) {
    for (idx r = 0; r < rows; r += 2) {
      for (idx j = 0; j < kPanel; j += kLanes) {
        const f32x16 even = Load(src + r * ld + d + j);
        const f32x16 odd = r + 1 < rows ? Load(src + (r + 1) * ld + d + j) : f32x16{};
        if constexpr (sizeof(T) == 2) {
          Store(reinterpret_cast<float*>(packed + r * kPanel + 2 * j), Zip(even, odd));
        } else {
          Store(packed + r * kPanel + j, even);
          Store(packed + (r + 1) * kPanel + j, odd);
        }
      }
    }
  }
}

// 32 rows as a panel: what PutKey makes of them one by one. A pair of bf16 moves as one value.
template <class T>
void PackKeys(T* panel, const T* src, idx ld) {
  constexpr idx kWidth = 4 / sizeof(T);
  float* out = reinterpret_cast<float*>(panel);
  for (idx slot = 0; slot < kPanel; slot += kLanes) {
    const float* in = reinterpret_cast<const float*>(src + slot * ld);
    for (idx i = 0; i < ld / kWidth; i += kLanes) {
      Transpose16(out + i * kPanel + slot, kPanel, in + i, ld / kWidth);
    }
  }
}

// With P = exp(scale q.k - lse): dV += P^T dO; dS = P (dO.V - rowsum(dO O)) scale; dQ += dS K;
// dK += dS^T Q. Rows in tiles of kTileRows from the sample's first, heads of the group inside a
// row; per tile the key blocks ascending. P and dS are rounded to T before they are multiplied.
template <class T>
void AttentionGrad(const AttentionGradTile<T>& t, idx kv_head, const AttentionShape& shape,
                   float* memory) {
  [[maybe_unused]] const MicroSession session;
  const idx dh = shape.head_dim;
  const idx group = shape.group();
  const idx head0 = kv_head * group;
  const idx ld = RoundUp(dh, kPad);
  const idx num_panels = ld / kPanel;  // of what has dh columns
  const idx max_rows = kTileRows * group;
  const idx ld_rows = RoundUp(max_rows, kPad);
  Scratch scratch(memory);
  T* q = scratch.Rows<T>(max_rows * ld);
  T* dout = scratch.Rows<T>(max_rows * ld);
  T* q_packed = scratch.Rows<T>(ld_rows * ld);
  T* dout_packed = scratch.Rows<T>(ld_rows * ld);
  float* dq = scratch.Floats(max_rows * ld);
  float* delta = scratch.Floats(max_rows);
  float* lse = scratch.Floats(max_rows);
  std::int32_t* row_of = scratch.Rows<std::int32_t>(max_rows);  // r / group, once
  float* scores = scratch.Floats(max_rows * kPanel);
  float* dp = scratch.Floats(max_rows * kPanel);
  T* ds = scratch.Rows<T>(max_rows * kPanel);
  T* p_t = scratch.Rows<T>(kPanel * ld_rows);
  T* ds_t = scratch.Rows<T>(kPanel * ld_rows);
  T* k_panel = scratch.Rows<T>(shape.k_size());
  T* v_panel = scratch.Rows<T>(shape.k_size());
  T* k_packed = scratch.Rows<T>(shape.v_size());
  T* keys = scratch.Rows<T>(kPanel * ld);
  float* grad = scratch.Floats(kPanel * ld);

  for (idx i0 = 0; i0 < t.num_rows; i0 += kTileRows) {
    const idx tile_rows = Min(kTileRows, t.num_rows - i0);
    const idx rows = tile_rows * group;
    for (idx r = 0; r < rows; ++r) {
      row_of[r] = static_cast<std::int32_t>(r / group);
      const idx row = i0 + row_of[r];
      const idx column = (head0 + r % group) * dh;
      CopyRow(q + r * ld, t.q[row] + column, dh, ld);
      CopyRow(dout + r * ld, t.dout + row * t.ldd + column, dh, ld);
      const T* out_row = t.out[row] + column;
      const float* dq_row = t.dq + row * t.ldq + column;
      f32x16 sum{};
      ForVectors(dh, [&](idx i, auto n) OPO_LAMBDA {
        sum = Fma(Load(dout + r * ld + i), LoadPart(out_row + i, n), sum);
        StorePart(dq + r * ld + i, LoadPart(dq_row + i, n), n);
      });
      for (idx i = dh; i < ld; ++i) dq[r * ld + i] = 0;
      delta[r] = SumLanes(sum);
      lse[r] = t.lse[row][head0 + r % group];
    }
    PackOverRows(q_packed, q, ld, rows, dh);
    PackOverRows(dout_packed, dout, ld, rows, dh);

    const idx visible = t.causal ? i0 + tile_rows : t.num_keys;
    for (idx k0 = 0; k0 < visible; k0 += kKeyBlock) {
      const idx num_keys = Min(kKeyBlock, visible - k0);
      const auto copy_keys = [&](const T* const* from) {
        for (idx j = 0; j < num_keys; ++j)
          CopyRow(keys + j * ld, from[k0 + j] + kv_head * dh, dh, ld);
        for (idx i = num_keys * ld; i < kPanel * ld; ++i) keys[i] = T{};
      };
      copy_keys(t.v);
      PackKeys(v_panel, keys, ld);
      copy_keys(t.k);
      PackKeys(k_panel, keys, ld);
      PackOverRows(k_packed, keys, ld, kPanel, dh);
      MicroGemm(q, ld, k_panel, 0, 1, rows, dh, scores, kPanel, false);
      MicroGemm(dout, ld, v_panel, 0, 1, rows, dh, dp, kPanel, false);
      // P and dS of a row, 16 keys from j.
      const auto gradient = [&](idx r, idx j, f32x16& p, f32x16& d) OPO_LAMBDA {
        p = d = f32x16{};
        if (r >= rows) return;
        const idx seen = t.causal ? Min(num_keys, i0 + row_of[r] + 1 - k0) : num_keys;
        const idx at = r * kPanel + j;
        p = Exp(Load(scores + at) * shape.scale - lse[r]);
        if (seen < j + kLanes) p = Select(FirstLanes(seen - j), p, f32x16{});
        d = p * (Load(dp + at) - delta[r]) * shape.scale;
        Store(ds + at, d);
      };
      // Their transposes, 16 values of 32 bits at a time: 16 rows of f32, 16 pairs of bf16 rows.
      constexpr idx kWidth = 4 / sizeof(T);
      for (idx r = 0; r < rows; r += kLanes * kWidth) {
        for (idx j = 0; j < num_keys; j += kLanes) {
          float p_block[kLanes * kLanes];
          float ds_block[kLanes * kLanes];
          for (idx i = 0; i < kLanes; ++i) {
            f32x16 p;
            f32x16 d;
            gradient(r + i * kWidth, j, p, d);
            if constexpr (kWidth == 2) {
              f32x16 p_odd;
              f32x16 d_odd;
              gradient(r + i * kWidth + 1, j, p_odd, d_odd);
              p = Zip(RoundAs(T{}, p), RoundAs(T{}, p_odd));
              d = Zip(RoundAs(T{}, d), RoundAs(T{}, d_odd));
            }
            Store(p_block + i * kLanes, p);
            Store(ds_block + i * kLanes, d);
          }
          const auto put = [&](T* out, const float* block) {
            Transpose16(reinterpret_cast<float*>(out + j * ld_rows + r), ld_rows / kWidth, block,
                        kLanes);
          };
          put(p_t, p_block);
          put(ds_t, ds_block);
        }
      }
      const auto accumulate = [&](float* out, const T* left, const T* right_packed) {
        if (dh % kPanel == 0) {  // whole panels: in place
          MicroGemm(left, ld_rows, right_packed, PanelSize(rows), num_panels, num_keys, rows,
                    out + k0 * t.ldk + kv_head * dh, t.ldk, true);
          return;
        }
        for (idx j = 0; j < num_keys; ++j) {
          const float* row = out + (k0 + j) * t.ldk + kv_head * dh;
          for (idx i = 0; i < ld; i += kLanes) {
            Store(grad + j * ld + i, i < dh ? LoadPart(row + i, dh - i) : f32x16{});
          }
        }
        MicroGemm(left, ld_rows, right_packed, PanelSize(rows), num_panels, num_keys, rows, grad,
                  ld, true);
        for (idx j = 0; j < num_keys; ++j) {
          float* row = out + (k0 + j) * t.ldk + kv_head * dh;
          for (idx i = 0; i < dh; i += kLanes) {
            StorePart(row + i, Load(grad + j * ld + i), dh - i);
          }
        }
      };
      accumulate(t.dv, p_t, dout_packed);
      accumulate(t.dk, ds_t, q_packed);
      MicroGemm(ds, kPanel, k_packed, PanelSize(kKeyBlock), num_panels, rows, num_keys, dq, ld,
                true);
    }
    for (idx r = 0; r < rows; ++r) {
      float* row = t.dq + (i0 + r / group) * t.ldq + (head0 + r % group) * dh;
      ForVectors(dh,
                 [&](idx i, auto n) OPO_LAMBDA { StorePart(row + i, Load(dq + r * ld + i), n); });
    }
  }
}

}  // namespace

template <class T>
void FillAttention(KernelsOf<T>& table) {
  table.kv_write = KvWrite<T>;
  table.attention = Attention<T>;
  table.attention_grad = AttentionGrad<T>;
}
template void FillAttention<bf16>(KernelsOf<bf16>& table);
template void FillAttention<float>(KernelsOf<float>& table);

}  // namespace opo::OPO_ISA
