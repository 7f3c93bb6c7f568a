// A whole llama in plain double precision, or complex numbers, from the formulas: for gradients of
// losses by the complex step.
#pragma once

#include <cmath>
#include <vector>

#include "model/weights.h"
#include "reference/reference.h"

namespace opo::reference {

// What the head at `head` says at each of `tokens`, `outputs` numbers a row, where `w` is laid out
// as a slab. Without biases and adapters.
template <class S>
std::vector<std::vector<S>> ModelOutputs(const ModelConfig& c, const SlabLayout& layout,
                                         const std::vector<S>& w,
                                         const std::vector<TokenId>& tokens, idx head,
                                         idx outputs) {
  using Rows = std::vector<std::vector<S>>;
  const auto vector_at = [&](idx offset, idx n) {
    return std::vector<S>(w.begin() + offset, w.begin() + offset + n);
  };
  const auto product = [&](const Rows& x, idx offset, idx n) {  // x W^T
    Rows y;
    for (const auto& row : x) {
      const S* weight = w.data() + offset;
      std::vector<S>& out = y.emplace_back();
      for (idx i = 0; i < n; ++i) {
        S sum = 0;
        for (const S& v : row) sum += v * *weight++;
        out.push_back(sum);
      }
    }
    return y;
  };
  const auto norm = [&](const Rows& x, idx offset) {
    Rows y;
    for (const auto& row : x) {
      y.push_back(RmsNorm(row, vector_at(offset, c.hidden_size), double{c.rms_norm_eps}));
    }
    return y;
  };
  const auto add = [](Rows& x, const Rows& y) {
    for (std::size_t t = 0; t < x.size(); ++t) {
      for (std::size_t i = 0; i < x[t].size(); ++i) x[t][i] += y[t][i];
    }
  };
  Rows x;
  for (const TokenId id : tokens) {
    x.push_back(vector_at(layout.embed + id * c.hidden_size, c.hidden_size));
  }
  const std::vector<double> frequencies = RopeFrequencies(c);
  const idx dh = c.head_dim;
  const auto head_of = [&](const std::vector<S>& row, idx first, std::size_t position) {
    std::vector<double> cos, sin;
    for (const double f : frequencies) {
      cos.push_back(std::cos(f * static_cast<double>(position)));
      sin.push_back(std::sin(f * static_cast<double>(position)));
    }
    return Rope(std::vector<S>(row.begin() + first, row.begin() + first + dh), cos, sin);
  };
  for (const LayerOffsets& layer : layout.layers) {
    const Rows qkv =
        product(norm(x, layer.attn_norm), layer.qkv.w, (c.num_heads + 2 * c.num_kv_heads) * dh);
    Rows out(x.size());
    for (idx h = 0; h < c.num_heads; ++h) {
      const idx kv = h / (c.num_heads / c.num_kv_heads);
      Attention<S> attention;
      attention.scale = 1 / std::sqrt(static_cast<double>(dh));
      for (std::size_t t = 0; t < x.size(); ++t) {
        const idx v = (c.num_heads + c.num_kv_heads + kv) * dh;
        attention.q.push_back(head_of(qkv[t], h * dh, t));
        attention.k.push_back(head_of(qkv[t], (c.num_heads + kv) * dh, t));
        attention.v.emplace_back(qkv[t].begin() + v, qkv[t].begin() + v + dh);
        attention.visible.push_back(static_cast<idx>(t) + 1);
      }
      for (std::size_t t = 0; t < x.size(); ++t) {
        const std::vector<S> of_head = attention.Output(t);
        out[t].insert(out[t].end(), of_head.begin(), of_head.end());
      }
    }
    add(x, product(out, layer.o.w, c.hidden_size));
    const Rows gate_up = product(norm(x, layer.mlp_norm), layer.gate_up.w, 2 * c.intermediate_size);
    Rows inner(x.size());
    for (std::size_t t = 0; t < x.size(); ++t) {
      for (idx i = 0; i < c.intermediate_size; ++i) {
        inner[t].push_back(Swiglu(gate_up[t][static_cast<std::size_t>(i)],
                                  gate_up[t][static_cast<std::size_t>(c.intermediate_size + i)]));
      }
    }
    add(x, product(inner, layer.down.w, c.hidden_size));
  }
  return product(norm(x, layout.final_norm), head, outputs);
}

template <class S>
std::vector<std::vector<S>> ModelLogits(const ModelConfig& c, const SlabLayout& layout,
                                        const std::vector<S>& w,
                                        const std::vector<TokenId>& tokens) {
  return ModelOutputs(c, layout, w, tokens, layout.head, c.vocab_size);
}
template <class S>
std::vector<std::vector<S>> ModelValues(const ModelConfig& c, const SlabLayout& layout,
                                        const std::vector<S>& w,
                                        const std::vector<TokenId>& tokens) {
  return ModelOutputs(c, layout, w, tokens, layout.score, 1);
}

}  // namespace opo::reference
