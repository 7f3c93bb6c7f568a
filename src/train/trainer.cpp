#include "train/trainer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <optional>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "data/data_set.h"
#include "data/prompt_order.h"
#include "rollout/prompts.h"
#include "train/collect.h"
#include "train/evaluate.h"
#include "train/exchange.h"
#include "train/floor.h"
#include "train/plan.h"
#include "train/policy.h"
#include "train/run_folder.h"
#include "train/run_log.h"
#include "train/signal_guard.h"
#include "train/step_metrics.h"
#include "train/update.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

template <class T>
class Trainer {
 public:
  Trainer(const TrainConfig& config, const TrainOptions& options, Comm& comm)
      : config_(config),
        options_(options),
        comm_(comm),
        tokenizer_(PolicyTokenizer(config)),
        plan_(PlanRun(config, PolicyShape(config, tokenizer_), comm)),
        base_path_(BasePath(config)),
        weights_(PolicyWeights(config, tokenizer_)),
        optimizer_(weights_.layout, config.train, comm),
        prompts_(tokenizer_, config.data.system),
        rewards_(RewardTerms(config), !options.replays()),
        algorithm_(FindAlgorithm(config.algorithm.name)),
        folder_(config.run.dir),
        guard_(config, train_problems_, prompts_) {
    if (tokenizer_.vocab_size() > weights_.config.vocab_size) {
      Fail(ErrorCode::kInput, "{}: the tokenizer has {} entries, the model's vocabulary {}",
           config.model.path, tokenizer_.vocab_size(), weights_.config.vocab_size);
    }
    DataSets data = LoadDataSets(config.data);
    FitPrompts(prompts_, config.data, data);
    for (const std::string& note : data.notes) {
      if (comm_.root()) fmt::print(stderr, "{}\n", note);
    }
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
    tape_.max_bytes = plan_.tape_budget;
    updater_ = std::make_unique<Updater<T>>(
        typename Updater<T>::Parts{config_, weights_, optimizer_, *packed_, *model_, tape_, comm_,
                                   guard_},
        plan_.micro_batch_budget);
    if (comm_.root()) {
      gemm_rate_ =
          MeasureGemmRate(weights_.config, sizeof(T) == 2 ? DType::kBf16 : DType::kF32, 0.2);
    }
    if (options_.replays()) {
      journal_ = std::make_unique<RewardJournal>(dir, step, comm_);
    } else {
      if (comm_.root()) log_ = std::make_unique<RunLog>(dir, step, config_.monitor.tensorboard);
      journal_ = std::make_unique<RewardJournal>(dir, step, options_.resume, comm_);
    }
    if (options_.on_begin && comm_.root()) options_.on_begin(step);
    collector_ = std::make_unique<Collector<T>>(
        typename Collector<T>::Parts{config_, *model_, tokenizer_, prompts_, train_problems_,
                                     *order_, rewards_, *journal_, tape_, comm_},
        prompt_position_);

    if (options_.final_eval && !eval_problems_.empty()) result.before = Eval(step);
    {
      const idx last = options_.replays() ? options_.replay_to : config_.train.steps;
      Progress progress(last, "step", step);
      for (bool stop = comm_.Max(signals.caught()) != 0; !stop && step < last;) {
        ++step;
        const ordered_json metrics = Step(step);
        if (options_.on_step && comm_.root()) options_.on_step(metrics);
        result.reward = metrics.at("critic/score/mean").get<double>();
        if (options_.progress && comm_.root()) {
          progress.Update(
              step, fmt::format("reward {:.3f}  length {:.1f}  grad {:.3f}  {:.1f}s", result.reward,
                                metrics.at("response_length/mean").get<double>(),
                                metrics.at("actor/grad_norm").get<double>(),
                                metrics.at("timing_s/step").get<double>()));
        }
        // Asked once: what it decides must not change below.
        result.signal = comm_.Max(signals.caught());
        stop = result.signal != 0;
        const bool due = config_.checkpoint.every > 0 && step % config_.checkpoint.every == 0;
        if (options_.replays()) continue;
        if (due || stop || step == last) Save(step);
      }
    }
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

  // All ranks have the root's program path, data and weights.
  void AgreeOn(const ordered_json& manifest) {
    const std::vector<std::string> all = comm_.AllGather(manifest.dump());
    const ordered_json root = ordered_json::parse(all.front());
    for (std::size_t r = 1; r < all.size(); ++r) {
      const ordered_json theirs = ordered_json::parse(all[r]);
      for (const auto& [key, value] : root.items()) {
        if (theirs.value(key, ordered_json()) == value) continue;
        Fail(
            ErrorCode::kUsage,
            "rank {} ({}): `{}` is {} there and {} at rank 0 ({}); all ranks need the same "
            "program, model and data, and an instruction-set path that all machines have (run.isa)",
            r, comm_.host(static_cast<int>(r)), key, theirs.value(key, ordered_json()).dump(),
            value.dump(), comm_.host(0));
      }
    }
  }

  // Makes or continues the run's folder; returns the steps already taken.
  idx Open() {
    initial_digest_ = weights_.DigestHex();
    if (config_.monitor.kl_every > 0 && !options_.replays()) {
      const bool shared = BeginsAsItsBase(config_, weights_.config);
      if (!shared) reference_ = std::make_unique<PackedWeights<T>>(weights_, false);
      reference_model_ = std::make_unique<Transformer<T>>(shared ? *packed_ : *reference_, !shared);
    }
    AgreeOn(Manifest());
    if (!options_.resume && !options_.replays()) {
      if (comm_.root()) folder_.Begin(PrintTrainConfig(config_), Manifest());
      return 0;
    }
    if (comm_.root()) {
      if (options_.replays()) {
        ordered_json manifest = Manifest();
        manifest.erase("isa");  // the name is free where the fingerprint is the same
        folder_.Compare(manifest);
      } else {
        folder_.Continue(Manifest());
      }
    }
    const auto kept = options_.replays()
                          ? folder_.Load(weights_, optimizer_, comm_, options_.replay_from)
                          : folder_.Load(weights_, optimizer_, comm_);
    if (!kept.has_value()) return 0;
    packed_->Update(weights_);
    guard_.SetSkipped(kept->state.value("nonfinite_skipped", idx{0}));
    // Checkpoints from before there was dynamic sampling do not name it.
    prompt_position_ = kept->state.value("prompt_position", kept->step * config_.rollout.prompts);
    return kept->step;
  }

  void Save(idx step) {
    const double start = Seconds();
    comm_.Note("checkpoint", step);
    if (!comm_.root()) return optimizer_.SendTensors();
    // A power cut must not leave a checkpoint that is newer than the lines of its steps.
    log_->Sync();
    journal_->Sync();
    ordered_json state;
    state["prompt_position"] = collector_->position();
    state["nonfinite_skipped"] = guard_.skipped();
    state["manifest"] = Manifest();
    folder_.Save(step, weights_, optimizer_, tokenizer_, base_path_, std::move(state),
                 config_.checkpoint);
    save_seconds_ = Seconds() - start;
  }

  EvalResult Eval(idx step) {
    comm_.Note("evaluation", step);
    EvalSettings settings;
    settings.place = {journal_.get(), step, "eval", config_.eval.samples};
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
    return Evaluate(*model_, tokenizer_, prompts_, eval_problems_, rewards_, settings, comm_);
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
    AdvantageResult result = algorithm_.advantages(batch);
    CorruptNumbers("advantage", std::span(result.advantages));
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

  // How the work fell to the ranks, and what their messages took.
  void PutRankMetrics(const std::vector<RolloutGroup>& groups, const Comm::Traffic& before,
                      ordered_json& metrics) const {
    if (comm_.alone()) return;
    std::vector<idx> rows(static_cast<std::size_t>(comm_.size()));
    for (std::size_t g = 0; g < groups.size(); ++g) {
      const int rank = collector_->deal().RankOf(ShardOf(config_, static_cast<idx>(g)));
      rows[static_cast<std::size_t>(rank)] += static_cast<idx>(groups[g].prompt.size()) - 1;
      for (const Rollout& r : groups[g].rollouts) {
        rows[static_cast<std::size_t>(rank)] += r.length();
      }
    }
    const double most = static_cast<double>(*std::max_element(rows.begin(), rows.end()));
    const double all = static_cast<double>(std::accumulate(rows.begin(), rows.end(), idx{0}));
    metrics["ranks/count"] = comm_.size();
    metrics["ranks/balance"] = all / (most * static_cast<double>(comm_.size()));
    metrics["ranks/bytes_sent"] = comm_.traffic().bytes - before.bytes;
    metrics["timing_s/wait"] = comm_.traffic().wait_s - before.wait_s;
  }

  ordered_json Step(idx step) {
    SetFaultStep(step);
    if (CorruptNumbers("weight", weights_.slab.span())) packed_->Update(weights_);
    const double step_start = Seconds();
    const Comm::Traffic traffic = comm_.traffic();
    ordered_json metrics;
    metrics["training/global_step"] = step;
    metrics["training/epoch"] =
        static_cast<double>(collector_->position()) / static_cast<double>(train_problems_.size());
    updater_->FlipPacked("packed");
    std::vector<RolloutGroup> groups = collector_->Collect(step, metrics);
    updater_->FlipPacked("packed_learn");
    updater_->FlipSampled(groups);
    const double recheck_start = Seconds();
    updater_->Recheck(step, groups, metrics);
    const double recheck_end = Seconds();
    SetAdvantages(groups, metrics);
    const double adv_end = Seconds();
    KlToStart(step, groups, metrics);
    const double learn_start = Seconds();

    const LearnResult learned = updater_->Update(step, groups, collector_->deal(), metrics);
    const double learn_end = Seconds();
    metrics["training/nonfinite_skipped"] = guard_.skipped();
    PutRolloutMetrics(groups, metrics);
    PutLearnMetrics(groups, learned, metrics);
    metrics["exact/rollout_digest"] = RolloutDigest(groups);
    metrics["exact/weights_digest"] = AgreedDigest(step);
    metrics["timing_s/recheck"] = recheck_end - recheck_start;
    metrics["timing_s/adv"] = adv_end - recheck_end;
    metrics["timing_s/ref"] = learn_start - adv_end;
    metrics["timing_s/update_actor"] = learn_end - learn_start;
    metrics["timing_s/step"] = learn_end - step_start;
    metrics["step_time"] = learn_end - step_start;
    PutPerformanceMetrics(weights_.config, groups, learned,
                          gemm_rate_ * static_cast<double>(comm_.size()), metrics);
    PutRankMetrics(groups, traffic, metrics);
    if (options_.replays()) return metrics;

    if (config_.eval.every > 0 && step % config_.eval.every == 0 && !eval_problems_.empty()) {
      const double start = Seconds();
      const EvalResult eval = Eval(step);
      metrics[fmt::format("val-core/{}/reward/mean@{}", eval_problems_.front().data_source,
                          config_.eval.samples)] = eval.pass_rate;
      metrics["timing_s/testing"] = Seconds() - start;
      folder_.NoteEval(step, eval.pass_rate);
    }
    if (save_seconds_ > 0) metrics["timing_s/save_checkpoint"] = std::exchange(save_seconds_, 0.0);
    if (comm_.root()) {
      WriteSamples(step, groups);
      log_->Write(metrics);
    }
    return metrics;
  }

  // All ranks have taken the same step.
  std::string AgreedDigest(idx step) {
    const std::vector<std::string> all = comm_.AllGather(weights_.DigestHex());
    for (std::size_t r = 1; r < all.size(); ++r) {
      if (all[r] == all.front()) continue;
      Fail(
          ErrorCode::kExactness,
          "step {}: the weights of rank {} ({}) differ from those of rank 0 ({}): the exactness "
          "contract is broken; the newest checkpoint is from before. `opo doctor` checks a machine",
          step, r, comm_.host(static_cast<int>(r)), comm_.host(0));
    }
    return all.front();
  }

  void KlToStart(idx step, const std::vector<RolloutGroup>& groups, ordered_json& metrics) {
    if (config_.monitor.kl_every <= 0 || step % config_.monitor.kl_every != 0) return;
    if (options_.replays()) return;  // it changes nothing
    comm_.Note("reference", step);
    std::vector<RolloutGroup> scored = groups;
    std::vector<int> owner;
    for (std::size_t g = 0; g < groups.size(); ++g) {
      owner.push_back(collector_->deal().RankOf(ShardOf(config_, static_cast<idx>(g))));
    }
    ShareGroups(comm_, scored, owner, [&](std::span<RolloutGroup> own) {
      Score(*reference_model_, own, TrainingSampling(config_, step).inv_temperature());
    });
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
  Comm& comm_;
  Tokenizer tokenizer_;
  MemoryPlan plan_;
  std::string base_path_;
  Weights weights_;
  AdamW optimizer_;
  PromptRenderer prompts_;
  RewardSet rewards_;
  const Algorithm& algorithm_;
  RunFolder folder_;
  std::vector<Problem> train_problems_, eval_problems_;
  NonFiniteGuard guard_;
  std::optional<PromptOrder> order_;
  std::unique_ptr<PackedWeights<T>> packed_, reference_;
  std::unique_ptr<Transformer<T>> model_, reference_model_;
  Tape<T> tape_;
  std::unique_ptr<Updater<T>> updater_;
  std::unique_ptr<RunLog> log_;
  std::unique_ptr<RewardJournal> journal_;
  std::unique_ptr<Collector<T>> collector_;
  std::string initial_digest_, data_digest_;
  idx prompt_position_ = 0;  // where the run begins, or goes on
  double gemm_rate_ = 0;
  double save_seconds_ = 0;
};

// The shards of a run, where the config leaves their number to that of the ranks.
TrainConfig ForRanks(TrainConfig config, const Comm& comm) {
  OptimizerConfig& train = config.train;
  if (train.shards == 0) train.shards = static_cast<idx>(std::bit_ceil(unsigned(comm.size())));
  if (comm.size() > train.shards) {
    Fail(ErrorCode::kUsage,
         "train.shards = {}: there are {} ranks, and each needs a shard; start fewer{}",
         train.shards, comm.size(),
         train.shards == 1 ? ", or a new run with more shards" : ", or a new run");
  }
  return config;
}

}  // namespace

TrainResult Train(const TrainConfig& given, const TrainOptions& options, Comm& comm) {
  comm.Watch(given.run.heartbeat_s);
  const TrainConfig config = ForRanks(given, comm);
  ValidateTrainConfig(config, !options.replays());
  SelectIsa(config.run.isa);
  SetFaultRank(comm.rank());
  SetNumThreads(config.run.threads > 0 ? static_cast<int>(config.run.threads)
                                       : std::max(1, AllowedCpus() / comm.sharing_cpus()));
  if (config.model.dtype == "f32") return Trainer<float>(config, options, comm).Run();
  return Trainer<bf16>(config, options, comm).Run();
}

}  // namespace opo
