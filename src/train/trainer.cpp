#include "train/trainer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/json.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "data/data_set.h"
#include "data/prompt_order.h"
#include "rollout/prompts.h"
#include "train/collect.h"
#include "train/critic.h"
#include "train/evaluate.h"
#include "train/exchange.h"
#include "train/floor.h"
#include "train/given.h"
#include "train/given_reference.h"
#include "train/learned_reward.h"
#include "train/live_report.h"
#include "train/objective.h"
#include "train/plan.h"
#include "train/policy.h"
#include "train/reference.h"
#include "train/reward_model.h"
#include "train/run_folder.h"
#include "train/run_log.h"
#include "train/sample_gradients.h"
#include "train/samples.h"
#include "train/signal_guard.h"
#include "train/step_metrics.h"
#include "train/trainable.h"
#include "train/update.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

template <class T>
class Trainer {
 public:
  Trainer(const TrainConfig& config, const TrainOptions& options, Comm& comm)
      : config_(config),
        options_(options),
        comm_(comm),
        tokenizer_(PolicyTokenizer(config)),
        plan_(PlanRun(config, PolicyShape(config, tokenizer_, PolicyHeads(config)), comm)),
        policy_(PolicySettings(config, plan_),
                PolicyWeights(config, tokenizer_, PolicyHeads(config)), comm),
        prompts_(tokenizer_, config.data.system),
        rewards_(RewardTerms(config), !options.replays()),
        folder_(config.run.dir),
        guard_(config, train_problems_, prompts_) {
    if (tokenizer_.vocab_size() > policy_.weights().config.vocab_size) {
      Fail(ErrorCode::kInput, "{}: the tokenizer has {} entries, the model's vocabulary {}",
           config.model.path, tokenizer_.vocab_size(), policy_.weights().config.vocab_size);
    }
    rewards_.Prepare(tokenizer_, kDType);
    DataSets data = LoadDataSets(
        config.data, NeedsDemonstrations(config) ? GivenAnswers::kDemonstrations : GivenOf(config));
    DropNarrowStates(config, data);
    FitPrompts(prompts_, config, policy_.weights().config.max_position, data);
    for (const std::string& note : data.notes) {
      if (comm_.root()) fmt::print(stderr, "{}\n", note);
    }
    if (NeedsCritic(config) && !SharesCritic(config)) {
      critic_ = std::make_unique<Critic<T>>(typename Critic<T>::Parts{config_, comm_, guard_},
                                            tokenizer_, plan_.micro_batch_budget);
    }
    data_digest_ = DataDigest(data);
    train_problems_ = std::move(data.train);
    eval_problems_ = std::move(data.eval);
    order_.emplace(std::move(data.sizes), data.weights, config.train.seed, config.data.shuffle);
    if (config.eval.prompts > 0 && static_cast<idx>(eval_problems_.size()) > config.eval.prompts) {
      eval_problems_.resize(static_cast<std::size_t>(config.eval.prompts));
    }
    if (LearnsReward(config)) {
      learned_reward_ = std::make_unique<LearnedReward<T>>(
          typename LearnedReward<T>::Parts{config_, tokenizer_, prompts_, train_problems_, comm_,
                                           guard_},
          plan_.micro_batch_budget);
    }
  }

