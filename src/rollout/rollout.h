// The answers of a policy, and how they are sampled.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/transformer.h"
#include "reward/reward.h"
#include "text/tokenizer.h"

namespace opo {

// One completion. Tokens are the truth: the text is decoded from them once and never tokenised
// again.
struct Rollout {
  std::vector<TokenId> tokens;  // an ending EOS is one of them
  std::vector<float> logprobs;  // of each token, under softmax(logits / T)
  std::vector<float> entropies;
  std::vector<float> sum_sqs;  // sum over the vocabulary of p^2
  // Of the softmax that each token was drawn from; empty where it was not sampled here. They save
  // the learner the logits of a whole row at once (LearnGroup::on_policy), and E1 proves them.
  std::vector<SoftmaxNorm> norms;
  // A hash of each token and its three numbers, taken when it was sampled (FirstBrokenToken). Of
  // given answers the numbers may be absent: they are there where something asks for them.
  std::vector<std::uint64_t> seals;
  FinishReason finish = FinishReason::kLength;
  std::string text;  // special tokens left out; cut before a stop string

  RewardScores scores;
  // What the algorithm sees: scores.total.value, or the sum of the normalised terms.
  double reward = 0;
  double baseline = 0;  // what the algorithm compared the reward with
  double advantage = 0;
  std::vector<double> token_advantages;  // of each token, where they differ; else empty
  // Log-probs of the tokens under the frozen reference; empty where nothing asks for them.
  std::vector<float> reference_logprobs;
  std::uint64_t reference_seal = 0;  // their hash, taken when they were computed
  // policy - reference, summed over its learned tokens, behind the refinement prompt.
  double refined_log_ratio = 0;
  // Of a given answer (Problem::answers): whether each token is learned; empty: all are.
  std::vector<bool> learned;
  // What a value head says at the row before each token: the critic's, or, of a model that has no
  // other head, its own. Empty where nothing asks for them.
  std::vector<float> values;
  std::vector<double> returns;  // what the critic is to say there
  // Its tokens are those of one step, and it goes on in the next one (rollout.window).
  bool unfinished = false;
  double advantage_at(idx t) const {
    return token_advantages.empty() ? advantage : token_advantages[static_cast<std::size_t>(t)];
  }
  bool has_advantage() const {
    return advantage != 0 || std::any_of(token_advantages.begin(), token_advantages.end(),
                                         [](double a) { return a != 0; });
  }
  bool learns(idx t) const { return learned.empty() || learned[static_cast<std::size_t>(t)]; }
  idx num_learned() const {
    return learned.empty() ? length()
                           : static_cast<idx>(std::count(learned.begin(), learned.end(), true));
  }
  bool scored() const { return scores.total.verdict == Verdict::kScored; }
  // Takes part in the loss; an unfinished one has no reward yet.
  bool counts() const { return scored() || unfinished; }
  idx length() const { return static_cast<idx>(tokens.size()); }
};

// How a token is drawn from a row of logits z, step by step as transformers and vLLM do it:
//   1. logit_bias: z[id] += value; -inf forbids the token.
//   2. repetition_penalty r, once for each token of prompt and answer: z * r where z < 0, else z /
//   r.
//   3. frequency_penalty and presence_penalty, for each token of the answer:
//      z -= frequency * (times it is there), z -= presence.
//   4. temperature: softmax(z / T). 0 takes the largest z, of equal ones the lowest id.
//   5. top_k: the k likeliest. 6. top_p: of these the fewest that hold this part of their sum.
//      7. min_p: of these the ones with at least this part of the likeliest's probability.
//      At least one is left, and equal ones are taken in the order of their ids.
// What is recorded of a token (Rollout) is the model's own, without any of this but the
// temperature.
struct SamplingConfig {
  double temperature = 1.0;  // 0: the most likely token (log-probs are then those of T = 1)
  idx top_k = 0;             // 0: off
  double top_p = 1.0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  double presence_penalty = 0.0;
  double frequency_penalty = 0.0;
  std::vector<std::pair<TokenId, float>> logit_bias;  // an id at most once
  idx max_new_tokens = 32;
  idx slots = 0;            // samples decoded at once; 0: kDefaultSlots
  bool ignore_eos = false;  // benchmarks: every sample runs to max_new_tokens
  std::uint64_t seed = 1;
  std::uint64_t step = 0;
  std::vector<std::string> stop;  // the text is cut before the first of them that is complete

