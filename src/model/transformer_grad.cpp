// The backward pass: the forward's steps in reverse order, each quoting the line it differentiates.
#include <algorithm>
#include <cstring>
#include <set>

#include "base/error.h"
#include "base/parallel.h"
#include "model/transformer.h"

namespace opo {
namespace {
constexpr idx kRowGrain = 8;

template <class T>
const T* TensorAt(const std::byte* record, idx offset) {
  return reinterpret_cast<const T*>(record + offset);
}
}  // namespace

template <class T>
idx Transformer<T>::backward_row_bytes(bool parts) const {
  constexpr idx kBytes = sizeof(T);
  const idx t_elements = ld_d_ + 2 * ld_q_ + ld_attn_;                     // x_, q_, dattn_, attn_
  const idx f_elements = ld_d_ + ld_q_ + 2 * ld_kv_ + config().num_heads;  // dresidual, dq_, ...
  const idx layer =  // h_, act_, h_attn_, dy_, dact_, dgate_up_, dqkv_; dh_, rstd_, qk_rstd_
      (ld_h_ + ld_act_ + ld_attn_ + ld_dy_ + ld_f_ + ld_dgu_ + ld_dqkv_) * kBytes +
      (ld_d_ + 1 + config().num_heads + config().num_kv_heads) * 4;
  return t_elements * kBytes + f_elements * 4 + (parts ? layer : 0) +
         static_cast<idx>(sizeof(typename Pass::Row)) + 128;
}

template <class T>
void Transformer<T>::LogitsGrad(float* dhidden, float* dhead, const T* dlogits, idx ldl, idx first,
                                idx count, const T* hidden, idx m) {
  GemmArgs<T> args;  // logits = hidden E^T
  args.a = dlogits;
  args.lda = ldl;
  args.m = m;
  args.output = first == 0 ? GemmOutput::kStoreF32 : GemmOutput::kAccumulateF32;
  args.c = dhidden;
  args.ldc = ld_d_;
  GemmTerms(args, weights_.head_t(), first, count);
  if (dhead == nullptr) return;
  const idx d = config().hidden_size;
  if (first == 0) weight_grad_.PackX(hidden, ld_d_, d, m);
  WeightGrad(dhead + first * d, d, dlogits, ldl, count, weight_grad_);
}

template <class T>
void Transformer<T>::ValuesGrad(float* dhidden, float* dscore, const float* dvalues,
                                const T* hidden, idx m) {
  const float* score = weights_.score();
  const bool more = config().has_logits;
  ParallelChunks(m, kRowGrain, [&](idx begin, idx end) {
    for (idx r = begin; r < end; ++r) {
      float* dh = dhidden + r * ld_d_;
      for (idx i = 0; i < ld_d_; ++i) {
        const float d = dvalues[r] * score[i];
        dh[i] = more ? dh[i] + d : d;
      }
    }
  });
  if (dscore == nullptr) return;
  ParallelChunks(config().hidden_size, 32, [&](idx j0, idx j1) {
    for (idx r = 0; r < m; ++r) {
      for (idx j = j0; j < j1; ++j) dscore[j] += dvalues[r] * ToF32(hidden[r * ld_d_ + j]);
    }
  });
}

template <class T>
void Transformer<T>::MultiplyGrad(const PackedLinear<T>& linear, const PackedMatrix<T>& transposed,
                                  T* dy, idx lddy, idx count, float* c, T* out, idx ldo) {
  GemmArgs<T> args;
  args.a = dy;
  args.lda = lddy;
  args.m = count;
  if (linear.columns > 0) {
    args.output = GemmOutput::kStore;
    args.out = dy + linear.dy_column();
    args.ldo = lddy;
    Gemm(args, linear.b_t);
  }
  args.output = c != nullptr ? GemmOutput::kStoreF32 : GemmOutput::kStore;
  args.c = c;
  args.out = out;
  args.ldc = args.ldo = ldo;
  Gemm(args, transposed);
}

template <class T>
void Transformer<T>::LinearGrad(const PackedLinear<T>& linear, const LinearOffsets& at, const T* dy,
                                idx lddy, const T* x, idx ldx, idx count, float* grad,
                                RowGradients<T>* parts) {
  const auto add = [&](idx offset, const T* dy_part, idx n, const T* x_part, idx k) {
    if (parts != nullptr) {
      parts->Matrix(dy_part, lddy, n, x_part, ldx, k);
    } else {
      WeightGrad(grad + offset, k, dy_part, lddy, n, x_part, ldx, k, count, weight_grad_);
    }
  };
  if (at.w >= 0) add(at.w, dy, linear.n, x, linear.k);
  if (at.parts.empty()) return;
  add(at.a, dy + linear.dy_column(), linear.columns, x, linear.k);
  const idx rank = config().lora.rank;
  const T* u = x + linear.x_column();
  for (const LinearOffsets::Part& part : at.parts) {
    add(part.b, dy + part.row0, part.rows, u, rank);
    u += rank;
  }
}

template <class T>
void Transformer<T>::FinalNorm(T* hidden, std::span<const GradRow<T>> rows) {
  const KernelsOf<T>& kernels = ActiveKernels().of<T>();
  const idx final = pool_.activations().final;
  ParallelChunks(static_cast<idx>(rows.size()), kRowGrain, [&](idx begin, idx end) {
    for (idx r = begin; r < end; ++r) {
      const GradRow<T>& row = rows[static_cast<std::size_t>(r)];
      T* out = hidden + r * ld_d_;
      if (row.segment == nullptr) {
        std::fill_n(out, ld_d_, T{});
        continue;
      }
      kernels.rms_norm(out, TensorAt<T>(row.Kept(0), final), weights_.final_norm(),
                       config().hidden_size, config().rms_norm_eps);
    }
  });
}

template <class T>
void Transformer<T>::FinalNormGrad(float* dresidual, float* dgamma, const float* dhidden,
                                   std::span<const GradRow<T>> rows) {
  const KernelsOf<T>& kernels = ActiveKernels().of<T>();
  const idx m = static_cast<idx>(rows.size());
  std::vector<const T*> x(rows.size());
  rstd_.Reserve(m);
  ParallelChunks(m, kRowGrain, [&](idx begin, idx end) {
    for (idx r = begin; r < end; ++r) {
      const auto i = static_cast<std::size_t>(r);
      float* dx = dresidual + r * ld_d_;
      std::fill_n(dx, ld_d_, 0.0f);
      if (rows[i].segment == nullptr) continue;
      x[i] = TensorAt<T>(rows[i].Kept(0), pool_.activations().final);
      kernels.rms_norm_grad(dx, dhidden + r * ld_d_, x[i], weights_.final_norm(),
                            config().hidden_size, config().rms_norm_eps, rstd_.data() + r);
    }
  });
  if (dgamma == nullptr) return;
  ParallelChunks(RoundUp(config().hidden_size, 16), 32, [&](idx j0, idx j1) {
    kernels.rms_norm_dgamma(dgamma, dhidden, ld_d_, x.data(), rstd_.data(), m, j0, j1);
  });
}

// dq, dk, dv of all runs of a layer. One task a prompt's group and kv head: its samples in order,
// each one adding a partial to the prompt's dK and dV; the prompt's own rows come last.
template <class T>
void Transformer<T>::AttentionBackward(std::span<const GradRun<T>> runs, idx layer, bool last) {
  const auto attention_grad = ActiveKernels().of<T>().attention_grad;
  const ActivationLayout<T>& at = pool_.activations();
  const idx kv_width = config().num_kv_heads * config().head_dim;
  const idx dh = config().head_dim;
  std::vector<std::size_t> group_starts;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (i == 0 || runs[i].prefix_grad == nullptr ||
        runs[i].prefix_grad != runs[i - 1].prefix_grad) {
      group_starts.push_back(i);
    }
  }
  group_starts.push_back(runs.size());
  const idx num_groups = static_cast<idx>(group_starts.size()) - 1;

