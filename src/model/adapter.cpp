// LoRA adapters as PEFT keeps them, and their merge into the base.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/parallel.h"
#include "format/quote.h"
#include "model/load_internal.h"

namespace opo {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "base_model.model.";  // of PEFT's tensor names
constexpr idx kMaxRank = 4096;
constexpr double kMaxAlpha = 1e6;

std::string Shown(const Json& value) {
  return Quote(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

// What says nothing: PEFT writes keys for features that are off.
bool IsOff(const Json& value) {
  return value.is_null() || value == false ||
         ((value.is_object() || value.is_array()) && value.empty());
}

// "model.layers.3.mlp.up_proj.lora_A.weight" -> "up_proj"; "" for another form.
std::string_view TargetOf(std::string_view name) {
  for (const std::string_view end : {".lora_A.weight", ".lora_B.weight"}) {
    if (!name.ends_with(end)) continue;
    name.remove_suffix(end.size());
    return name.substr(name.rfind('.') + 1);
  }
  return "";
}

}  // namespace

bool IsAdapterFolder(const std::string& path) { return Exists(path + "/adapter_config.json"); }

std::string TokenizerPath(const std::string& path) {
  if (!IsAdapterFolder(path)) return path;
  for (const char* name : {"/tokenizer.json", "/vocab.json"}) {
    if (Exists(path + name)) return path;
  }
  return AdapterFile(path).BasePath();
}

AdapterFile::AdapterFile(const std::string& folder)
    : folder_(folder), file_(SafetensorsFile::Open(folder + "/adapter_model.safetensors")) {
  const std::string where = folder + "/adapter_config.json";
  const Json json = ParseJsonFile(where);
  const auto refuse = [&](const std::string& key) {
    Fail(ErrorCode::kInput,
         "{}: '{}' is {}: this is not supported; adapters are plain LoRA of the "
         "layers' matrices, all of one rank",
         where, key, Shown(json.at(key)));
  };
  const auto require = [&](const char* key, const Json& neutral) {
    const auto it = json.find(key);
    if (it != json.end() && !it->is_null() && *it != neutral) refuse(key);
  };
  require("peft_type", "LORA");
  if (const auto it = json.find("task_type"); it != json.end()) scores_ = *it == "SEQ_CLS";
  if (!scores_) require("task_type", "CAUSAL_LM");
  require("bias", "none");
  // PEFT trains these whole; of a model for sequence classification it adds both names itself.
  if (const auto it = json.find("modules_to_save");
      it != json.end() && !IsOff(*it) &&
      !(scores_ && it->is_array() && std::all_of(it->begin(), it->end(), [](const Json& module) {
          return module == "score" || module == "classifier";
        }))) {
    refuse("modules_to_save");
  }
  // Every other key that says something is refused: new kinds of adapters are switched on by new
  // keys. These say nothing that changes a number here.
  static constexpr std::string_view kKnown[] = {"peft_type",
                                                "task_type",
                                                "bias",
                                                "base_model_name_or_path",
                                                "r",
                                                "lora_alpha",
                                                "use_rslora",
                                                "init_lora_weights",
                                                "lora_dropout",
                                                "inference_mode",
                                                "revision",
                                                "peft_version",
                                                "auto_mapping",
                                                "qalora_group_size",
                                                "megatron_core",
                                                "target_modules",
                                                "loftq_config",
                                                "runtime_config",
                                                "layers_pattern",
                                                "eva_config",
                                                "corda_config",
                                                "modules_to_save",
                                                "lora_ga_config"};
  for (const auto& [key, value] : json.items()) {
    if (std::find(std::begin(kKnown), std::end(kKnown), key) == std::end(kKnown) && !IsOff(value)) {
      refuse(key);
    }
  }
  // PiSSA, OLoRA and the like change the base before they train.
  if (const auto it = json.find("init_lora_weights");
      it != json.end() && it->is_string() && *it != "gaussian") {
    refuse("init_lora_weights");
  }
  const auto r = json.find("r");
  if (r == json.end() || !r->is_number_integer() || r->get<std::int64_t>() < 1 ||
      r->get<std::int64_t>() > kMaxRank) {
    Fail(ErrorCode::kInput, "{}: 'r' must be a rank from 1 to {}", where, kMaxRank);
  }
  const auto alpha = json.find("lora_alpha");
  if (alpha == json.end() || !alpha->is_number() ||
      !(std::abs(alpha->get<double>()) <= kMaxAlpha)) {
    Fail(ErrorCode::kInput, "{}: 'lora_alpha' must be a number of at most {}", where, kMaxAlpha);
  }
  const auto stabilized = json.find("use_rslora");
  if (stabilized != json.end() && !stabilized->is_boolean() && !stabilized->is_null()) {
    Fail(ErrorCode::kInput, "{}: 'use_rslora' must be true or false", where);
  }
  const auto base = json.find("base_model_name_or_path");
  if (base != json.end() && base->is_string()) base_ = base->get<std::string>();
  lora_.rank = r->get<idx>();
  lora_.alpha = alpha->get<double>();
  lora_.rank_stabilized = stabilized != json.end() && *stabilized == true;
  // Which matrices it has, its tensors say: 'target_modules' may be a list, a regex or a name.
  std::set<std::string_view> found;
  for (const SafeTensor& tensor : file_.tensors()) {
    if (tensor.name.starts_with(kPrefix)) found.insert(TargetOf(tensor.name));
  }
  for (const std::string_view target : LoraTargets()) {
    if (found.contains(target)) lora_.targets.emplace_back(target);
  }
  if (lora_.targets.empty()) {
    Fail(ErrorCode::kInput, "{}: holds no adapter of {}", file_.path(),
         fmt::join(LoraTargets(), ", "));
  }
}

std::string AdapterFile::BasePath() const {
  for (const std::string& path : {base_, (fs::path(folder_) / base_).string()}) {
    if (base_.empty() || !Exists(path)) continue;
    if (!IsAdapterFolder(path)) return path;
    Fail(ErrorCode::kInput,
         "{}/adapter_config.json: 'base_model_name_or_path' {} holds an adapter itself; merge that "
         "one into its base first (`opo convert`)",
         folder_, Quote(base_));
  }
  Fail(ErrorCode::kInput,
       "{}/adapter_config.json: 'base_model_name_or_path' is {}, which is no file or folder here; "
       "write the base model's path there",
       folder_, Quote(base_));
}

ModelConfig AdapterFile::Fit(ModelConfig config) const {
  config.lora = lora_;
  const bool has_score = file_.Find(std::string(kPrefix) + "score.weight") != nullptr;
  if (scores_) config.has_logits = false;
  if (has_score) config.has_values = true;
  if (scores_ && !config.has_values) {
    Fail(ErrorCode::kInput,
         "{}: tensor '{}score.weight' is missing, the value head that task_type SEQ_CLS speaks of; "
         "save it with modules_to_save = [\"score\"]",
         file_.path(), kPrefix);
  }
  std::set<std::string_view> left;
  for (const SafeTensor& tensor : file_.tensors()) left.insert(tensor.name);
  for (const TensorSpec& spec : ListAdapterTensors(config)) {
    const std::string name = std::string(kPrefix) + spec.name;
    const SafeTensor* tensor = file_.Find(name);
    if (tensor == nullptr && spec.name == "score.weight") continue;  // it is the base's
    if (tensor == nullptr)
      Fail(ErrorCode::kInput, "{}: tensor '{}' is missing", file_.path(), name);
    const std::vector<idx> shape = {spec.rows, spec.cols};
    if (tensor->shape != shape) {
      Fail(ErrorCode::kInput, "{}: tensor '{}' has the shape [{}], rank and base ask for [{}]",
           file_.path(), name, fmt::join(tensor->shape, ", "), fmt::join(shape, ", "));
    }
    left.erase(tensor->name);
  }
  if (!left.empty()) {
    Fail(ErrorCode::kInput, "{}: tensor {} has no place in an adapter of this base", file_.path(),
         Quote(*left.begin()));
  }
  return config;
}

bool AdapterFile::Has(const TensorSpec& spec) const {
  return file_.Find(std::string(kPrefix) + spec.name) != nullptr;
}

void AdapterFile::Read(const TensorSpec& spec, std::span<float> out) const {
  const SafeTensor* tensor = file_.Find(std::string(kPrefix) + spec.name);
  OPO_CHECK(tensor != nullptr && tensor->num_elements() == std::ssize(out));
  file_.ReadF32(*tensor, out);
}

void SaveAdapter(const std::string& folder, const ModelConfig& config, const std::string& base,
                 std::span<const float> slab) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) Fail(ErrorCode::kWork, "{}: cannot be made: {}", folder, error.message());
  std::vector<SafeTensorToWrite> tensors;
  for (const TensorSpec& spec : ListAdapterTensors(config)) {
    tensors.push_back({std::string(kPrefix) + spec.name,
                       {spec.rows, spec.cols},
                       slab.subspan(static_cast<std::size_t>(spec.offset),
                                    static_cast<std::size_t>(spec.size()))});
  }
  WriteSafetensors(folder + "/adapter_model.safetensors", tensors, DType::kF32, {{"format", "pt"}});
  const LoraConfig& lora = config.lora;
  nlohmann::ordered_json json;
  json["peft_type"] = "LORA";
  json["task_type"] = config.has_logits ? "CAUSAL_LM" : "SEQ_CLS";
  json["base_model_name_or_path"] = base;
  json["r"] = lora.rank;
  json["lora_alpha"] = lora.alpha;
  json["use_rslora"] = lora.rank_stabilized;
  json["target_modules"] = lora.targets;
  json["lora_dropout"] = 0.0;
  json["bias"] = "none";
  if (!config.has_logits) json["modules_to_save"] = {"score"};
  json["inference_mode"] = true;
  WriteFileAtomically(folder + "/adapter_config.json", json.dump(2) + "\n");
}

