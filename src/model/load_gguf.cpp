// Models in GGUF files: metadata to ModelConfig, tensor names, and the row order of q and k.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "base/error.h"
#include "format/gguf.h"
#include "format/quote.h"
#include "model/load_internal.h"

namespace opo {
namespace {

class Metadata {
 public:
  Metadata(const GgufFile& file, std::string architecture)
      : file_(file), prefix_(std::move(architecture) + ".") {}

  bool Has(const std::string& key) const { return file_.Has(prefix_ + key); }
  idx Int(const std::string& key) const { return file_.GetInt(prefix_ + key); }
  idx IntOr(const std::string& key, idx otherwise) const { return Has(key) ? Int(key) : otherwise; }
  double Float(const std::string& key) const { return file_.GetFloat(prefix_ + key); }
  double FloatOr(const std::string& key, double otherwise) const {
    return Has(key) ? Float(key) : otherwise;
  }

  template <class T>
  [[noreturn]] void Refuse(const std::string& key, const T& value) const {
    Fail(ErrorCode::kInput, "{}: metadata key '{}{}' is {}: this arithmetic is not supported",
         file_.path(), prefix_, key, value);
  }
  // Keys that change the arithmetic may only hold the value that leaves it as it is.
  void RequireInt(const std::string& key, idx neutral) const {
    if (Has(key) && Int(key) != neutral) Refuse(key, Int(key));
  }
  void RequireFloat(const std::string& key, double neutral) const {
    if (Has(key) && Float(key) != neutral) Refuse(key, Float(key));
  }
  void RequireBool(const std::string& key, bool neutral) const {
    if (Has(key) && file_.GetBool(prefix_ + key) != neutral) Refuse(key, !neutral);
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

void RefuseForeignArithmetic(const GgufFile& file, const Metadata& metadata,
                             const std::string& architecture, const ModelConfig& config) {
  const std::string scaling = architecture + ".rope.scaling.type";
  if (file.Has(scaling) && file.GetString(scaling) != "none") {
    metadata.Refuse("rope.scaling.type", Quote(file.GetString(scaling)));
  }
  if (metadata.Has("rope.scaling.factor")) {
    const double factor = metadata.Float("rope.scaling.factor");
    if (factor != 0.0 && factor != 1.0) metadata.Refuse("rope.scaling.factor", factor);
  }
  metadata.RequireFloat("rope.scale_linear", 1.0);
  metadata.RequireInt("rope.dimension_count", config.head_dim);
  metadata.RequireInt("attention.value_length", config.head_dim);
  metadata.RequireInt("attention.sliding_window", 0);
  metadata.RequireBool("attention.causal", true);
  metadata.RequireFloat("attention.clamp_kqv", 0.0);
  metadata.RequireFloat("attention.scale", 0.0);
  metadata.RequireFloat("attention.max_alibi_bias", 0.0);
  metadata.RequireInt("expert_count", 0);
  metadata.RequireInt("expert_used_count", 0);
  metadata.RequireBool("use_parallel_residual", false);
  metadata.RequireFloat("attn_logit_softcapping", 0.0);
  metadata.RequireFloat("final_logit_softcapping", 0.0);
  metadata.RequireFloat("logit_scale", 1.0);
  metadata.RequireFloat("embedding_scale", 1.0);
  metadata.RequireFloat("residual_scale", 1.0);
  if (file.Find("rope_freqs.weight") != nullptr) {
    Fail(ErrorCode::kInput,
         "{}: tensor 'rope_freqs.weight' asks for scaled RoPE frequencies, which is not supported",
         file.path());
  }
}

// -1 where the key is absent or holds llama.cpp's mark for "none".
TokenId ReadToken(const GgufFile& file, const std::string& key) {
  if (!file.Has(key)) return -1;
  const idx id = file.GetInt(key);
  if (id == -1 || id == std::numeric_limits<std::uint32_t>::max()) return -1;
  if (id < 0 || id > std::numeric_limits<TokenId>::max()) {
    Fail(ErrorCode::kInput, "{}: metadata key '{}' is {}, not a token", file.path(), key, id);
  }
  return static_cast<TokenId>(id);
}

ModelConfig ReadConfig(const GgufFile& file, const Architecture& architecture) {
  const Metadata metadata(file, architecture.name);
  ModelConfig config;
  SetArchitecture(config, architecture.name, file.path());
  config.hidden_size = metadata.Int("embedding_length");
  config.intermediate_size = metadata.Int("feed_forward_length");
  config.num_layers = metadata.Int("block_count");
  config.num_heads = metadata.Int("attention.head_count");
  config.num_kv_heads = metadata.IntOr("attention.head_count_kv", config.num_heads);
  config.max_position = metadata.Int("context_length");
  config.rms_norm_eps = static_cast<float>(metadata.Float("attention.layer_norm_rms_epsilon"));
  config.rope_theta = metadata.FloatOr("rope.freq_base", 10000.0);
  if (metadata.Has("attention.key_length")) {
    config.head_dim = metadata.Int("attention.key_length");
  } else if (config.num_heads > 0 && config.hidden_size % config.num_heads == 0) {
    config.head_dim = config.hidden_size / config.num_heads;
  } else {
    Fail(ErrorCode::kInput, "{}: metadata key '{}.attention.head_count' is {}, does not divide {}",
         file.path(), architecture.name, config.num_heads, config.hidden_size);
  }
  RefuseForeignArithmetic(file, metadata, architecture.name, config);

  const GgufTensor* embedding = file.Find("token_embd.weight");
  if (embedding == nullptr) {
    Fail(ErrorCode::kInput, "{}: tensor 'token_embd.weight' is missing", file.path());
  }
  config.vocab_size = embedding->dims.size() == 2 ? embedding->dims[1] : 0;
  config.tied_embeddings = file.Find("output.weight") == nullptr;
  config.bos_id = ReadToken(file, "tokenizer.ggml.bos_token_id");
  config.pad_id = ReadToken(file, "tokenizer.ggml.padding_token_id");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const TokenId id = ReadToken(file, key);
    if (id >= 0 && std::count(config.eos_ids.begin(), config.eos_ids.end(), id) == 0) {
      config.eos_ids.push_back(id);
    }
  }
  ValidateConfig(config, file.path());
  return config;
}

// "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight"
std::string GgufName(const std::string& name) {
  static const std::map<std::string, std::string, std::less<>> kOutside = {
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"},
  };
  static const std::map<std::string, std::string, std::less<>> kInLayer = {
      {"input_layernorm.weight", "attn_norm.weight"},
      {"self_attn.q_proj.weight", "attn_q.weight"},
      {"self_attn.k_proj.weight", "attn_k.weight"},
      {"self_attn.v_proj.weight", "attn_v.weight"},
      {"self_attn.q_proj.bias", "attn_q.bias"},
      {"self_attn.k_proj.bias", "attn_k.bias"},
      {"self_attn.v_proj.bias", "attn_v.bias"},
      {"self_attn.q_norm.weight", "attn_q_norm.weight"},
      {"self_attn.k_norm.weight", "attn_k_norm.weight"},
      {"self_attn.o_proj.weight", "attn_output.weight"},
      {"post_attention_layernorm.weight", "ffn_norm.weight"},
      {"mlp.gate_proj.weight", "ffn_gate.weight"},
      {"mlp.up_proj.weight", "ffn_up.weight"},
      {"mlp.down_proj.weight", "ffn_down.weight"},
  };
  if (const auto it = kOutside.find(name); it != kOutside.end()) return it->second;
  constexpr std::string_view kPrefix = "model.layers.";
  OPO_CHECK(name.starts_with(kPrefix));
  const std::size_t dot = name.find('.', kPrefix.size());
  OPO_CHECK(dot != std::string::npos);
  const auto it = kInLayer.find(std::string_view(name).substr(dot + 1));
  OPO_CHECK(it != kInLayer.end());
  return fmt::format("blk.{}.{}", name.substr(kPrefix.size(), dot - kPrefix.size()), it->second);
}

class GgufSource : public ModelSource {
 public:
  explicit GgufSource(const std::string& path) : file_(GgufFile::Open(path)) {
    const Architecture& architecture = FindArchitecture(
        file_.GetString("general.architecture"), path + ": metadata key 'general.architecture'");
    permuted_ = architecture.gguf_permutes_qk;
    config_ = ReadConfig(file_, architecture);
    std::map<std::string_view, const GgufTensor*> in_file;
    for (const GgufTensor& tensor : file_.tensors()) in_file.emplace(tensor.name, &tensor);
    for (const TensorSpec& spec : ListTensors(config_)) {
      const std::string name = GgufName(spec.name);
      const auto it = in_file.find(name);
      if (it == in_file.end()) {
        Fail(ErrorCode::kInput, "{}: tensor '{}' is missing", path, name);
      }
      const std::vector<idx> dims =
          spec.is_vector ? std::vector<idx>{spec.cols} : std::vector<idx>{spec.cols, spec.rows};
      if (it->second->dims != dims) {
        Fail(ErrorCode::kInput, "{}: tensor '{}' has the shape [{}], the metadata asks for [{}]",
             path, name, fmt::join(it->second->dims, ", "), fmt::join(dims, ", "));
      }
      tensors_.emplace(spec.name, it->second);
      in_file.erase(it);
    }
    if (!in_file.empty()) {
      Fail(ErrorCode::kInput, "{}: tensor {} has no place in the architecture {}", path,
           Quote(in_file.begin()->first), config_.architecture);
    }
  }

