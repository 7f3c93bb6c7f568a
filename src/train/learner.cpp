#include "train/learner.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <deque>

#include "base/error.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "model/seals.h"

namespace opo {
namespace {

idx PrefixRows(const RolloutGroup& group) { return static_cast<idx>(group.prompt.size()) - 1; }

bool HasGradient(const LearnGroup& g) {
  for (std::size_t i = 0; i < g.group->rollouts.size(); ++i) {
    if (g.weights[i] != 0 && g.group->rollouts[i].advantage != 0) return true;
  }
  return false;
}

}  // namespace

void LearnResult::Add(const LearnResult& other) {
  loss += other.loss;
  tokens += other.tokens;
  clipped += other.clipped;
  clipped_lower += other.clipped_lower;
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
}

std::vector<Unit> CutUnits(std::span<const LearnGroup> groups, idx unit_tokens) {
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
  };
  std::vector<std::unique_ptr<OpenGroup>> groups;
  std::vector<Segment<T>> segments;
  std::vector<std::vector<TokenId>> inputs;  // of each segment
  std::vector<Run<T>> runs;
  std::vector<GradRow<T>> rows;     // of the body: units padded
  std::vector<TokenId> row_tokens;  // what each body row was fed; -1 for padding
  std::vector<GradRun<T>> grad_runs;
  std::vector<GradRow<T>> head_rows;  // samples only, each unit padded
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

// How a unit is run, and the bytes that it takes: records in full where they fit, else layer by
// layer.
template <class T>
typename Learner<T>::PlannedUnit Learner<T>::Plan(std::span<const LearnGroup> groups,
                                                  const Unit& unit, const Tape<T>* tape,
                                                  idx& bytes) const {
  const idx rows = RoundUp(unit.sample_rows + unit.prefix_rows, kRowBlock);
  idx taped = 0;
  if (const idx g = groups[static_cast<std::size_t>(unit.group)].tape_group;
      tape != nullptr && g >= 0) {
    const auto& group = tape->groups[static_cast<std::size_t>(g)];
    if (group.prefix.record() != Record::kNone) taped += unit.prefix_rows;
    for (idx s = unit.first_sample; s < unit.first_sample + unit.num_samples; ++s) {
      const Segment<T>& sample = group.samples[static_cast<std::size_t>(s)];
      if (sample.record() != Record::kNone) taped += sample.length();
    }
  }
  for (const Record record : {Record::kAll, Record::kResiduals}) {
    bytes = (rows - taped) * row_bytes(record) + taped * row_bytes(Record::kNone);
    if (bytes <= config_.memory_bytes) return {unit, record};
  }
  Fail(ErrorCode::kUsage,
       "run.memory_mb: {} rows of one unit need {} MB for learning, {} MB are planned; raise "
       "run.memory_mb, or lower train.unit_tokens or rollout.max_new_tokens",
       rows, (bytes >> 20) + 1, config_.memory_bytes >> 20);
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
  open_.reset();
  std::vector<PlannedUnit> units;
  std::vector<idx> bytes;
  for (const Unit& unit : CutUnits(groups, config_.unit_tokens)) {
    bytes.push_back(0);
    units.push_back(Plan(groups, unit, tape, bytes.back()));
  }
  for (std::size_t first = 0; first < units.size();) {
    idx used = bytes[first];
    std::size_t end = first + 1;
    while (end < units.size() && used + bytes[end] <= config_.memory_bytes) used += bytes[end++];
    RunMicroBatch(groups, std::span(units).subspan(first, end - first), loss, grad, tape,
                  end == units.size() ? layer_done : nullptr, result);
    ++result.micro_batches;
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
  open_.reset();
  for (const Unit& unit : CutUnits(groups, config_.unit_tokens)) {
    idx bytes = 0;
    const PlannedUnit planned = Plan(groups, unit, nullptr, bytes);
    RunMicroBatch(groups, {&planned, 1}, nullptr, nullptr, nullptr, nullptr, result);
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
      micro.inputs.push_back({group.prompt.back()});
      auto& input = micro.inputs.back();
      input.insert(input.end(), rollout.tokens.begin(), rollout.tokens.end() - 1);
      const idx count = static_cast<idx>(input.size());
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
        micro.head_rows.push_back({segment, r});
        micro.targets.push_back({&group, &rollout, r, learn.weights[static_cast<std::size_t>(s)],
                                 static_cast<idx>(micro.rows.size())});
        micro.rows.push_back({segment, r});
        micro.row_tokens.push_back(input[static_cast<std::size_t>(r)]);
      }
      result.rows_learned += count;
    }
    while (micro.head_rows.size() % kRowBlock != 0) {
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
    while (micro.rows.size() % kRowBlock != 0) {
      micro.rows.push_back({});
      micro.row_tokens.push_back(-1);
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
  const idx vocab = model_.config().vocab_size;
  const idx ld = model_.ld();
  const idx ld_logits = model_.ld_logits();
  const Kernels& kernels = ActiveKernels();
  const idx num_rows = static_cast<idx>(micro.head_rows.size());
  const idx body_rows = static_cast<idx>(micro.rows.size());
  const idx chunk_rows = std::min(kHeadRows, num_rows);
  hidden_.Reserve(chunk_rows * ld);
  logits_.Reserve(chunk_rows * ld_logits);
  if (loss != nullptr) {
    dlogits_.Reserve(chunk_rows * ld_logits);
    dhidden_.Reserve(chunk_rows * ld);
    dhead_rows_.Reserve(chunk_rows * ld);
    dresidual_.Reserve(body_rows * ld);
    std::fill_n(dresidual_.data(), body_rows * ld, 0.0f);
  }
  struct RowResult {
    TokenLoss loss;
    float policy = 0;
  };
  std::vector<RowResult> row_results;
  for (idx first = 0; first < num_rows; first += kHeadRows) {
    const idx rows = std::min(kHeadRows, num_rows - first);
    const std::span<const GradRow<T>> chunk =
        std::span<const GradRow<T>>(micro.head_rows)
            .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
    model_.FinalNorm(hidden_.data(), chunk);
    model_.Logits(hidden_.data(), rows, logits_.data());
    row_results.assign(static_cast<std::size_t>(rows), {});
    ParallelFor(rows, [&](idx r) {
      const auto& target = micro.targets[static_cast<std::size_t>(first + r)];
      T* dlogits = loss != nullptr ? dlogits_.data() + r * ld_logits : nullptr;
      if (target.rollout == nullptr) {
        if (dlogits != nullptr) std::fill_n(dlogits, ld_logits, T{});
        return;
      }
      thread_local std::vector<float> block_sums;
      block_sums.resize(static_cast<std::size_t>(CeilDiv(ld_logits, kHeadBlock)));
      float* logits = logits_.data() + r * ld_logits;
      const auto t = static_cast<std::size_t>(target.token);
      const TokenId id = target.rollout->tokens[t];
      const TokenStats stats =
          kernels.head_stats(logits, vocab, config_.inv_temperature, id, block_sums.data());
      RowResult& out = row_results[static_cast<std::size_t>(r)];
      out.policy = stats.logprob;
      if (dlogits == nullptr) return;
      out.loss =
          (*loss)(static_cast<double>(stats.logprob),
                  static_cast<double>(target.rollout->logprobs[t]), target.rollout->advantage);
      kernels.of<T>().head_grad(dlogits, logits, vocab, config_.inv_temperature, stats.lse, id,
                                static_cast<float>(target.weight * out.loss.dlogprob));
    });
    for (idx r = 0; r < rows; ++r) {
      const auto& target = micro.targets[static_cast<std::size_t>(first + r)];
      if (target.rollout == nullptr) continue;
      const RowResult& out = row_results[static_cast<std::size_t>(r)];
      const float sampled = target.rollout->logprobs[static_cast<std::size_t>(target.token)];
      ++result.compared_tokens;
      if (std::bit_cast<std::uint32_t>(sampled) != std::bit_cast<std::uint32_t>(out.policy)) {
        ++result.mismatched_tokens;
        if (result.mismatched_group < 0) {
          result.mismatched_group = target.group->number;
          result.mismatched_sample = target.rollout - target.group->rollouts.data();
          result.mismatched_token = target.token;
        }
      }
      const double difference = static_cast<double>(sampled) - static_cast<double>(out.policy);
      result.logprob_diff_max = std::max(result.logprob_diff_max, std::abs(difference));
      if (loss == nullptr) continue;
      ++result.tokens;
      result.loss += target.weight * out.loss.loss;
      result.clipped += out.loss.clipped ? 1 : 0;
      result.clipped_lower += out.loss.clipped_lower ? 1 : 0;
      result.kl_sum += difference;
    }
    if (loss == nullptr) continue;
    const auto place = [&](idx offset) { return offset < 0 ? nullptr : grad + offset; };
    model_.LogitsGrad(dhidden_.data(), place(layout_.head), dlogits_.data(), hidden_.data(), rows);
    model_.FinalNormGrad(dhead_rows_.data(), place(layout_.final_norm), dhidden_.data(), chunk);
    for (idx r = 0; r < rows; ++r) {
      const auto& target = micro.targets[static_cast<std::size_t>(first + r)];
      if (target.rollout == nullptr) continue;
      std::memcpy(dresidual_.data() + target.body_row * ld, dhead_rows_.data() + r * ld,
                  static_cast<std::size_t>(ld) * sizeof(float));
    }
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

template <class T>
typename Learner<T>::RecheckResult Learner<T>::Recheck(std::span<const RolloutGroup> groups,
                                                       const Tape<T>& tape, std::uint64_t seed,
                                                       std::uint64_t step, idx max_rows) {
  // The taped segments in a seeded order.
  constexpr std::size_t kPrompt = ~std::size_t{0};  // instead of a sample: the prompt's rows
  struct Candidate {
    std::uint64_t rank;
    std::size_t group, sample;
    const Segment<T>* taped;
  };
  std::vector<Candidate> candidates;
  const auto offer = [&](std::size_t g, std::size_t s, const Segment<T>& taped) {
    if (taped.record() == Record::kNone) return;
    const auto bits =
        Philox4x32({static_cast<std::uint32_t>(g), static_cast<std::uint32_t>(s),
                    static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(step >> 32)},
                   {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
    candidates.push_back({(std::uint64_t{bits[0]} << 32) | bits[1], g, s, &taped});
  };
  const auto taped_group = [&](std::size_t g) -> const typename Tape<T>::Group& {
    return tape.groups[static_cast<std::size_t>(groups[g].tape_group)];
  };
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].tape_group < 0) continue;
    const auto& taped = taped_group(g);
    offer(g, kPrompt, taped.prefix);
    for (std::size_t s = 0; s < taped.samples.size(); ++s) offer(g, s, taped.samples[s]);
  }
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.rank < b.rank; });

  // A window of each, as long as rows are left: it begins at a block of records, anywhere.
  struct Window {
    const Segment<T>* taped;
    Segment<T>* again;
    idx first;
    std::size_t group, sample;
  };
  std::deque<Segment<T>> segments;
  std::map<std::size_t, Segment<T>*> prefixes;  // by group
  std::deque<std::vector<TokenId>> inputs;
  std::vector<Run<T>> runs;
  std::vector<Window> windows;
  for (const Candidate& c : candidates) {
    if (max_rows <= 0) break;
    const RolloutGroup& group = groups[c.group];
    const idx length = c.taped->length();
    const idx count = std::min(length, max_rows);
    const idx places = (length - count) / kActivationRows + 1;
    const idx first =
        static_cast<idx>(c.rank % static_cast<std::uint64_t>(places)) * kActivationRows;
    max_rows -= count;
    Run<T> run;
    if (c.sample == kPrompt) {
      inputs.emplace_back(group.prompt.begin(), group.prompt.end() - 1);
      run.outputs = false;
    } else {
      const auto& tokens = group.rollouts[c.sample].tokens;
      inputs.push_back({group.prompt.back()});
      inputs.back().insert(inputs.back().end(), tokens.begin(), tokens.end() - 1);
      const Segment<T>& taped_prefix = taped_group(c.group).prefix;
      if (taped_prefix.length() > 0) {
        Segment<T>*& prefix = prefixes[c.group];
        if (prefix == nullptr) {
          prefix = &segments.emplace_back(&model_.pool());
          model_.RestoreKeys(*prefix, taped_prefix, taped_prefix.length());
        }
        run.prefix = prefix;
      }
    }
    run.segment = &segments.emplace_back(&model_.pool());
    if (first > 0) model_.RestoreKeys(*run.segment, *c.taped, first);
    run.tokens = inputs.back().data() + first;
    run.count = count;
    run.record = Record::kAll;
    runs.push_back(run);
    windows.push_back({c.taped, run.segment, first, c.group, c.sample});
  }
  model_.Forward(runs, nullptr);

  RecheckResult result;
  const ActivationLayout<T>& at = model_.pool().activations();
  const idx num_layers = model_.config().num_layers;
  for (std::size_t i = 0; i < windows.size(); ++i) {
    const auto& [taped, again, first, g, s] = windows[i];
    const bool outputs = runs[i].outputs;
    const auto kept = static_cast<std::size_t>(outputs ? at.kept_bytes : at.final);
    // In the last layer a prompt's rows end before attention.
    const idx rest = outputs ? num_layers * at.rest_layer_bytes
                             : (num_layers - 1) * at.rest_layer_bytes + at.attention;
    for (idx r = first; r < again->length(); ++r, ++result.rows) {
      const bool same =
          std::memcmp(taped->Kept(r, 0), again->Kept(r, 0), kept) == 0 &&
          std::memcmp(taped->Rest(r, 0), again->Rest(r, 0), static_cast<std::size_t>(rest)) == 0;
      if (same) continue;
      if (result.mismatched++ == 0) {
        result.place = PlaceOf(groups[g], s == kPrompt ? idx{-1} : static_cast<idx>(s), r);
      }
    }
  }
  return result;
}

template class Learner<float>;
template class Learner<bf16>;

}  // namespace opo
