#include "train/plan.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "kernels/gemm.h"
#include "model/load.h"
#include "train/critic.h"
#include "train/floor.h"
#include "train/given.h"
#include "train/learned_reward.h"
#include "train/learner.h"
#include "train/policy.h"

namespace opo {
namespace {

constexpr idx kMaxMicroBatch = idx{1} << 30;  // larger ones are not faster
constexpr idx kProcessBytes = idx{32} << 20;  // a vocabulary of 49152 is most of it
constexpr idx kRowBookkeeping = 160;          // indices and pointers (transformer_grad.cpp)

// Bytes of the engine's buffers.
template <class T>
struct Sizes {
  static constexpr idx kBytes = sizeof(T);
  explicit Sizes(const ModelConfig& m)
      : activations(m),
        vocab(m.vocab_size),
        d(RoundUp(m.hidden_size, kPad)),
        q(RoundUp(m.num_heads * m.head_dim, kPad)),
        kv(RoundUp(m.num_kv_heads * m.head_dim, kPad)),
        qkv(RoundUp((m.num_heads + 2 * m.num_kv_heads) * m.head_dim, kPad)),
        f(RoundUp(m.intermediate_size, kPad)),
        gate_up(RoundUp(2 * m.intermediate_size, kPad)),
        heads(m.num_heads + m.num_kv_heads),
        qk_norm(m.qk_norm),
        page(m.num_layers * ShapeOf(m).page_size() * kBytes),
        forward_row((d + 2 * q) * kBytes + m.num_heads * 4 + kRowBookkeeping / 4),
        backward_row(forward_row + q * kBytes + (d + q + 2 * kv) * 4 + kRowBookkeeping / 4 * 3),
        prefix_grad_row(m.num_layers * m.num_kv_heads * m.head_dim * 2 * 4) {
    // The adapter's columns of the products' operands (Transformer's constructor).
    const LayerShapes shapes(m);
    const auto columns = [&](const LinearShape& linear) {
      return RoundUp(linear.adapter_columns(m.lora), kPad);
    };
    const idx qkv_c = columns(shapes.qkv);
    const idx gate_up_c = columns(shapes.gate_up);
    const idx o_c = columns(shapes.o);
    const idx down_c = columns(shapes.down);
    forward_row += o_c * kBytes;
    backward_row += o_c * kBytes;
    forward_adapter = (std::max(qkv_c, gate_up_c) + down_c) * kBytes;
    backward_adapter = (o_c + std::max(o_c, down_c) + gate_up_c + qkv_c) * kBytes;
  }
  ActivationLayout<T> activations;
  idx vocab, d, q, kv, qkv, f, gate_up, heads;
  bool qk_norm;
  idx page;
  idx forward_row;   // scratch of Transformer::Forward
  idx backward_row;  // as Transformer::backward_row_bytes: Forward's and Backward's
  idx prefix_grad_row;
  idx forward_adapter, backward_adapter;  // of a row of a chunk

