#include "model/transformer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/parallel.h"
#include "model/seals.h"

namespace opo {
namespace {

constexpr idx kRowGrain = 8;  // rows of a task of the row kernels

template <class T>
void CopyTo(std::byte* record, idx offset, const T* row, idx n) {
  std::memcpy(record + offset, row, static_cast<std::size_t>(n) * sizeof(T));
}

// Calls body(i, r, row) for rows r = row0 + i of a pass, i < count, on all threads.
template <class Pass, class Body>
void ForRows(const Pass& pass, idx row0, idx count, const Body& body) {
  ParallelChunks(count, kRowGrain, [&](idx begin, idx end) {
    for (idx i = begin; i < end; ++i) {
      body(i, row0 + i, pass.rows[static_cast<std::size_t>(row0 + i)]);
    }
  });
}

}  // namespace

template <class T>
Transformer<T>::Transformer(const PackedWeights<T>& weights, bool adapter)
    : weights_(weights),
      adapter_(adapter),
      shape_(ShapeOf(weights.config())),
      pool_(weights.config()),
      ld_d_(RoundUp(config().hidden_size, kPad)),
      ld_q_(RoundUp(config().num_heads * config().head_dim, kPad)),
      ld_kv_(RoundUp(config().num_kv_heads * config().head_dim, kPad)),
      ld_qkv_(RoundUp((config().num_heads + 2 * config().num_kv_heads) * config().head_dim, kPad)),
      ld_f_(RoundUp(config().intermediate_size, kPad)),
      ld_gu_(RoundUp(2 * config().intermediate_size, kPad)),
      ld_half_(RoundUp(config().head_dim / 2, 16)) {
  const auto& layer = weights.layer(0);
  const auto columns = [](const PackedLinear<T>& linear) { return RoundUp(linear.columns, kPad); };
  ld_h_ = ld_d_ + std::max(columns(layer.qkv), columns(layer.gate_up));
  ld_attn_ = ld_q_ + columns(layer.o);
  ld_act_ = ld_f_ + columns(layer.down);
  ld_dy_ = ld_d_ + std::max(columns(layer.o), columns(layer.down));
  ld_dgu_ = ld_gu_ + columns(layer.gate_up);
  ld_dqkv_ = ld_qkv_ + columns(layer.qkv);
}

template <class T>
void Transformer<T>::AdapterColumns(const PackedLinear<T>& linear, T* x, idx ldx, idx count) {
  if (linear.columns == 0) return;
  T* u = x + linear.x_column();
  if (!adapter_) {  // sums of exact zeros are the base's own numbers
    for (idx i = 0; i < count; ++i) std::fill_n(u + i * ldx, RoundUp(linear.columns, kPad), T{});
    return;
  }
  GemmArgs<T> args;
  args.a = x;
  args.lda = ldx;
  args.m = count;
  args.output = GemmOutput::kStore;
  args.out = u;
  args.ldo = ldx;
  Gemm(args, linear.a);
}

template <class T>
void Transformer<T>::Multiply(const PackedLinear<T>& linear, T* x, idx ldx, idx count,
                              GemmOutput output, float* c, T* out, idx ldo) {
  AdapterColumns(linear, x, ldx, count);
  GemmArgs<T> args;
  args.a = x;
  args.lda = ldx;
  args.m = count;
  args.output = output;
  args.c = c;
  args.out = out;
  args.residual = out;
  args.ldc = args.ldo = ldo;
  Gemm(args, linear.w);
}

// The tables are made in double, once a position: cos and sin of pos * frequency.
template <class T>
void Transformer<T>::EnsureRope(idx positions) {
  if (positions <= rope_positions_) return;
  positions = std::max(positions, 2 * rope_positions_);
  cos_ = Buffer<float>(positions * ld_half_);
  sin_ = Buffer<float>(positions * ld_half_);
  const std::vector<double> frequencies = RopeFrequencies(config());
  const double scale = config().rope_scaling.attention_factor;
  for (idx i = 0; i < std::ssize(frequencies); ++i) {
    const double frequency = frequencies[static_cast<std::size_t>(i)];
    for (idx p = 0; p < positions; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      cos_[p * ld_half_ + i] = static_cast<float>(scale * std::cos(angle));
      sin_[p * ld_half_ + i] = static_cast<float>(scale * std::sin(angle));
    }
  }
  rope_positions_ = positions;
}

template <class T>
QkNorm Transformer<T>::qk_norm(idx layer) const {
  const auto& weights = weights_.layer(layer);
  return {weights.q_norm.data(), weights.k_norm.data(), config().rms_norm_eps};
}

template <class T>
typename Transformer<T>::Tiles Transformer<T>::MakeTiles(std::span<const Run<T>> runs,
                                                         const std::vector<idx>& first_row) const {
  Tiles tiles;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const Run<T>& run = runs[i];
    auto& list = run.outputs ? tiles.with_outputs : tiles.prefixes;
    const idx start = run.segment->length() - run.count;
    for (idx done = 0; done < run.count;) {
      const idx pos = start + done;
      const idx n = std::min(run.count - done, kKeyBlock - pos % kKeyBlock);  // one own key block
      const idx row = first_row[i] + done;
      const bool extend = !list.empty() && list.back().prefix == run.prefix &&
                          run.prefix != nullptr && list.back().row0 + list.back().num_rows == row &&
                          list.back().num_rows + n <= kTileRows;
      if (!extend) list.push_back({row, 0, run.prefix, {}});
      auto& tile = list.back();
      tile.spans.push_back({tile.num_rows, n, pos, run.segment});
      tile.num_rows += n;
      done += n;
    }
  }
  return tiles;
}

