// Models in Hugging Face folders: the safetensors shards.
#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "format/quote.h"
#include "format/safetensors.h"
#include "model/load_internal.h"

namespace opo {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

// The files that hold the weights, each a plain name inside the folder.
std::vector<std::string> ListShards(const std::string& folder) {
  if (Exists(folder + "/model.safetensors")) return {"model.safetensors"};
  const std::string path = folder + "/model.safetensors.index.json";
  if (!Exists(path)) {
    Fail(ErrorCode::kInput,
         "{}: holds neither model.safetensors nor model.safetensors.index.json; save the model "
         "with save_pretrained(folder, safe_serialization=True)",
         folder);
  }
  const Json index = ParseJsonFile(path);
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) {
    Fail(ErrorCode::kInput, "{}: 'weight_map' is missing or not an object", path);
  }
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    if (!name.ends_with(".safetensors") ||
        name.find_first_of(std::string("/\\\0", 3)) != std::string::npos) {
      Fail(ErrorCode::kInput,
           "{}: 'weight_map': tensor {} is in the file {}, must be a plain *.safetensors name",
           path, Quote(tensor), Quote(name));
    }
    shards.insert(name);
  }
  return {shards.begin(), shards.end()};
}

class HfSource : public ModelSource {
 public:
  explicit HfSource(const std::string& folder) : folder_(folder) {
    const std::string config_path = folder + "/config.json";
    if (!Exists(config_path)) {
      Fail(ErrorCode::kInput, "{}: holds no config.json; give a Hugging Face folder or a .gguf",
           folder);
    }
    config_ = ReadHfConfig(folder);
    for (const std::string& shard : ListShards(folder)) {
      shards_.push_back(SafetensorsFile::Open(fmt::format("{}/{}", folder, shard)));
    }
    std::map<std::string_view, Place> in_files;
    for (const SafetensorsFile& shard : shards_) {
      for (const SafeTensor& tensor : shard.tensors()) {
        const auto [it, is_new] = in_files.emplace(tensor.name, Place{&shard, &tensor});
        if (!is_new) {
          Fail(ErrorCode::kInput, "{}: tensor {} is in {} too", shard.path(), Quote(tensor.name),
               it->second.shard->path());
        }
      }
    }
    // config.json has no word for a value head beside an LM head.
    if (const auto it = in_files.find("score.weight"); it != in_files.end() && config_.has_logits) {
      config_.has_values = it->second.tensor->shape == std::vector<idx>{1, config_.hidden_size};
    }
    for (const TensorSpec& spec : ListTensors(config_)) {
      const auto it = in_files.find(spec.name);
      if (it == in_files.end()) {
        Fail(ErrorCode::kInput, "{}: tensor '{}' is missing", folder, spec.name);
      }
      CheckTensor(spec, it->second);
      tensors_.emplace(spec.name, it->second);
      in_files.erase(it);
    }
    for (const auto& [name, place] : in_files) CheckExtra(name, place);
  }

  const ModelConfig& config() const override { return config_; }
  std::string hf_folder() const override { return folder_; }
  std::string StoredType(const TensorSpec& spec) const override {
    const auto it = tensors_.find(spec.name);
    OPO_CHECK(it != tensors_.end());
    return it->second.tensor->dtype;
  }

  void Read(const TensorSpec& spec, std::span<float> out) const override {
    const auto it = tensors_.find(spec.name);
    OPO_CHECK(it != tensors_.end() && std::ssize(out) == spec.size());
    it->second.shard->ReadF32(*it->second.tensor, out);
  }

 private:
  struct Place {
    const SafetensorsFile* shard;
    const SafeTensor* tensor;
  };

  static void CheckTensor(const TensorSpec& spec, const Place& place) {
    const std::vector<idx> shape =
        spec.is_vector ? std::vector<idx>{spec.cols} : std::vector<idx>{spec.rows, spec.cols};
    const SafeTensor& tensor = *place.tensor;
    if (tensor.shape != shape) {
      Fail(ErrorCode::kInput, "{}: tensor '{}' has the shape [{}], config.json asks for [{}]",
           place.shard->path(), spec.name, fmt::join(tensor.shape, ", "), fmt::join(shape, ", "));
    }
    if (tensor.dtype != "F32" && tensor.dtype != "F16" && tensor.dtype != "BF16") {
      Fail(ErrorCode::kInput, "{}: tensor '{}' is {}, readable are F32, F16 and BF16",
           place.shard->path(), spec.name, tensor.dtype);
    }
  }

  // Nothing in the file is passed over unless it provably changes nothing.
  void CheckExtra(std::string_view name, const Place& place) const {
    if (name.ends_with(".rotary_emb.inv_freq")) return;  // old checkpoints store what theta says
    if (name == "lm_head.weight" && config_.tied_embeddings) {
      const Place& embedding = tensors_.find("model.embed_tokens.weight")->second;
      const auto head = place.shard->Raw(*place.tensor);
      const auto embed = embedding.shard->Raw(*embedding.tensor);
      if (place.tensor->dtype == embedding.tensor->dtype && std::ranges::equal(head, embed)) return;
      Fail(ErrorCode::kInput,
           "{}: tensor 'lm_head.weight' differs from the embedding, but config.json ties them; set "
           "'tie_word_embeddings' to false",
           place.shard->path());
    }
    if (name == "score.bias") {
      Fail(
          ErrorCode::kInput,
          "{}: tensor 'score.bias' has no place: a value head has no bias; remove it from the file "
          "(all scores are then less by that number, which changes no comparison of two answers)",
          place.shard->path());
    }
    Fail(ErrorCode::kInput, "{}: tensor {} has no place in the architecture {}",
         place.shard->path(), Quote(name), config_.architecture);
  }

  std::string folder_;
  ModelConfig config_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, Place, std::less<>> tensors_;
};

}  // namespace

std::unique_ptr<ModelSource> OpenHfFolder(const std::string& folder) {
  return std::make_unique<HfSource>(folder);
}

}  // namespace opo