namespace {

// W + scale B A, summed in double over ascending ranks and rounded once.
class MergedSource : public ModelSource {
 public:
  explicit MergedSource(const std::string& folder)
      : adapter_(folder),
        base_(OpenModel(adapter_.BasePath())),
        config_(adapter_.Fit(base_->config())) {
    for (TensorSpec& spec : ListAdapterTensors(config_)) {
      const std::string name = spec.name;
      specs_.emplace(name, std::move(spec));
    }
    config_.lora = {};
  }
  const ModelConfig& config() const override { return config_; }

  void Read(const TensorSpec& spec, std::span<float> out) const override {
    if (adapter_.Has(spec)) return adapter_.Read(spec, out);  // a value head
    base_->Read(spec, out);
    const std::string name = spec.name.substr(0, spec.name.rfind('.'));
    const auto a_spec = specs_.find(name + ".lora_A.weight");
    if (a_spec == specs_.end()) return;
    const TensorSpec& b_spec = specs_.at(name + ".lora_B.weight");
    Buffer<float> a(a_spec->second.size());
    Buffer<float> b(b_spec.size());
    adapter_.Read(a_spec->second, a.span());
    adapter_.Read(b_spec, b.span());
    const double scale = adapter_.lora().scale();
    const idx rank = adapter_.lora().rank;
    ParallelFor(spec.rows, [&](idx row) {
      thread_local std::vector<double> sums;
      sums.assign(static_cast<std::size_t>(spec.cols), 0.0);
      for (idx j = 0; j < rank; ++j) {
        const auto factor = static_cast<double>(b[row * rank + j]);
        for (idx c = 0; c < spec.cols; ++c) {
          sums[static_cast<std::size_t>(c)] += factor * static_cast<double>(a[j * spec.cols + c]);
        }
      }
      for (idx c = 0; c < spec.cols; ++c) {
        float& w = out[static_cast<std::size_t>(row * spec.cols + c)];
        w = static_cast<float>(static_cast<double>(w) + scale * sums[static_cast<std::size_t>(c)]);
      }
    });
  }

 private:
  AdapterFile adapter_;
  std::unique_ptr<ModelSource> base_;
  ModelConfig config_;
  std::map<std::string, TensorSpec, std::less<>> specs_;
};

}  // namespace

std::unique_ptr<ModelSource> OpenMerged(const std::string& adapter_folder) {
  return std::make_unique<MergedSource>(adapter_folder);
}

}  // namespace opo
