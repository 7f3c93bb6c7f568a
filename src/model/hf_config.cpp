// config.json of Hugging Face folders: to ModelConfig, or a refusal by name.
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "format/quote.h"
#include "model/load_internal.h"

namespace opo {

using Json = nlohmann::json;
namespace fs = std::filesystem;

Json ParseJsonFile(const std::string& path) {
  constexpr std::uintmax_t kMaxBytes = 100'000'000;
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (!error && size > kMaxBytes) {
    Fail(ErrorCode::kInput, "{}: {} bytes are too many for a JSON file (limit {})", path, size,
         kMaxBytes);
  }
  const std::string text = ReadFile(path);
  Json json = ParseJson<Json>(text, path, "file");
  if (const auto key = RepeatedKey(text)) {
    Fail(ErrorCode::kInput, "{}: holds the key {} twice", path, Quote(*key));
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
  const Json& json() const { return json_; }

  const Json* Find(const char* key) const {
    const auto it = json_.find(key);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  idx Int(const char* key) const {
    const Json* value = Find(key);
    if (value == nullptr) Fail(ErrorCode::kInput, "{}: '{}' is missing", where_, key);
    if (!HoldsInteger<idx>(*value)) FailKind(key, *value, "an integer");
    return value->get<idx>();
  }
  idx IntOr(const char* key, idx otherwise) const { return Find(key) ? Int(key) : otherwise; }
  double Float(const char* key) const {
    const Json* value = Find(key);
    if (value == nullptr) Fail(ErrorCode::kInput, "{}: '{}' is missing", where_, key);
    if (!value->is_number()) FailKind(key, *value, "a number");
    return value->get<double>();
  }
  double FloatOr(const char* key, double otherwise) const {
    return Find(key) ? Float(key) : otherwise;
  }
  std::vector<float> Floats(const char* key) const {
    const Json* value = Find(key);
    if (value == nullptr) Fail(ErrorCode::kInput, "{}: '{}' is missing", where_, key);
    std::vector<float> numbers;
    if (!value->is_array()) FailKind(key, *value, "a list of numbers");
    for (const Json& item : *value) {
      if (!item.is_number()) FailKind(key, *value, "a list of numbers");
      numbers.push_back(item.get<float>());
    }
    return numbers;
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
      if (item.is_number_unsigned() && HoldsInteger<TokenId>(item)) {
        ids.push_back(item.get<TokenId>());
      } else if (item.is_number_unsigned() || !item.is_number_integer()) {
        FailKind(key, *value, "a token id or a list of them");
      }
    }
    return ids;
  }

  // The value of a key that is there, for messages.
  std::string Shown(const std::string& key) const {
    return Quote(json_.at(key).dump(-1, ' ', true, Json::error_handler_t::replace));
  }
  [[noreturn]] void Refuse(const std::string& key) const {
    Fail(ErrorCode::kInput, "{}: '{}' is {}: this arithmetic is not supported", where_, key,
         Shown(key));
  }
  // Switches of arithmetic may only hold the value that leaves it as it is; null is neutral.
  void RequireBool(const char* key, bool neutral) const {
    if (BoolOr(key, neutral) != neutral) Refuse(key);
  }
  void RequireFloat(const char* key, double neutral) const {
    if (FloatOr(key, neutral) != neutral) Refuse(key);
  }

 private:
  [[noreturn]] void FailKind(const char* key, const Json& value, const char* wanted) const {
    Fail(ErrorCode::kInput, "{}: '{}' is {}, must be {}", where_, key,
         Quote(value.dump(-1, ' ', true, Json::error_handler_t::replace)), wanted);
  }

  const Json& json_;
  std::string where_;
};

// What a RoPE type reads beside the keys of all types; another type's key is refused there.
struct RopeKeys {
  const char* type;
  RopeType as;
  std::vector<std::string_view> keys;
};
const std::vector<RopeKeys>& RopeTypes() {
  static const std::vector<RopeKeys> types = {
      {"default", RopeType::kDefault, {}},
      {"linear", RopeType::kLinear, {"factor"}},
      {"llama3", RopeType::kLlama3, {"factor", "low_freq_factor", "high_freq_factor"}},
      {"yarn",
       RopeType::kYarn,
       {"factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim",
        "truncate"}},
      {"longrope",
       RopeType::kFactors,
       {"factor", "short_factor", "long_factor", "attention_factor"}},
  };
  return types;
}

const RopeKeys& FindRopeType(const Fields& rope) {
  const std::string type = rope.StringOr("rope_type", rope.StringOr("type", "default").c_str());
  if (rope.StringOr("type", type.c_str()) != type) {
    Fail(ErrorCode::kInput, "{}: 'type' is {}, but 'rope_type' {}", rope.where(),
         rope.Shown("type"), rope.Shown("rope_type"));
  }
  for (const RopeKeys& row : RopeTypes()) {
    if (type == row.type) return row;
  }
  Fail(ErrorCode::kInput,
       "{}: the RoPE type {} is not supported; known are default, linear, llama3 and yarn",
       rope.where(), Quote(type));
}

// One `rope_scaling` (transformers 4) or `rope_parameters` (5).
void ReadRopeObject(const Fields& outer, const Fields& rope, ModelConfig& config) {
  const RopeKeys& type = FindRopeType(rope);
  RopeScaling& scaling = config.rope_scaling;
  scaling.type = type.as;
  config.rope_theta = rope.FloatOr("rope_theta", config.rope_theta);
  rope.RequireFloat("partial_rotary_factor", 1.0);
  if (type.as == RopeType::kDefault) rope.RequireFloat("factor", 1.0);
  constexpr std::array<std::string_view, 7> kOfAll = {
      "rope_type",  "type",
      "rope_theta", "partial_rotary_factor",
      "factor",     "original_max_position_embeddings",
      "finetuned"};
  for (const auto& [key, value] : rope.json().items()) {
    if (value.is_null() ||
        std::ranges::count(kOfAll, key) + std::ranges::count(type.keys, key) > 0) {
      continue;
    }
    Fail(ErrorCode::kInput, "{}: '{}' is {}: the RoPE type {} has no such parameter", rope.where(),
         key, rope.Shown(key), type.type);
  }
  if (type.as == RopeType::kDefault) return;

  // What stands outside goes before what stands inside, as in transformers.
  const char* const original = "original_max_position_embeddings";
  const idx original_max_position =
      outer.IntOr(original, rope.IntOr(original, config.max_position));
  if (type.as == RopeType::kLlama3 || type.as == RopeType::kYarn) {
    scaling.original_max_position = original_max_position;
  }
  if (type.as == RopeType::kLinear || type.as == RopeType::kLlama3) {
    scaling.factor = rope.Float("factor");
  }
  if (type.as == RopeType::kLlama3) {
    scaling.low_freq_factor = rope.Float("low_freq_factor");
    scaling.high_freq_factor = rope.Float("high_freq_factor");
  }
  const double ratio = static_cast<double>(config.max_position) /
                       static_cast<double>(std::max<idx>(original_max_position, 1));
  if (type.as == RopeType::kYarn) {
    const bool has_ratio = outer.Find(original) != nullptr || rope.Find(original) != nullptr;
    scaling.factor = has_ratio ? rope.FloatOr("factor", ratio) : rope.Float("factor");
    // A zero stands for the default, as in transformers.
    const auto beta = [&](const char* key, double otherwise) {
      const double value = rope.FloatOr(key, otherwise);
      return value == 0 ? otherwise : value;
    };
    scaling.beta_fast = beta("beta_fast", 32);
    scaling.beta_slow = beta("beta_slow", 1);
    scaling.truncate = rope.BoolOr("truncate", true);
    const double mscale = rope.FloatOr("mscale", 0);
    const double mscale_all_dim = rope.FloatOr("mscale_all_dim", 0);
    scaling.attention_factor = YarnAttentionFactor(scaling.factor);
    if (mscale != 0 && mscale_all_dim != 0) {
      scaling.attention_factor = YarnAttentionFactor(scaling.factor, mscale) /
                                 YarnAttentionFactor(scaling.factor, mscale_all_dim);
    }
    scaling.attention_factor = rope.FloatOr("attention_factor", scaling.attention_factor);
  }
  if (type.as == RopeType::kFactors) {
    // With two different lists the frequencies would depend on the longest sequence of a batch.
    scaling.factors = rope.Floats("short_factor");
    if (rope.Floats("long_factor") != scaling.factors) {
      Fail(
          ErrorCode::kInput,
          "{}: the RoPE type longrope is supported only where 'short_factor' and 'long_factor' are "
          "equal",
          rope.where());
    }
    const double factor = rope.FloatOr("factor", ratio);
    const double original_log =
        std::log(static_cast<double>(std::max<idx>(original_max_position, 2)));
    scaling.attention_factor = rope.FloatOr(
        "attention_factor", factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / original_log));
  }
}

void ReadRope(const Fields& fields, ModelConfig& config) {
  config.rope_theta = fields.FloatOr("rope_theta", config.rope_theta);
  fields.RequireFloat("partial_rotary_factor", 1.0);
  fields.RequireBool("rope_interleaved", false);
  const ModelConfig plain = config;
  const char* read = nullptr;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* json = fields.Find(key);
    if (json == nullptr) continue;
    if (!json->is_object()) fields.Refuse(key);
    if (json->empty()) continue;
    ModelConfig with = plain;
    ReadRopeObject(fields, Fields(*json, fields.where() + ": '" + key + "'"), with);
    if (read != nullptr &&
        (with.rope_scaling != config.rope_scaling || with.rope_theta != config.rope_theta)) {
      Fail(ErrorCode::kInput, "{}: '{}' and '{}' contradict each other; remove one", fields.where(),
           read, key);
    }
    config = with;
    read = key;
  }
}

