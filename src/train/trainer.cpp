#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "data/data_set.h"
#include "data/prompt_order.h"
#include "rollout/prompts.h"
#include "train/checkpoint.h"
#include "train/collect.h"
#include "train/evaluate.h"
#include "train/floor.h"
#include "train/learner.h"
#include "train/plan.h"
#include "train/policy.h"
#include "train/run_log.h"
#include "train/shard_tree.h"
#include "train/signal_guard.h"
#include "train/step_metrics.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

template <class T>
class Trainer {
 public:
  Trainer(const TrainConfig& config, const TrainOptions& options)
      : config_(config),
        options_(options),
        tokenizer_(PolicyTokenizer(config)),
        base_path_(BasePath(config)),
        weights_(PolicyWeights(config, tokenizer_)),
        optimizer_(weights_.layout, config.train),
        prompts_(tokenizer_, config.data.system),
        rewards_(RewardTerms(config)),
        algorithm_(FindAlgorithm(config.algorithm.name)) {
    if (tokenizer_.vocab_size() > weights_.config.vocab_size) {
      Fail(ErrorCode::kInput, "{}: the tokenizer has {} entries, the model's vocabulary {}",
           config.model.path, tokenizer_.vocab_size(), weights_.config.vocab_size);
    }
    DataSets data = LoadDataSets(config.data);
    FitPrompts(prompts_, config.data, data);
    for (const std::string& note : data.notes) fmt::print(stderr, "{}\n", note);
    data_digest_ = DataDigest(data);
    train_problems_ = std::move(data.train);
    eval_problems_ = std::move(data.eval);
    order_.emplace(std::move(data.sizes), data.weights, config.train.seed, config.data.shuffle);
    if (config.eval.prompts > 0 && static_cast<idx>(eval_problems_.size()) > config.eval.prompts) {
      eval_problems_.resize(static_cast<std::size_t>(config.eval.prompts));
    }
  }

  TrainResult Run() {
    const SignalGuard signals;
    const std::string& dir = config_.run.dir;
    TrainResult result;
    result.run_dir = dir;
    packed_ = std::make_unique<PackedWeights<T>>(weights_, true);
    idx step = Open();
    model_ = std::make_unique<Transformer<T>>(*packed_);
    LearnerConfig learner_config;
    learner_config.unit_tokens = config_.train.unit_tokens;
    // What prompts will be like is not known yet: as long as they may be, up to a usual length.
    const MemoryPlan plan =
        PlanMemory(config_, weights_.config, std::min<idx>(config_.data.prompt_limit, 64));
    learner_config.memory_bytes = plan.micro_batch_budget;
    tape_.max_bytes = plan.tape_budget;
    learner_config.inv_temperature = TrainingSampling(config_, 0).inv_temperature();
    learner_ = std::make_unique<Learner<T>>(*model_, weights_.layout, learner_config);
    grad_ = Buffer<float>(weights_.layout.size);
    gemm_rate_ = MeasureGemmRate(weights_.config, sizeof(T) == 2 ? DType::kBf16 : DType::kF32, 0.2);
    log_ = std::make_unique<RunLog>(dir, step, config_.monitor.tensorboard);
    journal_ = std::make_unique<RewardJournal>(dir, step, options_.resume);
    collector_ = std::make_unique<Collector<T>>(
        typename Collector<T>::Parts{config_, *model_, tokenizer_, prompts_, train_problems_,
                                     *order_, rewards_, *journal_, tape_},
        prompt_position_);

    if (options_.final_eval && !eval_problems_.empty()) result.before = Eval(step);
    {
      Progress progress(config_.train.steps, "step", step);
      for (bool stop = signals.caught() != 0; !stop && step < config_.train.steps;) {
        ++step;
        const ordered_json metrics = Step(step);
        result.reward = metrics.at("critic/score/mean").get<double>();
        if (options_.progress) {
          progress.Update(
              step, fmt::format("reward {:.3f}  length {:.1f}  grad {:.3f}  {:.1f}s", result.reward,
                                metrics.at("response_length/mean").get<double>(),
                                metrics.at("actor/grad_norm").get<double>(),
                                metrics.at("timing_s/step").get<double>()));
        }
        stop = signals.caught() != 0;  // asked once: what it decides must not change below
        const bool due = config_.checkpoint.every > 0 && step % config_.checkpoint.every == 0;
        if (due || stop || step == config_.train.steps) Save(step);
      }
    }
    result.signal = signals.caught();
    const bool evaluate = options_.final_eval && !eval_problems_.empty() && result.signal == 0;
    if (evaluate) result.after = Eval(step);
    result.steps = step;
    result.weights_digest = weights_.DigestHex();
    return result;
  }

