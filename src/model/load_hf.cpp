// Models in Hugging Face folders: config.json to ModelConfig, and the safetensors shards.
#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "format/quote.h"
#include "format/safetensors.h"
#include "model/load_internal.h"

namespace opo {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

bool Exists(const std::string& path) {
  std::error_code
      ignored;  // what cannot be looked at is reported by whoever opens it, or as absent
  return fs::exists(path, ignored);
}

}  // namespace

// The parser of the library keeps the last of two equal keys and nests without end; both are
// refused.
Json ParseJsonFile(const std::string& path) {
  constexpr int kMaxDepth = 64;
  constexpr std::uintmax_t kMaxBytes = 100'000'000;
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (!error && size > kMaxBytes) {
    Fail(ErrorCode::kInput, "{}: {} bytes are too many for a JSON file (limit {})", path, size,
         kMaxBytes);
  }
  const std::string text = ReadFile(path);
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) {
      Fail(ErrorCode::kInput, "{}: nests deeper than {} levels", path, kMaxDepth);
    }
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second) {
        Fail(ErrorCode::kInput, "{}: holds the key {} twice", path, Quote(key));
      }
    }
    return true;
  };
  Json json;
  try {
    json = Json::parse(text, check);
  } catch (const Json::parse_error& e) {
    Fail(ErrorCode::kInput, "{}: is not JSON at offset {}: {}", path, e.byte, Quote(e.what()));
  }
  if (!json.is_object()) Fail(ErrorCode::kInput, "{}: is not a JSON object", path);
  return json;
}

namespace {

// Fields of one JSON object. null counts as absent, as in transformers.
class Fields {
 public:
  Fields(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  const std::string& where() const { return where_; }

  const Json* Find(const char* key) const {
    const auto it = json_.find(key);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  idx Int(const char* key) const {
    const Json* value = Find(key);
    if (value == nullptr) Fail(ErrorCode::kInput, "{}: '{}' is missing", where_, key);
    if (!value->is_number_integer() ||
        (value->is_number_unsigned() && !std::in_range<idx>(value->get<std::uint64_t>()))) {
      FailKind(key, *value, "an integer");
    }
    return value->get<idx>();
  }
  idx IntOr(const char* key, idx otherwise) const { return Find(key) ? Int(key) : otherwise; }
  double FloatOr(const char* key, double otherwise) const {
    const Json* value = Find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_number()) FailKind(key, *value, "a number");
    return value->get<double>();
  }
  bool BoolOr(const char* key, bool otherwise) const {
    const Json* value = Find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) FailKind(key, *value, "true or false");
    return value->get<bool>();
  }
  std::string StringOr(const char* key, const char* otherwise) const {
    const Json* value = Find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_string()) FailKind(key, *value, "a string");
    return value->get<std::string>();
  }
  // One token id or a list of them; negative means none.
  std::vector<TokenId> Tokens(const char* key) const {
    std::vector<TokenId> ids;
    const Json* value = Find(key);
    if (value == nullptr) return ids;
    const Json list = value->is_array() ? *value : Json::array({*value});
    for (const Json& item : list) {
      if (item.is_number_unsigned() && std::in_range<TokenId>(item.get<std::uint64_t>())) {
        ids.push_back(item.get<TokenId>());
      } else if (item.is_number_unsigned() || !item.is_number_integer()) {
        FailKind(key, *value, "a token id or a list of them");
      }
    }
    return ids;
  }

  [[noreturn]] void Refuse(const char* key) const {
    Fail(ErrorCode::kInput, "{}: '{}' is {}: this arithmetic is not supported", where_, key,
         Quote(json_.at(key).dump(-1, ' ', true, Json::error_handler_t::replace)));
  }
  // Switches of arithmetic may only hold the value that leaves it as it is.
  void RequireBool(const char* key, bool neutral) const {
    if (BoolOr(key, neutral) != neutral) Refuse(key);
  }
  void RequireFloat(const char* key, double neutral) const {
    if (FloatOr(key, neutral) != neutral) Refuse(key);
  }
  void RequireAbsent(const char* key) const {
    if (Find(key) != nullptr) Refuse(key);
  }

 private:
  [[noreturn]] void FailKind(const char* key, const Json& value, const char* wanted) const {
    Fail(ErrorCode::kInput, "{}: '{}' is {}, must be {}", where_, key,
         Quote(value.dump(-1, ' ', true, Json::error_handler_t::replace)), wanted);
  }

  const Json& json_;
  std::string where_;
};

