// A model as a GGUF file: the names, the order of rows and the metadata of llama.cpp's converter.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "model/load_internal.h"

namespace opo {
namespace {

using Keys = std::vector<GgufKeyToWrite>;

constexpr std::uint32_t kQuantizationVersion = 2;  // of ggml's block formats

// llama.cpp's number for "mostly of this type".
std::uint32_t FileTypeOf(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return 0;
    case GgmlType::kF16:
      return 1;
    case GgmlType::kQ8_0:
      return 7;
    case GgmlType::kBf16:
      return 32;
    default:
      CheckFailed(__FILE__, __LINE__, "a type that is written");
  }
}

std::uint32_t U32(idx value) { return static_cast<std::uint32_t>(value); }

// "135M": of the weights, with two digits at least.
std::string SizeLabel(const ModelConfig& config) {
  idx weights = 0;
  for (const TensorSpec& spec : ListTensors(config)) weights += spec.size();
  double scaled = static_cast<double>(weights) / 1e3;
  const char* unit = "K";
  for (const char* next : {"M", "B", "T"}) {
    if (scaled <= 1e3) break;
    scaled /= 1e3;
    unit = next;
  }
  return fmt::format("{:.{}f}{}", scaled, std::round(scaled) < 10 ? 1 : 0, unit);
}

// Everything about RoPE is written here, but for the divisors of llama3 (RopeDivisors).
void AddRope(Keys& keys, const ModelConfig& config, const std::string& path,
             const std::string& architecture) {
  const RopeScaling& scaling = config.rope_scaling;
  const std::string prefix = architecture + ".rope.";
  keys.push_back({prefix + "freq_base", static_cast<float>(config.rope_theta)});
  keys.push_back({prefix + "dimension_count", U32(config.head_dim)});
  const bool linear = scaling.type == RopeType::kLinear;
  if (!linear && scaling.type != RopeType::kYarn) return;
  keys.push_back({prefix + "scaling.type", std::string(linear ? "linear" : "yarn")});
  keys.push_back({prefix + "scaling.factor", static_cast<float>(scaling.factor)});
  if (linear) return;
  if (!scaling.truncate) {
    Fail(ErrorCode::kInput, "{}: GGUF has no word for yarn's truncate = false", path);
  }
  keys.push_back({prefix + "scaling.original_context_length", U32(scaling.original_max_position)});
  keys.push_back({prefix + "scaling.yarn_beta_fast", static_cast<float>(scaling.beta_fast)});
  keys.push_back({prefix + "scaling.yarn_beta_slow", static_cast<float>(scaling.beta_slow)});
  if (scaling.attention_factor != YarnAttentionFactor(scaling.factor)) {
    keys.push_back(
        {prefix + "scaling.yarn_attn_factor", static_cast<float>(scaling.attention_factor)});
  }
}

// What 'rope_freqs.weight' holds; empty where there is no such tensor.
std::vector<float> RopeDivisors(const ModelConfig& config, const std::string& path) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.type == RopeType::kFactors) {
    if (scaling.attention_factor == 1) return scaling.factors;
    Fail(ErrorCode::kInput, "{}: GGUF has no word for RoPE factors with an attention factor of {}",
         path, scaling.attention_factor);
  }
  if (scaling.type != RopeType::kLlama3) return {};
  const std::vector<double> divisors = Llama3Factors(config, scaling);
  return {divisors.begin(), divisors.end()};
}

// What generation_config.json recommends for sampling.
void AddSamplingHints(Keys& keys, const std::string& folder) {
  const std::string path = folder + "/generation_config.json";
  if (folder.empty() || !Exists(path)) return;
  const auto json = nlohmann::json::parse(ReadFile(path));  // checked when it was opened
  for (const SamplingHint& hint : kSamplingHints) {
    const auto it = json.find(hint.hf);
    if (it == json.end() || !it->is_number()) continue;
    if (!hint.integer) {
      keys.push_back({hint.gguf, it->get<float>()});
    } else if (it->is_number_unsigned() && it->get<std::uint64_t>() <= 0x7fffffffU) {
      keys.push_back({hint.gguf, it->get<std::uint32_t>()});
    }
  }
}

