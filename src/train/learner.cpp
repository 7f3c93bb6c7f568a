#include "train/learner.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/parallel.h"
#include "kernels/gemm.h"
#include "model/seals.h"

namespace opo {
namespace {

idx PrefixRows(const RolloutGroup& group) { return static_cast<idx>(group.prompt.size()) - 1; }

// Forgets the open group at the end, also of an error, after which its prompt, which may stand on
// the caller's tape, can be gone before the learner is.
template <class Open>
struct Resets {
  explicit Resets(std::unique_ptr<Open>& group) : open(group) {}
  std::unique_ptr<Open>& open;
  ~Resets() { open.reset(); }
};

bool HasGradient(const LearnGroup& g) {
  for (std::size_t i = 0; i < g.group->rollouts.size(); ++i) {
    if (g.weights[i] != 0 && (g.more_terms || g.group->rollouts[i].has_advantage())) return true;
  }
  return false;
}

}  // namespace

void LearnResult::Add(const LearnResult& other) {
  loss += other.loss;
  demo_loss += other.demo_loss;
  kl_loss += other.kl_loss;
  tokens += other.tokens;
  clipped += other.clipped;
  clipped_lower += other.clipped_lower;
  value_loss += other.value_loss;
  value_clipped += other.value_clipped;
  value_sum += other.value_sum;
  kl_sum += other.kl_sum;
  compared_tokens += other.compared_tokens;
  mismatched_tokens += other.mismatched_tokens;
  if (mismatched_group < 0) {
    mismatched_group = other.mismatched_group;
    mismatched_sample = other.mismatched_sample;
    mismatched_token = other.mismatched_token;
  }
  logprob_diff_max = std::max(logprob_diff_max, other.logprob_diff_max);
  micro_batches += other.micro_batches;
  rows_forward += other.rows_forward;
  rows_learned += other.rows_learned;
  rows_rerun += other.rows_rerun;
  rows_padding += other.rows_padding;
}

std::vector<Unit> CutUnits(std::span<const LearnGroup> groups, idx unit_tokens, bool pack) {
  std::vector<Unit> units;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const RolloutGroup& group = *groups[g].group;
    Unit unit;
    unit.group = static_cast<idx>(g);
    unit.prefix_rows = PrefixRows(group);
    for (std::size_t s = 0; s < group.rollouts.size(); ++s) {
      const idx rows = group.rollouts[s].length();
      if (unit.num_samples > 0 && unit.sample_rows + rows > unit_tokens) {
        units.push_back(unit);
        unit.first_sample = static_cast<idx>(s);
        unit.num_samples = 0;
        unit.sample_rows = 0;
      }
      ++unit.num_samples;
      unit.sample_rows += rows;
    }
    unit.last = true;
    units.push_back(unit);
  }
  idx packed = 0;
  for (std::size_t u = 0; pack && u + 1 < units.size(); ++u) {
    packed += units[u].rows();
    units[u].joins = packed + units[u + 1].rows() <= unit_tokens;
    if (!units[u].joins) packed = 0;
  }
  return units;
}

// The prompt of the group at hand: its K and V serve all its units, its dK and dV grow with them.
template <class T>
struct Learner<T>::OpenGroup {
  idx group = -1;
  Segment<T> recomputed;         // the prompt's rows, where they are not on the tape
  Segment<T>* prefix = nullptr;  // these or the tape's; null where the prompt is one token
  PrefixGrad grad;
  ~OpenGroup() {
    if (prefix != nullptr) prefix->Clear();
  }
};

// Segments, rows and targets of one micro-batch.
template <class T>
struct Learner<T>::MicroBatch {
  struct Target {
    const RolloutGroup* group = nullptr;
    const Rollout* rollout = nullptr;
    idx token = 0;
    double weight = 0;
    idx body_row = 0;
    bool known = true;  // the softmax's norm, before the logits are
  };
  std::vector<std::unique_ptr<OpenGroup>> groups;
  std::vector<Segment<T>> segments;
  std::vector<std::vector<TokenId>> inputs;  // of each segment
  std::vector<Run<T>> runs;
  std::vector<GradRow<T>> rows;     // of the body: units padded
  std::vector<TokenId> row_tokens;  // what each body row was fed; -1 for padding
  std::vector<GradRun<T>> grad_runs;
  std::vector<GradRow<T>> head_rows;  // samples' learned tokens, each unit or pack padded
  std::vector<Target> targets;        // one a head row
};

