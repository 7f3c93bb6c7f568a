#include "model/load.h"

#include <filesystem>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "format/quote.h"
#include "model/load_internal.h"

namespace opo {
namespace {

constexpr Architecture kArchitectures[] = {
    {.name = "llama",
     .gguf_name = "llama",
     .hf_class = "LlamaForCausalLM",
     .qkv_bias = false,
     .qk_norm = false,
     .gguf_permutes_qk = true,
     .hf_default_head_dim = 0,
     .hf_default_max_position = 2048},
    {.name = "mistral",
     .gguf_name = "llama",
     .hf_class = "MistralForCausalLM",
     .qkv_bias = false,
     .qk_norm = false,
     .gguf_permutes_qk = true,
     .hf_default_head_dim = 0,
     .hf_default_max_position = 131072},
    {.name = "qwen2",
     .gguf_name = "qwen2",
     .hf_class = "Qwen2ForCausalLM",
     .qkv_bias = true,
     .qk_norm = false,
     .gguf_permutes_qk = false,
     .hf_default_head_dim = 0,
     .hf_default_max_position = 32768},
    {.name = "qwen3",
     .gguf_name = "qwen3",
     .hf_class = "Qwen3ForCausalLM",
     .qkv_bias = false,
     .qk_norm = true,
     .gguf_permutes_qk = false,
     .hf_default_head_dim = 128,
     .hf_default_max_position = 32768},
};

}  // namespace

const Architecture& FindArchitecture(std::string_view name, const std::string& where) {
  for (const Architecture& row : kArchitectures) {
    if (row.name == name) return row;
  }
  Fail(ErrorCode::kInput, "{}: the architecture {} is not supported; known are {}", where,
       Quote(name), fmt::join(ArchitectureNames(), ", "));
}

std::vector<std::string> ArchitectureNames() {
  std::vector<std::string> names;
  for (const Architecture& row : kArchitectures) names.emplace_back(row.name);
  return names;
}

void SetArchitecture(ModelConfig& config, std::string_view name, const std::string& where) {
  const Architecture& architecture = FindArchitecture(name, where);
  config.architecture = architecture.name;
  config.qkv_bias = architecture.qkv_bias;
  config.qk_norm = architecture.qk_norm;
}

std::unique_ptr<ModelSource> OpenModel(const std::string& path) {
  std::error_code ignored;
  if (IsAdapterFolder(path)) return OpenMerged(path);
  if (std::filesystem::is_directory(path, ignored)) return OpenHfFolder(path);
  if (!Exists(path)) {
    Fail(ErrorCode::kInput, "{}: there is no such model; give a .gguf file or a folder", path);
  }
  return OpenGguf(path);
}

}  // namespace opo
