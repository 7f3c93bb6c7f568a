// The weights of a policy: f32 masters in one slab, and the form that the kernels read.
#pragma once

#include <string>
#include <vector>

#include "base/buffer.h"
#include "kernels/gemm.h"
#include "model/config.h"

namespace opo {

// Where each tensor of a layer starts in a slab (weights, gradients, moments alike), in floats.
// q, k, v are one matrix of H*Dh + 2*Hk*Dh rows; gate and up one of 2*F rows.
struct LayerOffsets {
  idx attn_norm = 0, qkv = 0, qkv_bias = -1, q_norm = -1, k_norm = -1, o = 0, mlp_norm = 0,
      gate_up = 0, down = 0;
};

struct SlabLayout {
  explicit SlabLayout(const ModelConfig& config);
  std::vector<TensorSpec> tensors;
  std::vector<LayerOffsets> layers;
  idx embed = 0, final_norm = 0, head = 0;  // head == embed where they are tied
  idx size = 0;                             // floats
};

// The masters, on the f32 grid that the optimizer walks.
struct Weights {
  explicit Weights(ModelConfig config_in)
      : config(std::move(config_in)), layout(config), slab(layout.size) {}
  ModelConfig config;
  SlabLayout layout;
  Buffer<float> slab;
  // XXH3-128 of the trained numbers: the weights digest of a run.
  std::string DigestHex() const;
};

// Reads a checkpoint (model/load.h), or draws one: norms 1, biases 0, everything else normal with
// deviation `std`, from (seed, tensor, element) alone.
Weights LoadWeights(const std::string& path);
Weights InitWeights(const ModelConfig& config, std::uint64_t seed, double std);

// One copy of the weights, rounded to T and packed. Sampler and learner read the same memory; after
// an optimizer step Update() packs in place. The transposed matrices (for dx) are there only when
// `backward` was asked for.
template <class T>
class PackedWeights {
 public:
  PackedWeights(const Weights& weights, bool backward);
  void Update(const Weights& weights);

  struct Layer {
    PackedMatrix<T> qkv, o, gate_up, down;
    PackedMatrix<T> qkv_t, o_t, gate_up_t, down_t;
    // Padded to kPad; qkv_bias, q_norm and k_norm are empty where there are none.
    Buffer<float> attn_norm, mlp_norm, qkv_bias, q_norm, k_norm;
  };
  const ModelConfig& config() const { return config_; }
  const Layer& layer(idx l) const { return layers_[static_cast<std::size_t>(l)]; }
  const PackedMatrix<T>& head() const { return head_; }
  const PackedMatrix<T>& head_t() const { return head_t_; }
  const float* final_norm() const { return final_norm_.data(); }
  // A row of the embedding, D numbers, padded with zeros.
  const T* embedding(TokenId id) const { return embed_.data() + id * ld_embed_; }
  idx bytes() const;

 private:
  ModelConfig config_;
  bool backward_;
  idx ld_embed_;
  std::vector<Layer> layers_;
  PackedMatrix<T> head_, head_t_;
  Buffer<float> final_norm_;
  Buffer<T> embed_;  // (V, ld_embed)
};

}  // namespace opo
