#include "train/sample_gradients.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <map>
#include <span>

#include "base/error.h"
#include "base/parallel.h"
#include "train/gradient_parts.h"
#include "train/learner.h"

namespace opo {
// A sample of a pass: its rows, and behind them the prompt's, in the body; its rows in the head.
template <class T>
struct SampleGradients<T>::Sample {
  std::size_t index = 0;  // in the group
  const Rollout* rollout = nullptr;
  Segment<T>* segment = nullptr;  // of the tape, or `own`
  Segment<T> own;
  std::vector<TokenId> input;
  PrefixGrad prefix_grad;
  RowRange body, head;  // padded to kRowBlock
  // The embedding lookup's gradient by token.
  std::map<TokenId, std::vector<float>> lookup;
  // Where the head's norm is a ghost: that part of it; and dlogits of the tokens of `lookup`,
  // (head rows, tokens), for its product with the lookup's.
  bool ghost_head = false;
  double head_norm = 0;
  std::vector<float> dlogits;
  idx length() const { return rollout->length(); }
};

// Adds up what a backward pass hands out.
template <class T>
class SampleGradients<T>::Parts : public RowGradients<T> {
 public:
  Parts(std::vector<RowRange> ranges, GradientProducts what) : ranges_(ranges), what_(what) {
    sums_.resize(what == GradientProducts::kAll ? ranges.size() * ranges.size() : ranges.size());
  }
  std::span<double> sums() { return sums_; }

  void Matrix(const T* dy, idx lddy, idx n, const T* x, idx ldx, idx k) override {
    if (what_ == GradientProducts::kNorms) {
      ForSamples(ranges_.size(),
                 [&](std::size_t i) { sums_[i] += Norm(dy, lddy, n, x, ldx, k, ranges_[i]); });
      return;
    }
    const idx num = static_cast<idx>(ranges_.size());
    const idx block = std::min(n, std::max(kPanel, kMadeFloats / (num * k) / kPanel * kPanel));
    for (idx n0 = 0; n0 < n; n0 += block) {
      AddMade(ranges_, dy + n0, lddy, std::min(block, n - n0), x, ldx, k, {});
    }
  }

  void Vector(idx width, const std::function<void(float*, idx, idx)>& add) override {
    const idx num = static_cast<idx>(ranges_.size());
    const idx ld = RoundUp(width, 16);
    made_.Reserve(num * ld);
    std::fill_n(made_.data(), num * ld, 0.0f);
    for (idx i = 0; i < num; ++i) {
      const RowRange range = ranges_[static_cast<std::size_t>(i)];
      add(made_.data() + i * ld, range.first, range.count);
    }
    AddDots(sums_, what_, made_.data(), ld, num, width);
  }

  // The gradients dy^T x (n, k) over these ranges of rows, one a sample; finish(i, dw) may add to
  // them.
  void AddMade(std::span<const RowRange> ranges, const T* dy, idx lddy, idx n, const T* x, idx ldx,
               idx k, const std::function<void(std::size_t, float*)>& finish) {
    const idx num = static_cast<idx>(ranges.size());
    made_.Reserve(num * n * k);
    ForSamples(ranges.size(), [&](std::size_t i) {
      float* dw = made_.data() + static_cast<idx>(i) * n * k;
      MakeGradient(dw, dy, lddy, n, x, ldx, k, ranges[i]);
      if (finish) finish(i, dw);
    });
    AddDots(sums_, what_, made_.data(), n * k, num, n * k);
  }
  // The same of one sample, by itself.
  void AddMadeNorm(std::size_t i, const T* dy, idx lddy, idx n, const T* x, idx ldx, idx k,
                   RowRange range, const std::function<void(std::size_t, float*)>& finish) {
    made_.Reserve(n * k);
    MakeGradient(made_.data(), dy, lddy, n, x, ldx, k, range);
    if (finish) finish(i, made_.data());
    AddDots({&sums_[i], 1}, GradientProducts::kNorms, made_.data(), 0, 1, n * k);
  }

 private:
  static double Norm(const T* dy, idx lddy, idx n, const T* x, idx ldx, idx k, RowRange range) {
    if (GhostIsCheaper(range.count, n, k)) {
      return GhostNorm(dy + range.first * lddy, lddy, n, x + range.first * ldx, ldx, k,
                       range.count);
    }
    thread_local Buffer<float> dw;
    const idx block = std::min(n, std::max(kPanel, kMadeFloats / 8 / k / kPanel * kPanel));
    dw.Reserve(block * k);
    double sum = 0;
    for (idx n0 = 0; n0 < n; n0 += block) {
      const idx count = std::min(block, n - n0);
      MakeGradient(dw.data(), dy + n0, lddy, count, x, ldx, k, range);
      AddDots({&sum, 1}, GradientProducts::kNorms, dw.data(), 0, 1, count * k);
    }
    return sum;
  }