template <class T>
Learner<T>::Learner(Transformer<T>& model, const SlabLayout& layout, LearnerConfig config)
    : model_(model), layout_(layout), config_(config) {}

template <class T>
Learner<T>::~Learner() = default;

template <class T>
idx Learner<T>::row_bytes(Record record) const {
  const idx scratch = model_.backward_row_bytes();
  if (record == Record::kNone) return scratch;
  return scratch + model_.pool().activations().row_bytes(record) +
         model_.config().num_layers * ShapeOf(model_.config()).page_size() *
             static_cast<idx>(sizeof(T)) / kKeyBlock;
}

// How a unit or a pack is run: records in full where they fit, else layer by layer.
template <class T>
std::vector<typename Learner<T>::PlannedUnit> Learner<T>::Plan(std::span<const LearnGroup> groups,
                                                               std::span<const Unit> pack,
                                                               const Tape<T>* tape,
                                                               idx& bytes) const {
  idx rows = 0;
  idx taped = 0;
  for (const Unit& unit : pack) {
    rows += unit.sample_rows + unit.prefix_rows;
    const idx g = groups[static_cast<std::size_t>(unit.group)].tape_group;
    if (tape == nullptr || g < 0) continue;
    const auto& group = tape->groups[static_cast<std::size_t>(g)];
    if (group.prefix.record() != Record::kNone) taped += unit.prefix_rows;
    for (idx s = unit.first_sample; s < unit.first_sample + unit.num_samples; ++s) {
      const Segment<T>& sample = group.samples[static_cast<std::size_t>(s)];
      if (sample.record() != Record::kNone) taped += sample.length();
    }
  }
  rows = RoundUp(rows, RowBlock<T>());
  for (const Record record : {Record::kAll, Record::kResiduals}) {
    bytes = (rows - taped) * row_bytes(record) + taped * row_bytes(Record::kNone);
    if (bytes > config_.memory_bytes) continue;
    std::vector<PlannedUnit> planned;
    for (const Unit& unit : pack) planned.push_back({unit, record});
    return planned;
  }
  Fail(ErrorCode::kUsage,
       "run.memory_mb: {} rows of one unit need {} MB for learning, {} MB are planned; raise "
       "run.memory_mb, or lower train.unit_tokens and {}",
       rows, (bytes >> 20) + 1, config_.memory_bytes >> 20,
       config_.pack ? "data.sequence_limit" : "rollout.max_new_tokens");
}

template <class T>
LearnResult Learner<T>::Accumulate(std::span<const LearnGroup> all, const LossFunction& loss,
                                   float* grad, Tape<T>* tape,
                                   const std::function<void(idx)>& layer_done) {
  std::vector<LearnGroup> groups;
  for (const LearnGroup& g : all) {
    if (HasGradient(g)) {
      groups.push_back(g);
    } else if (tape != nullptr && g.tape_group >= 0) {
      auto& taped = tape->groups[static_cast<std::size_t>(g.tape_group)];
      CheckTaped(taped, g);
      taped = {};
    }
  }
  LearnResult result;
  lookup_.clear();
  const Resets closes(open_);
  const std::vector<Unit> cut = CutUnits(groups, config_.unit_tokens, config_.pack);
  std::vector<PlannedUnit> units;
  std::vector<std::size_t> ends;  // of the packs, among the units
  std::vector<idx> bytes;
  while (units.size() < cut.size()) {
    const std::size_t first = units.size();
    std::size_t end = first + 1;
    while (cut[end - 1].joins) ++end;
    bytes.push_back(0);
    const auto pack = Plan(groups, std::span(cut).subspan(first, end - first), tape, bytes.back());
    units.insert(units.end(), pack.begin(), pack.end());
    ends.push_back(end);
  }
  std::size_t begin = 0;
  for (std::size_t first = 0; first < ends.size();) {
    idx used = bytes[first];
    std::size_t end = first + 1;
    while (end < ends.size() && used + bytes[end] <= config_.memory_bytes) used += bytes[end++];
    RunMicroBatch(groups, std::span(units).subspan(begin, ends[end - 1] - begin), loss, grad, tape,
                  end == ends.size() ? layer_done : nullptr, result);
    ++result.micro_batches;
    begin = ends[end - 1];
    first = end;
  }
  const idx d = model_.config().hidden_size;
  for (const auto& [token, sum] : lookup_) {
    float* row = grad + layout_.embed + token * d;
    for (idx i = 0; i < d; ++i) row[i] += sum[static_cast<std::size_t>(i)];
  }
  return result;
}

