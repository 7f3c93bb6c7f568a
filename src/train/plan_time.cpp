// The time of a step, from the engine's own speed on a few layers.
#include <algorithm>
#include <array>

#include "base/clock.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "rollout/sampler.h"
#include "train/given.h"
#include "train/learner.h"
#include "train/optimizer.h"
#include "train/plan.h"

namespace opo {
namespace {

// The shortest of some calls.
class Best {
 public:
  template <class Body>
  void Time(const Body& body) {
    if (seconds_ < 1e30 && seconds_ > kLong) return;
    const double start = Seconds();
    body();
    const double took = Seconds() - start;
    // The first call also pays for the memory that it touches first, unless that is a small part.
    if (calls_++ > 0 || took > kLong) seconds_ = std::min(seconds_, took);
  }
  double seconds() const { return seconds_; }

 private:
  static constexpr double kLong = 5;  // seconds of a call that once is enough of
  int calls_ = 0;
  double seconds_ = 1e30;
};

// Seconds of a model of one layer, and of each further one.
struct LayerSeconds {
  double first = 0, more = 0;
  double At(idx layers) const { return first + more * static_cast<double>(layers - 1); }
};

SamplingConfig SamplingOf(const TrainConfig& config) {
  SamplingConfig sampling;
  sampling.temperature = config.rollout.temperature;
  sampling.top_k = config.rollout.top_k;
  sampling.top_p = config.rollout.top_p;
  sampling.min_p = config.rollout.min_p;
  sampling.repetition_penalty = config.rollout.repetition_penalty;
  sampling.presence_penalty = config.rollout.presence_penalty;
  sampling.frequency_penalty = config.rollout.frequency_penalty;
  return sampling;
}

// A model of random weights that is sampled from and learned.
template <class T>
struct Probe {
  Probe(ModelConfig config, const TrainConfig& train)
      : weights(InitWeights(config, 1, 0.02)),
        packed(weights, true),
        model(packed),
        learner(model, weights.layout,
                {train.train.unit_tokens, idx{1} << 50, SamplingOf(train).inv_temperature()}),
        grad(weights.layout.size) {}
  Weights weights;
  PackedWeights<T> packed;
  Transformer<T> model;
  Learner<T> learner;
  Buffer<float> grad;
};

template <class T>
class StepTimer {
 public:
  StepTimer(const TrainConfig& config, const ModelConfig& model, const StepShape& step,
            const MemoryPlan& plan)
      : config_(config),
        model_(model),
        step_(step),
        plan_(plan),
        more_layers_(std::min(LayerSize(model) > kLarge ? 2 : kLayers, model.num_layers)),
        head_vocab_(std::min(model.vocab_size, kLarge / model.hidden_size)),
        one_(Cut(1, kVocab), config),
        more_(Cut(more_layers_, kVocab), config),
        head_(Cut(1, head_vocab_), config) {
    // As many rows as give work that takes about the time that it may.
    const double head = static_cast<double>(model.hidden_size * model.vocab_size);
    const double layer = static_cast<double>(LayerSize(model));
    rows_ = std::clamp<idx>(static_cast<idx>(kWork / (layer * (1 + kLayers) + head)), 128, 2048);
  }