  std::vector<RowRange> ranges_;
  GradientProducts what_;
  std::vector<double> sums_;
  Buffer<float> made_;  // a gradient, or a block of its rows, of each sample
};

template <class T>
struct SampleGradients<T>::Pass {
  GradientProducts what;
  std::vector<Sample>& samples;
  Parts& parts;
  std::vector<GradRow<T>> rows;  // of the body
  std::vector<GradRow<T>> head_rows;
  std::vector<float> lse;        // of the head rows
  std::vector<TokenId> targets;  // of the head rows; -1: padding
};

template <class T>
SampleGradients<T>::SampleGradients(Transformer<T>& model, const SlabLayout& layout,
                                    idx memory_bytes, float inv_temperature)
    : model_(model),
      layout_(layout),
      memory_bytes_(memory_bytes),
      inv_temperature_(inv_temperature) {}

template <class T>
idx SampleGradients<T>::BytesOf(idx rows, idx recorded_rows, idx head_rows, Record record) const {
  const ModelConfig& config = model_.config();
  const idx page_row_bytes =
      config.num_layers * ShapeOf(config).page_size() * static_cast<idx>(sizeof(T)) / kKeyBlock;
  const idx prefix_grad = 2 * config.num_kv_heads * config.head_dim * 4;
  return rows * (model_.backward_row_bytes(true) + prefix_grad) +
         recorded_rows * (model_.pool().activations().row_bytes(record) + page_row_bytes) +
         head_rows * model_.ld() * static_cast<idx>(sizeof(T));
}

template <class T>
SampleGradientsResult SampleGradients<T>::Compute(const RolloutGroup& group, GradientProducts what,
                                                  Tape<T>* tape) {
  const std::size_t num = group.rollouts.size();
  SampleGradientsResult result;
  result.norms.resize(num);
  if (what == GradientProducts::kAll) result.products.resize(num * num);
  const idx prefix_rows = static_cast<idx>(group.prompt.size()) - 1;
  typename Tape<T>::Group* taped = nullptr;
  if (tape != nullptr && group.tape_group >= 0) {
    taped = &tape->groups[static_cast<std::size_t>(group.tape_group)];
  }
  const auto taped_sample = [&](std::size_t s) -> Segment<T>* {
    if (taped == nullptr || taped->samples[s].record() == Record::kNone) return nullptr;
    return &taped->samples[s];
  };
  const bool prefix_taped = taped != nullptr && taped->prefix.record() != Record::kNone;

  // Runs of samples that fit, recorded in full where one does.
  std::vector<std::size_t> order;
  for (std::size_t s = 0; s < num; ++s) {
    if (!group.rollouts[s].tokens.empty()) order.push_back(s);
  }
  const auto bytes_of = [&](std::size_t first, std::size_t end, Record record) {
    idx rows = 0;
    idx recorded = prefix_taped ? 0 : prefix_rows;
    idx head = 0;
    for (std::size_t i = first; i < end; ++i) {
      const idx length = group.rollouts[order[i]].length();
      rows += RoundUp(length + prefix_rows, kRowBlock);
      head += RoundUp(length, kRowBlock);
      if (taped_sample(order[i]) == nullptr) recorded += length;
    }
    return BytesOf(rows, recorded, head, record);
  };
  // All of a group is recorded in one way, since its passes share the prompt's rows.
  Record record = Record::kAll;
  const auto fits = [&](Record with) {
    if (what == GradientProducts::kAll) return bytes_of(0, order.size(), with) <= memory_bytes_;
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (bytes_of(i, i + 1, with) > memory_bytes_) return false;
    }
    return true;
  };
  if (!fits(record)) record = Record::kResiduals;
  if (!fits(record)) {
    idx most = 0;
    for (std::size_t i = 0; i < order.size(); ++i) {
      most = std::max(most, bytes_of(i, i + 1, record));
    }
    if (what == GradientProducts::kAll) most = bytes_of(0, order.size(), record);
    Fail(ErrorCode::kUsage,
         "the gradients of {} need {} MB at once, {} MB are planned; give more memory, fewer "
         "samples or shorter answers",
         what == GradientProducts::kAll ? "a prompt's samples" : "a sample", (most >> 20) + 1,
         memory_bytes_ >> 20);
  }

