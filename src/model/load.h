// Models from outside, and back: a GGUF file, or a Hugging Face folder (config.json with
// model.safetensors or its shards and index). The tensor names of GGUF and its row order of q and k
// for llama (permuted there for its RoPE, undone on reading) are known to the *_gguf.cpp files
// only.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"
#include "format/gguf.h"
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

  // What the source is, where it is a file or folder as it stands; what is written from it then
  // keeps what it says beside the config.
  virtual const GgufFile* gguf() const { return nullptr; }
  virtual std::string hf_folder() const { return ""; }
  // "F32", "BF16", "Q4_K", ...; "" where that cannot be said.
  virtual std::string StoredType(const TensorSpec&) const { return ""; }
};

// `path`: a .gguf file or a folder; of a PEFT folder the base with the adapter merged into it.
// Throws Error(kInput) where a tensor is missing, has another shape, or the config asks for
// arithmetic that we do not have (named, never ignored).
std::unique_ptr<ModelSource> OpenModel(const std::string& path);

bool IsAdapterFolder(const std::string& path);
// Where a model's tokenizer is: with the model, or, of an adapter without one, with its base.
std::string TokenizerPath(const std::string& path);

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
  // The base's config with the adapter, and with its value head where it has one; throws
  // Error(kInput) where a tensor is missing, has another shape, or has no place.
  ModelConfig Fit(ModelConfig base) const;
  // A tensor of ListAdapterTensors. A value head may be the base's alone.
  bool Has(const TensorSpec& spec) const;
  void Read(const TensorSpec& spec, std::span<float> out) const;

 private:
  std::string folder_;
  std::string base_;
  bool scores_ = false;  // of a reward model: PEFT's task type SEQ_CLS
  LoraConfig lora_;
  SafetensorsFile file_;
};

// Writes a PEFT folder; `slab` holds what ListAdapterTensors lists.
void SaveAdapter(const std::string& folder, const ModelConfig& config, const std::string& base,
                 std::span<const float> slab);

// Writes config.json, generation_config.json and model.safetensors into `folder` (made if absent),
// so that transformers loads it as it is: a causal LM, with score.weight beside where it has a
// value head too, or, without an LM head, a model for sequence classification with one label.
// `slab` holds the weights as ListTensors lays them out. Tokenizer files are written by
// text/tokenizer.h.
void SaveHfModel(const std::string& folder, const ModelConfig& config, std::span<const float> slab,
                 DType dtype);
// The same of a source, one tensor in memory at a time. A source that is such a folder passes on
// its config.json but for the type, and its generation_config.json; those of other sources name
// `more_eos` too, what the tokenizer knows to end a turn.
void SaveHfModel(const std::string& folder, const ModelSource& source,
                 const std::vector<TokenId>& more_eos, DType dtype);

// Writes a GGUF that llama.cpp loads: matrices as `type` (F32, F16, BF16 or Q8_0; F16 in place of
// Q8_0 where rows are not whole blocks), vectors as F32. One tensor is in memory at a time. A
// source that is a GGUF passes on its metadata, else it is made of the config, `name`, and what
// text/tokenizer.h gives as `tokenizer`.
void SaveGgufModel(const std::string& path, const ModelSource& source, GgmlType type,
                   const std::string& name, const std::vector<GgufKeyToWrite>& tokenizer);

}  // namespace opo
