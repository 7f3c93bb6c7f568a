#include "train/config.h"

#include <algorithm>
#include <filesystem>

#include "algo/algorithm.h"
#include "base/error.h"
#include "base/fields.h"
#include "base/file.h"
#include "data/built_in.h"
#include "model/load.h"
#include "train/given.h"
#include "train/learned_reward.h"

namespace opo {
namespace {

// Sizes beyond these are typing errors, and sums of them must not overflow.
constexpr double kMaxCount = 1e9;
constexpr double kMaxSize = 1 << 20;

std::vector<std::string> Names(std::span<const std::string_view> names) {
  return {names.begin(), names.end()};
}

std::vector<std::string> AlgorithmNames() {
  std::vector<std::string> names;
  for (const Algorithm& algorithm : Algorithms()) names.emplace_back(algorithm.name);
  return names;
}

// Makes `path` absolute where it exists beside the config file or from the working directory.
void ResolvePath(std::string& path, const std::filesystem::path& folder) {
  if (path.empty()) return;
  std::error_code ignored;  // a path that cannot be looked at is reported by whoever opens it
  for (const auto& base : {folder, std::filesystem::path()}) {
    const std::filesystem::path candidate = base / path;
    if (!std::filesystem::exists(candidate, ignored)) continue;
    path = std::filesystem::absolute(candidate, ignored).lexically_normal().string();
    return;
  }
}

void ResolvePaths(TrainConfig& config, const std::filesystem::path& folder) {
  ResolvePath(config.model.path, folder);
  const std::string& critic = config.critic.init;
  if (critic != kCriticOfPolicy && critic != kSharedCritic) ResolvePath(config.critic.init, folder);
  const auto resolve_data = [&](std::string& path) {
    if (!IsBuiltIn(path)) ResolvePath(path, folder);
  };
  resolve_data(config.data.train);
  resolve_data(config.data.eval);
  ResolvePath(config.data.pass_rates, folder);
  for (DataMixConfig& set : config.data.mix) resolve_data(set.path);
  for (RewardConfig& term : config.reward) ResolvePath(term.path, folder);
  ResolvePath(config.learned_reward.path, folder);
  ResolvePath(config.learned_reward.pairs, folder);
}

}  // namespace

void VisitFields(Fields& f, ModelInitConfig& c) {
  f.Field("architecture", c.architecture, "the kind of model", OneOf(ArchitectureNames()));
  f.Field("hidden_size", c.hidden_size, "width of the residual stream", Range(1, kMaxSize));
  f.Field("intermediate_size", c.intermediate_size, "width of the MLP", Range(1, kMaxSize));
  f.Field("num_layers", c.num_layers, "layers", Range(1, 1024));
  f.Field("num_heads", c.num_heads, "query heads", Range(1, 1024));
  f.Field("num_kv_heads", c.num_kv_heads, "key and value heads; divides num_heads", Range(1, 1024));
  f.Field("head_dim", c.head_dim, "width of a head; even", Range(2, 1024));
  f.Field("vocab_size", c.vocab_size, "entries of the embedding; 0: the byte tokenizer's",
          Range(0, 1 << 24));
  f.Field("max_position", c.max_position, "longest sequence, prompt and answer",
          Range(1, kMaxSize));
  f.Field("rope_theta", c.rope_theta, "base of the rotary embedding", Above(0));
  f.Field("rope_type", c.rope_type, "how the rotary embedding is stretched for long contexts",
          OneOf({kRopeTypeNames.begin(), kRopeTypeNames.end()}));
  f.Field("rope_factor", c.rope_factor, "by how much", Range(1, 1e6));
  f.Field("rope_original_max_position", c.rope_original_max_position,
          "context before that (llama3, yarn); 0: max_position / rope_factor", Range(0, kMaxSize));
  f.Field("tied", c.tied, "the output head is the embedding");
  f.Field("seed", c.seed, "seed of the weights");
  f.Field("std", c.std, "standard deviation of the weights", Range(0, 10));
}

void VisitFields(Fields& f, ModelSettings& c) {
  f.Field("path", c.path,
          "GGUF file or Hugging Face folder, relative to this file; empty: a fresh [model.init]");
  f.Field("dtype", c.dtype, "type of the weights in the products", OneOf({"bf16", "f32"}));
  f.Section("init", c.init, "A fresh tiny byte-level model, used when model.path is empty");
}

// The keys of a file that [data] and [[data.mix]] share.
template <class Config>
void VisitDataKeys(Fields& f, Config& c, const std::string& otherwise) {
  const auto help = [&](const char* text, const char* standard) {
    return fmt::format("{}; empty: {}", text, otherwise.empty() ? standard : otherwise);
  };
  f.Field("prompt_key", c.prompt_key,
          help("a row's prompt, text or messages; may be dotted, a.b", "prompt"));
  f.Field("answer_key", c.answer_key,
          help("its gold answer", "reward_model.ground_truth, answer, solution or ground_truth"));
  f.Field("completion_key", c.completion_key,
          help("of a demonstration: what follows the prompt, text or messages",
               "completion, or messages with the prompt"));
  f.Field("id_key", c.id_key, help("its id", "id or extra_info.index"));
  f.Field("template", c.template_text,
          help("text around a prompt, which takes the place of {}", "none"));
}

void VisitFields(Fields& f, DataMixConfig& c) {
  f.Field("path", c.path, "a data file relative to this one, or a built-in set");
  f.Field("weight", c.weight, "its part of the prompts, against the other weights",
          Range(1e-6, 1e6));
  VisitDataKeys(f, c, "that of [data]");
}

void VisitFields(Fields& f, DataConfig& c) {
  f.Field("train", c.train,
          fmt::format("prompts: a .jsonl, .json, .csv or .parquet file relative to this one, or a "
                      "built-in set: {}",
                      fmt::join(BuiltInNames(), ", ")));
  f.Field("eval", c.eval,
          "the same, to evaluate on; empty: what built-in sets and held_out hold out, else none");
  f.Field("held_out", c.held_out, "part of the training files to evaluate on instead; 0: none",
          Range(0, 0.9));
  VisitDataKeys(f, c, "");
  f.Field("system", c.system, "system message put before every prompt; empty: none");
  f.Field("learn", c.learn,
          "of demonstrations: the assistant's tokens, or all but a conversation's first",
          OneOf({"assistant", "all"}));
  f.Field("prompt_limit", c.prompt_limit, "longest training prompt in tokens", Range(1, kMaxSize));
  f.Field(
      "sequence_limit", c.sequence_limit,
      "of demonstrations and pairs: longest prompt with an answer, in tokens; 0: what the model "
      "has positions for",
      Range(0, kMaxSize));
  f.Field("overlong", c.overlong,
          "what happens to a longer one; truncate keeps a prompt's last tokens, an answer's first",
          OneOf({"error", "drop", "truncate"}));
  f.Field("on_bad_row", c.on_bad_row, "what happens to a row that cannot be read",
          OneOf({"fail", "skip"}));
  f.Field("shuffle", c.shuffle, "another order each epoch; false: that of the file");
  f.Field("pass_rates", c.pass_rates,
          "file of measured pass rates, by `opo eval --pass-rates`; empty: none");
  f.Field("pass_rate_min", c.pass_rate_min, "train on problems from this rate on", Range(0, 1));
  f.Field("pass_rate_max", c.pass_rate_max, "up to this one", Range(0, 1));
  f.Field("size", c.size, "problems of a built-in set; arithmetic has a fixed number",
          Range(1, 1e7));
  f.Field("seed", c.seed, "seed of a built-in set");
  f.List("mix", c.mix, "A set of several to train on instead of data.train, mixed by weight",
         /*may_be_empty=*/true);
}

void VisitFields(Fields& f, RolloutSettings& c) {
  f.Field("prompts", c.prompts, "prompts a step", Range(1, kMaxSize));
  f.Field("samples", c.samples, "answers a prompt", Range(1, kMaxSize));
  f.Field("max_new_tokens", c.max_new_tokens, "longest answer in tokens", Range(1, kMaxSize));
  f.Field("temperature", c.temperature, "divides the logits; part of the policy that is trained",
          Range(0.01, 100));
  FieldCheck top_p = Range(0, 1);
  top_p.above_low = true;
  f.Field("top_p", c.top_p, "sample from the smallest set with this probability; 1: off", top_p);
  f.Field("top_k", c.top_k, "sample from the k likeliest tokens; 0: off", Range(0, kMaxCount));
  f.Field("min_p", c.min_p, "drop tokens below this part of the likeliest's probability; 0: off",
          Range(0, 1));
  f.Field("repetition_penalty", c.repetition_penalty,
          "above 1 weakens the tokens of prompt and answer; 1: off", Range(0.01, 100));
  f.Field("presence_penalty", c.presence_penalty,
          "taken from the logit of each token of the answer; 0: off", Range(-2, 2));
  f.Field("frequency_penalty", c.frequency_penalty, "the same, times its occurrences; 0: off",
          Range(-2, 2));
  f.Field("stop", c.stop, "texts that end an answer");
  f.Field("slots", c.slots, "answers decoded at the same time; 0: all of a step",
          Range(0, kMaxCount));
  f.Field("dynamic_sampling", c.dynamic_sampling,
          "replace prompts whose answers all have the same reward by further ones (DAPO)");
  f.Field("max_draws", c.max_draws,
          "of dynamic_sampling: prompts drawn a step, in batches; then the batch is filled with "
          "those that were to be replaced",
          Range(1, kMaxCount));
  f.Field("window", c.window,
          "t_ppo: new tokens of an answer a step; it goes on in the next one; 0: no such bound",
          Range(0, kMaxSize));
}

void VisitFields(Fields& f, AlgorithmConfig& c) {
  std::vector<std::string> modes = Names(AggregationModes());
  modes.insert(modes.begin(), "");
  f.Field("name", c.name, "how rewards become advantages", OneOf(AlgorithmNames()));
  f.Field("loss_agg", c.loss_agg, "how token losses become one; empty: the algorithm's own",
          OneOf(std::move(modes)));
  f.Field("norm", c.norm, "constant of seq-mean-token-sum-norm; 0: rollout.max_new_tokens",
          Range(0, kMaxCount));
  f.Field("clip_low", c.clip_low,
          "the ratio is clipped at 1 - clip_low (not in exact mode); -1: the algorithm's own",
          Range(kOwn, 1));
  f.Field("clip_high", c.clip_high,
          "the ratio is clipped at 1 + clip_high (not in exact mode); -1: the algorithm's own",
          AtLeast(kOwn));
  f.Field("clip_dual", c.clip_dual,
          "bound of the loss where A < 0, times -A; 0 to 1: off; -1: the algorithm's own",
          AtLeast(kOwn));
  f.Field("length_exponent", c.length_exponent,
          "opo, opo_batch, opo_loo: answers weigh length^length_exponent in the baseline",
          Range(-4, 4));
  f.Field("handle_zero_tail", c.handle_zero_tail,
          "otb: no baseline where only the longest answer of a group is left");
  f.Field("gamma", c.gamma, "reinforce_pp, those with a critic: discount of the return per token",
          Range(0, 1));
  f.Field("is_weight_cap", c.is_weight_cap, "cispo: largest weight of a token, itself, not - 1",
          Above(0));
  f.Field("em_pg_weight", c.em_pg_weight,
          "em_pg: the reward, its part of the group's, or less the group's mean",
          OneOf({"reward", "posterior", "centred"}));
  f.Field("rebel_eta", c.rebel_eta, "rebel: log-ratio for a reward of 1", Above(0));
  f.Field("margin_coef", c.margin_coef,
          "reward_model, aihf: times the margin that a pair's row names; 0: it is not looked at",
          Range(0, 1e6));
  f.Field(
      "center_coef", c.center_coef,
      "reward_model, aihf: of the squared sum of the scores that are compared, which keeps them "
      "around 0 (TRL's center_rewards_coefficient); 0: none",
      Range(0, 1e6));
  f.Field("demo_weight", c.demo_weight,
          "aihf, aihf_direct: of the demonstrations against the pairs (aihf: the paper's w1, times "
          "1 / beta); 0: none",
          Range(0, 1e6));
  f.Field("aihf_baseline", c.aihf_baseline, "aihf: what the policy's step takes from the reward",
          OneOf({"opo", "rloo"}));
  f.Field("step_beta", c.step_beta,
          "direct_advantage: a step's log-ratio is to be its advantage divided by this", Above(0));
  f.Field("min_gap", c.min_gap,
          "direct_advantage: states are left out whose candidates' advantages span less (that the "
          "paper's gap is max - min is unconfirmed)",
          Range(0, 1));
  f.Field("beta", c.beta,
          "dpo, ipo and what is made of them: how near the reference holds the policy", Above(0));
  FieldCheck below_half = Range(0, 0.499999);
  f.Field("label_smoothing", c.label_smoothing,
          "dpo, sr_dpo, online_dpo, aihf_direct: part of the pairs that may be the wrong way round",
          below_half);
  f.Field("divide_by_length", c.divide_by_length,
          "ipo, sr_ipo: divide an answer's log-ratio by its length, as TRL does; false: its sum");
  f.Field("sr_lambda", c.sr_lambda,
          "sr_dpo, sr_ipo: weight of the margin that the policy's own judgement gives", AtLeast(0));
  f.Field("sr_prompt", c.sr_prompt,
          "sr_dpo, sr_ipo: put before a prompt to ask the policy for its judgement");
  f.Field("ptx_coef", c.ptx_coef,
          "ppo, ppo_max: of a language-model loss on the demonstrations of a step's prompts, which "
          "data.train has with them (PPO-ptx); 0: none",
          Range(0, 1e6));
  f.Field("multi_objective_aggregation", c.multi_objective_aggregation,
          "several rewards: their weighted sum, or the sum of each one's deviations in its group",
          OneOf({"sum_then_normalize", "normalize_then_sum"}));
  f.Field("exact", c.exact,
          "exactly on policy: one step a batch, no truncated sampling, every log-prob checked");
  f.Field("kl_coef", c.kl_coef,
          "of a KL term that holds the policy near the weights that the run began with; 0: none",
          AtLeast(0));
  std::vector<std::string> estimators = Names(KlEstimators());
  estimators.insert(estimators.begin(), "");
  f.Field("kl_estimator", c.kl_estimator,
          "how KL is estimated from a token; empty: k3 in the loss, k1 in the reward",
          OneOf(std::move(estimators)));
  f.Field("kl_in", c.kl_in, "where the KL term is", OneOf({"loss", "reward"}));
  f.Field("entropy_coef", c.entropy_coef,
          "of the entropy's mean over tokens, which the loss then raises; 0: none", AtLeast(0));
  f.Field(
      "gae_lambda", c.gae_lambda,
      "those with a critic: how far an advantage looks beyond the next token's value; 1: to the "
      "end",
      Range(0, 1));
  f.Field("whiten_advantages", c.whiten_advantages,
          "those with a critic: to mean 0 and variance 1 over the batch's tokens; empty: the "
          "algorithm's own",
          OneOf({"", "yes", "no"}));
  f.Field("apa_lambda", c.apa_lambda, "apa: the advantage for a log-ratio of 1", Above(0));
  f.Field("awr_scale", c.awr_scale, "awr: a token weighs exp(awr_scale * advantage)", Above(0));
  f.Field("kl_target", c.kl_target,
          "the KL estimate that kl_coef is steered to, step by step; 0: kl_coef stays", AtLeast(0));
  f.Field("kl_horizon", c.kl_horizon,
          "of kl_target: answers in which kl_coef can change by a fifth", Above(0));
}

void VisitFields(Fields& f, LoraSettings& c) {
  f.Field("rank", c.rank, "rank of the adapter; 0: none, the whole model is trained",
          Range(0, 4096));
  f.Field("alpha", c.alpha, "the adapter's output is scaled by alpha / rank", Range(0, 1e6));
  f.Field("rank_stabilized", c.rank_stabilized, "scale by alpha / sqrt(rank) (rsLoRA)");
  f.Field("targets", c.targets, "matrices of each layer that have one");
}

void VisitFields(Fields& f, OptimizerConfig& c) {
  FieldCheck beta = Range(0, 0.999999);
  f.Field("steps", c.steps, "rollout batches in the run", Range(1, kMaxCount));
  f.Field("max_tokens", c.max_tokens,
          "end the run after the step in which its prompts and answers come to so many tokens; 0: "
          "only steps count",
          Range(0, 1e15));
  f.Field("seed", c.seed, "seed of the prompts' order and of the sampling");
  f.Field("lr", c.lr, "peak learning rate", Range(0, 1));
  f.Field("schedule", c.schedule, "the learning rate after the warm-up",
          OneOf({"constant", "linear", "cosine"}));
  f.Field("warmup_steps", c.warmup_steps, "steps of linear warm-up", Range(0, kMaxCount));
  f.Field("min_lr_ratio", c.min_lr_ratio, "final learning rate, as a part of lr", Range(0, 1));
  f.Field("beta1", c.beta1, "AdamW: decay of the mean", beta);
  f.Field("beta2", c.beta2, "AdamW: decay of the squares", beta);
  f.Field("eps", c.eps, "AdamW: added to the root", Above(0));
  f.Field("moments", c.moments,
          "AdamW: type of mean and squares in memory; bf16 takes 4 bytes a weight instead of 8, "
          "rounded at random so that their mean is right",
          OneOf({"f32", "bf16"}));
  f.Field("weight_decay", c.weight_decay, "AdamW: decoupled decay of matrices", Range(0, 1));
  f.Field("clip_norm", c.clip_norm, "largest norm of the gradient; 0: no clipping", AtLeast(0));
  f.Field("on_nonfinite", c.on_nonfinite,
          "where a reward, an advantage or the gradient is NaN or infinite: end the run, or leave "
          "the update out",
          OneOf({"stop", "skip"}));
  f.Field("mini_batch", c.mini_batch, "prompts an optimizer step; 0: rollout.prompts",
          Range(0, kMaxSize));
  f.Field("epochs", c.epochs, "passes over a rollout batch", Range(1, 1000));
  f.Field("unit_tokens", c.unit_tokens, "tokens processed at a time; memory against speed",
          Range(32, kMaxSize));
  f.Field("shards", c.shards,
          "parts of a batch that ranks share, a power of two; 0: 1, or as many as there are ranks, "
          "rounded up",
          Range(0, 65536));
}

void VisitFields(Fields& f, EvalConfig& c) {
  f.Field("every", c.every, "steps between evaluations; 0: only before and after",
          Range(0, kMaxCount));
  f.Field("prompts", c.prompts, "prompts of an evaluation; 0: all", Range(0, kMaxCount));
  f.Field("samples", c.samples, "answers a prompt", Range(1, kMaxSize));
  f.Field("temperature", c.temperature, "0: greedy", Range(0, 100));
  f.Field("max_new_tokens", c.max_new_tokens, "longest answer; 0: rollout.max_new_tokens",
          Range(0, kMaxSize));
}

void VisitFields(Fields& f, CheckpointConfig& c) {
  f.Field("every", c.every, "steps between checkpoints; 0: only at the end", Range(0, kMaxCount));
  f.Field("keep_last", c.keep_last, "newest checkpoints to keep", Range(1, kMaxCount));
  f.Field("keep_best", c.keep_best, "keep the one with the best evaluation too");
  f.Field("best_by", c.best_by,
          "of a reward model: the least loss on held-out pairs, or the highest accuracy",
          OneOf({"loss", "accuracy"}));
}

void VisitFields(Fields& f, LearnedRewardSettings& c) {
  f.Field(
      "path", c.path,
      "what it begins as, a reward model or a language model that gets a fresh head; empty: the "
      "policy's model.path");
  f.Field("pairs", c.pairs, "preference pairs to learn from: a data file; empty: none");
  f.Field("pairs_per_step", c.pairs_per_step, "pairs of an update", Range(1, kMaxSize));
  f.Field("steps", c.steps, "updates a step of the policy", Range(1, 1000));
  f.Field("lr", c.lr, "peak learning rate; its schedule is that of [train]", Range(0, 1));
  f.Field("weight_decay", c.weight_decay,
          "decay of its matrices, which holds the scores that demonstrations drive apart",
          Range(0, 1));
}

void VisitFields(Fields& f, MonitorConfig& c) {
  f.Field("kl_every", c.kl_every, "steps between measurements of KL to the start; 0: never",
          Range(0, kMaxCount));
  f.Field("samples_per_step", c.samples_per_step,
          "prompts a step whose answers, all of them, are written to samples.jsonl",
          Range(0, kMaxCount));
  f.Field("tokens_per_step", c.tokens_per_step,
          "tokens a step written there with their log-probs, entropies and advantages",
          Range(0, kMaxCount));
  f.Field("report_every", c.report_every,
          "steps between writings of the run's report.html; 0: never", Range(0, kMaxCount));
  f.Field("tensorboard", c.tensorboard, "write TensorBoard events too");
}

void VisitFields(Fields& f, RunConfig& c) {
  f.Field("dir", c.dir, "the run's folder; empty: runs/<name of this file>-<train.seed>");
  f.Field("threads", c.threads,
          "threads of a rank; 0: all cores, shared among the ranks of a machine", Range(0, 4096));
  f.Field("heartbeat_s", c.heartbeat_s,
          "of several ranks: one that is silent for so many seconds ends the job; 0: none does",
          Range(0, 1e6));
  f.Field("memory_mb", c.memory_mb, "memory to stay below, in MiB; 0: chosen from the machine",
          Range(0, kMaxCount));
  f.Field("tape_mb", c.tape_mb,
          "of that, for the sampler's activations, which the learner then need not recompute; -1: "
          "what is left, 0: none",
          Range(-1, kMaxCount));
  f.Field("isa", c.isa, "instruction set path; empty: the best of this machine");
  f.Field("reference_dir", c.reference_dir,
          "folder of the reference's log-probs of given answers, which runs can share; empty: "
          "reference in run.dir");
}

void VisitFields(Fields& f, TrainConfig& c) {
  f.Section("model", c.model, "The model");
  f.Section("lora", c.lora, "An adapter to train instead of the model itself");
  f.Section("data", c.data, "The prompts");
  f.Section("rollout", c.rollout, "Sampling");
  f.List("reward", c.reward, "A term of the reward; write [[reward]] again for a sum");
  f.Section("algorithm", c.algorithm, "The algorithm");
  f.Section("critic", c.critic, "What algorithms with a critic compare rewards with");
  f.Section("train", c.train, "Steps and optimizer");
  f.Section("eval", c.eval, "Evaluation");
  f.Section("checkpoint", c.checkpoint, "Checkpoints");
  f.Section("monitor", c.monitor, "What is measured and written");
  f.Section("run", c.run, "Where and on what it runs");
  f.Section("learned_reward", c.learned_reward,
            "aihf: the reward model that learns beside the policy");
}

TrainConfig LoadTrainConfig(const std::string& path, const std::vector<std::string>& overrides,
                            bool asks) {
  TrainConfig config;
  Fields fields = FieldsOf(config);
  std::string name = "opo";
  if (!path.empty()) {
    fields.LoadTomlFile(path);
    ResolvePaths(config, std::filesystem::path(path).parent_path());
    name = std::filesystem::path(path).stem().string();
  }
  for (const std::string& assignment : overrides) fields.Set(assignment);
  ResolvePaths(config, "");
  TakeRecipe(fields, config);
  if (config.run.dir.empty()) config.run.dir = fmt::format("runs/{}-{}", name, config.train.seed);
  try {
    ValidateTrainConfig(config, asks);
  } catch (const Error& error) {
    Fail(error.code(), "{}: {}", path.empty() ? "config" : path, error.what());
  }
  return config;
}

std::string PrintTrainConfig(const TrainConfig& config) {
  TrainConfig copy = config;
  return FieldsOf(copy).Print();
}

TrainConfig ParseTrainConfig(const std::string& printed) {
  TrainConfig config;
  FieldsOf(config).LoadToml(printed, "config");
  return config;
}

}  // namespace opo
