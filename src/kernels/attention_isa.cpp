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
  __builtin_memcpy(dst, src, static_cast<unsigned long>(n) * sizeof(T));
  for (idx i = n; i < padded; ++i) dst[i] = T{};
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
  for (idx d = 0; d < dh; ++d) {
    T* panel = packed + (d / kPanel) * PanelSize(kKeyBlock);
    const idx j = d % kPanel;
    panel[sizeof(T) == 2 ? (slot / 2) * 2 * kPanel + 2 * j + slot % 2 : slot * kPanel + j] = row[d];
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
  float* max;
  float* sum;
  float* scores;  // (rows, 32)
  T* p;           // (rows, 32)
};

// One key block against rows [r0, r1). Row r sees the block's first keys(r) keys.
template <class T, class Keys>
void AttendBlock(const TileState<T>& s, idx r0, idx r1, idx num_keys, const Keys& keys,
                 const T* k_panel, const T* v_packed, const AttentionShape& shape) {
  MicroGemm(s.q + r0 * s.ld, s.ld, k_panel, r1 - r0, shape.head_dim, s.scores, kPanel, false);
  for (idx r = r0; r < r1; ++r) {
    const float* scores = s.scores + (r - r0) * kPanel;
    const float visible = static_cast<float>(keys(r));
    const f32x16 s0 =
        Select(LaneIndex() < visible, Load(scores) * shape.scale, Splat(-__builtin_inff()));
    const f32x16 s1 = Select(LaneIndex() + 16.0f < visible, Load(scores + kLanes) * shape.scale,
                             Splat(-__builtin_inff()));
    const float block_max = MaxLanes(Max(s0, s1));
    const float max = block_max > s.max[r] ? block_max : s.max[r];
    const float alpha = Exp1(s.max[r] - max);
    const f32x16 p0 = Exp(s0 - max);
    const f32x16 p1 = Exp(s1 - max);
    s.sum[r] = s.sum[r] * alpha + SumLanes(p0 + p1);
    s.max[r] = max;
    T* p = s.p + (r - r0) * kPanel;
    Store(p, p0);
    Store(p + kLanes, p1);
    float* o = s.o + r * s.ld;
    for (idx i = 0; i < s.ld; i += kLanes) Store(o + i, Load(o + i) * alpha);
  }
  for (idx c = 0; c < shape.head_dim; c += kPanel) {
    MicroGemm(s.p, kPanel, v_packed + (c / kPanel) * PanelSize(kKeyBlock), r1 - r0, num_keys,
              s.o + r0 * s.ld + c, s.ld, true);
  }
}

template <class T>
void Attention(const AttentionTile<T>& tile, idx kv_head, const AttentionShape& shape,
               float* memory) {
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
                 scratch.Floats(rows),
                 scratch.Floats(rows),
                 scratch.Floats(rows * kPanel),
                 scratch.Rows<T>(rows * kPanel)};
  for (idx r = 0; r < tile.num_rows; ++r) {
    for (idx h = 0; h < group; ++h) {
      CopyRow(q + (r * group + h) * ld, tile.q[r] + (head0 + h) * dh, dh, ld);
    }
  }
  for (idx i = 0; i < rows * ld; i += kLanes) Store(s.o + i, f32x16{});
  for (idx r = 0; r < rows; ++r) {
    s.max[r] = -3.0e38f;  // below any score, finite: exp(max - max') is exactly 0 at first
    s.sum[r] = 0;
  }

  const idx head_base = kv_head * (shape.k_size() + shape.v_size());
  for (idx b = 0; b * kKeyBlock < tile.num_prefix; ++b) {
    const T* page = tile.prefix_pages[b] + head_base;
    const idx n = Min(kKeyBlock, tile.num_prefix - b * kKeyBlock);
    AttendBlock(
        s, 0, rows, n, [n](idx) { return n; }, page, page + shape.k_size(), shape);
  }
  for (idx i = 0; i < tile.num_spans; ++i) {
    const TileSpan<T>& span = tile.spans[i];
    const idx r0 = span.first_row * group;
    const idx r1 = r0 + span.num_rows * group;
    const idx last = span.first_pos + span.num_rows - 1;
    for (idx b = 0; b * kKeyBlock <= last; ++b) {
      const T* page = span.pages[b] + head_base;
      const idx first_key = b * kKeyBlock;
      AttendBlock(
          s, r0, r1, Min(kKeyBlock, last + 1 - first_key),
          [&](idx r) { return span.first_pos + (r - r0) / group + 1 - first_key; }, page,
          page + shape.k_size(), shape);
    }
  }

  for (idx r = 0; r < tile.num_rows; ++r) {
    for (idx h = 0; h < group; ++h) {
      const idx at = r * group + h;
      const float inverse = 1.0f / s.sum[at];
      T* out = tile.out[r] + (head0 + h) * dh;
      for (idx i = 0; i < dh; i += kLanes) {
        StorePart(out + i, Load(s.o + at * ld + i) * inverse, dh - i);
      }
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
      for (idx j = 0; j < kPanel; ++j) {
        const T even = src[r * ld + d + j];
        const T odd = r + 1 < rows ? src[(r + 1) * ld + d + j] : T{};
        if constexpr (sizeof(T) == 2) {
          packed[r * kPanel + 2 * j] = even;
          packed[r * kPanel + 2 * j + 1] = odd;
        } else {
          packed[r * kPanel + j] = even;
          packed[(r + 1) * kPanel + j] = odd;
        }
      }
    }
  }
}