  StepTimePlan Measure() {
    StepTimePlan out;
    const idx layers = model_.num_layers;
    const idx updates = UpdatesPerBatch(config_);
    out.prefill = step_.shared > 0 ? Prefill() : 0;
    const auto decode_all = [&](idx waves, idx batch) {
      if (waves == 0 || batch == 0) return 0.0;
      return static_cast<double>(waves * step_.tokens) * Decode(batch);
    };
    out.decode = decode_all(step_.samples / step_.slots, step_.slots) +
                 decode_all(1, step_.samples % step_.slots);
    if (NeedsGreedy(config_)) {
      const idx slots = std::min(step_.slots, step_.prompts);
      out.decode += decode_all(CeilDiv(step_.prompts, slots), slots);
      out.prefill *= 2;
    }

    MakeGroups();
    const auto [forward, all] = Each(
        3,
        [&](Probe<T>& probe) {
          for (const RolloutGroup& group : groups_) probe.learner.Compare(group);
        },
        [&](Probe<T>& probe) { Accumulate(probe); });
    Best head;
    for (int i = 0; i < 3; ++i) head.Time([&] { Accumulate(head_); });
    const double measured = static_cast<double>(measured_rows_);
    const double learned = static_cast<double>(step_.rows() * config_.train.epochs);
    // Only a batch's first update finds the tape.
    const double found = static_cast<double>(plan_.taped_rows) *
                         static_cast<double>(MiniBatchPrompts(config_)) /
                         static_cast<double>(config_.rollout.prompts);
    const double forward_row = forward.At(layers) / measured;
    out.recheck = forward_row * static_cast<double>(RecheckRows(plan_.taped_rows));
    out.forward = forward_row * (learned - found + static_cast<double>(plan_.rows_rerun));
    out.backward = std::max(0.0, all.At(layers) - forward.At(layers)) / measured * learned;
    out.head = std::max(0.0, head.seconds() - all.first) * head_scale() /
               static_cast<double>(measured_tokens_) *
               static_cast<double>(step_.samples * step_.tokens * config_.train.epochs);
    // A pass over all rows without a gradient, of whose head the logits are a third.
    double passes = TermsNeedReference(config_.algorithm) ? 1
                    : config_.monitor.kl_every > 0
                        ? 1 / static_cast<double>(config_.monitor.kl_every)
                        : 0;
    if (NeedsPolicyScores(config_)) {
      passes += static_cast<double>(config_.train.epochs) -
                static_cast<double>(MiniBatchPrompts(config_)) /
                    static_cast<double>(config_.rollout.prompts);
    }
    out.score = passes * (forward_row * static_cast<double>(step_.rows()) +
                          out.head / 3 / static_cast<double>(config_.train.epochs));
    out.update = Update() * static_cast<double>(updates);
    if (NeedsCritic(config_) && !SharesCritic(config_)) {
      // About a policy's shape, whose head is one row: nothing of it is on the tape, and all is
      // run forward once more for the values.
      out.score += forward_row * static_cast<double>(step_.rows());
      out.forward += forward_row * (learned + static_cast<double>(plan_.rows_rerun));
      out.backward *= 2;
      out.update *= 2;
    }
    return out;
  }

 private:
  static constexpr idx kLayers = 3;
  static constexpr idx kVocab = 64;            // where the head is not what is measured
  static constexpr double kWork = 4e10;        // parameters times rows of one round of measurements
  static constexpr idx kLarge = idx{1} << 26;  // parameters of a layer or a head to be sparing with

  static idx LayerSize(const ModelConfig& m) {
    return m.hidden_size *
           (m.head_dim * (2 * m.num_heads + 2 * m.num_kv_heads) + 3 * m.intermediate_size);
  }
  // The head's time goes with the vocabulary.
  double head_scale() const {
    return static_cast<double>(model_.vocab_size) / static_cast<double>(head_vocab_);
  }

  ModelConfig Cut(idx layers, idx vocab) const {
    ModelConfig c = model_;
    c.num_layers = layers;
    c.vocab_size = std::min(vocab, model_.vocab_size);
    c.bos_id = c.pad_id = -1;
    c.eos_ids.clear();
    return c;
  }

  // Times each body(probe) with one layer and with more, in turn, so that a machine that is busy
  // for a while slows all of them.
  template <class... Bodies>
  std::array<LayerSeconds, sizeof...(Bodies)> Each(int rounds, const Bodies&... bodies) {
    std::array<Best, sizeof...(Bodies)> one, more;
    for (int i = 0; i <= rounds; ++i) {
      std::size_t at = 0;
      const auto time = [&](const auto& body) {
        one[at].Time([&] { body(one_); });
        more[at++].Time([&] { body(more_); });
      };
      (time(bodies), ...);
    }
    std::array<LayerSeconds, sizeof...(Bodies)> out;
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = Layers(one[i], more[i]);
    return out;
  }

  LayerSeconds Layers(const Best& one, const Best& more) const {
    if (more_layers_ == 1) return {one.seconds(), 0};
    return {one.seconds(),
            std::max(0.0, more.seconds() - one.seconds()) / static_cast<double>(more_layers_ - 1)};
  }

