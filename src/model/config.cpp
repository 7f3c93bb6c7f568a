#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>

#include "base/error.h"

namespace opo {
namespace {

constexpr idx kAlign = 16;  // floats in a cache line

// Lays tensors out one after the other. Those that one GEMM reads together follow each other
// without a gap; everything else starts on a cache line.
class Layout {
 public:
  void Matrix(std::string name, idx rows, idx cols) {
    Append(std::move(name), rows, cols, false, RoundUp(end_, kAlign));
  }
  void Vector(std::string name, idx size) {
    Append(std::move(name), 1, size, true, RoundUp(end_, kAlign));
  }
  void MatrixJoined(std::string name, idx rows, idx cols) {
    Append(std::move(name), rows, cols, false, end_);
  }
  void VectorJoined(std::string name, idx size) { Append(std::move(name), 1, size, true, end_); }

  std::vector<TensorSpec> Take() { return std::move(tensors_); }

 private:
  void Append(std::string name, idx rows, idx cols, bool is_vector, idx offset) {
    TensorSpec spec;
    spec.name = std::move(name);
    spec.rows = rows;
    spec.cols = cols;
    spec.offset = offset;
    spec.is_vector = is_vector;
    end_ = offset + spec.size();
    tensors_.push_back(std::move(spec));
  }