template <class T>
void Transformer<T>::Attend(const Tiles& tiles, idx layer) {
  const auto attention = ActiveKernels().of<T>().attention;
  const idx layer_offset = layer * shape_.page_size();
  const bool last = layer + 1 == config().num_layers;
  const idx num_outputs = static_cast<idx>(tiles.with_outputs.size());
  const idx num_tiles = num_outputs + (last ? 0 : static_cast<idx>(tiles.prefixes.size()));
  ParallelFor(num_tiles * shape_.num_kv_heads, [&](idx task) {
    const idx i = task / shape_.num_kv_heads;
    const auto& plan = i < num_outputs ? tiles.with_outputs[static_cast<std::size_t>(i)]
                                       : tiles.prefixes[static_cast<std::size_t>(i - num_outputs)];
    thread_local std::vector<const T*> pages;
    thread_local Buffer<float> scratch;
    scratch.Reserve(AttentionScratch(shape_));
    AttentionTile<T> tile;
    tile.num_rows = plan.num_rows;
    for (idx r = 0; r < plan.num_rows; ++r) {
      tile.q[r] = q_.data() + (plan.row0 + r) * ld_q_;
      tile.out[r] = attn_.data() + (plan.row0 + r) * ld_attn_;
      tile.lse[r] = lse_.data() + (plan.row0 + r) * shape_.num_heads;
    }
    pages.clear();
    const auto add_pages = [&](const Segment<T>& segment, idx keys) {
      for (idx b = 0; b < CeilDiv(keys, kKeyBlock); ++b) {
        pages.push_back(segment.page(b) + layer_offset);
      }
    };
    if (plan.prefix != nullptr) {
      tile.num_prefix = plan.prefix->length();
      add_pages(*plan.prefix, tile.num_prefix);
    }
    std::vector<std::size_t> starts;
    for (const auto& span : plan.spans) {
      starts.push_back(pages.size());
      add_pages(*span.segment, span.first_pos + span.num_rows);
    }
    tile.prefix_pages = pages.data();
    tile.num_spans = static_cast<idx>(plan.spans.size());
    for (std::size_t s = 0; s < plan.spans.size(); ++s) {
      tile.spans[s] = {plan.spans[s].first_row, plan.spans[s].num_rows, plan.spans[s].first_pos,
                       pages.data() + starts[s]};
    }
    attention(tile, task % shape_.num_kv_heads, shape_, scratch.data());
  });
}