// `rope_scaling` (transformers 4) and `rope_parameters` (5) may only say "default".
double ReadRopeTheta(const Fields& fields) {
  double theta = fields.FloatOr("rope_theta", 10000.0);
  fields.RequireFloat("partial_rotary_factor", 1.0);
  fields.RequireBool("rope_interleaved", false);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* json = fields.Find(key);
    if (json == nullptr) continue;
    if (!json->is_object()) fields.Refuse(key);
    const Fields rope(*json, fields.where() + ": '" + key + "'");
    for (const char* type : {"rope_type", "type"}) {
      if (rope.StringOr(type, "default") != "default") fields.Refuse(key);
    }
    rope.RequireFloat("partial_rotary_factor", 1.0);
    rope.RequireFloat("factor", 1.0);
    theta = rope.FloatOr("rope_theta", theta);
  }
  return theta;
}

void RefuseForeignArithmetic(const Fields& fields, const Architecture& architecture) {
  if (fields.StringOr("hidden_act", "silu") != "silu") fields.Refuse("hidden_act");
  if (!architecture.qkv_bias) fields.RequireBool("attention_bias", false);
  fields.RequireBool("mlp_bias", false);
  fields.RequireBool("use_mrope", false);
  fields.RequireBool("use_sliding_window", false);
  // Qwen configs name a window beside use_sliding_window=false; elsewhere a window is in use.
  if (fields.Find("use_sliding_window") == nullptr) fields.RequireAbsent("sliding_window");
  if (const Json* layers = fields.Find("layer_types")) {
    if (!layers->is_array()) fields.Refuse("layer_types");
    for (const Json& type : *layers) {
      if (type != "full_attention") fields.Refuse("layer_types");
    }
  }
  fields.RequireFloat("attention_dropout", 0.0);
  for (const char* key :
       {"quantization_config", "attn_logit_softcapping", "final_logit_softcapping",
        "query_pre_attn_scalar", "num_experts", "num_local_experts"}) {
    fields.RequireAbsent(key);
  }
}

ModelConfig ReadConfig(const Json& json, const std::string& folder) {
  const Fields fields(json, folder + "/config.json");
  const Architecture& architecture =
      FindArchitecture(fields.StringOr("model_type", ""), fields.where() + ": 'model_type'");
  RefuseForeignArithmetic(fields, architecture);
  ModelConfig config;
  SetArchitecture(config, architecture.name, fields.where());
  config.vocab_size = fields.Int("vocab_size");
  config.hidden_size = fields.Int("hidden_size");
  config.intermediate_size = fields.Int("intermediate_size");
  config.num_layers = fields.Int("num_hidden_layers");
  config.num_heads = fields.Int("num_attention_heads");
  config.num_kv_heads = fields.IntOr("num_key_value_heads", config.num_heads);
  config.max_position =
      fields.IntOr("max_position_embeddings", architecture.hf_default_max_position);
  config.rms_norm_eps = static_cast<float>(fields.FloatOr("rms_norm_eps", 1e-6));
  config.rope_theta = ReadRopeTheta(fields);
  config.tied_embeddings = fields.BoolOr("tie_word_embeddings", false);
  config.head_dim = fields.IntOr("head_dim", architecture.hf_default_head_dim);
  if (config.head_dim == 0) {
    if (config.num_heads < 1 || config.hidden_size % config.num_heads != 0) {
      Fail(ErrorCode::kInput, "{}: 'num_attention_heads' is {}, does not divide 'hidden_size' {}",
           fields.where(), config.num_heads, config.hidden_size);
    }
    config.head_dim = config.hidden_size / config.num_heads;
  }

  // What generation_config.json says goes before config.json, as in transformers.
  Json generation = Json::object();
  const std::string generation_path = folder + "/generation_config.json";
  if (Exists(generation_path)) generation = ParseJsonFile(generation_path);
  const Fields generation_fields(generation, generation_path);
  const auto tokens = [&](const char* key) {
    return generation_fields.Find(key) != nullptr ? generation_fields.Tokens(key)
                                                  : fields.Tokens(key);
  };
  const std::vector<TokenId> bos = tokens("bos_token_id");
  const std::vector<TokenId> pad = tokens("pad_token_id");
  config.bos_id = bos.empty() ? -1 : bos.front();
  config.pad_id = pad.empty() ? -1 : pad.front();
  config.eos_ids = tokens("eos_token_id");
  ValidateConfig(config, fields.where());
  return config;
}