template <class T>
LearnResult Learner<T>::Compare(const RolloutGroup& group) {
  LearnGroup one{&group, std::vector<double>(group.rollouts.size(), 0.0)};
  const std::span<const LearnGroup> groups(&one, 1);
  LearnResult result;
  const Resets closes(open_);
  for (const Unit& unit : CutUnits(groups, config_.unit_tokens)) {
    idx bytes = 0;
    const auto planned = Plan(groups, {&unit, 1}, nullptr, bytes);
    RunMicroBatch(groups, planned, nullptr, nullptr, nullptr, nullptr, result);
  }
  return result;
}

template <class T>
void Learner<T>::RunMicroBatch(std::span<const LearnGroup> groups,
                               std::span<const PlannedUnit> units, const LossFunction& loss,
                               float* grad, Tape<T>* tape,
                               const std::function<void(idx)>& layer_done, LearnResult& result) {
  const ModelConfig& model = model_.config();
  const idx kv_width = model.num_kv_heads * model.head_dim;
  const idx row_block = RowBlock<T>();
  MicroBatch micro;
  std::size_t num_segments = 0;
  for (const PlannedUnit& u : units) num_segments += static_cast<std::size_t>(u.unit.num_samples);
  micro.segments.reserve(num_segments);
  micro.inputs.reserve(num_segments);
  std::vector<Segment<T>*> taped_samples;
  const auto run_forward = [&](Segment<T>* segment, const Segment<T>* prefix, const TokenId* tokens,
                               idx count, Record record) {
    Run<T> run;
    run.segment = segment;
    run.prefix = prefix;
    run.tokens = tokens;
    run.count = count;
    run.record = record;
    micro.runs.push_back(run);
    result.rows_forward += count;
    if (record == Record::kResiduals) result.rows_rerun += count;
  };

  for (const auto& [unit, record] : units) {
    const LearnGroup& learn = groups[static_cast<std::size_t>(unit.group)];
    const RolloutGroup& group = *learn.group;
    typename Tape<T>::Group* taped = nullptr;
    if (tape != nullptr && learn.tape_group >= 0) {
      taped = &tape->groups[static_cast<std::size_t>(learn.tape_group)];
    }
    if (open_ == nullptr || open_->group != unit.group) {
      open_ = std::make_unique<OpenGroup>();
      open_->group = unit.group;
      if (unit.prefix_rows > 0) {
        open_->grad.length = unit.prefix_rows;
        open_->grad.dk = Buffer<float>(model.num_layers * unit.prefix_rows * kv_width);
        open_->grad.dv = Buffer<float>(model.num_layers * unit.prefix_rows * kv_width);
        if (taped != nullptr && taped->prefix.record() != Record::kNone) {
          open_->prefix = &taped->prefix;
          CheckTaped(taped->prefix, learn, -1);
        } else {
          open_->recomputed = Segment<T>(&model_.pool());
          open_->prefix = &open_->recomputed;
          run_forward(open_->prefix, nullptr, group.prompt.data(), unit.prefix_rows, record);
          micro.runs.back().outputs = false;
        }
      }
    }
    Segment<T>* prefix = open_->prefix;
    PrefixGrad* prefix_grad = unit.prefix_rows > 0 ? &open_->grad : nullptr;
    for (idx s = unit.first_sample; s < unit.first_sample + unit.num_samples; ++s) {
      const Rollout& rollout = group.rollouts[static_cast<std::size_t>(s)];
      if (rollout.tokens.empty()) continue;
      const auto& input = micro.inputs.emplace_back(SampleInput(group, rollout));
      const idx count = static_cast<idx>(input.size());
      const bool known = learn.on_policy && rollout.norms.size() == rollout.tokens.size();
      Segment<T>* segment =
          taped == nullptr ? nullptr : &taped->samples[static_cast<std::size_t>(s)];
      if (segment != nullptr && segment->record() != Record::kNone) {
        OPO_CHECK(segment->length() == count);
        CheckTaped(*segment, learn, s);
        taped_samples.push_back(segment);
      } else {
        micro.segments.emplace_back(&model_.pool());
        segment = &micro.segments.back();
        run_forward(segment, prefix, input.data(), count, record);
      }
      micro.grad_runs.push_back(
          {segment, prefix, prefix_grad, false, static_cast<idx>(micro.rows.size())});
      for (idx r = 0; r < count; ++r) {
        if (rollout.learns(r)) {
          micro.head_rows.push_back({segment, r});
          micro.targets.push_back({&group, &rollout, r, learn.weights[static_cast<std::size_t>(s)],
                                   static_cast<idx>(micro.rows.size()), known});
        }
        micro.rows.push_back({segment, r});
        micro.row_tokens.push_back(input[static_cast<std::size_t>(r)]);
      }
      result.rows_learned += count;
    }
    while (!unit.joins && micro.head_rows.size() % row_block != 0) {
      micro.head_rows.push_back({});
      micro.targets.push_back({});
    }
    if (unit.last && prefix != nullptr) {
      micro.grad_runs.push_back(
          {prefix, nullptr, prefix_grad, true, static_cast<idx>(micro.rows.size())});
      for (idx r = 0; r < unit.prefix_rows; ++r) {
        micro.rows.push_back({prefix, r});
        micro.row_tokens.push_back(group.prompt[static_cast<std::size_t>(r)]);
      }
      result.rows_learned += unit.prefix_rows;
    }
    while (!unit.joins && micro.rows.size() % row_block != 0) {
      micro.rows.push_back({});
      micro.row_tokens.push_back(-1);
      ++result.rows_padding;
    }
    if (unit.last) micro.groups.push_back(std::move(open_));
  }

  model_.Forward(micro.runs, nullptr);
  Head(groups, micro, grad != nullptr ? &loss : nullptr, grad, result);
  if (grad == nullptr) return;
  model_.Backward(dresidual_.data(), micro.rows, micro.grad_runs, layout_, grad, layer_done);
  if (layout_.embed >= 0) AddLookup(micro.row_tokens, micro.rows);
  for (Segment<T>* sample : taped_samples) sample->Clear();
}