// With P = exp(scale q.k - lse): dV += P^T dO; dS = P (dO.V - rowsum(dO O)) scale; dQ += dS K;
// dK += dS^T Q. Rows in tiles of kTileRows from the sample's first, heads of the group inside a
// row; per tile the key blocks ascending. P and dS are rounded to T before they are multiplied.
template <class T>
void AttentionGrad(const AttentionGradTile<T>& t, idx kv_head, const AttentionShape& shape,
                   float* memory) {
  const idx dh = shape.head_dim;
  const idx group = shape.group();
  const idx head0 = kv_head * group;
  const idx ld = RoundUp(dh, kPad);
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
  float* scores = scratch.Floats(max_rows * kPanel);
  float* dp = scratch.Floats(max_rows * kPanel);
  T* ds = scratch.Rows<T>(max_rows * kPanel);
  T* p_t = scratch.Rows<T>(kPanel * ld_rows);
  T* ds_t = scratch.Rows<T>(kPanel * ld_rows);
  T* k_panel = scratch.Rows<T>(shape.k_size());
  T* v_panel = scratch.Rows<T>(shape.k_size());
  T* k_packed = scratch.Rows<T>(shape.v_size());
  float* grad = scratch.Floats(kPanel * ld);

  for (idx i0 = 0; i0 < t.num_rows; i0 += kTileRows) {
    const idx tile_rows = Min(kTileRows, t.num_rows - i0);
    const idx rows = tile_rows * group;
    for (idx r = 0; r < rows; ++r) {
      const idx row = i0 + r / group;
      const idx column = (head0 + r % group) * dh;
      CopyRow(q + r * ld, t.q[row] + column, dh, ld);
      CopyRow(dout + r * ld, t.dout + row * t.ldd + column, dh, ld);
      f32x16 sum{};
      for (idx i = 0; i < dh; i += kLanes) {
        sum = Fma(Load(dout + r * ld + i), LoadPart(t.out[row] + column + i, dh - i), sum);
        StorePart(dq + r * ld + i, LoadPart(t.dq + row * t.ldq + column + i, dh - i), dh - i);
      }
      for (idx i = dh; i < ld; ++i) dq[r * ld + i] = 0;
      delta[r] = SumLanes(sum);
      lse[r] = t.lse[row][head0 + r % group];
    }
    PackOverRows(q_packed, q, ld, rows, dh);
    PackOverRows(dout_packed, dout, ld, rows, dh);

    const idx visible = t.causal ? i0 + tile_rows : t.num_keys;
    for (idx k0 = 0; k0 < visible; k0 += kKeyBlock) {
      const idx num_keys = Min(kKeyBlock, visible - k0);
      for (idx i = 0; i < shape.k_size(); ++i) k_panel[i] = v_panel[i] = T{};
      for (idx i = 0; i < shape.v_size(); ++i) k_packed[i] = T{};
      for (idx j = 0; j < num_keys; ++j) {
        PutKey(k_panel, j, t.k[k0 + j] + kv_head * dh, dh);
        PutKey(v_panel, j, t.v[k0 + j] + kv_head * dh, dh);
        PutValue(k_packed, j, t.k[k0 + j] + kv_head * dh, dh);
      }
      MicroGemm(q, ld, k_panel, rows, dh, scores, kPanel, false);
      MicroGemm(dout, ld, v_panel, rows, dh, dp, kPanel, false);
      for (idx r = 0; r < rows; ++r) {
        const idx seen = t.causal ? Min(num_keys, i0 + r / group + 1 - k0) : num_keys;
        T p[kPanel];
        for (idx j = 0; j < kPanel; j += kLanes) {
          const f32x16 mask_lane = LaneIndex() + static_cast<float>(j);
          f32x16 prob = Exp(Load(scores + r * kPanel + j) * shape.scale - lse[r]);
          prob = Select(mask_lane < static_cast<float>(seen), prob, f32x16{});
          Store(p + j, prob);
          Store(ds + r * kPanel + j, prob * (Load(dp + r * kPanel + j) - delta[r]) * shape.scale);
        }
        for (idx j = 0; j < kPanel; ++j) {
          p_t[j * ld_rows + r] = p[j];
          ds_t[j * ld_rows + r] = ds[r * kPanel + j];
        }
      }
      if (rows % 2 != 0) {
        for (idx j = 0; j < kPanel; ++j) p_t[j * ld_rows + rows] = ds_t[j * ld_rows + rows] = T{};
      }
      const auto accumulate = [&](float* out, const T* left, const T* right_packed) {
        for (idx j = 0; j < num_keys; ++j) {
          const float* row = out + (k0 + j) * t.ldk + kv_head * dh;
          for (idx i = 0; i < ld; i += kLanes) {
            Store(grad + j * ld + i, i < dh ? LoadPart(row + i, dh - i) : f32x16{});
          }
        }
        for (idx c = 0; c < dh; c += kPanel) {
          MicroGemm(left, ld_rows, right_packed + (c / kPanel) * PanelSize(rows), num_keys, rows,
                    grad + c, ld, true);
        }
        for (idx j = 0; j < num_keys; ++j) {
          float* row = out + (k0 + j) * t.ldk + kv_head * dh;
          for (idx i = 0; i < dh; i += kLanes) {
            StorePart(row + i, Load(grad + j * ld + i), dh - i);
          }
        }
      };
      accumulate(t.dv, p_t, dout_packed);
      accumulate(t.dk, ds_t, q_packed);
      for (idx c = 0; c < dh; c += kPanel) {
        MicroGemm(ds, kPanel, k_packed + (c / kPanel) * PanelSize(kKeyBlock), rows, num_keys,
                  dq + c, ld, true);
      }
    }
    for (idx r = 0; r < rows; ++r) {
      float* row = t.dq + (i0 + r / group) * t.ldq + (head0 + r % group) * dh;
      for (idx i = 0; i < dh; i += kLanes) StorePart(row + i, Load(dq + r * ld + i), dh - i);
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
