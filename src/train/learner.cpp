#include "train/learner.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/parallel.h"

namespace opo {
namespace {

// Rows of logits that the learner holds at once; a multiple of kRowBlock. Smaller chunks make the
// head's weight gradient memory-bound, larger ones only cost memory.
constexpr idx kHeadRows = 512;

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
  logprob_diff_max = std::max(logprob_diff_max, other.logprob_diff_max);
  micro_batches += other.micro_batches;
  rows_forward += other.rows_forward;
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
  Segment<T> prefix;
  PrefixGrad grad;
};

// Segments, rows and targets of one micro-batch.
template <class T>
struct Learner<T>::MicroBatch {
  struct Target {
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
idx Learner<T>::row_bytes() const {
  return model_.pool().activations().row_bytes + model_.backward_row_bytes() +
         model_.config().num_layers * ShapeOf(model_.config()).page_size() *
             static_cast<idx>(sizeof(T)) / kKeyBlock;
}

template <class T>
LearnResult Learner<T>::Accumulate(std::span<const LearnGroup> all, const LossFunction& loss,
                                   float* grad) {
  std::vector<LearnGroup> groups;
  for (const LearnGroup& g : all) {
    if (HasGradient(g)) groups.push_back(g);
  }
  const std::vector<Unit> units = CutUnits(groups, config_.unit_tokens);
  const idx max_rows = config_.memory_bytes / row_bytes();
  LearnResult result;
  lookup_.clear();
  open_.reset();
  const auto rows_of = [](const Unit& u) {
    return RoundUp(u.sample_rows + u.prefix_rows, kRowBlock);
  };
  for (std::size_t first = 0; first < units.size();) {
    idx rows = rows_of(units[first]);
    if (rows > max_rows) {
      Fail(ErrorCode::kUsage,
           "run.memory_mb: {} rows of one unit need {} MB for learning, {} MB are planned; raise "
           "run.memory_mb, or lower train.unit_tokens or rollout.max_new_tokens",
           rows, (rows * row_bytes() >> 20) + 1, config_.memory_bytes >> 20);
    }
    std::size_t end = first + 1;
    while (end < units.size() && rows + rows_of(units[end]) <= max_rows)
      rows += rows_of(units[end++]);
    RunMicroBatch(groups, std::span(units).subspan(first, end - first), loss, grad, result);
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
    RunMicroBatch(groups, {&unit, 1}, nullptr, nullptr, result);
  }
  return result;
}

template <class T>
void Learner<T>::RunMicroBatch(std::span<const LearnGroup> groups, std::span<const Unit> units,
                               const LossFunction& loss, float* grad, LearnResult& result) {
  const ModelConfig& model = model_.config();
  const idx kv_width = model.num_kv_heads * model.head_dim;
  MicroBatch micro;
  std::size_t num_segments = 0;
  for (const Unit& unit : units) num_segments += static_cast<std::size_t>(unit.num_samples);
  micro.segments.reserve(num_segments);
  micro.inputs.reserve(num_segments);

  for (const Unit& unit : units) {
    const LearnGroup& learn = groups[static_cast<std::size_t>(unit.group)];
    const RolloutGroup& group = *learn.group;
    if (open_ == nullptr || open_->group != unit.group) {
      open_ = std::make_unique<OpenGroup>();
      open_->group = unit.group;
      open_->prefix = Segment<T>(&model_.pool());
      if (unit.prefix_rows > 0) {
        open_->grad.length = unit.prefix_rows;
        open_->grad.dk = Buffer<float>(model.num_layers * unit.prefix_rows * kv_width);
        open_->grad.dv = Buffer<float>(model.num_layers * unit.prefix_rows * kv_width);
        Run<T> run;
        run.segment = &open_->prefix;
        run.tokens = group.prompt.data();
        run.count = unit.prefix_rows;
        run.record = true;
        run.outputs = false;
        micro.runs.push_back(run);
        result.rows_forward += run.count;
      }
    }
    const Segment<T>* prefix = unit.prefix_rows > 0 ? &open_->prefix : nullptr;
    PrefixGrad* prefix_grad = unit.prefix_rows > 0 ? &open_->grad : nullptr;
    for (idx s = unit.first_sample; s < unit.first_sample + unit.num_samples; ++s) {
      const Rollout& rollout = group.rollouts[static_cast<std::size_t>(s)];
      if (rollout.tokens.empty()) continue;
      micro.inputs.push_back({group.prompt.back()});
      auto& input = micro.inputs.back();
      input.insert(input.end(), rollout.tokens.begin(), rollout.tokens.end() - 1);
      micro.segments.emplace_back(&model_.pool());
      const Segment<T>* segment = &micro.segments.back();
      Run<T> run;
      run.segment = &micro.segments.back();
      run.prefix = prefix;
      run.tokens = input.data();
      run.count = static_cast<idx>(input.size());
      run.record = true;
      micro.runs.push_back(run);
      result.rows_forward += run.count;
      micro.grad_runs.push_back(
          {segment, prefix, prefix_grad, false, static_cast<idx>(micro.rows.size())});
      for (idx r = 0; r < run.count; ++r) {
        micro.head_rows.push_back({segment, r});
        micro.targets.push_back({&rollout, r, learn.weights[static_cast<std::size_t>(s)],
                                 static_cast<idx>(micro.rows.size())});
        micro.rows.push_back({segment, r});
        micro.row_tokens.push_back(input[static_cast<std::size_t>(r)]);
      }
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
  model_.Backward(dresidual_.data(), micro.rows, micro.grad_runs, layout_, grad);
  AddLookup(micro.row_tokens, micro.rows);
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
    model_.LogitsGrad(dhidden_.data(), grad + layout_.head, dlogits_.data(), hidden_.data(), rows);
    model_.FinalNormGrad(dhead_rows_.data(), grad + layout_.final_norm, dhidden_.data(), chunk);
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

template class Learner<float>;
template class Learner<bf16>;

}  // namespace opo