// The files that hold the weights, each a plain name inside the folder.
std::vector<std::string> ListShards(const std::string& folder) {
  if (Exists(folder + "/model.safetensors")) return {"model.safetensors"};
  const std::string path = folder + "/model.safetensors.index.json";
  if (!Exists(path)) {
    Fail(ErrorCode::kInput,
         "{}: holds neither model.safetensors nor model.safetensors.index.json; save the model "
         "with save_pretrained(folder, safe_serialization=True)",
         folder);
  }
  const Json index = ParseJsonFile(path);
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) {
    Fail(ErrorCode::kInput, "{}: 'weight_map' is missing or not an object", path);
  }
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    if (!name.ends_with(".safetensors") ||
        name.find_first_of(std::string("/\\\0", 3)) != std::string::npos) {
      Fail(ErrorCode::kInput,
           "{}: 'weight_map': tensor {} is in the file {}, must be a plain *.safetensors name",
           path, Quote(tensor), Quote(name));
    }
    shards.insert(name);
  }
  return {shards.begin(), shards.end()};
}

class HfSource : public ModelSource {
 public:
  explicit HfSource(const std::string& folder) {
    const std::string config_path = folder + "/config.json";
    if (!Exists(config_path)) {
      Fail(ErrorCode::kInput, "{}: holds no config.json; give a Hugging Face folder or a .gguf",
           folder);
    }
    config_ = ReadConfig(ParseJsonFile(config_path), folder);
    for (const std::string& shard : ListShards(folder)) {
      shards_.push_back(SafetensorsFile::Open(fmt::format("{}/{}", folder, shard)));
    }
    std::map<std::string_view, Place> in_files;
    for (const SafetensorsFile& shard : shards_) {
      for (const SafeTensor& tensor : shard.tensors()) {
        const auto [it, is_new] = in_files.emplace(tensor.name, Place{&shard, &tensor});
        if (!is_new) {
          Fail(ErrorCode::kInput, "{}: tensor {} is in {} too", shard.path(), Quote(tensor.name),
               it->second.shard->path());
        }
      }
    }
    for (const TensorSpec& spec : ListTensors(config_)) {
      const auto it = in_files.find(spec.name);
      if (it == in_files.end()) {
        Fail(ErrorCode::kInput, "{}: tensor '{}' is missing", folder, spec.name);
      }
      CheckTensor(spec, it->second);
      tensors_.emplace(spec.name, it->second);
      in_files.erase(it);
    }
    for (const auto& [name, place] : in_files) CheckExtra(name, place);
  }

  const ModelConfig& config() const override { return config_; }

  void Read(const TensorSpec& spec, std::span<float> out) const override {
    const auto it = tensors_.find(spec.name);
    OPO_CHECK(it != tensors_.end() && std::ssize(out) == spec.size());
    it->second.shard->ReadF32(*it->second.tensor, out);
  }

 private:
  struct Place {
    const SafetensorsFile* shard;
    const SafeTensor* tensor;
  };

  static void CheckTensor(const TensorSpec& spec, const Place& place) {
    const std::vector<idx> shape =
        spec.is_vector ? std::vector<idx>{spec.cols} : std::vector<idx>{spec.rows, spec.cols};
    const SafeTensor& tensor = *place.tensor;
    if (tensor.shape != shape) {
      Fail(ErrorCode::kInput, "{}: tensor '{}' has the shape [{}], config.json asks for [{}]",
           place.shard->path(), spec.name, fmt::join(tensor.shape, ", "), fmt::join(shape, ", "));
    }
    if (tensor.dtype != "F32" && tensor.dtype != "F16" && tensor.dtype != "BF16") {
      Fail(ErrorCode::kInput, "{}: tensor '{}' is {}, readable are F32, F16 and BF16",
           place.shard->path(), spec.name, tensor.dtype);
    }
  }

  // Nothing in the file is passed over unless it provably changes nothing.
  void CheckExtra(std::string_view name, const Place& place) const {
    if (name.ends_with(".rotary_emb.inv_freq")) return;  // old checkpoints store what theta says
    if (name == "lm_head.weight" && config_.tied_embeddings) {
      const Place& embedding = tensors_.find("model.embed_tokens.weight")->second;
      const auto head = place.shard->Raw(*place.tensor);
      const auto embed = embedding.shard->Raw(*embedding.tensor);
      if (place.tensor->dtype == embedding.tensor->dtype && std::ranges::equal(head, embed)) return;
      Fail(ErrorCode::kInput,
           "{}: tensor 'lm_head.weight' differs from the embedding, but config.json ties them; set "
           "'tie_word_embeddings' to false",
           place.shard->path());
    }
    Fail(ErrorCode::kInput, "{}: tensor {} has no place in the architecture {}",
         place.shard->path(), Quote(name), config_.architecture);
  }

  ModelConfig config_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, Place, std::less<>> tensors_;
};

}  // namespace

std::unique_ptr<ModelSource> OpenHfFolder(const std::string& folder) {
  return std::make_unique<HfSource>(folder);
}

}  // namespace opo