  ParallelFor(num_groups * shape_.num_kv_heads, [&](idx task) {
    const auto group = static_cast<std::size_t>(task / shape_.num_kv_heads);
    const idx kv_head = task % shape_.num_kv_heads;
    thread_local Buffer<float> scratch;
    thread_local Buffer<float> partial_k;
    thread_local Buffer<float> partial_v;
    thread_local std::vector<const T*> q, out, k, v, prefix_k, prefix_v;
    thread_local std::vector<const float*> lse;
    scratch.Reserve(AttentionScratch(shape_));
    const Segment<T>* loaded_prefix = nullptr;
    for (std::size_t i = group_starts[group]; i < group_starts[group + 1]; ++i) {
      const GradRun<T>& run = runs[i];
      const idx rows = run.segment->length();
      q.clear();
      out.clear();
      k.clear();
      v.clear();
      lse.clear();
      for (idx r = 0; r < rows; ++r) {
        const std::byte* kept = run.segment->Kept(r, layer);
        k.push_back(TensorAt<T>(kept, at.k));
        v.push_back(TensorAt<T>(kept, at.v));
        const std::byte* rest = run.segment->Rest(r, layer);
        q.push_back(TensorAt<T>(rest, at.q));
        out.push_back(TensorAt<T>(rest, at.attention));
        lse.push_back(TensorAt<float>(rest, at.lse));
      }
      AttentionGradTile<T> tile;
      tile.num_rows = rows;
      tile.q = q.data();
      tile.out = out.data();
      tile.lse = lse.data();
      tile.dout = dattn_.data() + run.first_row * ld_q_;
      tile.ldd = ld_q_;
      tile.dq = dq_.data() + run.first_row * ld_q_;
      tile.ldq = ld_q_;

      if (run.prefix != nullptr) {
        const idx prefix_rows = run.prefix->length();
        if (loaded_prefix != run.prefix) {
          loaded_prefix = run.prefix;
          prefix_k.clear();
          prefix_v.clear();
          for (idx r = 0; r < prefix_rows; ++r) {
            const std::byte* kept = run.prefix->Kept(r, layer);
            prefix_k.push_back(TensorAt<T>(kept, at.k));
            prefix_v.push_back(TensorAt<T>(kept, at.v));
          }
        }
        partial_k.Reserve(prefix_rows * kv_width);
        partial_v.Reserve(prefix_rows * kv_width);
        for (idx r = 0; r < prefix_rows; ++r) {
          std::fill_n(partial_k.data() + r * kv_width + kv_head * dh, dh, 0.0f);
          std::fill_n(partial_v.data() + r * kv_width + kv_head * dh, dh, 0.0f);
        }
        tile.num_keys = prefix_rows;
        tile.k = prefix_k.data();
        tile.v = prefix_v.data();
        tile.dk = partial_k.data();
        tile.dv = partial_v.data();
        tile.ldk = kv_width;
        attention_grad(tile, kv_head, shape_, scratch.data());
        const idx at_layer = run.prefix_grad->one_layer ? 0 : layer * prefix_rows * kv_width;
        float* sum_k = run.prefix_grad->dk.data() + at_layer;
        float* sum_v = run.prefix_grad->dv.data() + at_layer;
        for (idx r = 0; r < prefix_rows; ++r) {
          const idx base = r * kv_width + kv_head * dh;
          for (idx j = base; j < base + dh; ++j) {
            sum_k[j] += partial_k[j];
            sum_v[j] += partial_v[j];
          }
        }
      }

      float* dk = dk_.data() + run.first_row * ld_kv_;
      float* dv = dv_.data() + run.first_row * ld_kv_;
      if (run.is_prefix && run.prefix_grad != nullptr) {
        const idx at_layer = run.prefix_grad->one_layer ? 0 : layer * rows * kv_width;
        const float* sum_k = run.prefix_grad->dk.data() + at_layer;
        const float* sum_v = run.prefix_grad->dv.data() + at_layer;
        for (idx r = 0; r < rows; ++r) {
          std::copy_n(sum_k + r * kv_width + kv_head * dh, dh, dk + r * ld_kv_ + kv_head * dh);
          std::copy_n(sum_v + r * kv_width + kv_head * dh, dh, dv + r * ld_kv_ + kv_head * dh);
        }
        if (last) continue;  // the prompt's last layer ended at K and V
      }
      tile.num_keys = rows;
      tile.k = k.data();
      tile.v = v.data();
      tile.causal = true;
      tile.dk = dk;
      tile.dv = dv;
      tile.ldk = ld_kv_;
      attention_grad(tile, kv_head, shape_, scratch.data());
    }
  });
}