  std::vector<TokenId> Tokens(idx count, std::uint64_t key) const {
    std::vector<TokenId> tokens;
    const auto vocab = static_cast<std::uint64_t>(std::min(kVocab, model_.vocab_size));
    for (idx i = 0; i < count; ++i) {
      tokens.push_back(static_cast<TokenId>(MixBits(key, static_cast<std::uint64_t>(i)) % vocab));
    }
    return tokens;
  }

  // Prompts side by side; of a long one, rows from its middle.
  double Prefill() {
    const idx count = std::min({step_.shared, rows_, kPrefillRows});
    const idx start = (step_.shared - count) / 2 / kActivationRows * kActivationRows;
    const idx prompts = std::clamp<idx>(rows_ / count, 1, step_.prompts);
    const std::vector<TokenId> tokens = Tokens(count, 1);
    const auto [seconds] = Each(3, [&](Probe<T>& probe) {
      std::vector<Segment<T>> segments;
      std::vector<Run<T>> runs(static_cast<std::size_t>(prompts));
      for (idx p = 0; p < prompts; ++p) segments.emplace_back(&probe.model.pool());
      for (std::size_t p = 0; p < runs.size(); ++p) {
        segments[p].Grow(start, Record::kNone);
        segments[p].SetLength(start);
        runs[p].segment = &segments[p];
        runs[p].tokens = tokens.data();
        runs[p].count = count;
        runs[p].record = plan_.taped_prompts > 0 ? Record::kAll : Record::kNone;
        runs[p].outputs = false;
      }
      probe.model.Forward(runs, nullptr);
    });
    return seconds.At(model_.num_layers) * static_cast<double>(step_.prompts * step_.shared) /
           static_cast<double>(prompts * count);
  }

  // A decode step's rows, half-way through. Pages are zero, which takes the same time.
  struct DecodeBatch {
    std::vector<Segment<T>> prefixes, segments;
    std::vector<Run<T>> runs;
  };
  DecodeBatch MakeBatch(Probe<T>& probe, const std::vector<TokenId>& tokens) const {
    DecodeBatch out;
    const auto add = [&](std::vector<Segment<T>>& list, idx rows) {
      list.emplace_back(&probe.model.pool());
      list.back().Grow(rows, Record::kNone);
      list.back().SetLength(rows);
    };
    const idx batch = static_cast<idx>(tokens.size());
    const idx taped = batch * plan_.taped_samples / step_.samples;
    const idx samples = config_.rollout.samples;
    for (idx p = 0; p < CeilDiv(batch, samples); ++p) add(out.prefixes, step_.shared);
    for (idx s = 0; s < batch; ++s) {
      add(out.segments, step_.tokens / 2 / kActivationRows * kActivationRows);
    }
    for (idx s = 0; s < batch; ++s) {
      Run<T>& run = out.runs.emplace_back();
      run.segment = &out.segments[static_cast<std::size_t>(s)];
      if (step_.shared > 0) run.prefix = &out.prefixes[static_cast<std::size_t>(s / samples)];
      run.tokens = &tokens[static_cast<std::size_t>(s)];
      run.count = 1;
      run.record = s < taped ? Record::kAll : Record::kNone;
    }
    return out;
  }

  // A decode step of `batch` samples. The head runs in between, so that the layers find a cold
  // cache as the whole model's do.
  double Decode(idx batch) {
    const std::vector<TokenId> tokens = Tokens(batch, 2);
    const idx ld = head_.model.ld();
    const idx ld_v = head_.model.ld_logits();
    Buffer<T> hidden(batch * ld);
    Buffer<float> logits(std::min(batch, kLogitRows) * ld_v);
    const SamplingConfig sampling = SamplingOf(config_);
    Best head;
    const auto run_head = [&] {
      for (idx first = 0; first < batch; first += kLogitRows) {
        const idx rows = std::min(kLogitRows, batch - first);
        head_.model.Logits(hidden.data() + first * ld, rows, logits.data());
        ParallelFor(rows, [&](idx r) {
          (void)SampleToken(logits.data() + r * ld_v, head_vocab_, sampling, {}, 0.5);
        });
      }
    };
    DecodeBatch one = MakeBatch(one_, tokens), more = MakeBatch(more_, tokens);
    Best first, all;
    for (int i = 0; i <= 5; ++i) {
      first.Time([&] { one_.model.Forward(one.runs, hidden.data()); });
      head.Time(run_head);
      all.Time([&] { more_.model.Forward(more.runs, hidden.data()); });
      head.Time(run_head);
    }
    return Layers(first, all).At(model_.num_layers) + head.seconds() * head_scale();
  }