// A window that no sequence outgrows, or that no layer uses, changes nothing.
void CheckWindow(const Fields& fields, const ModelConfig& config) {
  const bool is_llama = config.architecture == "llama";
  const bool is_qwen = config.architecture == "qwen2" || config.architecture == "qwen3";
  // An absent key stands for a window in the classes that have one.
  const bool named = fields.json().contains("sliding_window");
  const idx window = named ? fields.IntOr("sliding_window", 0) : is_llama ? 0 : 4096;
  const bool off = window == 0 || !fields.BoolOr("use_sliding_window", !is_qwen);
  bool some_layer = !is_qwen || fields.IntOr("max_window_layers", 28) < config.num_layers;
  if (const Json* layers = fields.Find("layer_types")) {
    if (!layers->is_array()) fields.Refuse("layer_types");
    some_layer = false;
    for (const Json& type : *layers) {
      if (type == "full_attention") continue;
      if (type != "sliding_attention" || off) fields.Refuse("layer_types");
      some_layer = true;
    }
  }
  if (off || !some_layer || window >= config.max_position) return;
  if (named) fields.Refuse("sliding_window");
  Fail(ErrorCode::kInput,
       "{}: 'sliding_window' is missing, which stands for 4096: this arithmetic is not supported; "
       "null turns it off",
       fields.where());
}

