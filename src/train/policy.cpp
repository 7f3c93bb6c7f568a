#include "train/policy.h"

#include <algorithm>

#include "base/error.h"

namespace opo {
namespace {

LoraConfig Adapter(const LoraSettings& settings) {
  LoraConfig lora;
  lora.rank = settings.rank;
  if (!lora.on()) return lora;
  lora.alpha = settings.alpha;
  lora.rank_stabilized = settings.rank_stabilized;
  for (const std::string_view target : LoraTargets()) {
    const auto& wanted = settings.targets;
    if (std::find(wanted.begin(), wanted.end(), target) != wanted.end()) {
      lora.targets.emplace_back(target);
    }
  }
  return lora;
}

// A PEFT folder says itself what its adapter is.
void CheckContinued(const TrainConfig& config) {
  if (config.lora.rank == 0) return;
  Fail(
      ErrorCode::kUsage,
      "lora.rank = {}: model.path = {} is an adapter already, which is trained on; leave lora.rank "
      "at 0, or merge the adapter into its base first (`opo convert`)",
      config.lora.rank, config.model.path);
}

}  // namespace

Tokenizer PolicyTokenizer(const TrainConfig& config) {
  return config.model.path.empty() ? Tokenizer::Bytes()
                                   : Tokenizer::Load(TokenizerPath(config.model.path));
}

ModelConfig FreshModel(const ModelInitConfig& init, const Tokenizer& tokenizer) {
  ModelConfig c;
  SetArchitecture(c, init.architecture, "model.init.architecture");
  c.vocab_size = init.vocab_size > 0 ? init.vocab_size : tokenizer.vocab_size();
  c.hidden_size = init.hidden_size;
  c.intermediate_size = init.intermediate_size;
  c.num_layers = init.num_layers;
  c.num_heads = init.num_heads;
  c.num_kv_heads = init.num_kv_heads;
  c.head_dim = init.head_dim;
  c.max_position = init.max_position;
  c.rope_theta = init.rope_theta;
  SetRopeScaling(c, init.rope_type, init.rope_factor, init.rope_original_max_position);
  c.tied_embeddings = init.tied;
  c.bos_id = tokenizer.bos_id();
  c.pad_id = tokenizer.pad_id();
  c.eos_ids = tokenizer.eos_ids();
  return c;
}

Heads PolicyHeads(const TrainConfig& config) {
  if ((FindAlgorithm(config.algorithm.name).needs & kNeedsValueHead) == 0) {
    return {.logits = true, .values = SharesCritic(config)};
  }
  constexpr double kStd = 0.02;  // transformers' initializer_range
  return {.logits = false, .values = true, .std = kStd, .seed = config.train.seed};
}

ModelConfig PolicyShape(const TrainConfig& config, const Tokenizer& tokenizer, const Heads& heads) {
  const std::string& path = config.model.path;
  if (IsAdapterFolder(path)) {
    CheckContinued(config);
    ModelConfig shape = CheckpointShape(path);
    if (heads.logits) CheckAnswers(shape, path);
    shape.has_logits = heads.logits;
    shape.has_values = heads.values;
    return shape;
  }
  ModelConfig shape = path.empty() ? FreshModel(config.model.init, tokenizer)
                                   : WithHeads(OpenModel(path), heads, path)->config();
  shape.has_logits = heads.logits;
  shape.has_values = heads.values;
  shape.lora = Adapter(config.lora);
  return shape;
}

bool BeginsAsItsBase(const TrainConfig& config, const ModelConfig& shape) {
  return shape.lora.on() && !IsAdapterFolder(config.model.path);
}

std::string BasePath(const TrainConfig& config) {
  const std::string& path = config.model.path;
  return IsAdapterFolder(path) ? AdapterFile(path).BasePath() : path;
}

namespace {

Weights BeginningWeights(const TrainConfig& config, const Tokenizer& tokenizer,
                         const Heads& heads) {
  const std::string& path = config.model.path;
  if (path.empty()) {
    ModelConfig shape = PolicyShape(config, tokenizer);
    return InitWeights(shape, config.model.init.seed, config.model.init.std, heads);
  }
  if (IsAdapterFolder(path)) CheckContinued(config);
  const LoraConfig lora = Adapter(config.lora);
  if (!lora.on()) return LoadWeights(path, SlabOf::kTrained, heads);
  return AddAdapter(LoadWeights(path, SlabOf::kNothing, heads), lora, config.train.seed);
}

}  // namespace

Weights PolicyWeights(const TrainConfig& config, const Tokenizer& tokenizer, const Heads& heads) {
  Weights weights = BeginningWeights(config, tokenizer, heads);
  // So that whoever loads what is saved finds a score where it was learned (EndInScore).
  if (!heads.logits) weights.config.pad_id = tokenizer.pad_id();
  return weights;
}

}  // namespace opo