  TrainResult Run() {
    const SignalGuard signals;
    const std::string& dir = config_.run.dir;
    TrainResult result;
    result.run_dir = dir;
    idx step = Open();
    tape_.max_bytes = plan_.tape_budget;
    updater_ = std::make_unique<Updater<T>>(typename Updater<T>::Parts{
        config_, policy_, tape_, comm_, guard_, tokenizer_, prompts_, train_problems_});
    if (comm_.root()) gemm_rate_ = MeasureGemmRate(policy_.weights().config, kDType, 0.2);
    if (options_.replays()) {
      journal_ = std::make_unique<RewardJournal>(dir, step, comm_);
    } else {
      if (comm_.root()) log_ = std::make_unique<RunLog>(dir, step, config_.monitor.tensorboard);
      journal_ = std::make_unique<RewardJournal>(dir, step, options_.resume, comm_);
    }
    if (options_.on_begin && comm_.root()) options_.on_begin(step);
    collector_ = std::make_unique<Collector<T>>(
        typename Collector<T>::Parts{
            config_, policy_.model(), tokenizer_, prompts_, train_problems_, *order_, rewards_,
            *journal_, tape_, comm_,
            learned_reward_ ? [this](std::span<RolloutGroup> own) { learned_reward_->Score(own); }
                            : std::function<void(std::span<RolloutGroup>)>()},
        prompt_position_);
    collector_->carried().Restore(carried_, std::ssize(train_problems_),
                                  policy_.weights().config.vocab_size);

    if (options_.final_eval && !eval_problems_.empty()) result.before = Eval(step);
    {
      const idx last = options_.replays() ? options_.replay_to : config_.train.steps;
      Progress progress(last, "step", step);
      const bool reports = comm_.root() && !options_.replays();
      LiveReport report(dir, reports ? config_.monitor.report_every : 0);
      if (step >= last || Spent()) report.AfterStep(step, true);  // a kill may have left none
      for (bool stop = comm_.Max(signals.caught()) != 0; !stop && step < last && !Spent();) {
        ++step;
        const ordered_json metrics = Step(step);
        tokens_ += metrics.at("perf/total_num_tokens").get<idx>();
        if (options_.on_step && comm_.root()) options_.on_step(metrics);
        result.reward = metrics.value("critic/score/mean", 0.0);
        result.loss = metrics.value("actor/pg_loss", std::nan(""));  // none: a critic learned alone
        if (options_.progress && comm_.root()) {
          progress.Update(step, fmt::format("{} {:.3f}  length {:.1f}  grad {:.3f}  {:.1f}s",
                                            IsGiven(config_) ? "loss" : "reward",
                                            IsGiven(config_) ? result.loss : result.reward,
                                            metrics.at("response_length/mean").get<double>(),
                                            metrics.at("actor/grad_norm").get<double>(),
                                            metrics.at("timing_s/step").get<double>()));
        }
        // Asked once: what it decides must not change below.
        result.signal = comm_.Max(signals.caught());
        stop = result.signal != 0;
        const bool due = config_.checkpoint.every > 0 && step % config_.checkpoint.every == 0;
        if (options_.replays()) continue;
        const bool end = stop || step == last || Spent();
        if (due || end) Save(step);
        report.AfterStep(step, end);
      }
    }
    const bool evaluate = options_.final_eval && !eval_problems_.empty() && result.signal == 0;
    if (evaluate) result.after = Eval(step);
    result.steps = step;
    result.weights_digest = policy_.weights().DigestHex();
    return result;
  }

 private:
  static constexpr DType kDType = sizeof(T) == 2 ? DType::kBf16 : DType::kF32;

  bool Spent() const { return config_.train.max_tokens > 0 && tokens_ >= config_.train.max_tokens; }

  static typename Trainable<T>::Settings PolicySettings(const TrainConfig& config,
                                                        const MemoryPlan& plan) {
    return {
        .name = "actor",
        .base = BasePath(config),
        .optimizer = config.train,
        .updates = (config.train.steps - config.critic.pretrain_steps) * UpdatesPerBatch(config),
        .micro_batch_bytes = plan.micro_batch_budget,
        .inv_temperature = TrainingSampling(config, 0).inv_temperature(),
        .pack = IsGiven(config)};
  }

