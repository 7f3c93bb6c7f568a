// The weights of a policy: f32 masters of what is trained in one slab, and the form that the
// kernels read.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "kernels/gemm.h"
#include "model/config.h"
#include "model/load.h"

namespace opo {

// Where the tensors of one product start in a slab (weights, gradients, moments alike), in floats;
// -1: not in the slab. W is one matrix of all its parts' rows (q, k, v; gate, up). Of an adapter, A
// is one matrix too, B one a part.
struct LinearOffsets {
  struct Part {
    idx row0 = 0, rows = 0;  // its outputs
    idx b = -1;
  };
  idx w = -1;
  idx a = -1;
  std::vector<Part> parts;  // those that have an adapter
};

struct LayerOffsets {
  LinearOffsets qkv, o, gate_up, down;
  idx attn_norm = -1, qkv_bias = -1, q_norm = -1, k_norm = -1, mlp_norm = -1;
};

enum class SlabOf {
  kTrained,  // the adapter where there is one, else everything
  kNothing,  // all is frozen: to sample and to score
};

struct SlabLayout {
  explicit SlabLayout(const ModelConfig& config, SlabOf what = SlabOf::kTrained);
  std::vector<TensorSpec> tensors;
  std::vector<LayerOffsets> layers;
  idx embed = -1, final_norm = -1;
  idx head = -1;   // of the logits; == embed where they are tied
  idx score = -1;  // of the values
  idx size = 0;    // floats
};

struct Weights {
  // The tensors that are not in the slab are read from `base` when they are packed.
  Weights(ModelConfig config_in, SlabOf what, std::shared_ptr<const ModelSource> base_in);
  ModelConfig config;
  SlabLayout layout;
  Buffer<float> slab;                       // the masters, which the optimizer walks
  std::shared_ptr<const ModelSource> base;  // null where the slab holds everything
  // XXH3-128 of the trained numbers: the weights digest of a run.
  std::string DigestHex() const;
};

// What a model is to say of a row.
struct Heads {
  bool logits = true;
  bool values = false;
  // Of a value head that the checkpoint does not have: score.weight is normal with this deviation,
  // from (seed, element) alone; zero where it is 0.
  double std = 0;
  std::uint64_t seed = 0;
};
// `source` with these heads and no others. Throws Error(kInput) where it has no LM head to keep;
// `where` names it.
std::shared_ptr<const ModelSource> WithHeads(std::shared_ptr<const ModelSource> source,
                                             const Heads& heads, const std::string& where);
// Throws Error(kInput) where a model has no LM head, and so cannot answer.
void CheckAnswers(const ModelConfig& config, const std::string& where);

// The config of a checkpoint, with its adapter where it is a PEFT folder.
ModelConfig CheckpointShape(const std::string& path);

// A checkpoint (model/load.h) with all of it in the slab, to be trained; or frozen. A PEFT folder
// is its base, frozen, with the adapter in the slab. Without `heads`, those that it has.
Weights LoadWeights(const std::string& path, SlabOf what = SlabOf::kTrained,
                    const std::optional<Heads>& heads = {});
// What is trained, as a Hugging Face folder in f32, or as a PEFT folder that names `base`; and back
// into the slab of the same model.
void SaveTrained(const std::string& folder, const Weights& weights, const std::string& base);
void ReadTrained(Weights& weights, const std::string& folder);
// Draws a model: norms 1, biases 0, everything else normal with deviation `std`, from (seed,
// tensor, element) alone. With config.lora, that model frozen and a fresh adapter. With `heads`,
// these and not the config's.
Weights InitWeights(const ModelConfig& config, std::uint64_t seed, double std,
                    const std::optional<Heads>& heads = {});
// The model frozen, with a fresh adapter: A uniform in +-1/sqrt(k) from (seed, tensor, element), B
// zero, so that it begins as the model itself. `model` is a frozen one.
Weights AddAdapter(Weights model, const LoraConfig& lora, std::uint64_t seed);

// One product's weights, packed. With an adapter, y = x W^T + (x s A^T) B^T is one product over k
// and then over the adapter's columns: y = [x, u] [W, B]^T with u = x (s A)^T, and in the same way
// dx = [dy, du] [W^T, A^T]^T with du = dy (s B). u and du stand behind x and dy in their rows, at
// x_column and dy_column, rounded to T. Each output stays one chain (E1, E2), and dA = du^T x and
// dB = dy^T u need no factor.
//
// The transposes that dx is computed with are kept where W is trained. Of a frozen W they are made
// from it again, a layer at a time, by each backward pass (Transposed): half the memory for some
// hundredths of the time.
template <class T>
struct PackedLinear {
  idx n = 0, k = 0;
  idx columns = 0;      // of the adapter, all parts; 0: none
  PackedMatrix<T> w;    // [W, B] (n, ...)
  PackedMatrix<T> w_t;  // W^T (k, n); empty where W is frozen
  PackedMatrix<T> a;    // s A (columns, k)
  PackedMatrix<T> b_t;  // (s B)^T (columns, n): block by block of the parts
  PackedMatrix<T> a_t;  // A^T (k, columns)
  idx x_column() const { return RoundUp(k, kPad); }
  idx dy_column() const { return RoundUp(n, kPad); }
  // [W^T, A^T] (k, ...): w_t, or `scratch`.
  const PackedMatrix<T>& Transposed(PackedMatrix<T>& scratch) const;
  idx bytes() const;
};

// One copy of the weights, rounded to T and packed. Sampler and learner read the same memory; after
// an optimizer step Update() packs what is trained in place. What the backward pass reads is there
// only when `backward` was asked for.
template <class T>
class PackedWeights {
 public:
  PackedWeights(const Weights& weights, bool backward);
  void Update(const Weights& weights);

