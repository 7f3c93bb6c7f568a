#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <deque>

#include "base/error.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "model/seals.h"
#include "rollout/answer_text.h"
#include "rollout/rollout.h"
#include "rollout/sampler.h"

namespace opo {
namespace {

// A prompt whose samples are under way. Its rows but the last are shared by all of them.
template <class T>
struct OpenPrompt {
  Segment<T> prefix;
  idx unfinished = 0;
  bool untaped = false;  // one of its samples is not on the tape: the learner needs the pages
};

template <class T>
struct Slot {
  idx group;
  idx sample;
  Segment<T> segment;
  TokenId next;  // the token that the next decode step feeds
  AnswerText text;
};

// The tape's budget, spent on records as they grow.
template <class T>
class TapeWriter {
 public:
  TapeWriter(Tape<T>* tape, SegmentPool<T>& pool, std::span<RolloutGroup> groups)
      : tape_(tape), pool_(pool) {
    if (tape_ == nullptr) return;
    first_ = static_cast<idx>(tape_->groups.size());
    for (RolloutGroup& group : groups) {
      group.tape_group = static_cast<idx>(tape_->groups.size());
      tape_->AddGroup(pool, group.rollouts.size());
    }
  }

  // How `rows` more rows of a segment are to be run. What no longer fits is not recorded at all.
  Record Next(Segment<T>& segment, idx rows) {
    if (tape_ == nullptr) return Record::kNone;
    if (segment.record() == Record::kNone && segment.length() > 0) return Record::kNone;
    const idx held = pool_.RecordBytes(segment.length(), Record::kAll);
    const idx needed = pool_.RecordBytes(segment.length() + rows, Record::kAll);
    if (tape_->bytes + needed - held > tape_->max_bytes) {
      Drop(segment);
      return Record::kNone;
    }
    tape_->bytes += needed - held;
    tape_->rows += rows;
    return Record::kAll;
  }

  void Drop(Segment<T>& segment) {
    if (segment.record() == Record::kNone) return;
    tape_->bytes -= pool_.RecordBytes(segment.length(), Record::kAll);
    tape_->rows -= segment.length();
    segment.DropRecords();
  }

  void FinishSample(Slot<T>& slot, OpenPrompt<T>& open) {
    const bool taped = slot.segment.record() != Record::kNone;
    if (!taped) {
      open.untaped = true;
      return;
    }
    slot.segment.DropPages();
    auto& group = GroupOf(slot.group);
    group.samples[static_cast<std::size_t>(slot.sample)] = std::move(slot.segment);
  }

  void FinishPrompt(idx group, OpenPrompt<T>& open) {
    if (open.prefix.record() == Record::kNone) {
      open.prefix.Clear();
      return;
    }
    if (!open.untaped) open.prefix.DropPages();
    GroupOf(group).prefix = std::move(open.prefix);
  }

