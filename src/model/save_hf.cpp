// A model as a Hugging Face folder.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
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

const char* TorchName(DType dtype) {
  if (dtype == DType::kBf16) return "bfloat16";
  return dtype == DType::kF16 ? "float16" : "float32";
}

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
  std::string hf_class = architecture.hf_class;
  if (!config.has_logits) {
    hf_class.replace(hf_class.find("ForCausalLM"), std::string::npos, "ForSequenceClassification");
  }
  json["architectures"] = {hf_class};
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
  json["torch_dtype"] = TorchName(dtype);
  if (!config.has_logits) {
    json["id2label"] = {{"0", "LABEL_0"}};
    json["label2id"] = {{"LABEL_0", 0}};
  }
  AddTokens(json, config);
  return json;
}

// config.json of a folder for weights of another type.
Json ConfigOf(const std::string& folder, DType dtype) {
  Json json = Json::parse(ReadFile(folder + "/config.json"));  // checked when it was opened
  bool named = false;
  for (const char* key : {"dtype", "torch_dtype"}) {  // transformers 5 and 4
    if (!json.contains(key)) continue;
    json[key] = TorchName(dtype);
    named = true;
  }
  if (!named) json["torch_dtype"] = TorchName(dtype);
  return json;
}

// "" for a model that does not answer.
std::string MakeGenerationConfig(const ModelConfig& config, const GgufFile* gguf) {
  if (!config.has_logits) return "";
  Json json;
  AddTokens(json, config);
  for (const SamplingHint& hint : kSamplingHints) {
    if (gguf == nullptr || !gguf->Has(hint.gguf)) continue;
    json["do_sample"] = true;  // without it, transformers warns of the others
    if (hint.integer) {
      json[hint.hf] = gguf->GetInt(hint.gguf);
    } else {
      json[hint.hf] = ShortestDecimal(static_cast<float>(gguf->GetFloat(hint.gguf)));
    }
  }
  return json.dump(2) + "\n";
}

using Fill = std::function<void(SafeTensorToWrite& tensor, const TensorSpec& spec)>;

void WriteFolder(const std::string& folder, const ModelConfig& config, const Fill& fill,
                 DType dtype, const Json& config_json, const std::string& generation) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    Fail(ErrorCode::kWork, "{}: the folder cannot be made: {}", folder, error.message());
  }
  std::vector<SafeTensorToWrite> tensors;
  for (const TensorSpec& spec : ListTensors(config)) {
    SafeTensorToWrite& tensor = tensors.emplace_back();
    tensor.name = spec.name;
    tensor.shape =
        spec.is_vector ? std::vector<idx>{spec.cols} : std::vector<idx>{spec.rows, spec.cols};
    fill(tensor, spec);
  }
  WriteSafetensors(folder + "/model.safetensors", tensors, dtype, {{"format", "pt"}});
  WriteFileAtomically(folder + "/config.json", config_json.dump(2) + "\n");
  if (!generation.empty()) {
    WriteFileAtomically(folder + "/generation_config.json", generation);
  }
}

}  // namespace

void SaveHfModel(const std::string& folder, const ModelConfig& config, std::span<const float> slab,
                 DType dtype) {
  const Architecture& architecture = FindArchitecture(config.architecture, folder);
  OPO_CHECK(std::ssize(slab) >= SlabSize(ListTensors(config)));
  OPO_CHECK(config.qkv_bias == architecture.qkv_bias && config.qk_norm == architecture.qk_norm);
  const Fill fill = [&](SafeTensorToWrite& tensor, const TensorSpec& spec) {
    tensor.data = slab.subspan(spec.offset, spec.size());
  };
  WriteFolder(folder, config, fill, dtype, MakeConfig(config, architecture, dtype),
              MakeGenerationConfig(config, nullptr));
}

void SaveHfModel(const std::string& folder, const ModelSource& source,
                 const std::vector<TokenId>& more_eos, DType dtype) {
  const ModelConfig& config = source.config();
  const Architecture& architecture = FindArchitecture(config.architecture, folder);
  const Fill fill = [&](SafeTensorToWrite& tensor, const TensorSpec& spec) {
    tensor.read = [&source, spec](std::span<float> out) { source.Read(spec, out); };
  };
  const std::string from = source.hf_folder();
  if (from.empty()) {
    ModelConfig with_eos = config;
    for (const TokenId id : more_eos) {
      std::vector<TokenId>& ids = with_eos.eos_ids;
      if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
    }
    WriteFolder(folder, config, fill, dtype, MakeConfig(with_eos, architecture, dtype),
                MakeGenerationConfig(with_eos, source.gguf()));
    return;
  }
  const std::string generation = from + "/generation_config.json";
  WriteFolder(folder, config, fill, dtype, ConfigOf(from, dtype),
              Exists(generation) ? ReadFile(generation) : "");
}

}  // namespace opo
