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
  json["rope_scaling"] = nullptr;
  json["hidden_act"] = "silu";
  json["attention_dropout"] = 0.0;
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
