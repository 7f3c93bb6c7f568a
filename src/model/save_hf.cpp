// A model as a Hugging Face folder.
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "format/safetensors.h"
#include "model/load_internal.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

// The shortest decimal that gives this f32 back: 1e-05, not 9.99999974737875e-06.
double ShortestDecimal(float x) { return std::strtod(fmt::format("{}", x).c_str(), nullptr); }

// bos, eos and pad; one eos is written as a number, as transformers does.
void AddTokens(Json& json, const ModelConfig& config) {
  json["bos_token_id"] = config.bos_id < 0 ? Json(nullptr) : Json(config.bos_id);
  if (config.eos_ids.empty()) {
    json["eos_token_id"] = nullptr;
  } else if (config.eos_ids.size() == 1) {
    json["eos_token_id"] = config.eos_ids.front();
  } else {
    json["eos_token_id"] = config.eos_ids;
  }
  json["pad_token_id"] = config.pad_id < 0 ? Json(nullptr) : Json(config.pad_id);
}

// In the form that transformers 4 wrote and 5 reads too.
Json MakeRopeScaling(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.type == RopeType::kDefault) return nullptr;
  Json json;
  if (scaling.type == RopeType::kFactors) {
    // Where both lists are equal, this type divides each frequency by its own number.
    std::vector<double> factors;
    for (const float factor : scaling.factors) factors.push_back(ShortestDecimal(factor));
    json["rope_type"] = "longrope";
    json["short_factor"] = factors;
    json["long_factor"] = factors;
    json["attention_factor"] = scaling.attention_factor;
    json["original_max_position_embeddings"] = config.max_position;
    return json;
  }
  json["rope_type"] = kRopeTypeNames[static_cast<std::size_t>(scaling.type)];
  json["factor"] = scaling.factor;
  if (scaling.type == RopeType::kLlama3) {
    json["low_freq_factor"] = scaling.low_freq_factor;
    json["high_freq_factor"] = scaling.high_freq_factor;
  }
  if (scaling.type == RopeType::kYarn) {
    json["beta_fast"] = scaling.beta_fast;
    json["beta_slow"] = scaling.beta_slow;
    if (!scaling.truncate) json["truncate"] = false;
    if (scaling.attention_factor != YarnAttentionFactor(scaling.factor)) {
      json["attention_factor"] = scaling.attention_factor;
    }
  }
  if (scaling.original_max_position > 0) {
    json["original_max_position_embeddings"] = scaling.original_max_position;
  }
  return json;
}

Json MakeConfig(const ModelConfig& config, const Architecture& architecture, DType dtype) {
  Json json;
  json["architectures"] = {architecture.hf_class};
  json["model_type"] = architecture.name;
  json["vocab_size"] = config.vocab_size;
  json["hidden_size"] = config.hidden_size;
  json["intermediate_size"] = config.intermediate_size;
  json["num_hidden_layers"] = config.num_layers;
  json["num_attention_heads"] = config.num_heads;
  json["num_key_value_heads"] = config.num_kv_heads;
  json["head_dim"] = config.head_dim;
  json["max_position_embeddings"] = config.max_position;
  json["rms_norm_eps"] = ShortestDecimal(config.rms_norm_eps);
  json["rope_theta"] = config.rope_theta;
  json["rope_scaling"] = MakeRopeScaling(config);
  json["hidden_act"] = "silu";
  json["attention_dropout"] = 0.0;
  if (config.architecture == "mistral") json["sliding_window"] = nullptr;
  if (!config.qkv_bias) json["attention_bias"] = false;
  json["tie_word_embeddings"] = config.tied_embeddings;
  json["torch_dtype"] = dtype == DType::kBf16 ? "bfloat16" : "float32";
  AddTokens(json, config);
  return json;
}

}  // namespace

void SaveHfModel(const std::string& folder, const ModelConfig& config, std::span<const float> slab,
                 DType dtype) {
  const Architecture& architecture = FindArchitecture(config.architecture, folder);
  const std::vector<TensorSpec> specs = ListTensors(config);
  OPO_CHECK(std::ssize(slab) >= SlabSize(specs));
  OPO_CHECK(config.qkv_bias == architecture.qkv_bias && config.qk_norm == architecture.qk_norm);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    Fail(ErrorCode::kWork, "{}: the folder cannot be made: {}", folder, error.message());
  }
  std::vector<SafeTensorToWrite> tensors;
  for (const TensorSpec& spec : specs) {
    SafeTensorToWrite& tensor = tensors.emplace_back();
    tensor.name = spec.name;
    tensor.shape =
        spec.is_vector ? std::vector<idx>{spec.cols} : std::vector<idx>{spec.rows, spec.cols};
    tensor.data = slab.subspan(spec.offset, spec.size());
  }
  WriteSafetensors(folder + "/model.safetensors", tensors, dtype, {{"format", "pt"}});
  WriteFileAtomically(folder + "/config.json",
                      MakeConfig(config, architecture, dtype).dump(2) + "\n");
  Json generation;
  AddTokens(generation, config);
  WriteFileAtomically(folder + "/generation_config.json", generation.dump(2) + "\n");
}

}  // namespace opo
