// The settings of a training run: one TOML file, one struct a section, one list of keys
// (config.cpp). A 0 or "" that stands for another key's value stays as it is in the struct and in
// print; the functions at the end resolve it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "algo/algorithm.h"
#include "base/types.h"
#include "data/data_set.h"
#include "reward/reward.h"

namespace opo {

struct ModelInitConfig {  // [model.init]: a fresh byte-level model, used when model.path is empty
  std::string architecture = "llama";
  idx hidden_size = 64;
  idx intermediate_size = 192;
  idx num_layers = 2;
  idx num_heads = 4;
  idx num_kv_heads = 2;
  idx head_dim = 16;
  idx vocab_size = 0;
  idx max_position = 256;
  double rope_theta = 10000.0;
  std::string rope_type = "default";
  double rope_factor = 1;
  idx rope_original_max_position = 0;  // 0: max_position / rope_factor
  bool tied = true;
  std::uint64_t seed = 1;
  double std = 0.02;
};

struct ModelSettings {  // [model]
  std::string path;
  std::string dtype = "bf16";
  ModelInitConfig init;
};

struct LoraSettings {  // [lora]
  idx rank = 0;
  double alpha = 16;
  bool rank_stabilized = false;
  std::vector<std::string> targets = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                      "gate_proj", "up_proj", "down_proj"};
};

struct RolloutSettings {  // [rollout]
  idx prompts = 16;
  idx samples = 8;
  idx max_new_tokens = 32;
  double temperature = 1.0;
  double top_p = 1.0;
  idx top_k = 0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  double presence_penalty = 0.0;
  double frequency_penalty = 0.0;
  std::vector<std::string> stop;
  idx slots = 0;
  bool dynamic_sampling = false;
  idx max_draws = 10;
  idx window = 0;
};

struct OptimizerConfig {  // [train]
  idx steps = 20;
  idx max_tokens = 0;
  std::uint64_t seed = 1;
  double lr = 1e-5;
  std::string schedule = "constant";
  idx warmup_steps = 0;
  double min_lr_ratio = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  std::string moments = "f32";
  std::string on_nonfinite = "stop";
  double weight_decay = 0;
  double clip_norm = 1.0;
  idx mini_batch = 0;
  idx epochs = 1;
  idx unit_tokens = 1024;
  idx shards = 0;
};

struct CriticSettings {  // [critic]
  std::string init = "policy";
  double lr = 0;
  std::string schedule;
  idx warmup_steps = -1;
  double clip_value = kOwn;
  double value_coef = 0.1;
  idx pretrain_steps = 0;
};
// CriticSettings::init, where it is no path.
inline constexpr std::string_view kCriticOfPolicy = "policy";
inline constexpr std::string_view kSharedCritic = "shared";

struct EvalConfig {  // [eval]
  idx every = 0;
  idx prompts = 0;
  idx samples = 1;
  double temperature = 0;
  idx max_new_tokens = 0;
};

struct CheckpointConfig {  // [checkpoint]
  idx every = 10;
  idx keep_last = 2;
  bool keep_best = true;
  std::string best_by = "loss";
};

struct MonitorConfig {  // [monitor]
  idx kl_every = 0;
  idx samples_per_step = 4;
  idx tokens_per_step = 1024;
  idx report_every = 10;
  bool tensorboard = true;
};

struct RunConfig {  // [run]
  std::string dir;
  idx threads = 0;
  double heartbeat_s = 30;
  idx memory_mb = 0;
  idx tape_mb = -1;
  std::string isa;
  std::string reference_dir;
};

struct LearnedRewardSettings {  // [learned_reward], of aihf
  std::string path;
  std::string pairs;
  idx pairs_per_step = 8;
  idx steps = 1;
  double lr = 1e-5;
  double weight_decay = 0;
};