  idx record(idx rows, Record record) const {
    return RoundUp(rows, kActivationRows) * activations.row_bytes(record);
  }
  // As Learner::row_bytes.
  idx micro_batch_row(Record record) const {
    if (record == Record::kNone) return backward_row;
    return backward_row + activations.row_bytes(record) + page / kKeyBlock;
  }
  // What Forward and Backward hold of a chunk of rows, however many there are.
  idx layer_chunk(idx rows) const {
    const idx forward = (d + 2 * kv + gate_up + f) * kBytes + qkv * 4 + forward_adapter;
    const idx backward = (q + d + f + gate_up + qkv) * kBytes + d * 4 + backward_adapter;
    const idx norm = qk_norm ? (q + kv) * kBytes + heads * 4 + 16 : 0;
    return std::min(rows, kLayerRows) * (forward + backward + norm);
  }
  // `whole`: the learner has to hold the logits of whole rows. `scores`: log-probs of whole samples
  // are computed too.
  idx head(const StepShape& step, bool whole, bool scores) const {
    const idx rows = std::min(kHeadRows, RoundUp(step.samples * step.tokens, RowBlock<T>()));
    const idx ld_v = WideStride(vocab);
    const idx columns = std::min(vocab, kHeadColumns);
    // The packed operands of the weight gradients serve all layers too.
    const idx packed =
        PackedSize(std::max(columns, gate_up), rows) + PackedSize(std::max(d, f), rows);
    const idx ld = WideStride(columns);
    return rows * ((whole ? ld_v : ld) * 4 + ld * kBytes + d * (kBytes + 8)) + packed * kBytes +
           (scores ? kLogitRows : std::min(step.slots, kLogitRows)) * ld_v * 4;
  }
};

// The most that any micro-batch of a pass over a step takes, part by part.
struct LearnerPeak {
  idx records = 0;       // bytes
  idx pages = 0;         // bytes
  idx forward_rows = 0;  // of one micro-batch
  idx backward_rows = 0;
  idx prefix_grads = 0;  // bytes
  idx rows_rerun = 0;    // of all
};

// Cuts a step into micro-batches as Learner::Accumulate does; `taped` is the share of samples whose
// records the sampler left.
template <class T>
LearnerPeak SimulateLearner(const TrainConfig& config, const Sizes<T>& sizes, const StepShape& step,
                            idx budget, double taped, bool prompts_taped) {
  RolloutGroup group;
  group.prompt.resize(static_cast<std::size_t>(step.shared + 1));
  group.rollouts.resize(static_cast<std::size_t>(config.rollout.samples));
  for (Rollout& rollout : group.rollouts) {
    rollout.tokens.resize(static_cast<std::size_t>(step.tokens));
  }
  const LearnGroup learn{&group, {}, -1};
  const std::vector<Unit> units = CutUnits({&learn, 1}, config.train.unit_tokens);
  LearnerPeak peak, now;
  idx used = 0;
  const auto flush = [&] {
    peak.records = std::max(peak.records, now.records);
    peak.pages = std::max(peak.pages, now.pages);
    peak.forward_rows = std::max(peak.forward_rows, now.forward_rows);
    peak.backward_rows = std::max(peak.backward_rows, now.backward_rows);
    peak.prefix_grads = std::max(peak.prefix_grads, now.prefix_grads);
    now = {};
    used = 0;
  };
  const idx prompts = CeilDiv(MiniBatchPrompts(config), NumShards(config));
  for (idx p = 0; p < prompts; ++p) {
    for (const Unit& unit : units) {
      const idx taped_rows = static_cast<idx>(static_cast<double>(unit.sample_rows) * taped) +
                             (prompts_taped ? unit.prefix_rows : 0);
      const idx rows = RoundUp(unit.sample_rows + unit.prefix_rows, RowBlock<T>());
      const auto bytes_of = [&](Record record) {
        return (rows - taped_rows) * sizes.micro_batch_row(record) +
               taped_rows * sizes.micro_batch_row(Record::kNone);
      };
      const Record record = bytes_of(Record::kAll) <= budget ? Record::kAll : Record::kResiduals;
      if (used > 0 && used + bytes_of(record) > budget) flush();
      used += bytes_of(record);
      // The prompt's rows are run and recorded with the group's first unit.
      const bool first = unit.first_sample == 0;
      const idx run = unit.sample_rows + (first ? unit.prefix_rows : 0) -
                      (taped_rows - (prompts_taped && !first ? unit.prefix_rows : 0));
      now.records += sizes.record(run, record);
      now.pages += CeilDiv(run, kKeyBlock) * sizes.page;
      now.forward_rows += run;
      now.backward_rows += RoundUp(unit.rows(), RowBlock<T>());
      if (first) now.prefix_grads += unit.prefix_rows * sizes.prefix_grad_row;
      if (record == Record::kResiduals) peak.rows_rerun += run;
    }
  }
  flush();
  peak.rows_rerun *= CeilDiv(config.rollout.prompts, prompts);
  return peak;
}

// What sampling puts on the tape: prompts first, then as many samples as fit to their ends. Samples
// that were dropped half-way had filled the budget before. Returns the bytes that are there when it
// ends.
template <class T>
idx PlanTape(const Sizes<T>& sizes, const StepShape& step, MemoryPlan& plan) {
  const idx prompt = sizes.record(step.shared, Record::kAll);
  const idx sample = sizes.record(step.tokens, Record::kAll);
  plan.taped_prompts =
      prompt == 0 ? step.prompts : std::min(step.prompts, plan.tape_budget / prompt);
  const idx left = plan.tape_budget - plan.taped_prompts * prompt;
  plan.taped_samples = std::min(step.samples, left / sample);
  plan.taped_rows = plan.taped_prompts * step.shared + plan.taped_samples * step.tokens;
  const idx kept = plan.taped_prompts * prompt + plan.taped_samples * sample;
  plan.tape = plan.taped_samples == step.samples
                  ? kept
                  : std::min(plan.tape_budget, step.prompts * prompt + step.samples * sample);
  return kept;
}

bool OwnCritic(const TrainConfig& config) { return NeedsCritic(config) && !SharesCritic(config); }
// A model of its own learns beside the policy.
bool LearnsTwo(const TrainConfig& config) { return OwnCritic(config) || LearnsReward(config); }

// Of some of the rows it learns from, or of some updates, the softmax's norm is not known before.
bool NeedsWholeLogits(const TrainConfig& config) {
  return !LearnsOnPolicy(config, UpdatesPerBatch(config) - 1) || IsGiven(config) ||
         NeedsDemonstrations(config);
}

// The parts that follow from a step and from the budgets of tape and micro-batch.
template <class T>
void PlanParts(const TrainConfig& config, const ModelConfig& m, const StepShape& step,
               MemoryPlan& plan) {
  const Sizes<T> sizes(m);
  plan.head = sizes.head(step, NeedsWholeLogits(config),
                         NeedsReference(config) || NeedsPolicyScores(config));
  // The norms' pass has a head of its own (train/sample_gradients.h).
  if ((FindAlgorithm(config.algorithm.name).needs & kNeedsGradientNorms) != 0) plan.head *= 2;
  const idx kept = PlanTape(sizes, step, plan);

  const bool some = plan.taped_samples > 0 && plan.taped_samples < step.samples;
  // A taped prompt keeps its pages where one of its samples has to be run again.
  idx open_prompts =
      some ? step.prompts : std::min(step.prompts, CeilDiv(step.slots, config.rollout.samples) + 1);
  if (NeedsGreedy(config))
    open_prompts = std::max(open_prompts, std::min(step.prompts, step.slots));
  // Of a call of Score: a prompt, and as many of its samples as go side by side.
  const idx scored = std::clamp<idx>(kPrefillRows / step.tokens, 1, config.rollout.samples);
  const idx score_pages =
      (scored * CeilDiv(step.tokens, kKeyBlock) + CeilDiv(step.shared, kKeyBlock)) * sizes.page;
  idx pages = (step.slots * CeilDiv(step.tokens, kKeyBlock) +
               open_prompts * CeilDiv(step.shared, kKeyBlock)) *
              sizes.page;
  const idx prefill_rows = std::min(kPrefillRows, open_prompts * step.shared);
  idx sampler_rows = std::max(step.slots, prefill_rows);
  if (NeedsPolicyScores(config)) {
    pages = std::max(pages, score_pages);
    sampler_rows = std::max(sampler_rows, scored * step.tokens);
  }
  plan.rollout = pages + sampler_rows * sizes.forward_row + step.slots * sizes.d * sizes.kBytes;
  if (NeedsReference(config) && !IsGiven(config)) {  // it has pages and scratch of its own
    const idx rows = std::max(scored * step.tokens, step.shared);
    plan.rollout +=
        score_pages + rows * (sizes.forward_row + sizes.d * sizes.kBytes) + sizes.layer_chunk(rows);
  }

  const double taped = static_cast<double>(plan.taped_samples) / static_cast<double>(step.samples);
  LearnerPeak peak = SimulateLearner(config, sizes, step, plan.micro_batch_budget, taped,
                                     plan.taped_prompts == step.prompts);
  plan.rows_rerun = peak.rows_rerun;
  idx records = kept + peak.records;
  // Only a batch's first update finds the tape.
  if (UpdatesPerBatch(config) > 1) {
    const LearnerPeak later =
        SimulateLearner(config, sizes, step, plan.micro_batch_budget, 0.0, false);
    records = std::max(records, later.records);
    peak.pages = std::max(peak.pages, later.pages);
    peak.forward_rows = std::max(peak.forward_rows, later.forward_rows);
    peak.backward_rows = std::max(peak.backward_rows, later.backward_rows);
    peak.prefix_grads = std::max(peak.prefix_grads, later.prefix_grads);
  }
  // The recheck's records are free again when the learner makes its own.
  plan.tape = std::max(plan.tape, kept + sizes.record(RecheckRows(plan.taped_rows), Record::kAll));
  plan.micro_batch = std::max<idx>(0, records - plan.tape) + std::max<idx>(0, peak.pages - pages) +
                     std::max<idx>(0, peak.forward_rows - sampler_rows) * sizes.forward_row +
                     peak.backward_rows * (sizes.backward_row - sizes.forward_row) +
                     sizes.layer_chunk(std::max(sampler_rows, peak.backward_rows)) +
                     peak.prefix_grads;
  if (LearnsTwo(config)) {  // pages and scratch of its own, of scoring and of learning, and no tape
    const LearnerPeak critic =
        SimulateLearner(config, sizes, step, plan.micro_batch_budget, 0.0, false);
    const idx rows = std::max({scored * step.tokens, step.shared, critic.backward_rows});
    plan.micro_batch += critic.records + std::max(critic.pages, score_pages) +
                        rows * (sizes.backward_row + sizes.d * sizes.kBytes) +
                        sizes.layer_chunk(rows) + critic.prefix_grads;
  }
}

// Both directions of a matrix.
idx Packed(idx n, idx k, idx bytes) { return (PackedSize(n, k) + PackedSize(k, n)) * bytes; }
// As PackedLinear, of all layers; what is made again layer by layer once.
idx Packed(const LinearShape& linear, const ModelConfig& m, idx bytes) {
  const idx n = linear.n();
  const idx k = linear.k;
  if (!m.lora.on()) return m.num_layers * Packed(n, k, bytes);
  const idx columns = linear.adapter_columns(m.lora);
  const idx kept = PackedSize(n, columns > 0 ? RoundUp(k, kPad) + columns : k) +
                   PackedSize(columns, k) + PackedSize(k, columns) + PackedSize(columns, n);
  return (m.num_layers * kept + PackedSize(k, columns > 0 ? RoundUp(n, kPad) + columns : n)) *
         bytes;
}

// Of weights that are only scored with, as PackedWeights without `backward`.
template <class T>
idx FrozenBytes(const ModelConfig& m) {
  const LayerShapes shapes(m);
  idx elements = m.vocab_size * RoundUp(m.hidden_size, kPad);
  if (m.has_logits) elements += PackedSize(m.vocab_size, m.hidden_size);
  for (const LinearShape* linear : {&shapes.qkv, &shapes.o, &shapes.gate_up, &shapes.down}) {
    const idx columns = linear->adapter_columns(m.lora);
    const idx k = columns > 0 ? RoundUp(linear->k, kPad) + columns : linear->k;
    elements += m.num_layers * (PackedSize(linear->n(), k) + PackedSize(columns, linear->k));
  }
  return elements * static_cast<idx>(sizeof(T));
}

// The weights of one folder are there once, the scratch of each term's pass for itself.
template <class T>
idx PlanRewardModels(const TrainConfig& config, idx prompt_tokens) {
  const StepShape step(config, prompt_tokens, config.rollout.max_new_tokens);
  std::set<std::filesystem::path> seen;
  idx bytes = 0;
  for (const RewardConfig& term : config.reward) {
    if (term.kind != "model") continue;
    const ModelConfig m = CheckpointShape(term.path);
    const Sizes<T> sizes(m);
    if (seen.insert(std::filesystem::weakly_canonical(term.path)).second) {
      bytes += FrozenBytes<T>(m);
    }
    const idx group = step.shared + config.rollout.samples * step.tokens;
    const idx rows = std::min(step.rows(), std::max(kPrefillRows, step.shared + step.tokens));
    const idx answers = std::min(step.samples, CeilDiv(rows * config.rollout.samples, group) + 1);
    bytes += rows * (sizes.forward_row + sizes.d * sizes.kBytes) + sizes.layer_chunk(rows) +
             (CeilDiv(rows, kKeyBlock) + 2 * answers) * sizes.page;
  }
  return bytes;
}

// Both directions of all matrices, without the embedding's rows.
idx PackedModel(const ModelConfig& m, idx bytes) {
  const LayerShapes shapes(m);
  idx sum = m.has_logits ? Packed(m.vocab_size, m.hidden_size, bytes) : 0;
  for (const LinearShape* linear : {&shapes.qkv, &shapes.o, &shapes.gate_up, &shapes.down}) {
    sum += Packed(*linear, m, bytes);
  }
  return sum;
}

// What is kept of each model that learns.
template <class T>
void AddTrained(const TrainConfig& config, const ModelConfig& m, idx ranks, MemoryPlan& plan) {
  constexpr idx kBytes = sizeof(T);
  const idx slab = SlabLayout(m).size * 4;
  plan.weights += slab;
  plan.optimizer += (config.train.moments == "bf16" ? slab : 2 * slab) / ranks;
  // Of a rank's shards one slab a level of their tree, and of the others' sums its own part.
  const idx own_shards = CeilDiv(NumShards(config), ranks);
  idx levels = 0;
  for (idx s = own_shards; s > 1; s = (s + 1) / 2) ++levels;
  plan.gradient += slab * (1 + (levels > 0 ? levels + 1 : 0)) + slab / ranks * (ranks - 1);
  plan.packed += PackedModel(m, kBytes) + m.vocab_size * RoundUp(m.hidden_size, kPad) * kBytes;
}

template <class T>
MemoryPlan PlanFor(const TrainConfig& config, const ModelConfig& m, idx prompt_tokens, idx ranks) {
  constexpr idx kBytes = sizeof(T);
  const Sizes<T> sizes(m);
  MemoryPlan plan;
  plan.process = kProcessBytes;
  AddTrained<T>(config, m, ranks, plan);
  // Of given answers it is kept as numbers (train/given_reference.h).
  if (NeedsReference(config) && !IsGiven(config) && !BeginsAsItsBase(config, m)) {
    plan.packed +=
        PackedModel(m, kBytes) / 2 + m.vocab_size * RoundUp(m.hidden_size, kPad) * kBytes;
  }
  // Policy and critic, or reward, learn one after the other, but what they worked with stays.
  const idx learners = LearnsTwo(config) ? 2 : 1;
  if (OwnCritic(config)) AddTrained<T>(config, CriticShape(config, m), ranks, plan);
  if (LearnsReward(config)) AddTrained<T>(config, LearnedRewardShape(config, m), ranks, plan);
  plan.frozen = PlanRewardModels<T>(config, prompt_tokens);

  const StepShape step(config, prompt_tokens, config.rollout.max_new_tokens);
  plan.tape_row_bytes = sizes.activations.row_bytes(Record::kAll);
  plan.row_bytes = sizes.micro_batch_row(Record::kAll);
  plan.least_rows = RoundUp(std::max(step.tokens, std::min(config.train.unit_tokens,
                                                           config.rollout.samples * step.tokens)) +
                                step.shared,
                            RowBlock<T>());
  plan.budget =
      config.run.memory_mb > 0 ? config.run.memory_mb << 20 : AvailableMemoryBytes() / 10 * 7;
  PlanParts<T>(config, m, step, plan);  // with neither tape nor micro-batch
  const idx fixed = plan.total() - plan.tape - plan.micro_batch + sizes.layer_chunk(kLayerRows);
  const idx rest = std::max<idx>(0, plan.budget - fixed);
  // The longest step, all of it on the tape; a micro-batch is then scratch alone, and may be small.
  const idx step_records = step.samples * sizes.record(step.tokens, Record::kAll) +
                           step.prompts * sizes.record(step.shared, Record::kAll);
  const idx unit = plan.least_rows * sizes.micro_batch_row(Record::kResiduals);
  const idx least = learners * unit;
  plan.tape_budget =
      config.run.tape_mb >= 0
          ? config.run.tape_mb << 20
          : std::clamp<idx>(rest - std::max(learners * kMaxMicroBatch / 2, least), 0, step_records);
  plan.micro_batch_budget =
      std::clamp<idx>((rest - plan.tape_budget) / learners, 0, std::max(kMaxMicroBatch, unit));
  plan.micro_batch_rows = plan.micro_batch_budget / plan.row_bytes;
  if (plan.micro_batch_budget < unit) {
    const idx need = fixed + plan.tape_budget + least;
    Fail(
        ErrorCode::kUsage,
        "run.memory_mb: {} MB cannot hold this run; the least is {} MB (weights {} MB, optimizer "
        "{} MB, gradient {} MB, packed weights {} MB, reward models {} MB, tape {} MB, one unit of "
        "{} rows {} MB)",
        plan.budget >> 20, (need >> 20) + 1, plan.weights >> 20, plan.optimizer >> 20,
        plan.gradient >> 20, plan.packed >> 20, plan.frozen >> 20, plan.tape_budget >> 20,
        plan.least_rows, unit >> 20);
  }
  PlanParts<T>(config, m, step, plan);
  return plan;
}

}  // namespace

StepShape::StepShape(const TrainConfig& config, idx prompt_tokens, idx completion_tokens)
    : prompts(config.rollout.prompts),
      samples(config.rollout.prompts * config.rollout.samples),
      slots(std::min(samples, config.rollout.slots > 0 ? config.rollout.slots : kDefaultSlots)),
      shared(std::max<idx>(0, prompt_tokens - 1)),
      tokens(std::max<idx>(1, completion_tokens)) {}

TrainConfig AsSampled(TrainConfig config, const ModelConfig& model) {
  const GivenAnswers given = GivenOf(config);
  if (given == GivenAnswers::kNothing) return config;
  config.rollout.samples = given == GivenAnswers::kDemonstrations ? 1 : 2;
  config.rollout.max_new_tokens = std::min(SequenceLimit(config, model.max_position), kUsualTokens);
  config.run.tape_mb = 0;
  return config;
}

MemoryPlan PlanMemory(const TrainConfig& given, const ModelConfig& model, idx prompt_tokens,
                      idx ranks) {
  const TrainConfig config = AsSampled(given, model);
  return config.model.dtype == "f32" ? PlanFor<float>(config, model, prompt_tokens, ranks)
                                     : PlanFor<bf16>(config, model, prompt_tokens, ranks);
}

MemoryPlan PlanRun(TrainConfig config, const ModelConfig& model, const Comm& comm) {
  const idx available = AvailableMemoryBytes() / comm.sharing_memory();
  if (config.run.memory_mb == 0) config.run.memory_mb = (available / 10 * 7) >> 20;
  const MemoryPlan plan =
      PlanMemory(config, model, std::min<idx>(config.data.prompt_limit, 64), comm.size());
  if (plan.total() > available) {
    Fail(ErrorCode::kUsage,
         "run.memory_mb: {} MB, of which this run takes {} MB, but {} MB can be had here (free "
         "memory, the container's limit, ulimit -v); set it below that",
         plan.budget >> 20, plan.total() >> 20, available >> 20);
  }
  return plan;
}

MemoryPlan PlanStepMemory(const TrainConfig& given, const ModelConfig& model, idx prompt_tokens,
                          idx completion_tokens, MemoryPlan plan) {
  const TrainConfig config = AsSampled(given, model);
  const StepShape step(config, prompt_tokens, completion_tokens);
  if (config.model.dtype == "f32") {
    PlanParts<float>(config, model, step, plan);
  } else {
    PlanParts<bf16>(config, model, step, plan);
  }
  return plan;
}

}  // namespace opo