  struct Layer {
    PackedLinear<T> qkv, o, gate_up, down;
    // Padded to kPad; qkv_bias, q_norm and k_norm are empty where there are none.
    Buffer<float> attn_norm, mlp_norm, qkv_bias, q_norm, k_norm;
  };
  const ModelConfig& config() const { return config_; }
  const Layer& layer(idx l) const { return layers_[static_cast<std::size_t>(l)]; }
  const PackedMatrix<T>& head() const { return head_; }  // empty where there are no logits
  const PackedMatrix<T>& head_t() const { return head_t_; }
  const float* final_norm() const { return final_norm_.data(); }
  const float* score() const { return score_.data(); }  // (D), not rounded; padded with zeros
  // A row of the embedding, D numbers, padded with zeros.
  const T* embedding(TokenId id) const { return embed_.data() + id * ld_embed_; }
  // XXH3-128 of the frozen tensors as they were read; "" where nothing is frozen.
  const std::string& base_digest() const { return base_digest_; }
  idx bytes() const;

  // With `backward`, every matrix and vector is hashed when it is packed; else by Seal() alone.
  // Which of them is no longer what was packed, as "layer 3, o_proj"; "" where none is, and where
  // nothing was hashed.
  std::string FindFlaw() const;
  void Seal();
  // For tests and planted faults: byte number i of part number i, both wrap around.
  std::byte* ByteAt(idx i);

 private:
  class Reader;
  void PackBase(Reader& reader);
  void PackAdapter(const Weights& weights);
  struct Part;
  std::vector<Part> Parts() const;
  std::vector<std::uint64_t> HashParts(std::vector<const Part*>* whose,
                                       const std::vector<Part>& parts) const;

  ModelConfig config_;
  bool backward_;
  idx ld_embed_;
  std::vector<Layer> layers_;
  PackedMatrix<T> head_, head_t_;
  Buffer<float> final_norm_, score_;
  Buffer<T> embed_;  // (V, ld_embed)
  std::string base_digest_;
  std::vector<std::uint64_t> seals_;  // of the parts' pieces
};

// The packed and sealed weights of a checkpoint that nobody trains: one copy for all who name it in
// one type, as long as one of them holds it.
template <class T>
std::shared_ptr<const PackedWeights<T>> FrozenWeights(const std::string& path);

}  // namespace opo