void RefuseForeignArithmetic(const Fields& fields, const Architecture& architecture) {
  for (const char* key : {"hidden_act", "hidden_activation"}) {
    const std::string activation = fields.StringOr(key, "silu");
    if (activation != "silu" && activation != "swish") fields.Refuse(key);
  }
  if (!architecture.qkv_bias) fields.RequireBool("attention_bias", false);
  for (const char* key : {"mlp_bias", "use_mrope", "is_encoder_decoder", "add_cross_attention"}) {
    fields.RequireBool(key, false);
  }
  fields.RequireBool("is_causal", true);
  fields.RequireFloat("attention_dropout", 0.0);
  for (const char* key : {"embedding_multiplier", "residual_multiplier", "logits_scaling",
                          "logit_scale", "lm_head_multiplier"}) {
    fields.RequireFloat(key, 1.0);
  }
  // Remote code that only brings a tokenizer changes nothing here.
  if (const Json* map = fields.Find("auto_map")) {
    if (!map->is_object()) fields.Refuse("auto_map");
    for (const auto& [name, code] : map->items()) {
      if (name.starts_with("AutoModel")) fields.Refuse("auto_map");
    }
  }
}

// Which heads the class of a folder has. Without a class it is a causal LM.
void ReadHeads(const Fields& fields, ModelConfig& config) {
  const Json* classes = fields.Find("architectures");
  if (classes == nullptr || !classes->is_array() || classes->empty() ||
      !(*classes)[0].is_string()) {
    return;
  }
  const std::string name = (*classes)[0].get<std::string>();
  for (const char* other :
       {"ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice"}) {
    if (!name.ends_with(other)) continue;
    Fail(ErrorCode::kInput,
         "{}: 'architectures' is {}: this class has a head that is not supported; known are "
         "...ForCausalLM and ...ForSequenceClassification with one label",
         fields.where(), fields.Shown("architectures"));
  }
  if (!name.ends_with("ForSequenceClassification")) return;
  config.has_logits = false;
  config.has_values = true;
  // transformers writes the names of labels where there are not two.
  const Json* labels = fields.Find("id2label");
  const bool named = labels != nullptr && labels->is_object();
  const idx count = fields.IntOr("num_labels", named ? static_cast<idx>(labels->size()) : 2);
  if (count == 1 && (!named || labels->size() == 1)) return;
  Fail(ErrorCode::kInput,
       "{}: {} labels ('id2label', 'num_labels'; 2 where neither is there), but a value head says "
       "one number; train the model for sequence classification with num_labels=1",
       fields.where(), count == 1 ? static_cast<idx>(labels->size()) : count);
}