 private:
  // What must be the same for a resume to give the same bits.
  ordered_json Manifest() const {
    ordered_json m;
    m["opo_version"] = "0.1.0";
    m["isa"] = ActiveKernels().name;
    m["isa_fingerprint"] = IsaFingerprint();
    m["dtype"] = config_.model.dtype;
    m["seed"] = config_.train.seed;
    m["shards"] = config_.train.shards;
    m["unit_tokens"] = config_.train.unit_tokens;
    m["moments"] = config_.train.moments;
    m["data_digest"] = data_digest_;
    m["initial_weights_digest"] = initial_digest_;
    if (weights_.config.lora.on()) m["base_digest"] = packed_->base_digest();
    return m;
  }

  // Makes or continues the run's folder; returns the steps already taken.
  idx Open() {
    const std::string& dir = config_.run.dir;
    initial_digest_ = weights_.DigestHex();
    std::error_code error;
    fs::create_directories(dir + "/checkpoints", error);
    if (error) Fail(ErrorCode::kWork, "{}: cannot be made: {}", dir, error.message());
    const std::string manifest_path = dir + "/manifest.json";
    if (config_.monitor.kl_every > 0) {
      const bool shared = BeginsAsItsBase(config_, weights_.config);
      if (!shared) reference_ = std::make_unique<PackedWeights<T>>(weights_, false);
      reference_model_ = std::make_unique<Transformer<T>>(shared ? *packed_ : *reference_, !shared);
    }
    if (!options_.resume) {
      if (fs::exists(manifest_path)) {
        Fail(ErrorCode::kUsage,
             "{}: holds a run already; continue it with `opo train --resume {}`, or choose another "
             "run.dir",
             dir, dir);
      }
      WriteFileAtomically(dir + "/config.toml", PrintTrainConfig(config_));
      WriteFileAtomically(manifest_path, Manifest().dump(2) + "\n");
      return 0;
    }
    ordered_json kept = ordered_json::parse(ReadFile(manifest_path), nullptr, false);
    // Runs from before these were kept.
    const ordered_json now = Manifest();
    if (kept.is_object() && !kept.contains("moments")) kept["moments"] = "f32";
    if (kept.is_object() && !kept.contains("data_digest")) kept["data_digest"] = data_digest_;
    for (const auto& [key, value] : now.items()) {
      if (key == "opo_version") continue;
      if (!kept.is_object() || !kept.contains(key) || kept[key] != value) {
        Fail(ErrorCode::kUsage,
             "{}: `{}` was {} when the run began and is {} now; a resume could not give the same "
             "bits",
             manifest_path, key,
             kept.is_object() && kept.contains(key) ? kept[key].dump() : "absent", value.dump());
      }
    }
    const auto checkpoint = FindCheckpoint(
        dir, [](const std::string& text) { fmt::print(stderr, "warning: {}\n", text); });
    if (!checkpoint.has_value()) {
      fmt::print(stderr, "{}: no checkpoint yet, starting from the first step\n", dir);
      return 0;
    }
    const ordered_json state = ReadCheckpoint(*checkpoint, weights_, optimizer_);
    best_reward_ = state.value("best_reward", -1e300);
    best_step_ = state.value("best_step", idx{-1});
    // Checkpoints from before there was dynamic sampling do not name it.
    prompt_position_ = state.value("prompt_position", checkpoint->step * config_.rollout.prompts);
    if (weights_.DigestHex() != state.value("weights_digest", "")) {
      Fail(ErrorCode::kInput, "{}: the weights differ from their digest in state.json",
           checkpoint->path);
    }
    packed_->Update(weights_);
    return checkpoint->step;
  }

  void Save(idx step) {
    const double start = Seconds();
    // Every checkpoint knows which one has been best; the evaluation is that of the step at hand.
    if (config_.checkpoint.keep_best && last_eval_step_ == step && last_eval_ > best_reward_) {
      best_reward_ = last_eval_;
      best_step_ = step;
    }
    ordered_json state;
    state["step"] = step;
    state["optimizer_steps"] = optimizer_.steps();
    state["best_reward"] = best_reward_;
    state["best_step"] = best_step_;
    state["prompt_position"] = collector_->position();
    state["weights_digest"] = weights_.DigestHex();
    state["manifest"] = Manifest();
    const Checkpoint checkpoint =
        WriteCheckpoint(config_.run.dir, step, weights_, optimizer_, tokenizer_, base_path_, state);
    // model -> the newest checkpoint's folder, replaced by a rename.
    const std::string link = config_.run.dir + "/model";
    std::error_code error;
    fs::remove(link + ".partial", error);
    fs::create_directory_symlink(
        "checkpoints/" + fs::path(checkpoint.path).filename().string() + "/model",
        link + ".partial", error);
    if (!error) fs::rename(link + ".partial", link, error);
    if (error) Fail(ErrorCode::kWork, "{}: cannot be linked: {}", link, error.message());
    PruneCheckpoints(config_.run.dir, config_.checkpoint.keep_last,
                     config_.checkpoint.keep_best ? best_step_ : -1);
    save_seconds_ = Seconds() - start;
  }