 private:
  typename Tape<T>::Group& GroupOf(idx group) {
    return tape_->groups[static_cast<std::size_t>(first_ + group)];
  }
  Tape<T>* tape_;
  idx first_ = 0;  // the tape's groups of earlier calls
  const SegmentPool<T>& pool_;
};

const SamplingConfig& ConfigOf(const RolloutGroup& group, const SamplingConfig& config) {
  return group.sampling.has_value() ? *group.sampling : config;
}

// Throws where a segment's pages are no longer what was written; sample -1: the prompt's.
template <class T>
void CheckPages(const Transformer<T>& model, const Segment<T>& segment,
                const SamplingConfig& config, const RolloutGroup& group, idx sample) {
  const std::optional<Flaw> flaw = FindFlawInPages(segment, model.config());
  if (!flaw.has_value()) return;
  const bool evaluates = config.step == kEvaluationStep;
  Fail(ErrorCode::kExactness,
       "{}: {}, layer {}: its key or value changed in memory after it was written: {}",
       evaluates ? "evaluation" : fmt::format("step {}", config.step),
       PlaceOf(group, sample, flaw->row), flaw->layer, kContractBroken);
}

// The planted fault flip:prefix_kv or flip:sample_kv; every segment is an occasion.
template <class T>
void FlipKeyOrValue(const char* target, const Segment<T>& segment, const ModelConfig& config) {
  if (!FaultsArmed() || segment.length() == 0) return;
  const auto fault = FaultAt("flip", target);
  if (!fault.has_value()) return;
  auto* bytes = reinterpret_cast<std::uint8_t*>(KeyOrValueAt(segment, config, fault->index));
  const auto bit = static_cast<std::size_t>(fault->bit) % (8 * sizeof(T));
  bytes[bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
}

std::uint64_t SealOfToken(const Rollout& rollout, std::size_t t) {
  const auto bits_of = [t](const std::vector<float>& numbers) {
    return numbers.empty() ? 0U : std::bit_cast<std::uint32_t>(numbers[t]);
  };
  const std::array<std::uint32_t, 4> bits = {static_cast<std::uint32_t>(rollout.tokens[t]),
                                             bits_of(rollout.logprobs), bits_of(rollout.entropies),
                                             bits_of(rollout.sum_sqs)};
  return Hash64(std::as_bytes(std::span(bits)));
}

void CheckLogitBias(const SamplingConfig& config, idx vocab) {
  idx forbidden = 0;
  for (const auto& [id, bias] : config.logit_bias) {
    if (id < 0 || id >= vocab) {
      Fail(ErrorCode::kInput, "logit_bias: token id {} is outside the vocabulary of {}", id, vocab);
    }
    if (std::isinf(bias)) ++forbidden;
  }
  if (forbidden >= vocab) {
    Fail(ErrorCode::kInput, "logit_bias: forbids all {} tokens of the vocabulary", vocab);
  }
}

template <class T>
void Prefill(Transformer<T>& model, std::span<RolloutGroup> groups,
             std::vector<OpenPrompt<T>>& prompts, const std::vector<idx>& new_groups,
             TapeWriter<T>& tape) {
  std::vector<Run<T>> runs;
  idx rows = 0;
  const auto flush = [&] {
    model.Forward(runs, nullptr);
    runs.clear();
    rows = 0;
  };
  for (const idx g : new_groups) {
    const auto& prompt = groups[static_cast<std::size_t>(g)].prompt;
    OpenPrompt<T>& open = prompts[static_cast<std::size_t>(g)];
    const idx shared = static_cast<idx>(prompt.size()) - 1;
    const Record record = tape.Next(open.prefix, shared);
    for (idx at = 0; at < shared;) {
      const idx n = std::min(shared - at, kPrefillRows - rows);
      Run<T> run;
      run.segment = &open.prefix;
      run.tokens = prompt.data() + at;
      run.count = n;
      run.outputs = false;
      run.seal = true;
      run.record = record;
      runs.push_back(run);
      at += n;
      rows += n;
      if (rows == kPrefillRows) flush();
    }
  }
  if (rows > 0) flush();
}

}  // namespace

template <class T>
void Generate(Transformer<T>& model, const Tokenizer& tokenizer, std::span<RolloutGroup> groups,
              const SamplingConfig& config, const TokenCallback& on_token, Tape<T>* tape) {
  const idx vocab = model.config().vocab_size;
  const idx ld = model.ld();
  std::deque<std::pair<idx, idx>> waiting;
  std::vector<OpenPrompt<T>> prompts;
  CheckAnswers(model.config(), "the model");
  CheckLogitBias(config, vocab);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const RolloutGroup& group = groups[g];
    const idx max_new_tokens = ConfigOf(group, config).max_new_tokens;
    if (group.sampling.has_value()) CheckLogitBias(*group.sampling, vocab);
    const idx length = static_cast<idx>(group.prompt.size());
    if (length == 0) {
      Fail(ErrorCode::kInput, "prompt {}: has no tokens; give it text or a chat template", g);
    }
    for (const TokenId id : group.prompt) {
      if (id < 0 || id >= vocab) {
        Fail(ErrorCode::kInput, "prompt {}: token id {} is outside the vocabulary of {}", g, id,
             vocab);
      }
    }
    if (model.config().max_position > 0 && length + max_new_tokens > model.config().max_position) {
      Fail(ErrorCode::kInput,
           "prompt {}: {} tokens and {} new ones exceed the model's {} positions; shorten the "
           "prompt or max_new_tokens",
           g, length, max_new_tokens, model.config().max_position);
    }
    prompts.push_back({Segment<T>(&model.pool()), static_cast<idx>(group.rollouts.size())});
    for (std::size_t s = 0; s < group.rollouts.size(); ++s) {
      groups[g].rollouts[s] = Rollout{};
      if (max_new_tokens > 0) waiting.emplace_back(g, s);
    }
  }
  TapeWriter<T> writer(tape, model.pool(), groups);
  const idx max_slots = config.slots > 0 ? config.slots : kDefaultSlots;

