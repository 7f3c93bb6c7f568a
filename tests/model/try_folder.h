// What the fuzz targets of Hugging Face and PEFT folders and the replay of their corpus do: files
// of a folder out of bytes, opened as a model or an adapter, and where that works, read to the end.
// The only failure allowed is Error(kInput).
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "fuzz/fuzz_folder.h"
#include "model/load.h"

namespace opo {

inline constexpr idx kMaxFolderElements = idx{1} << 20;

// `bytes`: config.json, model.safetensors.index.json and generation_config.json, each ended by the
// byte 0xFF, which JSON never holds, and what is left is a file of weights: a.safetensors where
// there is an index, else model.safetensors. Empty ones are not there.
inline void WriteFolder(const FuzzFolder& folder, std::string_view bytes) {
  folder.WriteOrRemove("config.json", TakePiece(bytes));
  const std::string_view index = TakePiece(bytes);
  folder.WriteOrRemove("model.safetensors.index.json", index);
  folder.WriteOrRemove("generation_config.json", TakePiece(bytes));
  folder.WriteOrRemove("model.safetensors", index.empty() ? bytes : "");
  folder.WriteOrRemove("a.safetensors", index.empty() ? "" : bytes);
}

// An adapter of a llama with D = 8, F = 12, two heads of 4, one of them for K and V, one layer.
// `bytes`: adapter_config.json, the byte 0xFF, adapter_model.safetensors. True where it was read to
// its end.
inline bool TryAdapter(std::string_view bytes) {
  ModelConfig base;
  base.vocab_size = 16;
  base.hidden_size = 8;
  base.intermediate_size = 12;
  base.num_layers = base.num_kv_heads = 1;
  base.num_heads = 2;
  base.head_dim = 4;
  static const FuzzFolder scratch;
  const std::string& folder = scratch.path;
  const std::string_view settings = TakePiece(bytes);
  scratch.Write("adapter_config.json", settings);
  scratch.Write("adapter_model.safetensors", bytes);
  try {
    const AdapterFile adapter(folder);
    const ModelConfig config = adapter.Fit(base);
    for (const TensorSpec& spec : ListAdapterTensors(config)) {
      std::vector<float> values(static_cast<std::size_t>(spec.size()));
      adapter.Read(spec, values);
    }
    return true;
  } catch (const Error& e) {
    OPO_CHECK(e.code() == ErrorCode::kInput);
    return false;
  }
}

// True where the model was read to its end.
inline bool TryHfFolder(std::string_view bytes) {
  static const FuzzFolder scratch;
  const std::string& folder = scratch.path;
  WriteFolder(scratch, bytes);
  try {
    const auto model = OpenModel(folder);
    const std::vector<TensorSpec> specs = ListTensors(model->config());
    if (SlabSize(specs) > kMaxFolderElements) return true;
    for (const TensorSpec& spec : specs) {
      std::vector<float> values(static_cast<std::size_t>(spec.size()));
      model->Read(spec, values);
    }
    return true;
  } catch (const Error& e) {
    OPO_CHECK(e.code() == ErrorCode::kInput);
    return false;
  }
}

}  // namespace opo
