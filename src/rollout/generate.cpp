#include <algorithm>
#include <deque>

#include "base/error.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "rollout/rollout.h"
#include "rollout/sampler.h"

namespace opo {
namespace {

constexpr idx kPrefillRows = 2048;  // rows of one prefill call
constexpr idx kHeadRows = 128;      // rows of logits held at once

// A prompt whose samples are under way. Its rows but the last are shared by all of them.
template <class T>
struct OpenPrompt {
  Segment<T> prefix;
  idx unfinished = 0;
};

template <class T>
struct Slot {
  idx group;
  idx sample;
  Segment<T> segment;
  TokenId next;  // the token that the next decode step feeds
  StreamDecoder decoder;
};

// Where `text` first holds a stop string; npos where it holds none.
std::size_t FindStop(const std::string& text, const std::vector<std::string>& stops) {
  std::size_t first = std::string::npos;
  for (const std::string& stop : stops) {
    if (!stop.empty()) first = std::min(first, text.find(stop));
  }
  return first;
}

template <class T>
void Prefill(Transformer<T>& model, std::span<RolloutGroup> groups,
             std::vector<OpenPrompt<T>>& prompts, const std::vector<idx>& new_groups) {
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
    for (idx at = 0; at < shared;) {
      const idx n = std::min(shared - at, kPrefillRows - rows);
      Run<T> run;
      run.segment = &open.prefix;
      run.tokens = prompt.data() + at;
      run.count = n;
      run.outputs = false;
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
              const SamplingConfig& config, const TokenCallback& on_token) {
  const idx vocab = model.config().vocab_size;
  const idx ld = model.ld();
  std::deque<std::pair<idx, idx>> waiting;
  std::vector<OpenPrompt<T>> prompts;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const RolloutGroup& group = groups[g];
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
    if (model.config().max_position > 0 &&
        length + config.max_new_tokens > model.config().max_position) {
      Fail(ErrorCode::kInput,
           "prompt {}: {} tokens and {} new ones exceed the model's {} positions; shorten the "
           "prompt "
           "or rollout.max_new_tokens",
           g, length, config.max_new_tokens, model.config().max_position);
    }
    prompts.push_back({Segment<T>(&model.pool()), static_cast<idx>(group.rollouts.size())});
    for (std::size_t s = 0; s < group.rollouts.size(); ++s) {
      groups[g].rollouts[s] = Rollout{};
      if (config.max_new_tokens > 0) waiting.emplace_back(g, s);
    }
  }
  const idx max_slots = config.slots > 0 ? config.slots : kDefaultSlots;

  std::vector<Slot<T>> active;  // in order of (group, sample): samples of a prompt share tiles
  Buffer<T> hidden;
  Buffer<float> logits;
  while (!waiting.empty() || !active.empty()) {
    std::vector<idx> new_groups;
    while (!waiting.empty() && static_cast<idx>(active.size()) < max_slots) {
      const auto [g, s] = waiting.front();
      waiting.pop_front();
      const auto& prompt = groups[static_cast<std::size_t>(g)].prompt;
      if (prompts[static_cast<std::size_t>(g)].prefix.length() == 0 && prompt.size() > 1 &&
          (new_groups.empty() || new_groups.back() != g)) {
        new_groups.push_back(g);
      }
      active.push_back({g, s, Segment<T>(&model.pool()), prompt.back(), StreamDecoder(tokenizer)});
    }
    if (!new_groups.empty()) Prefill(model, groups, prompts, new_groups);

    std::vector<Run<T>> runs;
    for (Slot<T>& slot : active) {
      Run<T> run;
      run.segment = &slot.segment;
      OpenPrompt<T>& open = prompts[static_cast<std::size_t>(slot.group)];
      run.prefix = open.prefix.length() > 0 ? &open.prefix : nullptr;
      run.tokens = &slot.next;
      run.count = 1;
      runs.push_back(run);
    }
    const idx batch = static_cast<idx>(active.size());
    hidden.Reserve(batch * ld);
    logits.Reserve(std::min(batch, kHeadRows) * model.ld_logits());
    model.Forward(runs, hidden.data());
    std::vector<SampledToken> sampled(active.size());
    for (idx first = 0; first < batch; first += kHeadRows) {
      const idx rows = std::min(kHeadRows, batch - first);
      model.Logits(hidden.data() + first * ld, rows, logits.data());
      ParallelFor(rows, [&](idx r) {
        const Slot<T>& slot = active[static_cast<std::size_t>(first + r)];
        const RolloutGroup& group = groups[static_cast<std::size_t>(slot.group)];
        const DrawKey key{config.seed, config.step, group.key,
                          static_cast<std::uint32_t>(slot.sample),
                          static_cast<std::uint32_t>(slot.segment.length() - 1)};
        sampled[static_cast<std::size_t>(first + r)] =
            SampleToken(logits.data() + r * model.ld_logits(), vocab, config, UniformDraw(key));
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
      if (on_token) on_token(slot.group, slot.sample, token.token);
      const auto& eos = tokenizer.eos_ids();
      bool done = false;
      if (!config.ignore_eos && std::find(eos.begin(), eos.end(), token.token) != eos.end()) {
        rollout.finish = FinishReason::kEos;
        done = true;
      } else {
        rollout.text += slot.decoder.Push(token.token);
        const std::size_t stop = FindStop(rollout.text, config.stop);
        if (stop != std::string::npos) {
          rollout.text.resize(stop);
          rollout.finish = FinishReason::kStop;
          done = true;
        } else if (rollout.length() >= config.max_new_tokens) {
          rollout.finish = FinishReason::kLength;
          done = true;
        }
      }
      if (!done) {
        slot.next = token.token;
        still_active.push_back(std::move(slot));
        continue;
      }
      if (rollout.finish != FinishReason::kStop) rollout.text += slot.decoder.Flush();
      OpenPrompt<T>& open = prompts[static_cast<std::size_t>(slot.group)];
      if (--open.unfinished == 0) open.prefix.Clear();
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

std::string RolloutDigest(std::span<const RolloutGroup> groups) {
  Digest digest;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) {
      digest.Add(std::span<const TokenId>(rollout.tokens));
      digest.Add(std::span<const float>(rollout.logprobs));
    }
  }
  return digest.Hex();
}

template void Generate<float>(Transformer<float>&, const Tokenizer&, std::span<RolloutGroup>,
                              const SamplingConfig&, const TokenCallback&);
template void Generate<bf16>(Transformer<bf16>&, const Tokenizer&, std::span<RolloutGroup>,
                             const SamplingConfig&, const TokenCallback&);

}  // namespace opo