template <class T>
void Transformer<T>::Backward(float* dresidual, std::span<const GradRow<T>> rows,
                              std::span<const GradRun<T>> runs, const SlabLayout& layout,
                              float* grad, const std::function<void(idx)>& layer_done) {
  BackwardLayers(dresidual, rows, runs, layout, grad, nullptr, layer_done);
}

template <class T>
void Transformer<T>::Backward(float* dresidual, std::span<const GradRow<T>> rows,
                              std::span<const GradRun<T>> runs, const SlabLayout& layout,
                              RowGradients<T>& parts) {
  BackwardLayers(dresidual, rows, runs, layout, nullptr, &parts, {});
}

template <class T>
void Transformer<T>::BackwardLayers(float* dresidual, std::span<const GradRow<T>> rows,
                                    std::span<const GradRun<T>> runs, const SlabLayout& layout,
                                    float* grad, RowGradients<T>* parts,
                                    const std::function<void(idx)>& layer_done) {
  const idx m = static_cast<idx>(rows.size());
  if (m == 0) return;
  OPO_CHECK(m % RowBlock<T>() == 0);
  const KernelsOf<T>& kernels = ActiveKernels().of<T>();
  const ActivationLayout<T>& at = pool_.activations();
  const idx d = config().hidden_size;
  const idx f = config().intermediate_size;
  const float eps = config().rms_norm_eps;

  // Where each row stands in its sequence, and which rows take no part in the last layer's second
  // half (the prompt's).
  std::vector<idx> position(rows.size());
  std::vector<bool> is_prefix(rows.size());
  for (const GradRun<T>& run : runs) {
    const idx offset = run.prefix != nullptr ? run.prefix->length() : 0;
    for (idx r = 0; r < run.segment->length(); ++r) {
      position[static_cast<std::size_t>(run.first_row + r)] = offset + r;
      is_prefix[static_cast<std::size_t>(run.first_row + r)] = run.is_prefix;
    }
  }

  std::vector<Run<T>> recomputed;
  std::set<const Segment<T>*> seen;  // a prompt may have a run for each of its samples
  for (const GradRun<T>& run : runs) {
    if (run.segment->record() != Record::kResiduals || !seen.insert(run.segment).second) continue;
    Run<T> again;
    again.segment = run.segment;
    again.prefix = run.prefix;
    again.count = run.segment->length();
    again.outputs = !run.is_prefix;
    recomputed.push_back(again);
  }
  const Pass again = MakePass(recomputed);

  // What lies between attention and attention is done in chunks of rows, so that it stays in the
  // cache; the chains of the weight gradients go on from one chunk to the next. Who takes them
  // apart sees all rows at once.
  const idx chunk_rows = parts != nullptr ? m : kLayerRows;
  const idx most = std::min(m, chunk_rows);
  h_.Reserve(most * ld_h_);
  act_.Reserve(most * ld_act_);
  h_attn_.Reserve(most * ld_attn_);
  dy_.Reserve(most * ld_dy_);
  dact_.Reserve(most * ld_f_);
  dgate_up_.Reserve(most * ld_dgu_);
  dqkv_.Reserve(most * ld_dqkv_);
  dh_.Reserve(most * ld_d_);
  rstd_.Reserve(most);
  dattn_.Reserve(m * ld_q_);
  dq_.Reserve(m * ld_q_);
  dk_.Reserve(m * ld_kv_);
  dv_.Reserve(m * ld_kv_);
  std::vector<const T*> norm_input(static_cast<std::size_t>(most));
  const idx qk_heads = config().num_heads + config().num_kv_heads;
  std::vector<const T*> q_pre, k_pre;  // of a chunk's rows, where q and k have a norm
  if (config().qk_norm) {
    qk_rstd_.Reserve(most * qk_heads);
    q_pre.resize(static_cast<std::size_t>(most));
    k_pre.resize(static_cast<std::size_t>(most));
  }

  // The gradient of a vector at `offset` (-1: it is frozen), of a chunk's rows.
  const auto add_vector = [&](idx offset, idx width, idx count, const auto& add) {
    if (offset < 0) return;
    if (parts != nullptr) {
      parts->Vector(width, add);
    } else {
      add(grad + offset, 0, count);
    }
  };
  // Rows [row0, row0 + count): dh_ through the norm whose inputs are norm_input.
  const auto norm_grad = [&](idx row0, idx count, const float* gamma, idx dgamma) {
    ParallelChunks(count, kRowGrain, [&](idx begin, idx end) {
      for (idx i = begin; i < end; ++i) {
        const T* x = norm_input[static_cast<std::size_t>(i)];
        if (x == nullptr) continue;
        kernels.rms_norm_grad(dresidual + (row0 + i) * ld_d_, dh_.data() + i * ld_d_, x, gamma, d,
                              eps, rstd_.data() + i);
      }
    });
    add_vector(dgamma, d, count, [&](float* sum, idx first, idx n) {
      ParallelChunks(RoundUp(d, 16), 64, [&](idx j0, idx j1) {
        kernels.rms_norm_dgamma(sum, dh_.data() + first * ld_d_, ld_d_, norm_input.data() + first,
                                rstd_.data() + first, n, j0, j1);
      });
    });
  };
  // Calls body(row0, count) for all chunks in order.
  const auto for_chunks = [&](const auto& body) {
    for (idx row0 = 0; row0 < m; row0 += chunk_rows) body(row0, std::min(chunk_rows, m - row0));
  };
  // Calls body(i, row) for the rows of a chunk, i being the row within it.
  const auto for_rows = [&](idx row0, idx count, const auto& body) {
    ParallelChunks(count, kRowGrain, [&](idx begin, idx end) {
      for (idx i = begin; i < end; ++i) body(i, row0 + i);
    });
  };

  for (idx l = config().num_layers - 1; l >= 0; --l) {
    const auto& layer = weights_.layer(l);
    const LayerOffsets& offsets = layout.layers[static_cast<std::size_t>(l)];
    const bool last = l + 1 == config().num_layers;
    if (again.size() > 0) RecomputeLayer(again, l);
    const PackedMatrix<T>& qkv_t = layer.qkv.Transposed(qkv_t_);
    const PackedMatrix<T>& o_t = layer.o.Transposed(o_t_);
    const PackedMatrix<T>& gate_up_t = layer.gate_up.Transposed(gate_up_t_);
    const PackedMatrix<T>& down_t = layer.down.Transposed(down_t_);
    const auto residual_of = [&](idx r) -> const T* {
      const GradRow<T>& row = rows[static_cast<std::size_t>(r)];
      return row.segment == nullptr ? nullptr : TensorAt<T>(row.Kept(l), at.residual);
    };
    // Of the second half: attention output, o, MLP.
    const auto rest_of = [&](idx r) -> const std::byte* {
      const GradRow<T>& row = rows[static_cast<std::size_t>(r)];
      const bool none = row.segment == nullptr || (last && is_prefix[static_cast<std::size_t>(r)]);
      return none ? nullptr : row.Rest(l);
    };

    for_chunks([&](idx row0, idx count) {
      // x_out = mid + W_down swiglu(W_gate_up rms_norm(mid))
      for_rows(row0, count, [&](idx i, idx r) {
        kernels.round(dy_.data() + i * ld_dy_, dresidual + r * ld_d_, ld_d_);
        const std::byte* rest = rest_of(r);
        norm_input[static_cast<std::size_t>(i)] = nullptr;
        if (rest == nullptr) {
          std::fill_n(act_.data() + i * ld_act_, ld_f_, T{});
          std::fill_n(h_.data() + i * ld_h_, ld_d_, T{});
          return;
        }
        kernels.swiglu(act_.data() + i * ld_act_, TensorAt<T>(rest, at.gate_up), f, f);
        const T* mid = TensorAt<T>(rest, at.mid);
        kernels.rms_norm(h_.data() + i * ld_h_, mid, layer.mlp_norm.data(), d, eps);
        norm_input[static_cast<std::size_t>(i)] = mid;
      });
      AdapterColumns(layer.down, act_.data(), ld_act_, count);
      MultiplyGrad(layer.down, down_t, dy_.data(), ld_dy_, count, nullptr, dact_.data(), ld_f_);
      LinearGrad(layer.down, offsets.down, dy_.data(), ld_dy_, act_.data(), ld_act_, count, grad,
                 parts);
      for_rows(row0, count, [&](idx i, idx r) {
        T* dgu = dgate_up_.data() + i * ld_dgu_;
        const std::byte* rest = rest_of(r);
        if (rest == nullptr) {
          std::fill_n(dgu, ld_gu_, T{});
          return;
        }
        kernels.swiglu_grad(dgu, dact_.data() + i * ld_f_, TensorAt<T>(rest, at.gate_up), f, f);
      });
      AdapterColumns(layer.gate_up, h_.data(), ld_h_, count);
      MultiplyGrad(layer.gate_up, gate_up_t, dgate_up_.data(), ld_dgu_, count, dh_.data(), nullptr,
                   ld_d_);
      LinearGrad(layer.gate_up, offsets.gate_up, dgate_up_.data(), ld_dgu_, h_.data(), ld_h_, count,
                 grad, parts);
      norm_grad(row0, count, layer.mlp_norm.data(), offsets.mlp_norm);

      // mid = x + W_o attention(...)
      for_rows(row0, count, [&](idx i, idx r) {
        kernels.round(dy_.data() + i * ld_dy_, dresidual + r * ld_d_, ld_d_);
        const std::byte* rest = rest_of(r);
        T* attn = h_attn_.data() + i * ld_attn_;
        if (rest == nullptr) {
          std::fill_n(attn, ld_q_, T{});
        } else {
          std::memcpy(attn, rest + at.attention, static_cast<std::size_t>(ld_q_) * sizeof(T));
        }
        std::fill_n(dq_.data() + r * ld_q_, ld_q_, 0.0f);
        std::fill_n(dk_.data() + r * ld_kv_, ld_kv_, 0.0f);
        std::fill_n(dv_.data() + r * ld_kv_, ld_kv_, 0.0f);
      });
      AdapterColumns(layer.o, h_attn_.data(), ld_attn_, count);
      MultiplyGrad(layer.o, o_t, dy_.data(), ld_dy_, count, nullptr, dattn_.data() + row0 * ld_q_,
                   ld_q_);
      LinearGrad(layer.o, offsets.o, dy_.data(), ld_dy_, h_attn_.data(), ld_attn_, count, grad,
                 parts);
    });

    for (const GradRun<T>& run : runs) {
      if (!run.is_prefix || run.prefix_grad == nullptr || !run.prefix_grad->one_layer) continue;
      for (Buffer<float>* sum : {&run.prefix_grad->dk, &run.prefix_grad->dv}) {
        std::fill_n(sum->data(), sum->size(), 0.0f);
      }
    }
    AttentionBackward(runs, l, last);

    const QkNorm head_norm = qk_norm(l);
    for_chunks([&](idx row0, idx count) {
      // rope(W_qkv rms_norm(x)), or rope(rms_norm(W_qkv rms_norm(x)))
      for_rows(row0, count, [&](idx i, idx r) {
        const idx rope = position[static_cast<std::size_t>(r)] * ld_half_;
        T* dqkv = dqkv_.data() + i * ld_dqkv_;
        float* dq = dq_.data() + r * ld_q_;
        float* dk = dk_.data() + r * ld_kv_;
        const float* dv = dv_.data() + r * ld_kv_;
        const float* cos = cos_.data() + rope;
        const float* sin = sin_.data() + rope;
        const GradRow<T>& row = rows[static_cast<std::size_t>(r)];
        if (config().qk_norm) {
          const bool none = row.segment == nullptr;
          const auto in_chunk = static_cast<std::size_t>(i);
          q_pre[in_chunk] = none ? nullptr : TensorAt<T>(row.Rest(l), at.q_pre);
          k_pre[in_chunk] = none ? nullptr : TensorAt<T>(row.Rest(l), at.k_pre);
          if (none) {
            std::fill_n(dqkv, ld_qkv_, T{});
          } else {
            kernels.qkv_norm_rope_grad(dqkv, dq, dk, dv, q_pre[in_chunk], k_pre[in_chunk],
                                       head_norm, cos, sin, qk_rstd_.data() + i * qk_heads, shape_);
          }
        } else {
          kernels.qkv_rope_grad(dqkv, dq, dk, dv, cos, sin, shape_);
        }
        const T* x = residual_of(r);
        norm_input[static_cast<std::size_t>(i)] = x;
        if (x == nullptr) {
          std::fill_n(h_.data() + i * ld_h_, ld_d_, T{});
        } else {
          kernels.rms_norm(h_.data() + i * ld_h_, x, layer.attn_norm.data(), d, eps);
        }
      });
      add_vector(offsets.qkv_bias, layer.qkv.n, count, [&](float* dbias, idx first, idx n) {
        ParallelChunks(layer.qkv.n, 64, [&](idx j0, idx j1) {
          for (idx i = first; i < first + n; ++i) {
            for (idx j = j0; j < j1; ++j) dbias[j] += ToF32(dqkv_[i * ld_dqkv_ + j]);
          }
        });
      });
      for (const bool is_q : {true, false}) {
        const idx dh = config().head_dim;
        const idx heads = is_q ? config().num_heads : config().num_kv_heads;
        const idx ld = is_q ? ld_q_ : ld_kv_;
        const float* dy = (is_q ? dq_ : dk_).data() + row0 * ld;
        const auto& pre = is_q ? q_pre : k_pre;
        const idx first_head = is_q ? 0 : config().num_heads;
        add_vector(is_q ? offsets.q_norm : offsets.k_norm, dh, count,
                   [&](float* dgamma, idx first, idx n) {
                     ParallelChunks(RoundUp(dh, 16), 16, [&](idx j0, idx) {
                       kernels.head_norm_dgamma(dgamma, dy + first * ld, ld, pre.data() + first,
                                                qk_rstd_.data() + first_head + first * qk_heads,
                                                qk_heads, n, heads, dh, j0, std::min(j0 + 16, dh));
                     });
                   });
      }
      AdapterColumns(layer.qkv, h_.data(), ld_h_, count);
      MultiplyGrad(layer.qkv, qkv_t, dqkv_.data(), ld_dqkv_, count, dh_.data(), nullptr, ld_d_);
      LinearGrad(layer.qkv, offsets.qkv, dqkv_.data(), ld_dqkv_, h_.data(), ld_h_, count, grad,
                 parts);
      norm_grad(row0, count, layer.attn_norm.data(), offsets.attn_norm);
    });
    if (layer_done) layer_done(l);
  }
}

#define OPO_INSTANTIATE(T)                                                                       \
  template idx Transformer<T>::backward_row_bytes(bool) const;                                   \
  template void Transformer<T>::LogitsGrad(float*, float*, const T*, idx, idx, idx, const T*,    \
                                           idx);                                                 \
  template void Transformer<T>::ValuesGrad(float*, float*, const float*, const T*, idx);         \
  template void Transformer<T>::FinalNorm(T*, std::span<const GradRow<T>>);                      \
  template void Transformer<T>::FinalNormGrad(float*, float*, const float*,                      \
                                              std::span<const GradRow<T>>);                      \
  template void Transformer<T>::Backward(float*, std::span<const GradRow<T>>,                    \
                                         std::span<const GradRun<T>>, const SlabLayout&, float*, \
                                         const std::function<void(idx)>&);                       \
  template void Transformer<T>::Backward(float*, std::span<const GradRow<T>>,                    \
                                         std::span<const GradRun<T>>, const SlabLayout&,         \
                                         RowGradients<T>&);
OPO_INSTANTIATE(float)
OPO_INSTANTIATE(bf16)
#undef OPO_INSTANTIATE

}  // namespace opo
