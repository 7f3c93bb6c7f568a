// Shared by the load_*.cpp and save_*.cpp files of this folder; nobody else includes it.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "model/config.h"
#include "model/load.h"

namespace opo {

// The architecture table: a new one is a row here, when its arithmetic differs from the others by
// switches that ModelConfig has.
struct Architecture {
  const char* name;      // GGUF general.architecture, and model_type in config.json
  const char* hf_class;  // transformers' class
  bool qkv_bias;
  bool qk_norm;
  bool gguf_permutes_qk;    // llama.cpp's converter reorders the rows of q and k
  idx hf_default_head_dim;  // where config.json has none; 0: hidden_size / num_attention_heads
  idx hf_default_max_position;
};

// Throws Error(kInput) that lists the known names; `where` names file and field.
const Architecture& FindArchitecture(std::string_view name, const std::string& where);

std::unique_ptr<ModelSource> OpenGguf(const std::string& path);
std::unique_ptr<ModelSource> OpenHfFolder(const std::string& folder);
std::unique_ptr<ModelSource> OpenMerged(const std::string& adapter_folder);

// An object; double keys, deep nesting and large files are refused.
nlohmann::json ParseJsonFile(const std::string& path);

}  // namespace opo