  EvalResult Eval(idx step) {
    EvalSettings settings;
    settings.place = {journal_.get(), step, "eval", 0};
    settings.samples = config_.eval.samples;
    settings.sampling = TrainingSampling(config_, 0);
    settings.sampling.temperature = config_.eval.temperature;
    settings.sampling.top_k = 0;
    settings.sampling.top_p = 1;
    settings.sampling.min_p = 0;
    settings.sampling.repetition_penalty = 1;
    settings.sampling.presence_penalty = 0;
    settings.sampling.frequency_penalty = 0;
    settings.sampling.max_new_tokens = EvalMaxNewTokens(config_);
    return Evaluate(*model_, tokenizer_, prompts_, eval_problems_, rewards_, settings);
  }

  void SetAdvantages(std::vector<RolloutGroup>& groups, ordered_json& metrics) const {
    RewardBatch batch;
    std::vector<Rollout*> scored;
    idx group_number = 0;
    for (RolloutGroup& group : groups) {
      bool any = false;
      for (Rollout& rollout : group.rollouts) {
        rollout.advantage = 0;
        if (!rollout.scored()) continue;
        batch.rewards.push_back(rollout.reward);
        batch.lengths.push_back(rollout.length());
        batch.groups.push_back(group_number);
        scored.push_back(&rollout);
        any = true;
      }
      if (any) ++group_number;
    }
    const AdvantageResult result = algorithm_.advantages(batch);
    Spread advantages;
    Spread baselines;
    for (std::size_t i = 0; i < scored.size(); ++i) {
      scored[i]->advantage = result.advantages[i];
      advantages.Add(result.advantages[i]);
      baselines.Add(result.baselines[i]);
    }
    advantages.Put(metrics, "critic/advantages");
    metrics["critic/baseline/mean"] = baselines.mean();
  }

  // One optimizer step on groups [first, last): normaliser over all of them, then shard by shard.
  LearnResult Learn(const std::vector<RolloutGroup>& groups, std::size_t first, std::size_t last,
                    const LossFunction& loss, ordered_json& metrics, idx update,
                    idx total_updates) {
    std::vector<idx> lengths;
    for (std::size_t g = first; g < last; ++g) {
      for (const Rollout& r : groups[g].rollouts) {
        lengths.push_back(r.scored() ? r.length() : 0);
      }
    }
    const std::vector<double> weights =
        TokenWeights(LossAggregation(config_), lengths, LossNorm(config_));
    std::vector<std::vector<LearnGroup>> shards(static_cast<std::size_t>(config_.train.shards));
    std::size_t at = 0;
    for (std::size_t g = first; g < last; ++g) {
      LearnGroup learn{&groups[g], {}, update == 0 ? static_cast<idx>(g) : -1};
      for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s)
        learn.weights.push_back(weights[at++]);
      shards[(g - first) % shards.size()].push_back(std::move(learn));
    }
    LearnResult sum;
    ShardTree tree(weights_.layout.size);
    ZeroSlab(grad_);
    for (const auto& shard : shards) {
      sum.Add(learner_->Accumulate(shard, loss, grad_.data(), &tape_));
      if (shards.size() > 1) tree.Push(grad_);
    }
    if (shards.size() > 1) tree.Join(grad_);

    tape_.Clear();  // the weights change now
    // E1 speaks of the batch's first update: the later ones are off policy by design.
    if (update == 0) {
      if (sum.compared_tokens == 0) {
        // No group has a gradient: compare one all the same, before momentum moves the weights.
        const LearnResult check = learner_->Compare(groups.front());
        sum.compared_tokens = check.compared_tokens;
        sum.mismatched_tokens = check.mismatched_tokens;
        sum.logprob_diff_max = check.logprob_diff_max;
      }
      if (sum.mismatched_tokens > 0 || sum.compared_tokens == 0) {
        Fail(ErrorCode::kExactness,
             "step {}: {} of {} log-probs differ between sampler and learner (at most by {:.3g}): "
             "the "
             "exactness contract is broken; the weights were not changed. `opo doctor` checks this "
             "machine",
             metrics.at("training/global_step").get<idx>(), sum.mismatched_tokens,
             sum.compared_tokens, sum.logprob_diff_max);
      }
    }

