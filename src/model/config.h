// What a model is made of: the shape, and the switches that distinguish one architecture from
// another. Read from a GGUF's metadata or a Hugging Face config.json (model/load.h).
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace opo {

// How RoPE is stretched for contexts longer than those of pre-training, as transformers does it.
enum class RopeType {
  kDefault,
  kLinear,
  kLlama3,
  kYarn,
  kFactors,  // each frequency is divided by a number of its own
};
// Of all but the last.
inline constexpr std::array<std::string_view, 4> kRopeTypeNames = {"default", "linear", "llama3",
                                                                   "yarn"};

struct RopeScaling {
  RopeType type = RopeType::kDefault;
  double factor = 1;              // linear, llama3, yarn
  idx original_max_position = 0;  // llama3, yarn: of pre-training
  double low_freq_factor = 1;     // llama3
  double high_freq_factor = 4;    // llama3
  double beta_fast = 32;          // yarn
  double beta_slow = 1;           // yarn
  bool truncate = true;           // yarn
  double attention_factor = 1;    // yarn, factors: multiplies cos and sin
  std::vector<float> factors;     // factors: (Dh/2)
  bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
  std::string architecture = "llama";  // a name of the architecture table (model/load.cpp)
  idx vocab_size = 0;                  // V
  idx hidden_size = 0;                 // D
  idx intermediate_size = 0;           // F
  idx num_layers = 0;                  // L
  idx num_heads = 0;                   // H, query heads
  idx num_kv_heads = 0;                // Hk, divides H
  idx head_dim = 0;                    // Dh, even
  idx max_position = 0;                // longest sequence the model was made for
  float rms_norm_eps = 1e-5f;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tied_embeddings = true;  // the LM head is the embedding
  bool qkv_bias = false;        // qwen2
  bool qk_norm = false;         // qwen3: RMSNorm over Dh of q and k before RoPE
  TokenId bos_id = -1;          // -1: none
  TokenId pad_id = -1;
  std::vector<TokenId> eos_ids;  // any of these ends a completion
};

// The angle of pair i, (i, i + Dh/2), of a head at position p is p * result[i].
std::vector<double> RopeFrequencies(const ModelConfig& config);
// yarn's attention_factor where a config names none: 1 + 0.1 mscale ln(factor).
double YarnAttentionFactor(double factor, double mscale = 1);
// Fresh models: a type of kRopeTypeNames with its usual constants. `original_max_position` 0:
// max_position / factor.
void SetRopeScaling(ModelConfig& config, std::string_view type, double factor,
                    idx original_max_position);
// The numbers that llama3's formula divides the frequencies by.
std::vector<double> Llama3Factors(const ModelConfig& config, const RopeScaling& scaling);

// One weight tensor, named as in Hugging Face checkpoints
// ("model.layers.0.self_attn.q_proj.weight").
struct TensorSpec {
  std::string name;
  idx rows = 0;    // outputs (N); 1 for a vector
  idx cols = 0;    // inputs (K)
  idx offset = 0;  // in floats, in the slab that holds all weights
  bool trainable = true;
  bool is_vector = false;  // norms and biases: shape (cols), not (1, cols)
  idx size() const { return rows * cols; }
};

// The weights of a model, each once, in the order of the slab. In a layer q, k and v stand next to
// each other, and so do gate and up: each triple or pair is one GEMM.
std::vector<TensorSpec> ListTensors(const ModelConfig& config);

// Total floats of the slab. Every tensor starts at a multiple of 16 floats (one cache line).
idx SlabSize(const std::vector<TensorSpec>& tensors);

// Throws Error(kInput) naming the field where the shape makes no sense (Hk does not divide H, odd
// head_dim, sizes out of range); `where` names the file.
void ValidateConfig(const ModelConfig& config, const std::string& where);

}  // namespace opo