template <class T>
void Learner<T>::Head(std::span<const LearnGroup>, MicroBatch& micro, const LossFunction* loss,
                      float* grad, LearnResult& result) {
  const ModelConfig& model = model_.config();
  const idx vocab = model.vocab_size;
  const idx ld = model_.ld();
  const idx ld_logits = model_.ld_logits();
  const Kernels& kernels = ActiveKernels();
  const idx num_rows = static_cast<idx>(micro.head_rows.size());
  const idx body_rows = static_cast<idx>(micro.rows.size());
  const idx chunk_rows = std::min(kHeadRows, num_rows);
  hidden_.Reserve(chunk_rows * ld);
  if (model.has_values) values_.Reserve(chunk_rows);
  if (loss != nullptr) {
    if (model.has_values) dvalues_.Reserve(chunk_rows);
    dhidden_.Reserve(chunk_rows * ld);
    dhead_rows_.Reserve(chunk_rows * ld);
    dresidual_.Reserve(body_rows * ld);
    std::fill_n(dresidual_.data(), body_rows * ld, 0.0f);
  }
  std::vector<RowResult> row_results;
  for (idx first = 0; first < num_rows; first += kHeadRows) {
    const idx rows = std::min(kHeadRows, num_rows - first);
    const std::span<const GradRow<T>> chunk =
        std::span<const GradRow<T>>(micro.head_rows)
            .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
    const auto targets =
        std::span(micro.targets)
            .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
    const bool known = model.has_logits && loss != nullptr &&
                       std::all_of(targets.begin(), targets.end(),
                                   [](const auto& target) { return target.known; });
    model_.FinalNorm(hidden_.data(), chunk);
    if (model.has_logits && !known) {
      logits_.Reserve(chunk_rows * ld_logits);
      model_.Logits(hidden_.data(), rows, logits_.data());
    }
    if (model.has_values) model_.Values(hidden_.data(), rows, values_.data());
    row_results.assign(static_cast<std::size_t>(rows), {});
    ParallelFor(rows, [&](idx r) {
      const auto& target = targets[static_cast<std::size_t>(r)];
      if (target.rollout == nullptr) {
        if (loss != nullptr && model.has_values) dvalues_[r] = 0;
        return;
      }
      RowResult& out = row_results[static_cast<std::size_t>(r)];
      HeadOutput output;
      if (model.has_values) output.policy = output.value = static_cast<double>(values_[r]);
      if (model.has_logits) out.id = target.rollout->tokens[static_cast<std::size_t>(target.token)];
      if (known) {
        const SoftmaxNorm& norm = target.rollout->norms[static_cast<std::size_t>(target.token)];
        out.stats.max = norm.max;
        out.stats.log_sum = norm.log_sum;
        out.stats.lse = norm.lse();
        output.policy =
            static_cast<double>(target.rollout->logprobs[static_cast<std::size_t>(target.token)]);
      } else if (model.has_logits) {
        thread_local std::vector<float> block_sums;
        block_sums.resize(static_cast<std::size_t>(CeilDiv(vocab, kHeadBlock)));
        out.stats = kernels.head_stats(logits_.data() + r * ld_logits, vocab,
                                       config_.inv_temperature, out.id, block_sums.data());
        output.policy = static_cast<double>(out.stats.logprob);
      }
      if (loss == nullptr) return;
      out.terms = (*loss)(*target.rollout, target.token, output);
      OPO_CHECK(model.has_values || out.terms.dvalue == 0);
      OPO_CHECK(!known || out.terms.dentropy == 0);
      if (model.has_values) {
        const double dvalue = out.terms.dvalue + (model.has_logits ? 0 : out.terms.loss.dlogprob);
        dvalues_[r] = static_cast<float>(target.weight * dvalue);
      }
      out.coef = static_cast<float>(target.weight * out.terms.loss.dlogprob);
      out.entropy_coef = static_cast<float>(target.weight * out.terms.dentropy);
    });
    const auto place = [&](idx offset) { return offset < 0 ? nullptr : grad + offset; };
    if (model.has_logits && loss != nullptr) {
      LogitsGrad(row_results, known, place(layout_.head));
    }
    for (idx r = 0; r < rows; ++r) {
      const auto& target = targets[static_cast<std::size_t>(r)];
      if (target.rollout == nullptr) continue;
      RowResult& out = row_results[static_cast<std::size_t>(r)];
      bool compared = false;
      bool same = true;
      if (known) {  // head_stats' last lines
        const auto log_sum = static_cast<float>(std::log(static_cast<double>(out.parts.sum)));
        same =
            out.parts.max == out.stats.max && std::bit_cast<std::uint32_t>(log_sum) ==
                                                  std::bit_cast<std::uint32_t>(out.stats.log_sum);
        out.stats.logprob = out.parts.target_margin - log_sum;
      }
      // What was recorded before, if it was; returns by how much this is less.
      const auto compare = [&](const std::vector<float>& recorded, float now) {
        if (recorded.empty()) return 0.0;
        const float then = recorded[static_cast<std::size_t>(target.token)];
        compared = true;
        same = same && std::bit_cast<std::uint32_t>(then) == std::bit_cast<std::uint32_t>(now);
        const double difference = static_cast<double>(then) - static_cast<double>(now);
        result.logprob_diff_max = std::max(result.logprob_diff_max, std::abs(difference));
        return difference;
      };
      double kl = 0;
      if (model.has_logits) kl = compare(target.rollout->logprobs, out.stats.logprob);
      if (model.has_values) compare(target.rollout->values, values_[r]);
      result.compared_tokens += compared ? 1 : 0;
      if (!same) {
        ++result.mismatched_tokens;
        if (result.mismatched_group < 0) {
          result.mismatched_group = target.group->number;
          result.mismatched_sample = target.rollout - target.group->rollouts.data();
          result.mismatched_token = target.token;
        }
      }
      if (loss == nullptr) continue;
      if (out.terms.demonstrated) {
        result.demo_loss += target.weight * out.terms.loss.loss;
        continue;
      }
      ++result.tokens;
      result.loss += target.weight * out.terms.loss.loss;
      result.kl_loss += target.weight * out.terms.kl;
      result.clipped += out.terms.loss.clipped ? 1 : 0;
      result.clipped_lower += out.terms.loss.clipped_lower ? 1 : 0;
      result.kl_sum += kl;
      result.value_loss += target.weight * out.terms.value_loss;
      result.value_clipped += out.terms.value_clipped ? 1 : 0;
      if (model.has_values) result.value_sum += static_cast<double>(values_[r]);
    }
    if (loss == nullptr) continue;
    if (model.has_values) {
      model_.ValuesGrad(dhidden_.data(), place(layout_.score), dvalues_.data(), hidden_.data(),
                        rows);
    }
    model_.FinalNormGrad(dhead_rows_.data(), place(layout_.final_norm), dhidden_.data(), chunk);
    for (idx r = 0; r < rows; ++r) {
      const auto& target = targets[static_cast<std::size_t>(r)];
      if (target.rollout == nullptr) continue;
      std::memcpy(dresidual_.data() + target.body_row * ld, dhead_rows_.data() + r * ld,
                  static_cast<std::size_t>(ld) * sizeof(float));
    }
  }
}