  Segment<T> recomputed(&model_.pool());
  Segment<T>* prefix = prefix_rows == 0 ? nullptr : prefix_taped ? &taped->prefix : &recomputed;
  bool run_prefix = prefix == &recomputed;
  for (std::size_t first = 0; first < order.size();) {
    std::size_t end = first + 1;
    while (end < order.size() && bytes_of(first, end + 1, record) <= memory_bytes_) ++end;
    if (what == GradientProducts::kAll) end = order.size();
    std::vector<Sample> samples(end - first);
    for (std::size_t i = 0; i < samples.size(); ++i) {
      Sample& sample = samples[i];
      sample.index = order[first + i];
      sample.rollout = &group.rollouts[sample.index];
      sample.own = Segment<T>(&model_.pool());
      Segment<T>* on_tape = taped_sample(sample.index);
      sample.segment = on_tape != nullptr ? on_tape : &sample.own;
    }
    Run(group, samples, prefix, run_prefix, record, what, result);
    run_prefix = false;
    first = end;
  }
  return result;
}

template <class T>
void SampleGradients<T>::Run(const RolloutGroup& group, std::vector<Sample>& samples,
                             Segment<T>* prefix, bool run_prefix, Record record,
                             GradientProducts what, SampleGradientsResult& result) {
  const ModelConfig& config = model_.config();
  const idx kv_width = config.num_kv_heads * config.head_dim;
  const idx prefix_rows = static_cast<idx>(group.prompt.size()) - 1;
  std::vector<opo::Run<T>> runs;
  if (run_prefix) {
    runs.push_back({.segment = prefix,
                    .tokens = group.prompt.data(),
                    .count = prefix_rows,
                    .record = record,
                    .outputs = false});
  }
  std::vector<GradRun<T>> grad_runs;
  std::vector<RowRange> ranges;
  std::vector<TokenId> row_tokens;
  std::vector<GradRow<T>> rows, head_rows;
  std::vector<TokenId> targets;
  for (Sample& sample : samples) {
    sample.input = SampleInput(group, *sample.rollout);
    if (sample.segment == &sample.own) {
      OPO_CHECK(prefix == nullptr || run_prefix || prefix->has_pages());
      runs.push_back({.segment = sample.segment,
                      .prefix = prefix,
                      .tokens = sample.input.data(),
                      .count = sample.length(),
                      .record = record});
    }
    PrefixGrad* prefix_grad = nullptr;
    if (prefix != nullptr) {
      sample.prefix_grad.length = prefix_rows;
      sample.prefix_grad.one_layer = true;
      sample.prefix_grad.dk = Buffer<float>(prefix_rows * kv_width);
      sample.prefix_grad.dv = Buffer<float>(prefix_rows * kv_width);
      prefix_grad = &sample.prefix_grad;
    }
    sample.body.first = static_cast<idx>(rows.size());
    sample.head.first = static_cast<idx>(head_rows.size());
    grad_runs.push_back({sample.segment, prefix, prefix_grad, false, sample.body.first});
    for (idx r = 0; r < sample.length(); ++r) {
      rows.push_back({sample.segment, r});
      row_tokens.push_back(sample.input[static_cast<std::size_t>(r)]);
      head_rows.push_back({sample.segment, r});
      targets.push_back(sample.rollout->tokens[static_cast<std::size_t>(r)]);
    }
    if (prefix != nullptr) {
      grad_runs.push_back({prefix, nullptr, prefix_grad, true, static_cast<idx>(rows.size())});
      for (idx r = 0; r < prefix_rows; ++r) {
        rows.push_back({prefix, r});
        row_tokens.push_back(group.prompt[static_cast<std::size_t>(r)]);
      }
    }
    while (rows.size() % kRowBlock != 0) {
      rows.push_back({});
      row_tokens.push_back(-1);
    }
    while (head_rows.size() % kRowBlock != 0) {
      head_rows.push_back({});
      targets.push_back(-1);
    }
    sample.body.count = static_cast<idx>(rows.size()) - sample.body.first;
    sample.head.count = static_cast<idx>(head_rows.size()) - sample.head.first;
    sample.ghost_head =
        what == GradientProducts::kNorms && sample.head.count <= kHeadRows &&
        GhostIsCheaper(sample.head.count, RoundUp(model_.config().vocab_size, kPad), model_.ld());
    if (layout_.embed >= 0) {
      for (std::size_t r = static_cast<std::size_t>(sample.body.first); r < rows.size(); ++r) {
        if (row_tokens[r] >= 0) sample.lookup[row_tokens[r]];
      }
    }
    ranges.push_back(sample.body);
  }
  model_.Forward(runs, nullptr);

  Parts parts(ranges, what);
  Pass pass{what, samples, parts, std::move(rows), std::move(head_rows), {}, std::move(targets)};
  dresidual_.Reserve(static_cast<idx>(pass.rows.size()) * model_.ld());
  std::fill_n(dresidual_.data(), static_cast<idx>(pass.rows.size()) * model_.ld(), 0.0f);
  Head(pass, result);
  model_.Backward(dresidual_.data(), pass.rows, grad_runs, layout_, parts);

  const auto width = static_cast<std::size_t>(config.hidden_size);
  if (layout_.embed >= 0) {
    for (Sample& sample : samples) {
      for (idx r = sample.body.first; r < sample.body.first + sample.body.count; ++r) {
        const TokenId token = row_tokens[static_cast<std::size_t>(r)];
        if (token < 0) continue;
        std::vector<float>& sum = sample.lookup.at(token);
        sum.resize(width);
        const float* dx = dresidual_.data() + r * model_.ld();
        for (std::size_t i = 0; i < width; ++i) sum[i] += dx[i];
      }
    }
  }
  if (layout_.head >= 0) HeadMatrix(pass);
  // The lookup by itself, where it is no part of the head's matrix (HeadMatrix).
  const std::size_t num = samples.size();
  if (layout_.embed >= 0 && layout_.embed != layout_.head) {
    for (std::size_t i = 0; i < num; ++i) {
      for (std::size_t j = i; j < (what == GradientProducts::kAll ? num : i + 1); ++j) {
        double sum = 0;
        for (const auto& [token, a] : samples[i].lookup) {
          const auto b = samples[j].lookup.find(token);
          if (b == samples[j].lookup.end()) continue;
          for (std::size_t e = 0; e < width; ++e) {
            sum += static_cast<double>(a[e]) * static_cast<double>(b->second[e]);
          }
        }
        parts.sums()[what == GradientProducts::kAll ? i * num + j : i] += sum;
      }
    }
  }

  const std::size_t all = group.rollouts.size();
  for (std::size_t i = 0; i < num; ++i) {
    const std::size_t at = samples[i].index;
    if (what == GradientProducts::kNorms) {
      result.norms[at] = parts.sums()[i];
      continue;
    }
    result.norms[at] = parts.sums()[i * num + i];
    for (std::size_t j = i; j < num; ++j) {
      result.products[at * all + samples[j].index] = parts.sums()[i * num + j];
      result.products[samples[j].index * all + at] = parts.sums()[i * num + j];
    }
  }
}

