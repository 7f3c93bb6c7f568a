// Models from outside, and back: a GGUF file, or a Hugging Face folder (config.json with
// model.safetensors or its shards and index). The tensor names of GGUF and its row order of q and k
// for llama (permuted there for its RoPE, undone on reading) are known to load_gguf.cpp only.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"
#include "format/safetensors.h"
#include "model/config.h"

namespace opo {

// The architectures that there are, and what of a config follows from the name alone: its switches.
std::vector<std::string> ArchitectureNames();
// Throws Error(kInput) that lists the known names; `where` names file and field.
void SetArchitecture(ModelConfig& config, std::string_view name, const std::string& where);

class ModelSource {
 public:
  virtual ~ModelSource() = default;
  virtual const ModelConfig& config() const = 0;
  // The tensor `spec` (a row of ListTensors(config())) as f32, row-major. Shapes were checked when
  // the source was opened. Throws Error(kInput) naming file and tensor on NaN or infinity.
  virtual void Read(const TensorSpec& spec, std::span<float> out) const = 0;
};

// `path`: a .gguf file or a folder; of a PEFT folder the base with the adapter merged into it.
// Throws Error(kInput) where a tensor is missing, has another shape, or the config asks for
// arithmetic that we do not have (named, never ignored).
std::unique_ptr<ModelSource> OpenModel(const std::string& path);

bool IsAdapterFolder(const std::string& path);

// A LoRA adapter in a PEFT folder (adapter_config.json, adapter_model.safetensors).
class AdapterFile {
 public:
  // Throws Error(kInput) where the folder asks for what LoraConfig does not say (DoRA, biases,
  // ranks that differ, other trained modules, ...), by name.
  explicit AdapterFile(const std::string& folder);
  const LoraConfig& lora() const { return lora_; }
  // base_model_name_or_path, found from here or from beside the folder. Throws Error(kInput) where
  // there is no such file or folder.
  std::string BasePath() const;
  // The base's config with the adapter; throws Error(kInput) where a tensor is missing, has another
  // shape, or has no place.
  ModelConfig Fit(ModelConfig base) const;
  // A tensor of ListAdapterTensors.
  void Read(const TensorSpec& spec, std::span<float> out) const;

 private:
  std::string folder_;
  std::string base_;
  LoraConfig lora_;
  SafetensorsFile file_;
};

// Writes a PEFT folder; `slab` holds what ListAdapterTensors lists.
void SaveAdapter(const std::string& folder, const ModelConfig& config, const std::string& base,
                 std::span<const float> slab);

// Writes config.json, generation_config.json and model.safetensors into `folder` (made if absent),
// so that transformers loads it as it is. `slab` holds the weights as ListTensors lays them out.
// Tokenizer files are written by text/tokenizer.h.
void SaveHfModel(const std::string& folder, const ModelConfig& config, std::span<const float> slab,
                 DType dtype);

}  // namespace opo