  // What learns, the policy first.
  std::vector<Trainable<T>*> Trained() {
    std::vector<Trainable<T>*> trained = {&policy_};
    if (critic_ != nullptr) trained.push_back(&critic_->model());
    if (learned_reward_ != nullptr) trained.push_back(&learned_reward_->model());
    return trained;
  }
  std::vector<CheckpointModel> Models() {
    std::vector<CheckpointModel> models;
    for (Trainable<T>* model : Trained()) {
      models.push_back({model->name(), model->weights(), model->optimizer(), model->base()});
    }
    return models;
  }

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
    if (learned_reward_) {
      m["reward_model_digest"] = initial_reward_digest_;
      m["pairs_digest"] = learned_reward_->pairs_digest();
    }
    if (critic_ != nullptr) m["initial_critic_digest"] = initial_critic_digest_;
    if (const auto digests = rewards_.Digests(); !digests.empty()) m["reward_models"] = digests;
    if (policy_.weights().config.lora.on()) m["base_digest"] = policy_.packed().base_digest();
    return m;
  }

  bool MonitorsKl() const {  // which changes nothing, so that a replay does without
    return config_.monitor.kl_every > 0 && !options_.replays();
  }

  // While the weights are those that the run began with.
  void ReferToGiven() {
    const auto make = [&](const std::vector<Problem>& problems, const char* what) {
      return std::make_unique<GivenReference<T>>(
          typename GivenReference<T>::Parts{
              .config = config_,
              .model = policy_.model(),
              .weights_digest = initial_digest_ + policy_.packed().base_digest(),
              .problems = problems,
              .prompts = prompts_,
              .group = [&](idx p) { return Given(problems, p); },
              .what = what,
              .writes = !options_.replays(),
              .progress = options_.progress},
          comm_);
    };
    given_reference_ = make(train_problems_, "training");
    if (!eval_problems_.empty()) eval_reference_ = make(eval_problems_, "evaluation");
  }

  RolloutGroup Given(const std::vector<Problem>& problems, idx p) {
    RolloutGroup group = GivenGroup(config_, policy_.weights().config.max_position, tokenizer_,
                                    prompts_, problems[static_cast<std::size_t>(p)]);
    group.problem = p;
    return group;
  }

  // Makes or continues the run's folder; returns the steps already taken.
  idx Open() {
    initial_digest_ = policy_.weights().DigestHex();
    if (critic_ != nullptr) initial_critic_digest_ = critic_->model().weights().DigestHex();
    if (learned_reward_ != nullptr) {
      initial_reward_digest_ = learned_reward_->model().weights().DigestHex();
    }
    // Now the weights are those that the run began with; a checkpoint's take their place below.
    const bool refers = TermsNeedReference(config_.algorithm) || MonitorsKl();
    if (refers && !IsGiven(config_)) {
      reference_ = std::make_unique<Reference<T>>(config_, policy_.weights(), policy_.packed());
    }
    ordered_json manifest = Manifest();
    AgreeOn(comm_, manifest);
    if (!options_.resume && !options_.replays()) {
      if (comm_.root()) folder_.Begin(PrintTrainConfig(config_), manifest);
      if (refers && IsGiven(config_)) ReferToGiven();
      return 0;
    }
    if (comm_.root()) {
      if (options_.replays()) {
        manifest.erase("isa");  // the name is free where the fingerprint is the same
        folder_.Compare(manifest);
      } else {
        folder_.Continue(manifest);
      }
    }
    if (refers && IsGiven(config_)) ReferToGiven();
    const auto kept = options_.replays() ? folder_.Load(Models(), comm_, options_.replay_from)
                                         : folder_.Load(Models(), comm_);
    if (!kept.has_value()) return 0;
    for (Trainable<T>* model : Trained()) model->Repack();
    const std::string where = config_.run.dir + ": its checkpoint";
    guard_.SetSkipped(IntegerOr<idx>(kept->state, "nonfinite_skipped", 0, where));
    tokens_ = IntegerOr<idx>(kept->state, "tokens", 0, where);
    carried_ = kept->state.value("carried", ordered_json::array());
    config_.algorithm.kl_coef = kept->state.value("kl_coef", config_.algorithm.kl_coef);
    // Checkpoints from before there was dynamic sampling do not name it.
    prompt_position_ =
        IntegerOr<idx>(kept->state, "prompt_position", kept->step * config_.rollout.prompts, where);
    std::map<std::string, RunningMoments> moments;
    const ordered_json all = kept->state.value("reward_moments", ordered_json::object());
    for (const auto& [name, of] : all.items()) moments[name] = {of.at(0), of.at(1), of.at(2)};
    rewards_.SetMoments(moments, where);
    return kept->step;
  }

  void Save(idx step) {
    const double start = Seconds();
    comm_.Note("checkpoint", step);
    if (!comm_.root()) {
      for (Trainable<T>* model : Trained()) model->optimizer().SendTensors();
      return;
    }
    // A power cut must not leave a checkpoint that is newer than the lines of its steps.
    log_->Sync();
    journal_->Sync();
    ordered_json state;
    state["prompt_position"] = collector_->position();
    state["nonfinite_skipped"] = guard_.skipped();
    state["tokens"] = tokens_;
    if (config_.rollout.window > 0) state["carried"] = collector_->carried().State();
    if (config_.algorithm.kl_target > 0) state["kl_coef"] = config_.algorithm.kl_coef;
    for (const auto& [name, moments] : rewards_.moments()) {
      state["reward_moments"][name] = {moments.count, moments.mean, moments.var};
    }
    state["manifest"] = Manifest();
    folder_.Save(step, Models(), tokenizer_, std::move(state), config_.checkpoint);
    save_seconds_ = Seconds() - start;
  }

  bool ScoresPairs() const { return config_.algorithm.name == "reward_model"; }

  EvalResult EvalGiven(idx step) {
    std::vector<RolloutGroup> groups;
    for (std::size_t i = 0; i < eval_problems_.size(); ++i) {
      groups.push_back(Given(eval_problems_, static_cast<idx>(i)));
    }
    const auto refer = [&](std::span<RolloutGroup> all) {
      if (eval_reference_ == nullptr) return;
      eval_reference_->Score(policy_.model(), all, InTurn(comm_, all.size()), comm_);
    };
    EvalResult result;
    result.loss = EvaluateGiven<T>(policy_.model(), config_, groups, comm_, refer, result.metrics);
    result.score = -result.loss;
    if (!ScoresPairs()) return result;
    PutPairMetrics(groups, "eval/", result.metrics);
    if (config_.checkpoint.best_by == "accuracy") result.score = result.metrics["eval/accuracy"];
    const Calibration calibration = CalibrationOf(ScoreDifferences(groups));
    result.metrics["eval/calibration_error"] = calibration.error;
    if (comm_.root() && !options_.replays()) {
      WriteFileAtomically(config_.run.dir + "/calibration.json",
                          CalibrationJson(step, calibration).dump(2) + "\n");
    }
    return result;
  }

  EvalResult Eval(idx step) {
    comm_.Note("evaluation", step);
    if (IsGiven(config_)) return EvalGiven(step);
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
    return Evaluate(policy_.model(), tokenizer_, prompts_, eval_problems_, rewards_, settings,
                    comm_);
  }

  // |g|^2 of each rollout of the groups whose rewards differ: each rank computes those of its own
  // groups, and all get all. 0 elsewhere, where no algorithm looks.
  std::vector<double> GradientNorms(const std::vector<RolloutGroup>& groups) {
    // Half the learner's memory: what the two keep from call to call stands side by side.
    SampleGradients<T> gradients(policy_.model(), policy_.weights().layout,
                                 plan_.micro_batch_budget / 2,
                                 TrainingSampling(config_, 0).inv_temperature());
    const std::vector<int> owners = collector_->Owners(groups.size());
    std::vector<double> own;
    std::vector<idx> counts;
    for (std::size_t g = 0; g < groups.size(); ++g) {
      counts.push_back(static_cast<idx>(groups[g].rollouts.size()));
      if (owners[g] != comm_.rank()) continue;
      const auto& rollouts = groups[g].rollouts;
      // A KL penalty makes rewards differ that were equal.
      const bool differ =
          KlInReward(config_.algorithm) ||
          std::any_of(rollouts.begin(), rollouts.end(), [&](const Rollout& r) {
            return r.reward != rollouts.front().reward || r.scored() != rollouts.front().scored();
          });
      const std::vector<double> norms =
          differ ? gradients.Compute(groups[g], GradientProducts::kNorms, &tape_).norms
                 : std::vector<double>(rollouts.size());
      own.insert(own.end(), norms.begin(), norms.end());
    }
    return JoinByGroup<double>(comm_, own, counts, owners);
  }

  // How the work fell to the ranks, and what their messages took.
  void PutRankMetrics(const std::vector<RolloutGroup>& groups, const Comm::Traffic& before,
                      ordered_json& metrics) const {
    if (comm_.alone()) return;
    const std::vector<int> owners = collector_->Owners(groups.size());
    std::vector<idx> rows(static_cast<std::size_t>(comm_.size()));
    for (std::size_t g = 0; g < groups.size(); ++g) {
      idx& of_rank = rows[static_cast<std::size_t>(owners[g])];
      of_rank += static_cast<idx>(groups[g].prompt.size()) - 1;
      for (const Rollout& r : groups[g].rollouts) of_rank += r.length();
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
    if (CorruptNumbers("weight", policy_.weights().slab.span())) policy_.Repack();
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
    Refer(step, groups, metrics);
    const double reference_end = Seconds();
    const unsigned needs = FindAlgorithm(config_.algorithm.name).needs;
    const std::vector<double> norms =
        (needs & kNeedsGradientNorms) != 0 ? GradientNorms(groups) : std::vector<double>();
    const double values_start = Seconds();
    if (critic_ != nullptr) critic_->Score(step, groups, collector_->Owners(groups.size()));
    const double values_end = Seconds();
    SetAdvantages(config_, groups, norms, metrics);
    const double critic_start = Seconds();
    LearnValues(step, groups, metrics);
    const double learn_start = Seconds();

    const LearnResult learned = step <= config_.critic.pretrain_steps
                                    ? updater_->Hold(step, groups, metrics)
                                    : updater_->Update(step, groups, collector_->deal(), metrics);
    const double learn_end = Seconds();
    if (ScoresPairs()) PutPairMetrics(groups, "", metrics);
    if (learned_reward_) {
      learned_reward_->Learn(step, groups, metrics);
      metrics["timing_s/update_reward_model"] = Seconds() - learn_end;
    }
    if (step > config_.critic.pretrain_steps) AdaptKlCoef(groups);
    metrics["training/nonfinite_skipped"] = guard_.skipped();
    PutRolloutMetrics(groups, metrics);
    PutLearnMetrics(groups, learned, metrics);
    metrics["exact/rollout_digest"] = RolloutDigest(groups);
    metrics["exact/weights_digest"] = AgreedDigest(step, policy_);
    metrics["timing_s/recheck"] = recheck_end - recheck_start;
    metrics["timing_s/adv"] = critic_start - reference_end - (values_end - values_start);
    if (critic_ != nullptr) {
      metrics["exact/critic_digest"] = AgreedDigest(step, critic_->model());
      metrics["timing_s/values"] = values_end - values_start;
      metrics["timing_s/update_critic"] = learn_start - critic_start;
    }
    metrics["timing_s/ref"] = reference_end - recheck_end;
    metrics["timing_s/update_actor"] = learn_end - learn_start;
    metrics["timing_s/step"] = learn_end - step_start;
    metrics["step_time"] = learn_end - step_start;
    PutPerformanceMetrics(policy_.weights().config, groups, learned,
                          gemm_rate_ * static_cast<double>(comm_.size()), metrics);
    PutRankMetrics(groups, traffic, metrics);
    if (options_.replays()) return metrics;

    if (config_.eval.every > 0 && step % config_.eval.every == 0 && !eval_problems_.empty()) {
      const double start = Seconds();
      const EvalResult eval = Eval(step);
      if (!IsGiven(config_)) {
        PutEvalMetrics(eval, eval_problems_.front().data_source, config_.eval.samples, metrics);
      }
      metrics.update(eval.metrics);
      metrics["timing_s/testing"] = Seconds() - start;
      folder_.NoteEval(step, IsGiven(config_) ? eval.score : eval.pass_rate);
    }
    if (save_seconds_ > 0) metrics["timing_s/save_checkpoint"] = std::exchange(save_seconds_, 0.0);
    if (comm_.root()) {
      for (const ordered_json& line :
           SampleLines(step, groups, train_problems_, prompts_, tokenizer_, config_.monitor)) {
        log_->WriteSample(line);
      }
      log_->Write(metrics);
    }
    return metrics;
  }

  // All ranks have taken the same step.
  std::string AgreedDigest(idx step, const Trainable<T>& model) {
    const std::vector<std::string> all = comm_.AllGather(model.weights().DigestHex());
    for (std::size_t r = 1; r < all.size(); ++r) {
      if (all[r] == all.front()) continue;
      Fail(
          ErrorCode::kExactness,
          "step {}: the weights ({}) of rank {} ({}) differ from those of rank 0 ({}): the "
          "exactness "
          "contract is broken; the newest checkpoint is from before. `opo doctor` checks a machine",
          step, model.name(), r, comm_.host(static_cast<int>(r)), comm_.host(0));
    }
    return all.front();
  }

  // The critic learns the batch's answers, or, where these are windows, those that are finished
  // now.
  void LearnValues(idx step, std::vector<RolloutGroup>& groups, ordered_json& metrics) {
    if (!NeedsCritic(config_)) return;
    std::vector<RolloutGroup>& whole = config_.rollout.window > 0 ? collector_->finished() : groups;
    if (config_.rollout.window > 0) {
      critic_->Score(step, whole, collector_->Owners(whole.size()));
      SetReturns(config_.algorithm, whole);
    }
    PutValueMetrics(whole, metrics);
    if (critic_ != nullptr) critic_->Update(step, whole, collector_->deal(), metrics);
  }

  // Steers the KL estimate to algorithm.kl_target, from the next step on.
  void AdaptKlCoef(const std::vector<RolloutGroup>& groups) {
    AlgorithmConfig& algorithm = config_.algorithm;
    if (algorithm.kl_target == 0) return;
    idx answers = 0;
    for (const RolloutGroup& group : groups) answers += std::ssize(group.rollouts);
    algorithm.kl_coef = AdaptedKlCoef(algorithm.kl_coef, MeanKl(algorithm, groups),
                                      algorithm.kl_target, algorithm.kl_horizon, answers);
  }

  // The log-probs of the reference, where the step asks for them.
  void Refer(idx step, std::vector<RolloutGroup>& groups, ordered_json& metrics) {
    const bool monitored = MonitorsKl() && step % config_.monitor.kl_every == 0;
    if (!TermsNeedReference(config_.algorithm) && !monitored) return;
    comm_.Note("reference", step);
    const std::vector<int> owners = collector_->Owners(groups.size());
    if (given_reference_ != nullptr) {
      given_reference_->Score(policy_.model(), groups, owners, comm_);
      metrics["reference/computed"] = given_reference_->computed();
    } else {
      reference_->Score(step, groups, owners, comm_);
    }
    metrics["reference/weights_bytes"] =
        reference_ == nullptr ? idx{0} : reference_->weights_bytes();
    if (monitored) PutKlToStart(groups, metrics);
  }

  TrainConfig config_;  // algorithm.kl_coef is that of the step at hand
  const TrainOptions& options_;
  Comm& comm_;
  Tokenizer tokenizer_;
  MemoryPlan plan_;
  Trainable<T> policy_;
  PromptRenderer prompts_;
  RewardSet rewards_;
  RunFolder folder_;
  std::vector<Problem> train_problems_, eval_problems_;
  NonFiniteGuard guard_;
  std::unique_ptr<Critic<T>> critic_;  // where the policy has no value head instead
  std::optional<PromptOrder> order_;
  std::unique_ptr<Reference<T>> reference_;                              // of samples
  std::unique_ptr<GivenReference<T>> given_reference_, eval_reference_;  // of given answers
  std::unique_ptr<LearnedReward<T>> learned_reward_;
  Tape<T> tape_;
  std::unique_ptr<Updater<T>> updater_;
  std::unique_ptr<RunLog> log_;
  std::unique_ptr<RewardJournal> journal_;
  std::unique_ptr<Collector<T>> collector_;
  std::string initial_digest_, initial_critic_digest_, initial_reward_digest_, data_digest_;
  ordered_json carried_ = ordered_json::array();  // CarriedAnswers::State(), of a resume
  idx prompt_position_ = 0;                       // where the run begins, or goes on
  idx tokens_ = 0;                                // of prompts and answers so far
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