template <class T>
void Learner<T>::LogitsGrad(std::span<RowResult> results, bool known, float* dhead) {
  const auto& kernels = ActiveKernels().of<T>();
  const auto head_part = ActiveKernels().head_part;
  const idx vocab = model_.config().vocab_size;
  const idx rows = static_cast<idx>(results.size());
  const idx ld = WideStride(std::min(vocab, kHeadColumns));
  dlogits_.Reserve(rows * ld);
  if (known) logits_.Reserve(rows * ld);
  for (idx first = 0; first < vocab; first += kHeadColumns) {
    const idx columns = std::min(kHeadColumns, vocab - first);
    if (known) model_.LogitsOf(hidden_.data(), rows, first, columns, logits_.data(), ld);
    ParallelFor(rows, [&](idx r) {
      RowResult& row = results[static_cast<std::size_t>(r)];
      T* dlogits = dlogits_.data() + r * ld;
      if (row.id < 0) {
        std::fill_n(dlogits, RoundUp(columns, kPad), T{});
        return;
      }
      float* logits = logits_.data() + (known ? r * ld : r * model_.ld_logits() + first);
      const bool here = row.id >= first && row.id < first + columns;
      const TokenId target = here ? static_cast<TokenId>(row.id - first) : -1;
      if (known) {
        head_part(logits, columns, config_.inv_temperature, row.stats.max, target, row.parts);
      }
      if (row.terms.dentropy == 0) {
        kernels.head_grad(dlogits, logits, columns, config_.inv_temperature, row.stats.lse, target,
                          row.coef);
      } else {
        kernels.head_entropy_grad(dlogits, logits, columns, config_.inv_temperature, row.stats,
                                  target, row.coef, row.entropy_coef);
      }
    });
    model_.LogitsGrad(dhidden_.data(), dhead, dlogits_.data(), ld, first, columns, hidden_.data(),
                      rows);
  }
}