struct TrainConfig {
  ModelSettings model;
  LoraSettings lora;
  DataConfig data;
  RolloutSettings rollout;
  std::vector<RewardConfig> reward = {RewardConfig{}};
  AlgorithmConfig algorithm;
  CriticSettings critic;
  OptimizerConfig train;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  MonitorConfig monitor;
  RunConfig run;
  LearnedRewardSettings learned_reward;
};

// Defaults, then the file (none if `path` is ""), then the overrides "key=value" in order, then
// TakeRecipe, then ValidateTrainConfig. Paths of the file that exist beside it, and paths of either
// that exist from the working directory, become absolute; others stay. An empty run.dir becomes
// runs/<file's name without .toml>-<train.seed>. Throws Error(kUsage) naming file, line and key;
// a config file that cannot be read is Error(kUsage) too.
// asks = false: of a replay, which asks no reward (reward/reward.h).
TrainConfig LoadTrainConfig(const std::string& path, const std::vector<std::string>& overrides,
                            bool asks = true);

// The keys of [algorithm] by themselves.
class Fields;
void VisitFields(Fields& fields, AlgorithmConfig& config);
void VisitFields(Fields& fields, CriticSettings& config);

// Commented TOML that LoadTrainConfig and ParseTrainConfig read back to the same values.
std::string PrintTrainConfig(const TrainConfig& config);
TrainConfig ParseTrainConfig(const std::string& printed);

// What keys must satisfy together. Throws Error(kUsage) naming the keys and the cure.
void ValidateTrainConfig(const TrainConfig& config, bool asks = true);

// Of `ppo_max`, the parts of its paper's recipe (arXiv 2307.04964, section 5.4) as the keys that
// `fields`, which are those of `config`, were not given: rewards whitened by their history and
// clipped at 0.8, a token KL of 0.05 in the reward, a critic that begins as the run's reward model,
// if it has one, and learns alone for a tenth of the steps, 10 at most (how long the paper does not
// say).
void TakeRecipe(const Fields& fields, TrainConfig& config);

// Of [critic] and rollout.window; ValidateTrainConfig calls it.
void ValidateCritic(const TrainConfig& config);

// The value that a 0 or "" stands for.
std::vector<RewardConfig> RewardTerms(const TrainConfig& config);  // reward, with max_tokens
std::string LossAggregation(const TrainConfig& config);            // algorithm.loss_agg
double LossNorm(const TrainConfig& config);                        // algorithm.norm
idx MiniBatchPrompts(const TrainConfig& config);                   // train.mini_batch
std::string KlEstimator(const AlgorithmConfig& config);            // algorithm.kl_estimator
idx NumShards(const TrainConfig& config);                          // train.shards, of one rank
idx EvalMaxNewTokens(const TrainConfig& config);                   // eval.max_new_tokens

// What follows from several keys.
bool KlInLoss(const AlgorithmConfig& config);
bool KlInReward(const AlgorithmConfig& config);
bool TermsNeedReference(const AlgorithmConfig& config);  // in the loss, or in the reward
bool NeedsReference(const TrainConfig& config);          // the weights that the run began with
bool LearnsReward(const TrainConfig& config);            // a reward model beside the policy
// The sampled prompts come with answers to learn from: for that reward model, or for the policy.
bool NeedsDemonstrations(const TrainConfig& config);
bool NeedsGreedy(const TrainConfig& config);  // an answer of likeliest tokens to each prompt
// The learning weights' log-probs of an update's answers, before it: the loss of a token depends on
// others. A batch's first update has those of sampling.
bool NeedsPolicyScores(const TrainConfig& config);
idx UpdatesPerBatch(const TrainConfig& config);
// A batch's update number `update` is by the weights that sampled it (LearnGroup::on_policy).
bool LearnsOnPolicy(const TrainConfig& config, idx update);
bool NeedsCritic(const TrainConfig& config);
bool SharesCritic(const TrainConfig& config);  // the policy has a value head
double ValueClip(const TrainConfig& config);   // critic.clip_value; 0: none
OptimizerConfig CriticOptimizer(const TrainConfig& config);

}  // namespace opo