// Logits, their gradient and what comes of it at the last layer's output; of the head's matrix only
// the ghosts.
template <class T>
void SampleGradients<T>::Head(Pass& pass, SampleGradientsResult& result) {
  const ModelConfig& config = model_.config();
  const idx ld = model_.ld();
  const idx ld_logits = model_.ld_logits();
  const idx num_rows = static_cast<idx>(pass.head_rows.size());
  const Kernels& kernels = ActiveKernels();
  hidden_.Reserve(num_rows * ld);
  model_.FinalNorm(hidden_.data(), pass.head_rows);
  pass.lse.resize(pass.head_rows.size());
  const idx most = std::min(num_rows, kHeadRows);
  logits_.Reserve(most * ld_logits);
  dlogits_.Reserve(most * ld_logits);
  dhidden_.Reserve(num_rows * ld);
  dhead_rows_.Reserve(num_rows * ld);
  std::vector<float> logprobs(pass.head_rows.size());

  // Chunks of whole samples, except of those that are longer than one.
  std::vector<RowRange> chunks;
  for (const Sample& sample : pass.samples) {
    if (!chunks.empty() && chunks.back().count + sample.head.count <= kHeadRows) {
      chunks.back().count += sample.head.count;
      continue;
    }
    for (idx r = 0; r < sample.head.count; r += kHeadRows) {
      chunks.push_back({sample.head.first + r, std::min(kHeadRows, sample.head.count - r)});
    }
  }
  for (const RowRange chunk : chunks) {
    const T* hidden = hidden_.data() + chunk.first * ld;
    model_.Logits(hidden, chunk.count, logits_.data());
    ParallelFor(chunk.count, [&](idx r) {
      const auto at = static_cast<std::size_t>(chunk.first + r);
      T* dlogits = dlogits_.data() + r * ld_logits;
      if (pass.targets[at] < 0) {
        std::fill_n(dlogits, ld_logits, T{});
        return;
      }
      thread_local std::vector<float> block_sums;
      block_sums.resize(static_cast<std::size_t>(CeilDiv(config.vocab_size, kHeadBlock)));
      float* logits = logits_.data() + r * ld_logits;
      const TokenStats stats = kernels.head_stats(logits, config.vocab_size, inv_temperature_,
                                                  pass.targets[at], block_sums.data());
      pass.lse[at] = stats.lse;
      kernels.of<T>().head_grad(dlogits, logits, config.vocab_size, inv_temperature_, stats.lse,
                                pass.targets[at], 1.0f);
      logprobs[at] = stats.logprob;
    });
    model_.LogitsGrad(dhidden_.data() + chunk.first * ld, nullptr, dlogits_.data(), ld_logits, 0,
                      config.vocab_size, hidden, chunk.count);
    if (layout_.head < 0) continue;
    ForSamples(pass.samples.size(), [&](std::size_t i) {
      Sample& sample = pass.samples[i];
      if (!sample.ghost_head || sample.head.first < chunk.first ||
          sample.head.first >= chunk.first + chunk.count) {
        return;
      }
      const T* dlogits = dlogits_.data() + (sample.head.first - chunk.first) * ld_logits;
      sample.head_norm =
          GhostNorm(dlogits, ld_logits, ld_logits, hidden_.data() + sample.head.first * ld, ld, ld,
                    sample.head.count);
      if (layout_.embed != layout_.head) return;
      for (idx r = 0; r < sample.head.count; ++r) {
        for (const auto& [token, sum] : sample.lookup) {
          sample.dlogits.push_back(ToF32(dlogits[r * ld_logits + token]));
        }
      }
    });
  }
  for (const Sample& sample : pass.samples) {
    const std::vector<float>& sampled = sample.rollout->logprobs;
    for (std::size_t t = 0; t < sampled.size(); ++t) {
      const float now = logprobs[static_cast<std::size_t>(sample.head.first) + t];
      ++result.compared_tokens;
      if (std::bit_cast<std::uint32_t>(now) != std::bit_cast<std::uint32_t>(sampled[t])) {
        ++result.mismatched_tokens;
      }
    }
  }

  const std::span<const GradRow<T>> rows(pass.head_rows);
  model_.FinalNormGrad(dhead_rows_.data(), nullptr, dhidden_.data(), rows);
  for (const Sample& sample : pass.samples) {
    for (idx r = 0; r < sample.length(); ++r) {
      std::memcpy(dresidual_.data() + (sample.body.first + r) * ld,
                  dhead_rows_.data() + (sample.head.first + r) * ld,
                  static_cast<std::size_t>(ld) * sizeof(float));
    }
  }
  if (layout_.final_norm < 0) return;
  // Its ranges are the head's rows, and Parts knows the body's.
  std::size_t next = 0;
  pass.parts.Vector(config.hidden_size, [&](float* sum, idx, idx) {
    const RowRange range = pass.samples[next++].head;
    model_.FinalNormGrad(
        dhead_rows_.data() + range.first * ld, sum, dhidden_.data() + range.first * ld,
        rows.subspan(static_cast<std::size_t>(range.first), static_cast<std::size_t>(range.count)));
  });
}