// The last `count` rows of each run's segment. Makes room for them in the scratch of ForwardLayer.
template <class T>
typename Transformer<T>::Pass Transformer<T>::MakePass(std::span<const Run<T>> runs) {
  Pass pass;
  std::vector<idx> first_row(runs.size());
  idx m = 0;
  for (const bool outputs : {true, false}) {
    for (std::size_t i = 0; i < runs.size(); ++i) {
      if (runs[i].outputs != outputs) continue;
      first_row[i] = m;
      m += runs[i].count;
    }
    if (outputs) pass.num_outputs = m;
  }
  pass.rows.resize(static_cast<std::size_t>(m));
  idx max_position = 0;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const Run<T>& run = runs[i];
    const idx offset = run.prefix != nullptr ? run.prefix->length() : 0;
    for (idx r = 0; r < run.count; ++r) {
      const idx row = run.segment->length() - run.count + r;
      const TokenId token = run.tokens != nullptr ? run.tokens[r] : 0;
      OPO_CHECK(token >= 0 && token < config().vocab_size);
      pass.rows[static_cast<std::size_t>(first_row[i] + r)] = {run.segment, row, offset + row,
                                                               token, run.record};
      max_position = std::max(max_position, offset + row);
    }
  }
  EnsureRope(max_position + 1);
  pass.tiles = MakeTiles(runs, first_row);
  x_.Reserve(m * ld_d_);
  q_.Reserve(m * ld_q_);
  attn_.Reserve(m * ld_attn_);
  lse_.Reserve(m * shape_.num_heads);
  const idx chunk = std::min(m, kLayerRows);
  h_.Reserve(chunk * ld_h_);
  qkv_.Reserve(chunk * ld_qkv_);
  if (config().qk_norm) {
    q_pre_.Reserve(chunk * ld_q_);
    k_pre_.Reserve(chunk * ld_kv_);
  }
  k_.Reserve(chunk * ld_kv_);
  v_.Reserve(chunk * ld_kv_);
  gate_up_.Reserve(chunk * ld_gu_);
  act_.Reserve(chunk * ld_act_);
  return pass;
}

template <class T>
void Transformer<T>::Forward(std::span<const Run<T>> runs, T* hidden) {
  for (const Run<T>& run : runs) {
    run.segment->Grow(run.segment->length() + run.count, run.record, run.seal);
    run.segment->SetLength(run.segment->length() + run.count);
  }
  const Pass pass = MakePass(runs);
  if (pass.size() == 0) return;
  ForRows(pass, 0, pass.size(), [&](idx, idx r, const auto& row) {
    std::memcpy(x_.data() + r * ld_d_, weights_.embedding(row.token),
                static_cast<std::size_t>(ld_d_) * sizeof(T));
  });
  for (idx l = 0; l < config().num_layers; ++l) ForwardLayer(pass, l, false);
  const KernelsOf<T>& kernels = ActiveKernels().of<T>();
  ForRows(pass, 0, pass.num_outputs, [&](idx, idx r, const auto& row) {
    const T* x = x_.data() + r * ld_d_;
    if (hidden != nullptr) {
      kernels.rms_norm(hidden + r * ld_d_, x, weights_.final_norm(), config().hidden_size,
                       config().rms_norm_eps);
    }
    if (row.record != Record::kNone) {
      CopyTo(row.segment->Kept(row.row, 0), pool_.activations().final, x, ld_d_);
      if (row.segment->sealed())
        SealRecord(*row.segment, pool_.activations(), row.row, config().num_layers);
    }
  });
}

