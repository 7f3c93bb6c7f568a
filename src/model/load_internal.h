// Shared by the load_*.cpp and save_*.cpp files of this folder; nobody else includes it.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "model/config.h"
#include "model/load.h"

namespace opo {

// The architecture table: a new one is a row here, when its arithmetic differs from the others by
// switches that ModelConfig has.
struct Architecture {
  const char* name;       // model_type in config.json
  const char* gguf_name;  // general.architecture
  const char* hf_class;   // transformers' class
  bool qkv_bias;
  bool qk_norm;
  bool gguf_permutes_qk;    // llama.cpp's converter reorders the rows of q and k
  idx hf_default_head_dim;  // where config.json has none; 0: hidden_size / num_attention_heads
  idx hf_default_max_position;
};

// Throws Error(kInput) that lists the known names; `where` names file and field.
const Architecture& FindArchitecture(std::string_view name, const std::string& where);

// config.json and generation_config.json of a folder. Throws Error(kInput) naming the key and its
// value where it asks for arithmetic that we do not have.
ModelConfig ReadHfConfig(const std::string& folder);
// A file that holds one JSON object: of bounded size and depth, no key twice.
nlohmann::json ParseJsonFile(const std::string& path);

// A tensor's name in GGUF: "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight".
std::string GgufName(const std::string& name);
// llama.cpp rotates neighbours (2i, 2i+1), Hugging Face the halves (i, i + Dh/2) of a head; where
// the converter moved the rows of q and k so that both mean the same, row `row` of ours is this row
// of the GGUF. `row` itself for tensors that stay as they are.
idx GgufRow(const TensorSpec& spec, const ModelConfig& config, const Architecture& architecture,
            idx row);
bool GgufPermutes(const TensorSpec& spec, const Architecture& architecture);

// What a model's files recommend for sampling: a number, under the name that generation_config.json
// and GGUF's metadata give it.
struct SamplingHint {
  const char* hf;
  const char* gguf;
  bool integer;
};
inline constexpr SamplingHint kSamplingHints[] = {
    {"temperature", "general.sampling.temp", false},
    {"top_k", "general.sampling.top_k", true},
    {"top_p", "general.sampling.top_p", false},
    {"min_p", "general.sampling.min_p", false},
    {"repetition_penalty", "general.sampling.penalty_repeat", false},
};

std::unique_ptr<ModelSource> OpenGguf(const std::string& path);
std::unique_ptr<ModelSource> OpenHfFolder(const std::string& folder);
std::unique_ptr<ModelSource> OpenMerged(const std::string& adapter_folder);

}  // namespace opo