Keys MakeKeys(const ModelSource& source, const std::string& name, const std::string& path,
              const std::string& architecture) {
  const ModelConfig& config = source.config();
  const std::string prefix = architecture + ".";
  Keys keys = {{"general.architecture", architecture},
               {"general.type", "model"},
               {"general.name", name},
               {"general.size_label", SizeLabel(config)}};
  AddSamplingHints(keys, source.hf_folder());
  keys.push_back({prefix + "block_count", U32(config.num_layers)});
  keys.push_back({prefix + "context_length", U32(config.max_position)});
  keys.push_back({prefix + "embedding_length", U32(config.hidden_size)});
  keys.push_back({prefix + "feed_forward_length", U32(config.intermediate_size)});
  keys.push_back({prefix + "attention.head_count", U32(config.num_heads)});
  keys.push_back({prefix + "attention.head_count_kv", U32(config.num_kv_heads)});
  keys.push_back({prefix + "attention.key_length", U32(config.head_dim)});
  keys.push_back({prefix + "attention.value_length", U32(config.head_dim)});
  keys.push_back({prefix + "attention.layer_norm_rms_epsilon", config.rms_norm_eps});
  keys.push_back({prefix + "vocab_size", U32(config.vocab_size)});
  AddRope(keys, config, path, architecture);
  return keys;
}

// Special tokens that config.json names and the tokenizer does not.
void AddTokens(Keys& keys, const ModelConfig& config) {
  const auto add = [&](const std::string& name, TokenId id) {
    const std::string key = "tokenizer.ggml." + name;
    const auto is_it = [&](const GgufKeyToWrite& there) { return there.key == key; };
    if (id < 0 || std::any_of(keys.begin(), keys.end(), is_it)) return;
    keys.push_back({key, U32(id)});
  };
  add("bos_token_id", config.bos_id);
  add("eos_token_id", config.eos_ids.empty() ? -1 : config.eos_ids.front());
  add("padding_token_id", config.pad_id);
}

// A file's own metadata, but for what is said anew and what belongs to the file alone.
Keys KeysOf(const GgufFile& file) {
  const std::set<std::string> dropped = {"general.file_type", "general.quantization_version",
                                         "general.alignment", "split.no",
                                         "split.count",       "split.tensors.count"};
  Keys keys;
  for (const std::string& key : file.Keys()) {
    if (dropped.count(key) == 0) keys.push_back({key, file.RawValue(key)});
  }
  return keys;
}

}  // namespace

void SaveGgufModel(const std::string& path, const ModelSource& source, GgmlType type,
                   const std::string& name, const std::vector<GgufKeyToWrite>& tokenizer) {
  const ModelConfig& config = source.config();
  if (config.has_values) {
    Fail(ErrorCode::kInput,
         "{}: the model has a value head (score.weight), for which GGUF has no place; write a "
         "Hugging Face folder instead",
         path);
  }
  const Architecture& architecture = FindArchitecture(config.architecture, path);
  Keys keys = source.gguf() != nullptr ? KeysOf(*source.gguf())
                                       : MakeKeys(source, name, path, architecture.gguf_name);
  keys.push_back({"general.file_type", FileTypeOf(type)});
  keys.push_back({"general.quantization_version", kQuantizationVersion});
  if (source.gguf() == nullptr) {
    keys.insert(keys.end(), tokenizer.begin(), tokenizer.end());
    AddTokens(keys, config);
  }

  std::vector<GgufTensorToWrite> tensors;
  if (const std::vector<float> divisors = RopeDivisors(config, path); !divisors.empty()) {
    tensors.push_back(
        {"rope_freqs.weight",
         {std::ssize(divisors)},
         GgmlType::kF32,
         [divisors](std::span<float> out) { std::ranges::copy(divisors, out.begin()); }});
  }
  for (const TensorSpec& spec : ListTensors(config)) {
    GgufTensorToWrite& tensor = tensors.emplace_back();
    tensor.name = GgufName(spec.name);
    tensor.dims = {spec.cols};
    tensor.type = GgmlType::kF32;
    if (!spec.is_vector) {
      tensor.dims.push_back(spec.rows);
      tensor.type = spec.cols % RowOf(type).elements == 0 ? type : GgmlType::kF16;
    }
    tensor.read = [&source, &architecture, spec](std::span<float> out) {
      if (!GgufPermutes(spec, architecture)) {
        source.Read(spec, out);
        return;
      }
      std::vector<float> ours(out.size());
      source.Read(spec, ours);
      for (idx row = 0; row < spec.rows; ++row) {
        const idx to = GgufRow(spec, source.config(), architecture, row);
        std::copy_n(ours.begin() + row * spec.cols, spec.cols, out.begin() + to * spec.cols);
      }
    };
  }
  WriteGguf(path, keys, tensors);
}

}  // namespace opo