// One layer, from x_ to x_. What `recompute` changes is what is written: the rest of the record
// instead of the kept part and the pages (they are there), and no output (the next layer's input is
// there too).
template <class T>
void Transformer<T>::ForwardLayer(const Pass& pass, idx l, bool recompute) {
  const KernelsOf<T>& kernels = ActiveKernels().of<T>();
  const idx d = config().hidden_size;
  const float eps = config().rms_norm_eps;
  const ActivationLayout<T>& at = pool_.activations();
  const auto& layer = weights_.layer(l);
  const auto keeps = [&](const auto& row) { return !recompute && row.record != Record::kNone; };
  const auto has_rest = [&](const auto& row) { return recompute || row.record == Record::kAll; };
  idx m = pass.size();
  // Calls body(row0, count) for all chunks of rows, or of rows with outputs.
  const auto for_chunks = [&](const auto& body) {
    for (idx row0 = 0; row0 < m; row0 += kLayerRows) body(row0, std::min(kLayerRows, m - row0));
  };

  for_chunks([&](idx row0, idx count) {
    ForRows(pass, row0, count, [&](idx i, idx r, const auto& row) {
      const T* x = x_.data() + r * ld_d_;
      kernels.rms_norm(h_.data() + i * ld_h_, x, layer.attn_norm.data(), d, eps);
      if (keeps(row)) CopyTo(row.segment->Kept(row.row, l), at.residual, x, ld_d_);
    });
    Multiply(layer.qkv, h_.data(), ld_h_, count, GemmOutput::kStoreF32, qkv_.data(), nullptr,
             ld_qkv_);
    ForRows(pass, row0, count, [&](idx i, idx r, const auto& row) {
      T* q = q_.data() + r * ld_q_;
      T* k = k_.data() + i * ld_kv_;
      T* v = v_.data() + i * ld_kv_;
      const float* qkv = qkv_.data() + i * ld_qkv_;
      const float* bias = layer.qkv_bias.data();
      const float* cos = cos_.data() + row.position * ld_half_;
      const float* sin = sin_.data() + row.position * ld_half_;
      if (config().qk_norm) {
        T* q_pre = q_pre_.data() + i * ld_q_;
        T* k_pre = k_pre_.data() + i * ld_kv_;
        kernels.qkv_norm_rope(q, k, v, q_pre, k_pre, qkv, bias, qk_norm(l), cos, sin, shape_);
        if (has_rest(row)) {
          CopyTo(row.segment->Rest(row.row, l), at.q_pre, q_pre, ld_q_);
          CopyTo(row.segment->Rest(row.row, l), at.k_pre, k_pre, ld_kv_);
        }
      } else {
        kernels.qkv_rope(q, k, v, qkv, bias, cos, sin, shape_);
      }
      if (!recompute) {
        T* page = row.segment->page(row.row / kKeyBlock) + l * shape_.page_size();
        kernels.kv_write(page, row.row % kKeyBlock, k, v, shape_);
        if (row.segment->sealed()) row.segment->KeySeal(row.row, l) = SealOfKeys(k, v, shape_);
      }
      if (keeps(row)) {
        std::byte* kept = row.segment->Kept(row.row, l);
        CopyTo(kept, at.k, k, ld_kv_);
        CopyTo(kept, at.v, v, ld_kv_);
      }
      if (has_rest(row)) CopyTo(row.segment->Rest(row.row, l), at.q, q, ld_q_);
    });
  });
  const auto seal = [&](idx row0, idx count) {
    ForRows(pass, row0, count, [&](idx, idx, const auto& row) {
      if (row.segment->sealed() && keeps(row)) SealRecord(*row.segment, at, row.row, l);
    });
  };
  if (l + 1 == config().num_layers) {  // prompts end here: K and V are written
    m = pass.num_outputs;
    if (!recompute) seal(m, pass.size() - m);
  }
  if (m == 0) return;
  Attend(pass.tiles, l);
  for_chunks([&](idx row0, idx count) {
    Multiply(layer.o, attn_.data() + row0 * ld_attn_, ld_attn_, count, GemmOutput::kAddResidual,
             nullptr, x_.data() + row0 * ld_d_, ld_d_);
    ForRows(pass, row0, count, [&](idx i, idx r, const auto& row) {
      const T* x = x_.data() + r * ld_d_;
      kernels.rms_norm(h_.data() + i * ld_h_, x, layer.mlp_norm.data(), d, eps);
      if (has_rest(row)) {
        std::byte* rest = row.segment->Rest(row.row, l);
        CopyTo(rest, at.attention, attn_.data() + r * ld_attn_, ld_q_);
        CopyTo(rest, at.lse, lse_.data() + r * shape_.num_heads, shape_.num_heads);
        CopyTo(rest, at.mid, x, ld_d_);
      }
    });
    Multiply(layer.gate_up, h_.data(), ld_h_, count, GemmOutput::kStore, nullptr, gate_up_.data(),
             ld_gu_);
    ForRows(pass, row0, count, [&](idx i, idx, const auto& row) {
      const T* gu = gate_up_.data() + i * ld_gu_;
      if (!recompute) {
        kernels.swiglu(act_.data() + i * ld_act_, gu, config().intermediate_size,
                       config().intermediate_size);
      }
      if (has_rest(row)) CopyTo(row.segment->Rest(row.row, l), at.gate_up, gu, ld_gu_);
    });
    if (recompute) return;
    seal(row0, count);
    Multiply(layer.down, act_.data(), ld_act_, count, GemmOutput::kAddResidual, nullptr,
             x_.data() + row0 * ld_d_, ld_d_);
  });
}