  std::vector<Slot<T>> active;  // in order of (group, sample): samples of a prompt share tiles
  Buffer<T> hidden;
  Buffer<float> logits, values;
  while (!waiting.empty() || !active.empty()) {
    std::vector<idx> new_groups;
    while (!waiting.empty() && static_cast<idx>(active.size()) < max_slots) {
      const auto [g, s] = waiting.front();
      waiting.pop_front();
      const RolloutGroup& group = groups[static_cast<std::size_t>(g)];
      const auto& prompt = group.prompt;
      if (prompts[static_cast<std::size_t>(g)].prefix.length() == 0 && prompt.size() > 1 &&
          (new_groups.empty() || new_groups.back() != g)) {
        new_groups.push_back(g);
      }
      active.push_back({g, s, Segment<T>(&model.pool()), prompt.back(),
                        AnswerText(tokenizer, ConfigOf(group, config).stop)});
    }
    if (!new_groups.empty()) Prefill(model, groups, prompts, new_groups, writer);
    for (const idx g : new_groups) {
      FlipKeyOrValue("prefix_kv", prompts[static_cast<std::size_t>(g)].prefix, model.config());
    }

    std::vector<Run<T>> runs;
    for (Slot<T>& slot : active) {
      Run<T> run;
      run.segment = &slot.segment;
      OpenPrompt<T>& open = prompts[static_cast<std::size_t>(slot.group)];
      run.prefix = open.prefix.length() > 0 ? &open.prefix : nullptr;
      run.tokens = &slot.next;
      run.count = 1;
      run.seal = true;
      // A sample is on the tape only where its prompt is.
      if (run.prefix == nullptr || run.prefix->record() != Record::kNone) {
        run.record = writer.Next(slot.segment, 1);
      }
      runs.push_back(run);
    }
    const idx batch = static_cast<idx>(active.size());
    hidden.Reserve(batch * ld);
    logits.Reserve(std::min(batch, kLogitRows) * model.ld_logits());
    model.Forward(runs, hidden.data());
    if (model.config().has_values) {
      values.Reserve(batch);
      model.Values(hidden.data(), batch, values.data());
    }
    for (const Slot<T>& slot : active) FlipKeyOrValue("sample_kv", slot.segment, model.config());
    std::vector<SampledToken> sampled(active.size());
    for (idx first = 0; first < batch; first += kLogitRows) {
      const idx rows = std::min(kLogitRows, batch - first);
      model.Logits(hidden.data() + first * ld, rows, logits.data());
      ParallelFor(rows, [&](idx r) {
        const Slot<T>& slot = active[static_cast<std::size_t>(first + r)];
        const RolloutGroup& group = groups[static_cast<std::size_t>(slot.group)];
        const Rollout& rollout = group.rollouts[static_cast<std::size_t>(slot.sample)];
        const SamplingConfig& own = ConfigOf(group, config);
        const DrawKey key{own.seed, own.step, group.key, static_cast<std::uint32_t>(slot.sample),
                          static_cast<std::uint32_t>(slot.segment.length() - 1)};
        sampled[static_cast<std::size_t>(first + r)] =
            SampleToken(logits.data() + r * model.ld_logits(), vocab, own,
                        {group.prompt, rollout.tokens}, UniformDraw(key));
      });
    }

    std::vector<Slot<T>> still_active;
    for (std::size_t i = 0; i < active.size(); ++i) {
      Slot<T>& slot = active[i];
      const SampledToken& token = sampled[i];
      Rollout& rollout = groups[static_cast<std::size_t>(slot.group)]
                             .rollouts[static_cast<std::size_t>(slot.sample)];
      rollout.tokens.push_back(token.token);
      rollout.logprobs.push_back(token.logprob);
      rollout.entropies.push_back(token.entropy);
      rollout.sum_sqs.push_back(token.sum_sq);
      rollout.norms.push_back(token.norm);
      if (model.config().has_values) rollout.values.push_back(values[static_cast<idx>(i)]);
      rollout.seals.push_back(SealOfToken(rollout, rollout.tokens.size() - 1));
      const SamplingConfig& own = ConfigOf(groups[static_cast<std::size_t>(slot.group)], config);
      const auto& eos = tokenizer.eos_ids();
      bool done = true;
      if (!own.ignore_eos && std::find(eos.begin(), eos.end(), token.token) != eos.end()) {
        rollout.finish = FinishReason::kEos;
      } else if (slot.text.Push(token.token)) {
        rollout.finish = FinishReason::kStop;
      } else if (rollout.length() >= own.max_new_tokens) {
        rollout.finish = FinishReason::kLength;
      } else {
        done = false;
      }
      if (done) {
        if (rollout.finish != FinishReason::kStop) slot.text.End();
        rollout.text = slot.text.text();
      }
      if (on_token) {
        on_token({slot.group, slot.sample, token.token, slot.text.Certain(), done});
      }
      if (!done) {
        slot.next = token.token;
        still_active.push_back(std::move(slot));
        continue;
      }
      OpenPrompt<T>& open = prompts[static_cast<std::size_t>(slot.group)];
      const RolloutGroup& group = groups[static_cast<std::size_t>(slot.group)];
      CheckPages(model, slot.segment, config, group, slot.sample);
      writer.FinishSample(slot, open);
      if (--open.unfinished > 0) continue;
      CheckPages(model, open.prefix, config, group, -1);
      writer.FinishPrompt(slot.group, open);
    }
    active = std::move(still_active);
  }
}

std::uint64_t PromptKey(std::string_view id, std::span<const TokenId> tokens, idx occurrence) {
  const std::uint64_t base =
      !id.empty() ? Hash64(id)
                  : Hash64({reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes()});
  return base + static_cast<std::uint64_t>(occurrence);
}

void SealTokens(Rollout& rollout) {
  rollout.seals.clear();
  for (std::size_t t = 0; t < rollout.tokens.size(); ++t) {
    rollout.seals.push_back(SealOfToken(rollout, t));
  }
}

idx FirstBrokenToken(const Rollout& rollout) {
  for (std::size_t t = 0; t < rollout.tokens.size(); ++t) {
    if (t >= rollout.seals.size() || SealOfToken(rollout, t) != rollout.seals[t]) {
      return static_cast<idx>(t);
    }
  }
  return -1;
}

std::string PlaceOf(const RolloutGroup& group, idx sample, idx token) {
  const std::string prompt = fmt::format("prompt {} (problem {}), ", group.number, group.problem);
  if (sample < 0) return fmt::format("{}its own token {}", prompt, token);
  return fmt::format("{}sample {}, token {}", prompt, sample, token);
}

std::string RolloutDigest(std::span<const RolloutGroup> groups) {
  Digest digest;
  const auto add = [&](const Rollout& rollout) {
    digest.Add(std::span<const TokenId>(rollout.tokens));
    digest.Add(std::span<const float>(rollout.logprobs));
  };
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) add(rollout);
    if (group.greedy.has_value()) add(*group.greedy);
  }
  return digest.Hex();
}

template void Generate<float>(Transformer<float>&, const Tokenizer&, std::span<RolloutGroup>,
                              const SamplingConfig&, const TokenCallback&, Tape<float>*);
template void Generate<bf16>(Transformer<bf16>&, const Tokenizer&, std::span<RolloutGroup>,
                             const SamplingConfig&, const TokenCallback&, Tape<bf16>*);

}  // namespace opo