bool IsNeutral(const Json& value) {
  return value.is_null() || value == false || value == 0 || value == "" || value == "none" ||
         (value.is_structured() && value.empty());
}

// What is left after all keys that this file reads: keys that transformers gives every model, which
// change nothing here, pass. Of the others, whose value is not "off", those whose names speak of a
// model's parts are refused, since to pass over them could be to compute another model; the rest is
// named in a warning. transformers itself passes over all of them.
void CheckUnknownKeys(const Fields& fields) {
  static const std::set<std::string_view> kRead = {"architectures",
                                                   "model_type",
                                                   "vocab_size",
                                                   "hidden_size",
                                                   "intermediate_size",
                                                   "num_hidden_layers",
                                                   "num_attention_heads",
                                                   "num_key_value_heads",
                                                   "head_dim",
                                                   "max_position_embeddings",
                                                   "rms_norm_eps",
                                                   "rope_theta",
                                                   "rope_scaling",
                                                   "rope_parameters",
                                                   "partial_rotary_factor",
                                                   "rope_interleaved",
                                                   "original_max_position_embeddings",
                                                   "sliding_window",
                                                   "use_sliding_window",
                                                   "max_window_layers",
                                                   "layer_types",
                                                   "hidden_act",
                                                   "hidden_activation",
                                                   "attention_bias",
                                                   "mlp_bias",
                                                   "use_mrope",
                                                   "is_encoder_decoder",
                                                   "add_cross_attention",
                                                   "is_causal",
                                                   "attention_dropout",
                                                   "embedding_multiplier",
                                                   "residual_multiplier",
                                                   "logits_scaling",
                                                   "logit_scale",
                                                   "lm_head_multiplier",
                                                   "auto_map",
                                                   "tie_word_embeddings",
                                                   "bos_token_id",
                                                   "eos_token_id",
                                                   "pad_token_id"};
  static const std::set<std::string_view> kHarmless = {"_attn_implementation",
                                                       "_attn_implementation_autoset",
                                                       "_flash_attn_2_enabled",
                                                       "_name_or_path",
                                                       "attn_implementation",
                                                       "bad_words_ids",
                                                       "begin_suppress_tokens",
                                                       "chunk_size_feed_forward",
                                                       "cls_token_id",
                                                       "decoder_start_token_id",
                                                       "diversity_penalty",
                                                       "do_sample",
                                                       "dtype",
                                                       "early_stopping",
                                                       "encoder_no_repeat_ngram_size",
                                                       "exponential_decay_length_penalty",
                                                       "finetuning_task",
                                                       "forced_bos_token_id",
                                                       "forced_eos_token_id",
                                                       "gradient_checkpointing",
                                                       "id2label",
                                                       "initializer_range",
                                                       "is_decoder",
                                                       "is_llama_config",
                                                       "label2id",
                                                       "length_penalty",
                                                       "max_length",
                                                       "min_length",
                                                       "model_max_length",
                                                       "no_repeat_ngram_size",
                                                       "num_beam_groups",
                                                       "num_beams",
                                                       "num_labels",
                                                       "num_return_sequences",
                                                       "output_attentions",
                                                       "output_hidden_states",
                                                       "output_scores",
                                                       "pretraining_tp",
                                                       "problem_type",
                                                       "remove_invalid_values",
                                                       "repetition_penalty",
                                                       "return_dict",
                                                       "return_dict_in_generate",
                                                       "sep_token_id",
                                                       "suppress_tokens",
                                                       "task_specific_params",
                                                       "temperature",
                                                       "tf_legacy_loss",
                                                       "tokenizer_class",
                                                       "top_k",
                                                       "top_p",
                                                       "torch_dtype",
                                                       "torchscript",
                                                       "transformers.js_config",
                                                       "transformers_version",
                                                       "typical_p",
                                                       "unsloth_fixed",
                                                       "unsloth_version",
                                                       "use_bfloat16",
                                                       "use_cache",
                                                       "use_flash_attention",
                                                       "use_flash_attn"};
  constexpr std::array<std::string_view, 32> kParts = {
      "activation", "alibi", "attention", "attn",       "bias", "clip",     "conv",   "cross",
      "dropout",    "embed", "expert",    "factor",     "gate", "head",     "layer",  "logit",
      "mamba",      "mlp",   "moe",       "multiplier", "norm", "position", "quant",  "query",
      "residual",   "rope",  "rotary",    "router",     "scal", "softcap",  "vision", "window"};
  std::string ignored;
  for (const auto& [key, value] : fields.json().items()) {
    if (kRead.contains(key) || kHarmless.contains(key) || IsNeutral(value)) continue;
    const bool part = std::ranges::any_of(kParts, [&name = key](std::string_view word) {
      return name.find(word) != std::string::npos;
    });
    if (part) {
      Fail(ErrorCode::kInput,
           "{}: {} is {}: this key is not known, and its name asks for arithmetic that is not "
           "supported; if it changes nothing, remove it",
           fields.where(), Quote(key), fields.Shown(key));
    }
    ignored += (ignored.empty() ? "" : ", ") + Quote(key);
  }
  if (!ignored.empty()) {
    fmt::print(stderr, "warning: {}: unknown keys are passed over: {}\n", fields.where(), ignored);
  }
}

ModelConfig ReadConfig(const Json& json, const std::string& folder) {
  const Fields fields(json, folder + "/config.json");
  const Architecture& architecture =
      FindArchitecture(fields.StringOr("model_type", ""), fields.where() + ": 'model_type'");
  RefuseForeignArithmetic(fields, architecture);
  CheckUnknownKeys(fields);
  ModelConfig config;
  ReadHeads(fields, config);
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
  ReadRope(fields, config);
  CheckWindow(fields, config);
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

}  // namespace

ModelConfig ReadHfConfig(const std::string& folder) {
  return ReadConfig(ParseJsonFile(folder + "/config.json"), folder);
}

}  // namespace opo