  // Groups of the real lengths; fewer of them, and fewer samples, where these are many rows.
  void MakeGroups() {
    const idx samples =
        std::clamp<idx>((rows_ - step_.shared) / step_.tokens, 1, config_.rollout.samples);
    const idx rows = samples * step_.tokens + step_.shared;
    const idx groups = std::clamp<idx>(rows_ / rows, 1, step_.prompts);
    measured_rows_ = groups * rows;
    measured_tokens_ = groups * samples * step_.tokens;
    for (idx g = 0; g < groups; ++g) {
      RolloutGroup& group = groups_.emplace_back();
      group.prompt = Tokens(step_.shared + 1, static_cast<std::uint64_t>(3 + g));
      for (idx s = 0; s < samples; ++s) {
        Rollout& rollout = group.rollouts.emplace_back();
        rollout.tokens = Tokens(step_.tokens, static_cast<std::uint64_t>(1000 + g * samples + s));
        rollout.logprobs.resize(rollout.tokens.size());
        rollout.norms.resize(rollout.tokens.size());
        rollout.advantage = s % 2 == 0 ? 0.5 : -0.5;
      }
    }
  }

  void Accumulate(Probe<T>& probe) {
    std::vector<LearnGroup> learn;
    for (const RolloutGroup& group : groups_) {
      learn.push_back({&group, std::vector<double>(group.rollouts.size(), 1e-3), -1});
      learn.back().on_policy = LearnsOnPolicy(config_, 0) && !IsGiven(config_);
    }
    probe.learner.Accumulate(learn, OnPolicyLoss, probe.grad.data());
  }

  // By parameters; zeroing the gradient is part of it.
  double Update() {
    AdamW optimizer(head_.weights.layout, config_.train);
    Best best;
    for (int i = 0; i < 3; ++i) {
      best.Time([&] {
        std::fill_n(head_.grad.data(), head_.grad.size(), 0.0f);
        const double norm = GradientNorm(head_.grad);
        optimizer.Step(head_.weights.slab, head_.grad, 0.0, norm > 1 ? 1 / norm : 1.0);
        head_.packed.Update(head_.weights);
      });
    }
    return best.seconds() * static_cast<double>(SlabLayout(model_).size) /
           static_cast<double>(head_.weights.layout.size);
  }

  const TrainConfig& config_;
  const ModelConfig& model_;
  const StepShape& step_;
  const MemoryPlan& plan_;
  idx more_layers_, head_vocab_;
  Probe<T> one_, more_, head_;
  idx rows_ = 0;  // to measure with
  std::vector<RolloutGroup> groups_;
  idx measured_rows_ = 0, measured_tokens_ = 0;
};

}  // namespace

StepTimePlan PlanStepTime(const TrainConfig& given, const ModelConfig& model, idx prompt_tokens,
                          idx completion_tokens, const MemoryPlan& plan) {
  const TrainConfig config = AsSampled(given, model);
  const StepShape step(config, prompt_tokens, completion_tokens);
  const MemoryPlan of_step = PlanStepMemory(config, model, prompt_tokens, completion_tokens, plan);
  StepTimePlan time = config.model.dtype == "f32"
                          ? StepTimer<float>(config, model, step, of_step).Measure()
                          : StepTimer<bf16>(config, model, step, of_step).Measure();
  if (!IsGiven(given)) return time;
  time.prefill = time.decode = 0;
  if (ScoresGiven(given)) time.score += time.forward;
  return time;
}

}  // namespace opo