  std::vector<TensorSpec> tensors_;
  idx end_ = 0;
};

void CheckRange(const std::string& where, const char* field, idx value, idx max) {
  if (value < 1 || value > max) {
    Fail(ErrorCode::kInput, "{}: {} is {}, must be from 1 to {}", where, field, value, max);
  }
}

void CheckToken(const std::string& where, const char* field, TokenId id, idx vocab_size) {
  if (id < -1 || id >= vocab_size) {
    Fail(ErrorCode::kInput, "{}: {} is {}, outside of the vocabulary of {}", where, field, id,
         vocab_size);
  }
}

double BaseFrequency(const ModelConfig& config, idx i) {
  return std::pow(config.rope_theta,
                  -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
}

// arXiv 2309.00071: pairs that turn more than beta_fast times within the original context keep
// their frequency, those that turn less than beta_slow times are divided by the factor, and between
// the two pairs where that happens the mixture is linear.
std::vector<double> YarnFrequencies(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  const auto dim = static_cast<double>(config.head_dim);
  const auto pair_of = [&](double turns) {
    return dim *
           std::log(static_cast<double>(scaling.original_max_position) /
                    (turns * 2 * std::numbers::pi)) /
           (2 * std::log(config.rope_theta));
  };
  double low = pair_of(scaling.beta_fast);
  double high = pair_of(scaling.beta_slow);
  if (scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  std::vector<double> frequencies;
  for (idx i = 0; i < config.head_dim / 2; ++i) {
    const double base = BaseFrequency(config, i);
    const double mixed = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies.push_back(base / scaling.factor * mixed + base * (1 - mixed));
  }
  return frequencies;
}

void CheckFinite(const std::string& where, const char* field, double value, double min) {
  if (!(std::isfinite(value) && value >= min)) {
    Fail(ErrorCode::kInput, "{}: RoPE scaling: {} is {}, must be finite and at least {}", where,
         field, value, min);
  }
}

void ValidateRope(const ModelConfig& config, const std::string& where) {
  const RopeScaling& scaling = config.rope_scaling;
  constexpr double kTiny = 1e-6;
  CheckFinite(where, "factor", scaling.factor, 1);
  CheckFinite(where, "attention_factor", scaling.attention_factor, kTiny);
  if (scaling.type == RopeType::kLlama3 || scaling.type == RopeType::kYarn) {
    CheckRange(where, "original_max_position_embeddings", scaling.original_max_position,
               idx{1} << 30);
  }
  if (scaling.type == RopeType::kLlama3) {
    CheckFinite(where, "low_freq_factor", scaling.low_freq_factor, kTiny);
    CheckFinite(where, "high_freq_factor", scaling.high_freq_factor, kTiny);
    if (scaling.high_freq_factor <= scaling.low_freq_factor) {
      Fail(ErrorCode::kInput,
           "{}: RoPE scaling: high_freq_factor {} must be above low_freq_factor {}", where,
           scaling.high_freq_factor, scaling.low_freq_factor);
    }
  }
  if (scaling.type == RopeType::kYarn) {
    CheckFinite(where, "beta_slow", scaling.beta_slow, kTiny);
    CheckFinite(where, "beta_fast", scaling.beta_fast, scaling.beta_slow);
    if (config.rope_theta <= 1) {
      Fail(ErrorCode::kInput, "{}: rope_theta is {}, must be above 1 for yarn", where,
           config.rope_theta);
    }
  }
  if (scaling.type == RopeType::kFactors) {
    if (std::ssize(scaling.factors) != config.head_dim / 2) {
      Fail(ErrorCode::kInput, "{}: RoPE has {} factors, must have one a pair of a head's {}", where,
           scaling.factors.size(), config.head_dim);
    }
    for (const float factor : scaling.factors) {
      CheckFinite(where, "a pair's factor", static_cast<double>(factor), kTiny);
    }
  }
}

}  // namespace

bool LoraConfig::has(std::string_view target) const {
  return on() && std::find(targets.begin(), targets.end(), target) != targets.end();
}

double LoraConfig::scale() const {
  const auto r = static_cast<double>(rank);
  return alpha / (rank_stabilized ? std::sqrt(r) : r);
}

std::span<const std::string_view> LoraTargets() {
  static constexpr std::string_view kTargets[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                  "gate_proj", "up_proj", "down_proj"};
  return kTargets;
}

idx LinearShape::n() const {
  idx rows = 0;
  for (const Part& part : parts) rows += part.rows;
  return rows;
}

idx LinearShape::adapter_columns(const LoraConfig& lora) const {
  idx columns = 0;
  for (const Part& part : parts) columns += lora.has(part.name) ? lora.rank : 0;
  return columns;
}

LayerShapes::LayerShapes(const ModelConfig& config) {
  const idx d = config.hidden_size;
  const idx f = config.intermediate_size;
  const idx q = config.num_heads * config.head_dim;
  const idx kv = config.num_kv_heads * config.head_dim;
  qkv = {"self_attn", {{"q_proj", q}, {"k_proj", kv}, {"v_proj", kv}}, d};
  o = {"self_attn", {{"o_proj", d}}, q};
  gate_up = {"mlp", {{"gate_proj", f}, {"up_proj", f}}, d};
  down = {"mlp", {{"down_proj", d}}, f};
}

std::vector<TensorSpec> ListAdapterTensors(const ModelConfig& config) {
  const LayerShapes shapes(config);
  const idx rank = config.lora.rank;
  Layout layout;
  for (idx i = 0; i < config.num_layers; ++i) {
    for (const LinearShape* linear : {&shapes.qkv, &shapes.o, &shapes.gate_up, &shapes.down}) {
      const auto name = [&](const LinearShape::Part& part, char matrix) {
        return fmt::format("model.layers.{}.{}.{}.lora_{}.weight", i, linear->block, part.name,
                           matrix);
      };
      bool first = true;
      for (const LinearShape::Part& part : linear->parts) {
        if (!config.lora.has(part.name)) continue;
        if (first) {
          layout.Matrix(name(part, 'A'), rank, linear->k);
        } else {
          layout.MatrixJoined(name(part, 'A'), rank, linear->k);
        }
        first = false;
      }
      for (const LinearShape::Part& part : linear->parts) {
        if (config.lora.has(part.name)) layout.Matrix(name(part, 'B'), part.rows, rank);
      }
    }
  }
  if (config.has_values) layout.Matrix("score.weight", 1, config.hidden_size);
  return layout.Take();
}

double YarnAttentionFactor(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

void SetRopeScaling(ModelConfig& config, std::string_view type, double factor,
                    idx original_max_position) {
  const auto name = std::find(kRopeTypeNames.begin(), kRopeTypeNames.end(), type);
  OPO_CHECK(name != kRopeTypeNames.end());
  RopeScaling scaling;
  scaling.type = static_cast<RopeType>(name - kRopeTypeNames.begin());
  if (scaling.type != RopeType::kDefault) scaling.factor = factor;
  if (scaling.type == RopeType::kLlama3 || scaling.type == RopeType::kYarn) {
    scaling.original_max_position =
        original_max_position > 0
            ? original_max_position
            : static_cast<idx>(static_cast<double>(config.max_position) / factor);
  }
  if (scaling.type == RopeType::kYarn) scaling.attention_factor = YarnAttentionFactor(factor);
  config.rope_scaling = scaling;
}

// Wavelengths below original / high keep their frequency, those above original / low are divided by
// the factor, and between them 1 / wavelength mixes the two.
std::vector<double> Llama3Factors(const ModelConfig& config, const RopeScaling& scaling) {
  const auto original = static_cast<double>(scaling.original_max_position);
  std::vector<double> factors;
  for (idx i = 0; i < config.head_dim / 2; ++i) {
    const double wavelength = 2 * std::numbers::pi / BaseFrequency(config, i);
    const double kept = std::clamp((original / wavelength - scaling.low_freq_factor) /
                                       (scaling.high_freq_factor - scaling.low_freq_factor),
                                   0.0, 1.0);
    factors.push_back(1 / ((1 - kept) / scaling.factor + kept));
  }
  return factors;
}

std::vector<double> RopeFrequencies(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.type == RopeType::kYarn) return YarnFrequencies(config);
  std::vector<double> divisors(static_cast<std::size_t>(config.head_dim / 2), 1.0);
  if (scaling.type == RopeType::kLinear)
    std::fill(divisors.begin(), divisors.end(), scaling.factor);
  if (scaling.type == RopeType::kLlama3) divisors = Llama3Factors(config, scaling);
  if (scaling.type == RopeType::kFactors) {
    divisors.assign(scaling.factors.begin(), scaling.factors.end());
  }
  std::vector<double> frequencies;
  for (std::size_t i = 0; i < divisors.size(); ++i) {
    frequencies.push_back(BaseFrequency(config, static_cast<idx>(i)) / divisors[i]);
  }
  return frequencies;
}

std::vector<TensorSpec> ListTensors(const ModelConfig& config) {
  const idx d = config.hidden_size;
  const idx f = config.intermediate_size;
  const idx q = config.num_heads * config.head_dim;
  const idx kv = config.num_kv_heads * config.head_dim;
  Layout layout;
  layout.Matrix("model.embed_tokens.weight", config.vocab_size, d);
  for (idx i = 0; i < config.num_layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    layout.Vector(layer + "input_layernorm.weight", d);
    layout.Matrix(layer + "self_attn.q_proj.weight", q, d);
    layout.MatrixJoined(layer + "self_attn.k_proj.weight", kv, d);
    layout.MatrixJoined(layer + "self_attn.v_proj.weight", kv, d);
    if (config.qkv_bias) {
      layout.Vector(layer + "self_attn.q_proj.bias", q);
      layout.VectorJoined(layer + "self_attn.k_proj.bias", kv);
      layout.VectorJoined(layer + "self_attn.v_proj.bias", kv);
    }
    if (config.qk_norm) {
      layout.Vector(layer + "self_attn.q_norm.weight", config.head_dim);
      layout.Vector(layer + "self_attn.k_norm.weight", config.head_dim);
    }
    layout.Matrix(layer + "self_attn.o_proj.weight", d, q);
    layout.Vector(layer + "post_attention_layernorm.weight", d);
    layout.Matrix(layer + "mlp.gate_proj.weight", f, d);
    layout.MatrixJoined(layer + "mlp.up_proj.weight", f, d);
    layout.Matrix(layer + "mlp.down_proj.weight", d, f);
  }
  layout.Vector("model.norm.weight", d);
  if (config.has_logits && !config.tied_embeddings) {
    layout.Matrix("lm_head.weight", config.vocab_size, d);
  }
  if (config.has_values) layout.Matrix("score.weight", 1, d);
  return layout.Take();
}

idx SlabSize(const std::vector<TensorSpec>& tensors) {
  idx end = 0;
  for (const TensorSpec& tensor : tensors) end = std::max(end, tensor.offset + tensor.size());
  return RoundUp(end, kAlign);
}

// The bounds are far above any model, and low enough that no product of sizes overflows.
void ValidateConfig(const ModelConfig& config, const std::string& where) {
  CheckRange(where, "vocab_size", config.vocab_size, idx{1} << 24);
  CheckRange(where, "hidden_size", config.hidden_size, idx{1} << 18);
  CheckRange(where, "intermediate_size", config.intermediate_size, idx{1} << 20);
  CheckRange(where, "num_hidden_layers", config.num_layers, idx{1} << 12);
  CheckRange(where, "num_attention_heads", config.num_heads, idx{1} << 12);
  CheckRange(where, "num_key_value_heads", config.num_kv_heads, config.num_heads);
  CheckRange(where, "head_dim", config.head_dim, idx{1} << 12);
  CheckRange(where, "max_position_embeddings", config.max_position, idx{1} << 30);
  if (config.num_heads % config.num_kv_heads != 0) {
    Fail(ErrorCode::kInput, "{}: num_key_value_heads {} does not divide num_attention_heads {}",
         where, config.num_kv_heads, config.num_heads);
  }
  if (config.head_dim % 2 != 0) {
    Fail(ErrorCode::kInput, "{}: head_dim is {}, must be even for RoPE", where, config.head_dim);
  }
  if (!(config.rms_norm_eps > 0.0F && config.rms_norm_eps < 1.0F)) {
    Fail(ErrorCode::kInput, "{}: rms_norm_eps is {}, must be above 0 and below 1", where,
         config.rms_norm_eps);
  }
  if (!(config.rope_theta >= 1.0 && std::isfinite(config.rope_theta))) {
    Fail(ErrorCode::kInput, "{}: rope_theta is {}, must be finite and at least 1", where,
         config.rope_theta);
  }
  ValidateRope(config, where);
  CheckToken(where, "bos_token_id", config.bos_id, config.vocab_size);
  CheckToken(where, "pad_token_id", config.pad_id, config.vocab_size);
  for (const TokenId id : config.eos_ids) {
    CheckToken(where, "eos_token_id", id, config.vocab_size);
    if (id < 0) Fail(ErrorCode::kInput, "{}: eos_token_id is {}, not a token", where, id);
  }
}

}  // namespace opo
