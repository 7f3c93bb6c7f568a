#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

#include "base/error.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "model/load.h"

namespace opo {

SlabLayout::SlabLayout(const ModelConfig& config)
    : tensors(ListTensors(config)), size(SlabSize(tensors)) {
  std::map<std::string, idx> at;
  for (const TensorSpec& t : tensors) at[t.name] = t.offset;
  for (idx l = 0; l < config.num_layers; ++l) {
    const std::string prefix = fmt::format("model.layers.{}.", l);
    LayerOffsets o;
    o.attn_norm = at.at(prefix + "input_layernorm.weight");
    o.qkv = at.at(prefix + "self_attn.q_proj.weight");
    if (config.qkv_bias) o.qkv_bias = at.at(prefix + "self_attn.q_proj.bias");
    if (config.qk_norm) {
      o.q_norm = at.at(prefix + "self_attn.q_norm.weight");
      o.k_norm = at.at(prefix + "self_attn.k_norm.weight");
    }
    o.o = at.at(prefix + "self_attn.o_proj.weight");
    o.mlp_norm = at.at(prefix + "post_attention_layernorm.weight");
    o.gate_up = at.at(prefix + "mlp.gate_proj.weight");
    o.down = at.at(prefix + "mlp.down_proj.weight");
    layers.push_back(o);
  }
  embed = at.at("model.embed_tokens.weight");
  final_norm = at.at("model.norm.weight");
  head = config.tied_embeddings ? embed : at.at("lm_head.weight");
}

std::string Weights::DigestHex() const {
  Digest digest;
  for (const TensorSpec& t : layout.tensors) {
    digest.Add(std::span<const float>(slab.data() + t.offset, static_cast<std::size_t>(t.size())));
  }
  return digest.Hex();
}

Weights LoadWeights(const std::string& path) {
  const auto source = OpenModel(path);
  Weights weights(source->config());
  for (const TensorSpec& t : weights.layout.tensors) {
    source->Read(t, {weights.slab.data() + t.offset, static_cast<std::size_t>(t.size())});
  }
  return weights;
}

Weights InitWeights(const ModelConfig& config, std::uint64_t seed, double std) {
  ValidateConfig(config, "model.init");
  Weights weights(config);
  for (const TensorSpec& t : weights.layout.tensors) {
    float* out = weights.slab.data() + t.offset;
    if (t.is_vector) {
      const bool bias = t.name.ends_with(".bias");
      std::fill(out, out + t.size(), bias ? 0.0f : 1.0f);
      continue;
    }
    const std::uint64_t name = Hash64(t.name);
    ParallelChunks(t.size(), 4096, [&](idx begin, idx end) {
      for (idx i = begin; i < end; ++i) {
        // Box-Muller on two 32-bit draws; one number a counter keeps it order-free.
        const auto bits =
            Philox4x32({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32),
                        static_cast<std::uint32_t>(name), static_cast<std::uint32_t>(name >> 32)},
                       {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
        const double u = (static_cast<double>(bits[0]) + 1.0) * 0x1.0p-32;
        const double v = static_cast<double>(bits[1]) * 0x1.0p-32;
        out[i] = static_cast<float>(std * std::sqrt(-2.0 * std::log(u)) *
                                    std::cos(2.0 * std::numbers::pi * v));
      }
    });
  }
  return weights;
}

template <class T>
PackedWeights<T>::PackedWeights(const Weights& weights, bool backward)
    : config_(weights.config),
      backward_(backward),
      ld_embed_(RoundUp(config_.hidden_size, kPad)),
      layers_(static_cast<std::size_t>(config_.num_layers)),
      final_norm_(ld_embed_),
      embed_(config_.vocab_size * ld_embed_) {
  const idx d = config_.hidden_size;
  for (Layer& layer : layers_) {
    layer.attn_norm = Buffer<float>(RoundUp(d, kPad));
    layer.mlp_norm = Buffer<float>(RoundUp(d, kPad));
    if (config_.qk_norm) {
      layer.q_norm = Buffer<float>(RoundUp(config_.head_dim, kPad));
      layer.k_norm = Buffer<float>(RoundUp(config_.head_dim, kPad));
    }
  }
  Update(weights);
}

template <class T>
void PackedWeights<T>::Update(const Weights& weights) {
  const float* w = weights.slab.data();
  const idx d = config_.hidden_size;
  const idx q_size = config_.num_heads * config_.head_dim;
  const idx qkv_size = q_size + 2 * config_.num_kv_heads * config_.head_dim;
  const idx f = config_.intermediate_size;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const LayerOffsets& at = weights.layout.layers[l];
    Layer& layer = layers_[l];
    std::copy_n(w + at.attn_norm, d, layer.attn_norm.data());
    std::copy_n(w + at.mlp_norm, d, layer.mlp_norm.data());
    if (at.qkv_bias >= 0) {
      layer.qkv_bias.Reserve(qkv_size);
      std::copy_n(w + at.qkv_bias, qkv_size, layer.qkv_bias.data());
    }
    if (config_.qk_norm) {
      std::copy_n(w + at.q_norm, config_.head_dim, layer.q_norm.data());
      std::copy_n(w + at.k_norm, config_.head_dim, layer.k_norm.data());
    }
    layer.qkv.Pack(w + at.qkv, d, qkv_size, d);
    layer.o.Pack(w + at.o, q_size, d, q_size);
    layer.gate_up.Pack(w + at.gate_up, d, 2 * f, d);
    layer.down.Pack(w + at.down, f, d, f);
    if (backward_) {
      layer.qkv_t.PackTransposed(w + at.qkv, d, qkv_size, d);
      layer.o_t.PackTransposed(w + at.o, q_size, d, q_size);
      layer.gate_up_t.PackTransposed(w + at.gate_up, d, 2 * f, d);
      layer.down_t.PackTransposed(w + at.down, f, d, f);
    }
  }
  std::copy_n(w + weights.layout.final_norm, d, final_norm_.data());
  head_.Pack(w + weights.layout.head, d, config_.vocab_size, d);
  if (backward_) head_t_.PackTransposed(w + weights.layout.head, d, config_.vocab_size, d);
  const float* embed = w + weights.layout.embed;
  ParallelChunks(config_.vocab_size, 256, [&](idx begin, idx end) {
    for (idx v = begin; v < end; ++v) {
      for (idx i = 0; i < d; ++i) embed_[v * ld_embed_ + i] = FromF32<T>(embed[v * d + i]);
    }
  });
}

template <class T>
idx PackedWeights<T>::bytes() const {
  idx total = head_.data.bytes() + head_t_.data.bytes() + embed_.bytes();
  for (const Layer& l : layers_) {
    for (const PackedMatrix<T>* m :
         {&l.qkv, &l.o, &l.gate_up, &l.down, &l.qkv_t, &l.o_t, &l.gate_up_t, &l.down_t}) {
      total += m->data.bytes();
    }
  }
  return total;
}

template class PackedWeights<float>;
template class PackedWeights<bf16>;

}  // namespace opo
