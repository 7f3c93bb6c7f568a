#include "train/given.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/fields.h"
#include "base/rng.h"
#include "format/quote.h"
#include "train/collect.h"
#include "train/exchange.h"
#include "train/objective.h"

namespace opo {
namespace {

std::string PrintReward(RewardConfig config) { return FieldsOf(config).Print(); }

Learn LearnOf(const TrainConfig& config) {
  return config.data.learn == "all" ? Learn::kAll : Learn::kAssistant;
}

bool HasValuesAlone(const TrainConfig& config) {
  return (FindAlgorithm(config.algorithm.name).needs & kNeedsValueHead) != 0;
}

// Of each answer. A prompt is the same before all of them.
std::vector<GivenTokens> TokensOf(const TrainConfig& config, const PromptRenderer& prompts,
                                  const Problem& problem) {
  std::vector<GivenTokens> all;
  try {
    for (const auto& answer : problem.answers) {
      all.push_back(prompts.RenderAnswer(problem.messages, answer, LearnOf(config)));
    }
  } catch (const Error& error) {
    Fail(error.code(), "{}, the problem {} (id '{}'): {}", problem.data_source,
         Quote(PromptText(problem)), problem.id, error.what());
  }
  OPO_CHECK(!all.empty());
  return all;
}

// A state and its candidate steps, with their rewards; of a critic, the state alone, whose score is
// what the head says behind it.
RolloutGroup StepGroup(const TrainConfig& config, const Tokenizer& tokenizer,
                       const Problem& problem) {
  const GivenSteps& given = problem.steps;
  const auto fail = [&](std::string_view what) {
    Fail(ErrorCode::kInput, "{}, the problem {} (id '{}'): {}", problem.data_source,
         Quote(PromptText(problem)), problem.id, what);
  };
  const auto check = [&](const std::vector<TokenId>& ids) {
    for (const TokenId id : ids) {
      if (id < tokenizer.vocab_size()) continue;
      fail(
          fmt::format("holds the token {}, but the model has {}: the steps were sampled by a model "
                      "with another tokenizer, whose they are",
                      id, tokenizer.vocab_size()));
    }
  };
  check(given.state);
  RolloutGroup group;
  group.prompt = given.state;
  std::vector<std::vector<TokenId>> steps = given.steps;
  if (HasValuesAlone(config)) {
    if (!steps.empty()) {
      fail("has candidate steps, but a critic learns states; make them without --critic");
    }
    steps.push_back({given.state.back()});
  } else if (steps.empty()) {
    fail("has no candidate steps; `opo data make-steps --critic` makes them");
  }
  for (std::size_t i = 0; i < steps.size(); ++i) {
    check(steps[i]);
    Rollout& rollout = group.rollouts.emplace_back();
    rollout.finish = FinishReason::kStop;
    rollout.tokens = std::move(steps[i]);
    rollout.text = tokenizer.Decode(rollout.tokens);
    rollout.reward = given.values[i];
    rollout.scores.total.verdict = Verdict::kScored;
    rollout.scores.total.value = given.values[i];
    SealTokens(rollout);
  }
  return group;
}

}  // namespace

GivenAnswers GivenOf(const TrainConfig& config) {
  const unsigned needs = FindAlgorithm(config.algorithm.name).needs;
  if ((needs & kNeedsSteps) != 0) return GivenAnswers::kSteps;
  const bool demonstrations = (needs & kNeedsDemonstrations) != 0;
  if ((needs & kNeedsPairs) == 0) {
    return demonstrations ? GivenAnswers::kDemonstrations : GivenAnswers::kNothing;
  }
  return demonstrations ? GivenAnswers::kBoth : GivenAnswers::kPairs;
}

bool IsGiven(const TrainConfig& config) { return GivenOf(config) != GivenAnswers::kNothing; }

bool ScoresGiven(const TrainConfig& config) {
  const Algorithm& algorithm = FindAlgorithm(config.algorithm.name);
  constexpr unsigned kScores = kNeedsTokenStats | kNeedsValueHead | kNeedsCritic;
  return algorithm.batch_loss != nullptr || (algorithm.needs & kScores) != 0 ||
         config.algorithm.kl_coef != 0 || config.monitor.kl_every > 0;
}

idx SequenceLimit(const TrainConfig& config, idx max_position) {
  return config.data.sequence_limit > 0 ? config.data.sequence_limit : max_position;
}

void CheckGiven(const TrainConfig& c) {
  const RolloutSettings standard;
  const RolloutSettings& r = c.rollout;
  const GivenAnswers given = GivenOf(c);
  if (given == GivenAnswers::kNothing) {
    const bool demonstrated = NeedsDemonstrations(c);
    const char* key = !demonstrated && !c.data.completion_key.empty() ? "completion_key"
                      : !demonstrated && c.data.sequence_limit != 0   ? "sequence_limit"
                      : c.data.learn != "assistant"                   ? "learn"
                                                                      : nullptr;
    if (key != nullptr) {
      Fail(ErrorCode::kUsage,
           "data.{}: algorithm.name = \"{}\" samples its answers, and takes none from the data: "
           "remove it",
           key, c.algorithm.name);
    }
    return;
  }
  const std::pair<const char*, bool> unused[] = {
      {"rollout.samples", r.samples != standard.samples},
      {"rollout.temperature", r.temperature != standard.temperature},
      {"rollout.top_p", r.top_p != standard.top_p},
      {"rollout.top_k", r.top_k != standard.top_k},
      {"rollout.min_p", r.min_p != standard.min_p},
      {"rollout.repetition_penalty", r.repetition_penalty != standard.repetition_penalty},
      {"rollout.presence_penalty", r.presence_penalty != standard.presence_penalty},
      {"rollout.frequency_penalty", r.frequency_penalty != standard.frequency_penalty},
      {"rollout.stop", r.stop != standard.stop},
      {"rollout.slots", r.slots != standard.slots},
      {"rollout.dynamic_sampling", r.dynamic_sampling},
      {"rollout.max_new_tokens", r.max_new_tokens != standard.max_new_tokens},
      {"eval.samples", c.eval.samples != EvalConfig().samples},
      {"eval.temperature", c.eval.temperature != EvalConfig().temperature},
      {"eval.max_new_tokens", c.eval.max_new_tokens != EvalConfig().max_new_tokens},
      {"reward", c.reward.size() != 1 || PrintReward(c.reward[0]) != PrintReward({})},
      {"run.tape_mb", c.run.tape_mb > 0},
      {"monitor.kl_every",
       c.monitor.kl_every > 0 && (FindAlgorithm(c.algorithm.name).needs & kNeedsValueHead) != 0},
  };
  for (const auto& [key, changed] : unused) {
    if (!changed) continue;
    Fail(ErrorCode::kUsage,
         "{}: the answers that \"{}\" learns from are those of the data: nothing is sampled or "
         "rewarded; remove it",
         key, c.algorithm.name);
  }
  if (LossAggregation(c) == "seq-mean-token-sum-norm" && c.algorithm.norm == 0) {
    Fail(
        ErrorCode::kUsage,
        "algorithm.norm = 0: stands for rollout.max_new_tokens, but answers are given here; set it "
        "to the length that \"seq-mean-token-sum-norm\" divides by");
  }
  if (HasValuesAlone(c)) {
    const char* term = c.algorithm.kl_coef != 0        ? "kl_coef"
                       : c.algorithm.entropy_coef != 0 ? "entropy_coef"
                                                       : nullptr;
    if (term != nullptr) {
      Fail(ErrorCode::kUsage, "algorithm.{}: \"{}\" learns a score, not a distribution: remove it",
           term, c.algorithm.name);
    }
  }
  if (given == GivenAnswers::kSteps) {
    const char* key = !c.data.system.empty()          ? "system"
                      : !c.data.template_text.empty() ? "template"
                      : c.data.overlong == "truncate" ? "overlong"
                                                      : nullptr;
    if (key != nullptr) {
      Fail(ErrorCode::kUsage,
           "data.{}: the rows of \"{}\" are token ids already, which stay as they were sampled: "
           "remove it",
           key, c.algorithm.name);
    }
  }
  if (KlInReward(c.algorithm)) {
    Fail(ErrorCode::kUsage,
         "algorithm.kl_in = \"reward\": given answers have no reward; set it to "
         "\"loss\"");
  }
  if (c.data.learn == "all" && given != GivenAnswers::kDemonstrations) {
    Fail(ErrorCode::kUsage,
         "data.learn = \"all\": \"{}\" compares answers; set it to \"assistant\"",
         c.algorithm.name);
  }
  if (c.data.sequence_limit > 0 && c.data.prompt_limit >= c.data.sequence_limit &&
      c.data.overlong == "truncate") {
    Fail(ErrorCode::kUsage,
         "data.sequence_limit = {}: leaves no room for an answer behind data.prompt_limit = {}; "
         "raise it, or lower the other",
         c.data.sequence_limit, c.data.prompt_limit);
  }
}

bool IsOverlong(const TrainConfig& config, idx max_position, const PromptRenderer& prompts,
                const Problem& problem, idx& prompt, idx& sequence) {
  prompt = sequence = 0;
  if (GivenOf(config) == GivenAnswers::kSteps) {
    std::size_t longest = 0;
    for (const auto& step : problem.steps.steps) longest = std::max(longest, step.size());
    // A state is no prompt that data.prompt_limit speaks of: it was sampled.
    sequence = static_cast<idx>(problem.steps.state.size() + longest);
    return sequence > SequenceLimit(config, max_position);
  }
  for (const GivenTokens& tokens : TokensOf(config, prompts, problem)) {
    prompt = static_cast<idx>(tokens.prompt.size());
    sequence = std::max(sequence, prompt + static_cast<idx>(tokens.answer.size()));
  }
  return prompt > config.data.prompt_limit || sequence > SequenceLimit(config, max_position);
}

RolloutGroup GivenGroup(const TrainConfig& config, idx max_position, const Tokenizer& tokenizer,
                        const PromptRenderer& prompts, const Problem& problem) {
  if (GivenOf(config) == GivenAnswers::kSteps) return StepGroup(config, tokenizer, problem);
  RolloutGroup group;
  for (GivenTokens& tokens : TokensOf(config, prompts, problem)) {
    Rollout& rollout = group.rollouts.emplace_back();
    rollout.finish = FinishReason::kEos;
    if (config.data.overlong == "truncate") {
      const auto most = static_cast<std::size_t>(config.data.prompt_limit);
      const auto limit = static_cast<std::size_t>(SequenceLimit(config, max_position));
      if (tokens.prompt.size() > most) {
        tokens.prompt.erase(tokens.prompt.begin(),
                            tokens.prompt.end() - static_cast<std::ptrdiff_t>(most));
      }
      const std::size_t room = limit - std::min(limit, tokens.prompt.size());
      if (room == 0) {
        Fail(ErrorCode::kInput,
             "{}, the problem {} (id '{}'): its prompt of {} tokens leaves no room for an answer "
             "before {}; lower data.prompt_limit",
             problem.data_source, Quote(PromptText(problem)), problem.id, tokens.prompt.size(),
             limit);
      }
      if (tokens.answer.size() > room) {
        tokens.answer.resize(room);
        if (!tokens.learned.empty()) tokens.learned.resize(room);
        rollout.finish = FinishReason::kLength;
      }
    }
    group.prompt = std::move(tokens.prompt);
    rollout.text = tokenizer.Decode(tokens.answer);
    rollout.tokens = std::move(tokens.answer);
    rollout.learned = std::move(tokens.learned);
    rollout.scores.total.verdict = Verdict::kScored;
    if (HasValuesAlone(config)) EndInScore(tokenizer, group.prompt, rollout);
    SealTokens(rollout);
  }
  group.rollouts.front().reward = problem.margin;
  return group;
}

RolloutGroup DemonstrationGroup(const TrainConfig& config, idx max_position,
                                const Tokenizer& tokenizer, const PromptRenderer& prompts,
                                const Problem& problem) {
  RolloutGroup group = GivenGroup(config, max_position, tokenizer, prompts, problem);
  group.demonstration = true;
  const idx tokens = std::ssize(group.prompt) + group.rollouts.front().length();
  const idx limit = SequenceLimit(config, max_position);
  if (tokens > limit) {
    Fail(ErrorCode::kInput,
         "{}, the problem {} (id '{}'): its demonstration has {} tokens with the prompt, and {} is "
         "{}; leave it out, or set data.overlong to truncate",
         problem.data_source, Quote(PromptText(problem)), problem.id, tokens,
         config.data.sequence_limit > 0 ? "data.sequence_limit" : "what the model can hold", limit);
  }
  return group;
}

void EndInScore(const Tokenizer& tokenizer, std::span<const TokenId> prompt, Rollout& answer) {
  std::vector<TokenId>& tokens = answer.tokens;
  while (!tokens.empty() && tokens.back() == tokenizer.pad_id()) tokens.pop_back();
  answer.learned.assign(tokens.size(), false);
  tokens.push_back(tokens.empty() ? prompt.back() : tokens.back());
  answer.learned.push_back(true);
}

void DropNarrowStates(const TrainConfig& config, DataSets& data) {
  if (!FindAlgorithm(config.algorithm.name).HasKey("min_gap")) return;
  const double gap = config.algorithm.min_gap;
  const auto narrow = [&](const Problem& problem) {
    const auto [low, high] =
        std::minmax_element(problem.steps.values.begin(), problem.steps.values.end());
    return *high - *low < gap;
  };
  std::vector<Problem> kept;
  auto next = data.train.begin();
  for (std::size_t s = 0; s < data.sizes.size(); ++s) {
    const idx size = data.sizes[s];
    for (const auto end = next + size; next != end; ++next) {
      if (narrow(*next)) {
        --data.sizes[s];
      } else {
        kept.push_back(std::move(*next));
      }
    }
    if (data.sizes[s] == size) continue;
    data.notes.push_back(
        fmt::format("{}: {} of {} states are left out: their candidates' advantages span less than "
                    "algorithm.min_gap = {}",
                    data.names[s], size - data.sizes[s], size, gap));
    if (data.sizes[s] > 0) continue;
    Fail(ErrorCode::kInput,
         "{}: the candidates of no state span algorithm.min_gap = {}; lower it, or sample more "
         "candidates",
         data.names[s], gap);
  }
  data.train = std::move(kept);
  std::erase_if(data.eval, narrow);
}

idx GroupToScore(const TrainConfig& config, idx step, idx groups) {
  const auto s = static_cast<std::uint64_t>(step);
  const auto bits =
      Philox4x32({0, 0, static_cast<std::uint32_t>(s), static_cast<std::uint32_t>(s >> 32)},
                 {static_cast<std::uint32_t>(config.train.seed),
                  static_cast<std::uint32_t>(config.train.seed >> 32)});
  return static_cast<idx>(bits[0]) % groups;
}

template <class T>
double EvaluateGiven(Transformer<T>& model, const TrainConfig& config,
                     std::span<RolloutGroup> groups, Comm& comm,
                     const std::function<void(std::span<RolloutGroup>)>& refer,
                     nlohmann::ordered_json& metrics) {
  for (std::size_t g = 0; g < groups.size(); ++g) groups[g].number = static_cast<idx>(g);
  ShareGroups(comm, groups, InTurn(comm, groups.size()), [&](std::span<RolloutGroup> own) {
    Score(model, own, TrainingSampling(config, 0).inv_temperature());
  });
  if (refer) refer(groups);
  nlohmann::ordered_json ignored;
  SetAdvantages(config, groups, {}, ignored);
  std::vector<idx> lengths;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) lengths.push_back(rollout.num_learned());
  }
  const std::vector<double> weights =
      TokenWeights(LossAggregation(config), lengths, LossNorm(config));
  const UpdateLoss loss(config.algorithm, true, groups);
  loss.PutMetrics(metrics, "eval/");
  double sum = 0, nll = 0;
  idx tokens = 0, demonstrated = 0;
  std::size_t at = 0;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) {
      const double weight = weights[at++];
      const std::vector<float>& outputs =
          model.config().has_logits ? rollout.logprobs : rollout.values;
      for (idx t = 0; t < rollout.length(); ++t) {
        if (!rollout.learns(t)) continue;
        const double output = static_cast<double>(outputs[static_cast<std::size_t>(t)]);
        sum += weight * loss(rollout, t, output).loss.loss;
        ++tokens;
        if (group.rollouts.size() > 1 || !model.config().has_logits) continue;
        nll -= output;
        ++demonstrated;
      }
    }
  }
  metrics["eval/loss"] = sum;
  metrics["eval/tokens"] = tokens;
  if (demonstrated > 0) {
    metrics["eval/perplexity"] = std::exp(nll / static_cast<double>(demonstrated));
  }
  return sum;
}

template double EvaluateGiven<float>(Transformer<float>&, const TrainConfig&,
                                     std::span<RolloutGroup>, Comm&,
                                     const std::function<void(std::span<RolloutGroup>)>&,
                                     nlohmann::ordered_json&);
template double EvaluateGiven<bf16>(Transformer<bf16>&, const TrainConfig&, std::span<RolloutGroup>,
                                    Comm&, const std::function<void(std::span<RolloutGroup>)>&,
                                    nlohmann::ordered_json&);

}  // namespace opo
