// What a model is made of: the shape, and the switches that distinguish one architecture from
// another. Read from a GGUF's metadata or a Hugging Face config.json (model/load.h).
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace opo {

// A LoRA adapter (arXiv 2106.09685): y = x W^T + scale (x A^T) B^T for the target matrices W (n, k)
// of every layer, with A (rank, k) and B (n, rank). W is frozen, A and B are trained. Names and
// scale are PEFT's.
struct LoraConfig {
  idx rank = 0;  // 0: no adapter
  double alpha = 16;
  bool rank_stabilized = false;      // scale = alpha / sqrt(rank), not alpha / rank
  std::vector<std::string> targets;  // of LoraTargets(), in its order
  bool on() const { return rank > 0; }
  bool has(std::string_view target) const;
  double scale() const;
};
// q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj.
std::span<const std::string_view> LoraTargets();

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
  bool has_logits = true;       // there is an LM head
  bool has_values = false;  // score.weight (1, D): one number a row, of reward models and critics
  bool qkv_bias = false;    // qwen2
  bool qk_norm = false;     // qwen3: RMSNorm over Dh of q and k before RoPE
  TokenId bos_id = -1;      // -1: none
  TokenId pad_id = -1;
  std::vector<TokenId> eos_ids;  // any of these ends a completion
  LoraConfig lora;
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
  idx rows = 0;            // outputs (N); 1 for a vector
  idx cols = 0;            // inputs (K)
  idx offset = 0;          // in floats, in the slab that holds all weights
  bool is_vector = false;  // norms and biases: shape (cols), not (1, cols)
  idx size() const { return rows * cols; }
};

// The weights of a model, each once, in the order of the slab. In a layer q, k and v stand next to
// each other, and so do gate and up: each triple or pair is one GEMM.
std::vector<TensorSpec> ListTensors(const ModelConfig& config);

// The adapter of config.lora in the same form: "model.layers.0.self_attn.q_proj.lora_A.weight" and
// so on. The A of q, k, v stand next to each other, and so do those of gate and up. A value head is
// trained whole beside them.
std::vector<TensorSpec> ListAdapterTensors(const ModelConfig& config);

// The matrices of a layer that are one product each, with their parts' names and outputs.
struct LinearShape {
  struct Part {
    std::string_view name;  // "q_proj"
    idx rows = 0;
  };
  std::string_view block;  // "self_attn" or "mlp"
  std::vector<Part> parts;
  idx k = 0;  // inputs
  idx n() const;
  // Inner columns of the adapter: its rank for each part that it has, side by side.
  idx adapter_columns(const LoraConfig& lora) const;
};
struct LayerShapes {
  explicit LayerShapes(const ModelConfig& config);
  LinearShape qkv, o, gate_up, down;
};

// Total floats of the slab. Every tensor starts at a multiple of 16 floats (one cache line).
idx SlabSize(const std::vector<TensorSpec>& tensors);

// Throws Error(kInput) naming the field where the shape makes no sense (Hk does not divide H, odd
// head_dim, sizes out of range); `where` names the file.
void ValidateConfig(const ModelConfig& config, const std::string& where);

}  // namespace opo