  const ModelConfig& config() const override { return config_; }

  void Read(const TensorSpec& spec, std::span<float> out) const override {
    const auto it = tensors_.find(spec.name);
    OPO_CHECK(it != tensors_.end() && std::ssize(out) == spec.size());
    const GgufTensor& tensor = *it->second;
    const bool is_q = spec.name.ends_with(".self_attn.q_proj.weight");
    const bool is_k = spec.name.ends_with(".self_attn.k_proj.weight");
    if (!permuted_ || !(is_q || is_k)) {
      file_.Dequantize(tensor, 0, out);
      return;
    }
    // llama.cpp rotates neighbours (2i, 2i+1), Hugging Face the halves (i, i + Dh/2) of a head; the
    // converter moved the rows so that both mean the same.
    const idx half = config_.head_dim / 2;
    for (idx row = 0; row < spec.rows; ++row) {
      const idx head = row / config_.head_dim;
      const idx in_head = row % config_.head_dim;
      const idx from = head * config_.head_dim + 2 * (in_head % half) + in_head / half;
      file_.Dequantize(tensor, from * spec.cols, out.subspan(row * spec.cols, spec.cols));
    }
  }

 private:
  GgufFile file_;
  ModelConfig config_;
  bool permuted_ = false;
  std::map<std::string, const GgufTensor*, std::less<>> tensors_;  // by Hugging Face name
};

}  // namespace

std::unique_ptr<ModelSource> OpenGguf(const std::string& path) {
  return std::make_unique<GgufSource>(path);
}

}  // namespace opo
