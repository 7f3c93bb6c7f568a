// What the fuzz targets of Hugging Face and PEFT folders and the replay of their corpus do: files
// of a folder out of bytes, opened as a model or an adapter, and where that works, read to the end.
// The only failure allowed is Error(kInput).
#pragma once

#include <stdlib.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "model/load.h"

namespace opo {

inline constexpr idx kMaxFolderElements = idx{1} << 20;

// `bytes`: config.json, model.safetensors.index.json and generation_config.json, each ended by the
// byte 0xFF, which JSON never holds, and what is left is a file of weights: a.safetensors where
// there is an index, else model.safetensors. Empty ones are not there.
inline void WriteFolder(const std::string& folder, std::string_view bytes) {
  std::string_view texts[3];
  for (std::string_view& text : texts) {
    const std::size_t end = std::min(bytes.find('\xFF'), bytes.size());
    text = bytes.substr(0, end);
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
  }
  const auto write = [&](const char* name, std::string_view content) {
    if (content.empty()) {
      std::filesystem::remove(folder + "/" + name);
      return;
    }
    std::ofstream(folder + "/" + name, std::ios::binary) << content;
  };
  write("config.json", texts[0]);
  write("model.safetensors.index.json", texts[1]);
  write("generation_config.json", texts[2]);
  write("model.safetensors", texts[1].empty() ? bytes : "");
  write("a.safetensors", texts[1].empty() ? "" : bytes);
}

struct ScratchFolder {
  ScratchFolder() : path((std::filesystem::temp_directory_path() / "opo_folder_XXXXXX").string()) {
    OPO_CHECK(::mkdtemp(path.data()) != nullptr);
  }
  ~ScratchFolder() { std::filesystem::remove_all(path); }
  std::string path;
};

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
  static const ScratchFolder scratch;
  const std::string& folder = scratch.path;
  const std::size_t end = std::min(bytes.find('\xFF'), bytes.size());
  const auto write = [&](const char* name, std::string_view content) {
    std::ofstream(folder + "/" + name, std::ios::binary) << content;
  };
  write("adapter_config.json", bytes.substr(0, end));
  write("adapter_model.safetensors", bytes.substr(std::min(end + 1, bytes.size())));
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
  static const ScratchFolder scratch;
  const std::string& folder = scratch.path;
  WriteFolder(folder, bytes);
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