    const double norm = GradientNorm(grad_);
    if (!std::isfinite(norm) || !std::isfinite(sum.loss)) {
      Fail(ErrorCode::kWork,
           "step {}: the gradient is not finite, first at {}; the weights were not changed. Try a "
           "smaller train.lr or model.dtype = \"f32\"",
           metrics.at("training/global_step").get<idx>(), FindNonFinite(weights_.layout, grad_));
    }
    const double lr = LearningRate(config_.train, optimizer_.steps(), total_updates);
    const double clip = config_.train.clip_norm;
    const double scale = clip > 0 && norm > clip ? clip / norm : 1.0;
    const double update_start = Seconds();
    optimizer_.Step(weights_.slab, grad_, lr, scale);
    packed_->Update(weights_);
    metrics["timing_s/optimizer"] =
        metrics.value("timing_s/optimizer", 0.0) + Seconds() - update_start;
    metrics["actor/grad_norm"] = norm;
    metrics["actor/lr"] = lr;
    return sum;
  }

  ordered_json Step(idx step) {
    const double step_start = Seconds();
    ordered_json metrics;
    metrics["training/global_step"] = step;
    metrics["training/epoch"] =
        static_cast<double>(collector_->position()) / static_cast<double>(train_problems_.size());
    std::vector<RolloutGroup> groups = collector_->Collect(step, metrics);
    const double recheck_start = Seconds();
    Recheck(step, groups, metrics);
    const double recheck_end = Seconds();
    SetAdvantages(groups, metrics);
    const double adv_end = Seconds();
    KlToStart(step, groups, metrics);
    const double learn_start = Seconds();

    const idx mini = MiniBatchPrompts(config_);
    const idx per_epoch = CeilDiv(config_.rollout.prompts, mini);
    const idx updates = per_epoch * config_.train.epochs;
    const bool on_policy = updates == 1;
    const ClipConfig clip{config_.algorithm.clip_low, config_.algorithm.clip_high,
                          config_.algorithm.clip_dual};
    const LossFunction loss =
        on_policy ? LossFunction([](double, double, double a) { return PolicyGradientLoss(a); })
                  : LossFunction([clip](double policy, double rollout, double a) {
                      return PpoClipLoss(policy, rollout, a, clip);
                    });
    LearnResult all;
    LearnResult exact;  // of the first update: the later ones are off policy by design
    for (idx u = 0; u < updates; ++u) {
      const idx first = u % per_epoch * mini;
      const idx last = std::min(config_.rollout.prompts, first + mini);
      LearnResult r = Learn(groups, static_cast<std::size_t>(first), static_cast<std::size_t>(last),
                            loss, metrics, u, config_.train.steps * updates);
      all.Add(r);
      if (u == 0) exact = r;
    }
    const double learn_end = Seconds();
    PutRolloutMetrics(groups, metrics);
    PutLearnMetrics(groups, all, metrics);
    metrics["actor/pg_loss"] = all.loss / static_cast<double>(updates);
    metrics["training/optimizer_steps"] = updates;
    metrics["exact/compared_tokens"] = exact.compared_tokens;
    metrics["exact/mismatched_tokens"] = exact.mismatched_tokens;
    metrics["exact/logprob_diff_max"] = exact.logprob_diff_max;
    metrics["exact/rollout_digest"] = RolloutDigest(groups);
    metrics["exact/weights_digest"] = weights_.DigestHex();
    metrics["timing_s/recheck"] = recheck_end - recheck_start;
    metrics["timing_s/adv"] = adv_end - recheck_end;
    metrics["timing_s/ref"] = learn_start - adv_end;
    metrics["timing_s/update_actor"] = learn_end - learn_start;
    metrics["timing_s/step"] = learn_end - step_start;
    metrics["step_time"] = learn_end - step_start;
    PutPerformanceMetrics(weights_.config, groups, all, gemm_rate_, metrics);

    if (config_.eval.every > 0 && step % config_.eval.every == 0 && !eval_problems_.empty()) {
      const double start = Seconds();
      const EvalResult eval = Eval(step);
      metrics[fmt::format("val-core/{}/reward/mean@{}", eval_problems_.front().data_source,
                          config_.eval.samples)] = eval.pass_rate;
      metrics["timing_s/testing"] = Seconds() - start;
      last_eval_ = eval.pass_rate;
      last_eval_step_ = step;
    }
    if (save_seconds_ > 0) metrics["timing_s/save_checkpoint"] = std::exchange(save_seconds_, 0.0);
    WriteSamples(step, groups);
    log_->Write(metrics);
    return metrics;
  }

  // The tape's part of E1: what is on it is what the learner would compute.
  void Recheck(idx step, const std::vector<RolloutGroup>& groups, ordered_json& metrics) {
    const auto result =
        learner_->Recheck(groups, tape_, config_.train.seed, static_cast<std::uint64_t>(step),
                          RecheckRows(tape_.rows));
    metrics["exact/taped_rows"] = tape_.rows;
    metrics["exact/rechecked_rows"] = result.rows;
    metrics["exact/mismatched_rows"] = result.mismatched;
    if (result.mismatched == 0) return;
    Fail(ErrorCode::kExactness,
         "step {}: {} of {} rows of the tape differ from what the learner computes: the exactness "
         "contract is broken; the weights were not changed. run.tape_mb = 0 does without the tape; "
         "`opo doctor` checks this machine",
         step, result.mismatched, result.rows);
  }

  void KlToStart(idx step, const std::vector<RolloutGroup>& groups, ordered_json& metrics) {
    if (config_.monitor.kl_every <= 0 || step % config_.monitor.kl_every != 0) return;
    std::vector<RolloutGroup> scored = groups;
    Score(*reference_model_, std::span<RolloutGroup>(scored),
          TrainingSampling(config_, step).inv_temperature());
    double k1 = 0;
    double k3 = 0;
    idx tokens = 0;
    for (std::size_t g = 0; g < groups.size(); ++g) {
      for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
        const auto& policy = groups[g].rollouts[s].logprobs;
        const auto& start = scored[g].rollouts[s].logprobs;
        for (std::size_t t = 0; t < policy.size(); ++t, ++tokens) {
          const double d = static_cast<double>(policy[t]) - static_cast<double>(start[t]);
          k1 += d;
          k3 += std::exp(-d) + d - 1;
        }
      }
    }
    metrics["monitor/kl_k1"] = k1 / static_cast<double>(tokens);
    metrics["monitor/kl_k3"] = k3 / static_cast<double>(tokens);
  }

  void WriteSamples(idx step, const std::vector<RolloutGroup>& groups) {
    idx left = config_.monitor.samples_per_step;
    for (const RolloutGroup& group : groups) {
      if (left-- <= 0) return;
      const Rollout& rollout = group.rollouts.front();
      const Problem& problem = train_problems_[static_cast<std::size_t>(group.problem)];
      ordered_json line;
      line["training/global_step"] = step;
      line["step"] = step;
      line["input"] = prompts_.RenderText(problem.messages);
      line["output"] = rollout.text;
      line["gts"] = problem.answer;
      line["score"] = rollout.scores.total.value;
      line["verdict"] = VerdictName(rollout.scores.total.verdict);
      line["note"] = rollout.scores.total.note;
      line["advantage"] = rollout.advantage;
      line["finish_reason"] = FinishReasonName(rollout.finish);
      line["length"] = rollout.length();
      log_->WriteSample(line);
    }
  }

  const TrainConfig& config_;
  const TrainOptions& options_;
  Tokenizer tokenizer_;
  std::string base_path_;
  Weights weights_;
  AdamW optimizer_;
  PromptRenderer prompts_;
  RewardSet rewards_;
  const Algorithm& algorithm_;
  std::vector<Problem> train_problems_, eval_problems_;
  std::optional<PromptOrder> order_;
  std::unique_ptr<PackedWeights<T>> packed_, reference_;
  std::unique_ptr<Transformer<T>> model_, reference_model_;
  std::unique_ptr<Learner<T>> learner_;
  Tape<T> tape_;
  std::unique_ptr<RunLog> log_;
  std::unique_ptr<RewardJournal> journal_;
  std::unique_ptr<Collector<T>> collector_;
  Buffer<float> grad_;
  std::string initial_digest_, data_digest_;
  idx prompt_position_ = 0;  // where the run begins, or goes on
  double gemm_rate_ = 0;
  double save_seconds_ = 0;
  double last_eval_ = 0;
  idx last_eval_step_ = -1;
  double best_reward_ = -1e300;
  idx best_step_ = -1;
};

}  // namespace

TrainResult Train(const TrainConfig& config, const TrainOptions& options) {
  ValidateTrainConfig(config);
  SelectIsa(config.run.isa);
  SetNumThreads(static_cast<int>(config.run.threads));
  if (config.model.dtype == "f32") return Trainer<float>(config, options).Run();
  return Trainer<bf16>(config, options).Run();
}

}  // namespace opo