// The head's matrix, with the lookup's rows where it is the embedding too.
template <class T>
void SampleGradients<T>::HeadMatrix(Pass& pass) {
  const ModelConfig& config = model_.config();
  const idx ld = model_.ld();
  const idx d = config.hidden_size;
  const bool tied = layout_.embed == layout_.head;
  const auto width = static_cast<std::size_t>(d);
  // |H + S|^2 = |H|^2 + 2 H.S + |S|^2, where row v of H is sum_a dlogits[a][v] hidden[a].
  ForSamples(pass.samples.size(), [&](std::size_t i) {
    Sample& sample = pass.samples[i];
    if (!sample.ghost_head) return;
    double norm = sample.head_norm;
    if (tied && !sample.lookup.empty()) {
      const idx tokens = static_cast<idx>(sample.lookup.size());
      const idx rows = sample.head.count;
      const idx ld_s = RoundUp(d, 2);
      thread_local Buffer<float> lookup, hidden, products;
      lookup.Reserve(tokens * ld_s);
      hidden.Reserve(rows * d);
      products.Reserve(rows * tokens);
      std::fill_n(lookup.data(), tokens * ld_s, 0.0f);
      idx at = 0;
      for (const auto& [token, sum] : sample.lookup) {
        std::copy_n(sum.data(), width, lookup.data() + at++ * ld_s);
      }
      for (idx r = 0; r < rows; ++r) {
        const T* row = hidden_.data() + (sample.head.first + r) * ld;
        for (idx e = 0; e < d; ++e) hidden[r * d + e] = ToF32(row[e]);
      }
      MultiplyRows<float>(products.data(), lookup.data(), ld_s, tokens, hidden.data(), d, rows, d);
      double cross = 0;
      for (idx v = 0; v < tokens; ++v) {
        for (idx r = 0; r < rows; ++r) {
          cross += static_cast<double>(products[v * rows + r]) *
                   static_cast<double>(sample.dlogits[static_cast<std::size_t>(r * tokens + v)]);
        }
      }
      norm += 2 * cross;
      AddDots({&norm, 1}, GradientProducts::kNorms, lookup.data(), 0, 1, tokens * ld_s);
    }
    pass.parts.sums()[i] += norm;
  });

  // The others, in blocks of the vocabulary, whose logits are made once more.
  std::vector<std::size_t> which;
  std::vector<RowRange> ranges;
  for (std::size_t i = 0; i < pass.samples.size(); ++i) {
    if (pass.samples[i].ghost_head) continue;
    which.push_back(i);
    ranges.push_back(pass.samples[i].head);
  }
  if (which.empty()) return;
  const idx num = static_cast<idx>(which.size());
  const idx first_row = ranges.front().first;
  const idx num_rows = ranges.back().first + ranges.back().count - first_row;
  // Where only norms are asked for, one sample at a time: the same bits whatever the pass holds.
  const bool all = pass.what == GradientProducts::kAll;
  const idx block = std::max(kPanel, kMadeFloats / ((all ? num : 8) * d) / kPanel * kPanel);
  logits_.Reserve(num_rows * block);
  dlogits_.Reserve(num_rows * block);
  for (RowRange& range : ranges) range.first -= first_row;
  const T* hidden = hidden_.data() + first_row * ld;
  for (idx v0 = 0; v0 < config.vocab_size; v0 += block) {
    const idx count = std::min(block, config.vocab_size - v0);
    model_.LogitsOf(hidden, num_rows, v0, count, logits_.data(), block);
    ParallelFor(num_rows, [&](idx r) {
      const auto at = static_cast<std::size_t>(first_row + r);
      float* logits = logits_.data() + r * block;
      T* dlogits = dlogits_.data() + r * block;
      if (pass.targets[at] < 0) {
        std::fill_n(dlogits, block, T{});
        return;
      }
      std::fill(logits + count, logits + RoundUp(count, kPad),
                -std::numeric_limits<float>::infinity());
      const idx target = pass.targets[at] - v0;
      ActiveKernels().of<T>().head_grad(
          dlogits, logits, count, inv_temperature_, pass.lse[at],
          static_cast<TokenId>(target >= 0 && target < count ? target : -1), 1.0f);
    });
    const auto add_lookup = [&](std::size_t i, float* dw) {
      const auto& lookup = pass.samples[i].lookup;
      for (auto it = lookup.lower_bound(static_cast<TokenId>(v0));
           it != lookup.end() && it->first < v0 + count; ++it) {
        float* row = dw + (it->first - v0) * d;
        for (std::size_t e = 0; e < width; ++e) row[e] += it->second[e];
      }
    };
    if (all) {
      pass.parts.AddMade(ranges, dlogits_.data(), block, count, hidden, ld, d,
                         tied ? add_lookup : std::function<void(std::size_t, float*)>());
      continue;
    }
    for (std::size_t i = 0; i < which.size(); ++i) {
      pass.parts.AddMadeNorm(which[i], dlogits_.data(), block, count, hidden, ld, d, ranges[i],
                             tied ? add_lookup : std::function<void(std::size_t, float*)>());
    }
  }
}

template class SampleGradients<float>;
template class SampleGradients<bf16>;

}  // namespace opo