// The rest of the records of one layer, from what was kept.
template <class T>
void Transformer<T>::RecomputeLayer(const Pass& pass, idx layer) {
  const idx residual = pool_.activations().residual;
  ForRows(pass, 0, pass.size(), [&](idx, idx r, const auto& row) {
    std::memcpy(x_.data() + r * ld_d_, row.segment->Kept(row.row, layer) + residual,
                static_cast<std::size_t>(ld_d_) * sizeof(T));
  });
  ForwardLayer(pass, layer, true);
}

template <class T>
void Transformer<T>::RestoreKeys(Segment<T>& segment, const Segment<T>& recorded, idx rows) {
  const auto kv_write = ActiveKernels().of<T>().kv_write;
  const ActivationLayout<T>& at = pool_.activations();
  segment.Grow(rows, Record::kNone);
  segment.SetLength(rows);
  ParallelFor(config().num_layers, [&](idx l) {
    for (idx r = 0; r < rows; ++r) {
      const std::byte* kept = recorded.Kept(r, l);
      kv_write(segment.page(r / kKeyBlock) + l * shape_.page_size(), r % kKeyBlock,
               reinterpret_cast<const T*>(kept + at.k), reinterpret_cast<const T*>(kept + at.v),
               shape_);
    }
  });
}

template <class T>
void Transformer<T>::Logits(const T* hidden, idx m, float* logits) {
  LogitsOf(hidden, m, 0, config().vocab_size, logits, ld_logits());
}

template <class T>
void Transformer<T>::LogitsOf(const T* hidden, idx m, idx first, idx count, float* logits,
                              idx ldl) {
  GemmArgs<T> args;
  args.a = hidden;
  args.lda = ld_d_;
  args.m = m;
  args.c = logits;
  args.ldc = ldl;
  GemmPart(args, weights_.head(), first, count);
}

// In kLanes sums over ascending columns, which are then added in pairs.
template <class T>
void Transformer<T>::Values(const T* hidden, idx m, float* values) const {
  constexpr idx kLanes = 16;
  static_assert(kPad % kLanes == 0);
  const float* score = weights_.score();
  ParallelChunks(m, kRowGrain, [&](idx begin, idx end) {
    for (idx r = begin; r < end; ++r) {
      const T* h = hidden + r * ld_d_;
      std::array<float, kLanes> lanes = {};
      for (idx i = 0; i < ld_d_; i += kLanes) {
        for (idx j = 0; j < kLanes; ++j) {
          lanes[static_cast<std::size_t>(j)] += ToF32(h[i + j]) * score[i + j];
        }
      }
      for (std::size_t n = kLanes / 2; n > 0; n /= 2) {
        for (std::size_t j = 0; j < n; ++j) lanes[j] += lanes[j + n];
      }
      values[r] = lanes[0];
    }
  });
}

// transformer_grad.cpp instantiates the backward half.
#define OPO_INSTANTIATE(T)                                                                  \
  template Transformer<T>::Transformer(const PackedWeights<T>&, bool);                      \
  template void Transformer<T>::AdapterColumns(const PackedLinear<T>&, T*, idx, idx);       \
  template typename Transformer<T>::Pass Transformer<T>::MakePass(std::span<const Run<T>>); \
  template QkNorm Transformer<T>::qk_norm(idx) const;                                       \
  template void Transformer<T>::RecomputeLayer(const Pass&, idx);                           \
  template void Transformer<T>::Forward(std::span<const Run<T>>, T*);                       \
  template void Transformer<T>::RestoreKeys(Segment<T>&, const Segment<T>&, idx);           \
  template void Transformer<T>::Logits(const T*, idx, float*);                              \
  template void Transformer<T>::Values(const T*, idx, float*) const;                        \
  template void Transformer<T>::LogitsOf(const T*, idx, idx, idx, float*, idx);
OPO_INSTANTIATE(float)
OPO_INSTANTIATE(bf16)
#undef OPO_INSTANTIATE

}  // namespace opo