template <class T>
void Learner<T>::AddLookup(std::span<const TokenId> tokens, std::span<const GradRow<T>> rows) {
  const auto d = static_cast<std::size_t>(model_.config().hidden_size);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].segment == nullptr) continue;
    std::vector<float>& sum = lookup_[tokens[r]];
    sum.resize(d);
    const float* dx = dresidual_.data() + static_cast<idx>(r) * model_.ld();
    for (std::size_t i = 0; i < d; ++i) sum[i] += dx[i];
  }
}

template <class T>
void Learner<T>::CheckTaped(const Segment<T>& taped, const LearnGroup& group, idx sample) const {
  const auto check = [&](const std::optional<Flaw>& flaw, const char* what) {
    if (!flaw.has_value()) return;
    Fail(ErrorCode::kExactness, "{}, layer {}: {} changed in memory after the sampler wrote it: {}",
         PlaceOf(*group.group, sample, flaw->row), flaw->layer, what, kContractBroken);
  };
  check(FindFlawInRecords(taped, model_.pool().activations()), "its record on the tape");
  check(FindFlawInPages(taped, model_.config()), "its key or value");
}

template <class T>
void Learner<T>::CheckTaped(const typename Tape<T>::Group& taped, const LearnGroup& group) const {
  CheckTaped(taped.prefix, group, -1);
  for (std::size_t s = 0; s < taped.samples.size(); ++s) {
    CheckTaped(taped.samples[s], group, static_cast<idx>(s));
  }
}

// recheck.cpp instantiates Recheck.
template class Learner<float>;
template class Learner<bf16>;

}  // namespace opo