  float inv_temperature() const {
    return temperature > 0 ? static_cast<float>(1.0 / temperature) : 1.0f;
  }
  bool changes_logits() const {
    return !logit_bias.empty() || repetition_penalty != 1 || presence_penalty != 0 ||
           frequency_penalty != 0;
  }
  bool truncates() const { return top_k > 0 || top_p < 1 || min_p > 0; }
};

// One prompt and its samples.
struct RolloutGroup {
  idx problem = 0;              // index of the problem in its data set
  std::uint64_t key = 0;        // the prompt's part of the random numbers' key
  std::vector<TokenId> prompt;  // at least one token
  std::vector<Rollout> rollouts;
  // The likeliest token each time: what some algorithms compare the samples with.
  std::optional<Rollout> greedy = std::nullopt;
  // Its first answer is a demonstration, the others are the policy's: for a reward that learns.
  bool demonstration = false;
  idx number = 0;       // its place in the batch, of all ranks
  idx tape_group = -1;  // its place on the tape that Generate filled; -1: it is on none
  // Instead of the call's config; its slots are not used.
  std::optional<SamplingConfig> sampling = std::nullopt;
};

// What a model reads behind the prompt's shared rows, all but the last of its tokens, to say the
// rollout's, of which there is at least one.
inline std::vector<TokenId> SampleInput(const RolloutGroup& group, const Rollout& rollout) {
  std::vector<TokenId> input = {group.prompt.back()};
  input.insert(input.end(), rollout.tokens.begin(), rollout.tokens.end() - 1);
  return input;
}

inline constexpr idx kDefaultSlots = 256;
// SamplingConfig::step of evaluations, which share no draw with training.
inline constexpr std::uint64_t kEvaluationStep = ~std::uint64_t{0};
inline constexpr idx kPrefillRows = 2048;  // rows of one prefill call
inline constexpr idx kLogitRows = 128;     // rows of logits that Generate and Score hold at once

// What sampling leaves for the learner: the records of prompts and samples, so that it need not run
// them forward again (the sampler's activations are the learner's, bit for bit).
template <class T>
struct Tape {
  struct Group {
    Segment<T> prefix;                // the prompt's shared rows
    std::vector<Segment<T>> samples;  // not recorded where the budget was spent
  };
  idx max_bytes = 0;          // of records
  std::vector<Group> groups;  // those of the calls that filled it, in order
  idx bytes = 0;              // of records, when sampling ended
  idx rows = 0;               // recorded, prompts included

  void Clear() {
    groups.clear();
    bytes = rows = 0;
  }
  // A group with nothing on it, behind the others.
  void AddGroup(SegmentPool<T>& pool, std::size_t samples) {
    groups.emplace_back();
    for (std::size_t s = 0; s < samples; ++s) groups.back().samples.emplace_back(&pool);
  }
  // Forgets a group; those behind it move up.
  void Remove(const SegmentPool<T>& pool, std::size_t group) {
    const auto forget = [&](const Segment<T>& segment) {
      if (segment.record() == Record::kNone) return;
      bytes -= pool.RecordBytes(segment.length(), Record::kAll);
      rows -= segment.length();
    };
    forget(groups[group].prefix);
    for (const Segment<T>& sample : groups[group].samples) forget(sample);
    groups.erase(groups.begin() + static_cast<std::ptrdiff_t>(group));
  }
};

// A token as it is sampled.
struct TokenEvent {
  idx group = 0, sample = 0;
  TokenId token = 0;
  // What is certain of the answer's text since the sample's last event: no stop string that is
  // still growing can take it away. The texts of all its events are Rollout::text.
  std::string_view text;
  bool done = false;  // the sample's last one: its Rollout is complete
};
// For streaming and progress. May throw, which ends Generate with that exception.
using TokenCallback = std::function<void(const TokenEvent&)>;

// Fills `groups[i].rollouts` (their number says how many samples a prompt gets) by continuous
// batching: prompts are prefilled once and shared by their samples, and a finished sample's slot
// goes to the next one in order. A completion depends on its prompt, key, sample number and the
// config, and on nothing else in the batch. Throws Error(kInput) for an empty prompt or one that
// leaves no room before `max_position`, for a model without logits, and for a logit_bias that does
// not fit the vocabulary or forbids all of it, and Error(kExactness) for keys and values that
// changed after they were written. `tape`, if there is one, gets the groups behind those that are
// on it, and `tape_group` says where.
template <class T>
void Generate(Transformer<T>& model, const Tokenizer& tokenizer, std::span<RolloutGroup> groups,
              const SamplingConfig& config, const TokenCallback& on_token = {},
              Tape<T>* tape = nullptr);

// Fills `seals`: of tokens that were not sampled, when their numbers, if they get any, are there.
void SealTokens(Rollout& rollout);

// The first token that is no longer what was sampled, or whose numbers are not; -1: there is none.
idx FirstBrokenToken(const Rollout& rollout);

// Where a row of a batch is, for messages: "prompt 3 (problem 17), sample 2, token 5", counted from
// 0; sample -1 is the prompt itself.
std::string PlaceOf(const RolloutGroup& group, idx sample, idx token);

// The end of every message about a broken contract.
inline constexpr std::string_view kContractBroken =
    "the exactness contract is broken; the weights were not changed. `opo doctor` checks this "
    "machine";

// Fills log-probs, entropies, sums of squares and values, as far as the model has the head for
// them, of tokens that are there already, at the given temperature: what Generate would have
// recorded, had it sampled them (bit for bit).
template <class T>
void Score(Transformer<T>& model, std::span<RolloutGroup> groups, float inv_temperature);

// The prompt's key: a hash of the row's id, or of its token ids where it has none, plus its
// occurrence number in the batch.
std::uint64_t PromptKey(std::string_view id, std::span<const TokenId> tokens, idx occurrence);

// XXH3-128 over tokens and log-prob bits of all rollouts in order, greedy ones behind their
// group's.
std::string RolloutDigest(std::span<const RolloutGroup> groups);

}  // namespace opo
