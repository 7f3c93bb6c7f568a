#include "train/collect.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "train/exchange.h"
#include "train/given.h"

namespace opo {

using nlohmann::ordered_json;

namespace {

// data.overlong = "truncate": keeps the last data.prompt_limit tokens.
void CutPrompt(const DataConfig& config, std::vector<TokenId>& prompt) {
  const auto limit = static_cast<std::size_t>(config.prompt_limit);
  if (config.overlong != "truncate" || prompt.size() <= limit) return;
  prompt.erase(prompt.begin(), prompt.end() - static_cast<std::ptrdiff_t>(limit));
}

// Gives the finished answers of a window what `whole`, the same answers from their beginning, were
// rewarded.
void TakeScores(const RolloutGroup& whole, RolloutGroup& window) {
  auto scored = whole.rollouts.begin();
  for (Rollout& rollout : window.rollouts) {
    if (rollout.unfinished) continue;
    rollout.scores = scored->scores;
    rollout.reward = scored->reward;
    ++scored;
  }
}

}  // namespace

void FitPrompts(const PromptRenderer& prompts, const TrainConfig& config, idx max_position,
                DataSets& data) {
  const std::string& overlong = config.data.overlong;
  // Problems [next, next + size) of `from`, those that stay to `kept`; returns how many do.
  const auto fit = [&](std::vector<Problem>& from, std::size_t next, idx size,
                       const std::string& name, std::vector<Problem>& kept) {
    idx longer = 0;
    const std::size_t first = next;
    for (const std::size_t end = first + static_cast<std::size_t>(size); next < end; ++next) {
      Problem& problem = from[next];
      idx tokens = 0;
      idx sequence = 0;
      if (!IsGiven(config)) {
        tokens = static_cast<idx>(prompts.Render(problem.messages).size());
        longer += tokens > config.data.prompt_limit ? 1 : 0;
      } else {
        longer += IsOverlong(config, max_position, prompts, problem, tokens, sequence) ? 1 : 0;
      }
      const bool prompt_is = tokens > config.data.prompt_limit;
      if (prompt_is || sequence > SequenceLimit(config, max_position)) {
        if (overlong == "error" && prompt_is) {
          Fail(ErrorCode::kInput,
               "{}: problem {} (id '{}') has {} prompt tokens, data.prompt_limit is {}; raise it, "
               "or set data.overlong to drop or truncate",
               name, next - first + 1, problem.id, tokens, config.data.prompt_limit);
        }
        if (overlong == "error") {
          Fail(ErrorCode::kInput,
               "{}: problem {} (id '{}') has {} tokens with its answer, {} is {}; {}set "
               "data.overlong to drop or truncate",
               name, next - first + 1, problem.id, sequence,
               config.data.sequence_limit > 0 ? "data.sequence_limit" : "what the model can hold",
               SequenceLimit(config, max_position),
               config.data.sequence_limit > 0 ? "raise it, or " : "");
        }
        if (overlong == "drop") continue;
      }
      kept.push_back(std::move(problem));
    }
    if (longer == 0) return size;
    const bool dropped = overlong == "drop";
    const std::string limits =
        IsGiven(config)
            ? fmt::format(
                  "problems have more than data.prompt_limit = {} tokens, or {} with an "
                  "answer, and {}",
                  config.data.prompt_limit, SequenceLimit(config, max_position),
                  dropped ? "are dropped" : "are cut")
            : fmt::format("prompts have more than data.prompt_limit = {} tokens and {}",
                          config.data.prompt_limit,
                          dropped ? "are dropped" : "lose their beginning");
    data.notes.push_back(fmt::format("{}: {} of {} {}", name, longer, size, limits));
    if (dropped && longer == size) {
      Fail(ErrorCode::kInput, "{}: every {} is longer than {}; raise it", name,
           IsGiven(config) ? "problem" : "prompt",
           IsGiven(config)
               ? fmt::format("data.prompt_limit = {} or data.sequence_limit = {}",
                             config.data.prompt_limit, SequenceLimit(config, max_position))
               : fmt::format("data.prompt_limit = {}", config.data.prompt_limit));
    }
    return dropped ? size - longer : size;
  };
  std::vector<Problem> kept;
  std::size_t next = 0;
  for (std::size_t s = 0; s < data.sizes.size(); ++s) {
    const idx size = data.sizes[s];
    data.sizes[s] = fit(data.train, next, size, data.names[s], kept);
    next += static_cast<std::size_t>(size);
  }
  data.train = std::move(kept);
  if (!IsGiven(config) || data.eval.empty()) return;
  std::vector<Problem> eval;
  fit(data.eval, 0, static_cast<idx>(data.eval.size()), "evaluation", eval);
  data.eval = std::move(eval);
}

std::string DataDigest(const DataSets& data) {
  Digest digest;
  for (const Problem& problem : data.train) {
    ordered_json row = {problem.id, problem.messages, problem.answer, problem.extra};
    for (const ordered_json& answer : problem.answers) row.push_back(answer);
    if (problem.margin != 0) row.push_back(problem.margin);
    if (!problem.steps.state.empty()) {
      row.push_back({problem.steps.state, problem.steps.steps, problem.steps.values});
    }
    const std::string text = row.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
    digest.Add(std::span<const char>(text));
  }
  return digest.Hex();
}

SamplingConfig TrainingSampling(const TrainConfig& config, idx step) {
  SamplingConfig s;
  s.temperature = config.rollout.temperature;
  s.top_k = config.rollout.top_k;
  s.top_p = config.rollout.top_p;
  s.min_p = config.rollout.min_p;
  s.repetition_penalty = config.rollout.repetition_penalty;
  s.presence_penalty = config.rollout.presence_penalty;
  s.frequency_penalty = config.rollout.frequency_penalty;
  s.max_new_tokens = config.rollout.max_new_tokens;
  s.slots = config.rollout.slots;
  s.stop = config.rollout.stop;
  s.seed = config.train.seed;
  s.step = static_cast<std::uint64_t>(step);
  return s;
}

idx ShardOf(const TrainConfig& config, idx place) {
  return place % MiniBatchPrompts(config) % NumShards(config);
}

std::vector<int> OwnersOf(const TrainConfig& config, const ShardDeal& deal, std::size_t groups) {
  std::vector<int> owners;
  for (std::size_t g = 0; g < groups; ++g) {
    owners.push_back(deal.RankOf(ShardOf(config, static_cast<idx>(g))));
  }
  return owners;
}

ShardDeal DealGroups(const TrainConfig& config, std::span<const RolloutGroup> groups, idx length,
                     int ranks) {
  std::vector<idx> work(static_cast<std::size_t>(NumShards(config)));
  for (std::size_t g = 0; g < groups.size(); ++g) {
    idx& of_shard = work[static_cast<std::size_t>(ShardOf(config, static_cast<idx>(g)))];
    of_shard += static_cast<idx>(groups[g].prompt.size());
    for (const Rollout& rollout : groups[g].rollouts) {
      of_shard += rollout.tokens.empty() ? length : rollout.length();
    }
  }
  return DealShards(work, ranks);
}

std::vector<std::vector<LearnGroup>> ByShard(const TrainConfig& config,
                                             std::span<const RolloutGroup> groups,
                                             std::span<const double> weights,
                                             const std::function<void(LearnGroup&)>& complete) {
  std::vector<std::vector<LearnGroup>> shards(static_cast<std::size_t>(NumShards(config)));
  auto weight = weights.begin();
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto end = weight + std::ssize(groups[g].rollouts);
    LearnGroup learn{&groups[g], {weight, end}, -1};
    weight = end;
    complete(learn);
    shards[static_cast<std::size_t>(ShardOf(config, static_cast<idx>(g)))].push_back(
        std::move(learn));
  }
  return shards;
}

template <class T>
std::vector<RolloutGroup> Collector<T>::Collect(idx step, ordered_json& metrics) {
  if (parts_.config.rollout.window > 0) return CollectWindow(step, metrics);
  const TrainConfig& config = parts_.config;
  if (IsGiven(config)) return CollectGiven(step, metrics);
  const auto wanted = static_cast<std::size_t>(config.rollout.prompts);
  const idx limit = config.rollout.prompts * config.rollout.max_draws;
  const SamplingConfig sampling = TrainingSampling(config, step);
  Comm& comm = parts_.comm;
  CollectCounts counts;
  std::vector<RolloutGroup> groups;
  std::vector<RolloutGroup> replaced;
  std::map<idx, idx> occurrences;  // of a problem in the step: each has draws of its own
  const bool greedy = NeedsGreedy(config);
  double greedy_seconds = 0;
  double generate_seconds = 0;
  double reward_seconds = 0;
  while (groups.size() < wanted && counts.prompts < limit) {
    const idx missing = static_cast<idx>(wanted - groups.size());
    const double start = Seconds();
    auto drawn = Draw(std::min(missing, limit - counts.prompts), occurrences);
    if (counts.prompts == 0) Deal(drawn);
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      drawn[i].number = counts.prompts + static_cast<idx>(i);
    }
    const std::vector<int> owners = Owners(groups.size() + drawn.size());
    ShareGroups(comm, drawn, std::span(owners).subspan(groups.size()),
                [&](std::span<RolloutGroup> own) {
                  comm.Note("rollout", step);
                  // First, while no sample's rows stand on the tape.
                  if (greedy) AnswerGreedily(step, own);
                  const double begun = Seconds();
                  greedy_seconds += begun - start;
                  Generate(parts_.model, parts_.tokenizer, own, sampling, {}, &parts_.tape);
                  const double generated = Seconds();
                  comm.Note("reward", step);
                  ScoreGroups(own, parts_.problems, parts_.prompts, parts_.rewards,
                              {&parts_.journal, step, "train", config.rollout.samples});
                  if (parts_.reward) parts_.reward(own);
                  generate_seconds += generated - begun;
                  reward_seconds += Seconds() - generated;
                });
    parts_.journal.Share(comm);
    idx removed = 0;
    for (RolloutGroup& group : drawn) {
      counts.Add(group);
      if (group.tape_group >= 0) group.tape_group -= removed;
      if (config.rollout.dynamic_sampling && IsUniform(group)) {
        if (group.tape_group >= 0) {
          parts_.tape.Remove(parts_.model.pool(), static_cast<std::size_t>(group.tape_group));
          group.tape_group = -1;
          ++removed;
        }
        replaced.push_back(std::move(group));
      } else {
        groups.push_back(std::move(group));
      }
    }
  }
  counts.filled = static_cast<idx>(wanted - groups.size());
  for (std::size_t i = 0; groups.size() < wanted; ++i) groups.push_back(std::move(replaced[i]));
  for (const RolloutGroup& group : groups) {
    answers_ += static_cast<idx>(group.rollouts.size());
    for (const Rollout& rollout : group.rollouts) answer_tokens_ += rollout.length();
  }
  NormalizeScores(groups, parts_.rewards);
  if (config.algorithm.multi_objective_aggregation == "normalize_then_sum") {
    NormalizeTerms(groups, parts_.rewards);
  }
  PutRewardMetrics(groups, parts_.rewards, metrics);
  counts.Put(metrics);
  if (greedy) metrics["timing_s/gen_max"] = greedy_seconds;
  metrics["timing_s/gen"] = generate_seconds;
  metrics["timing_s/reward"] = reward_seconds;
  return groups;
}

template <class T>
std::vector<RolloutGroup> Collector<T>::CollectGiven(idx step, ordered_json& metrics) {
  const TrainConfig& config = parts_.config;
  std::map<idx, idx> occurrences;
  std::vector<RolloutGroup> groups = Draw(config.rollout.prompts, occurrences);
  for (std::size_t i = 0; i < groups.size(); ++i) groups[i].number = static_cast<idx>(i);
  Deal(groups);
  const double start = Seconds();
  const bool all = ScoresGiven(config);
  // E1 speaks of the batch's first update.
  const idx chosen = GroupToScore(config, step, MiniBatchPrompts(config));
  const auto score = [&](std::span<RolloutGroup> own) {
    parts_.comm.Note("scoring", step);
    for (RolloutGroup& group : own) {
      if (!all && group.number != chosen) continue;
      Score(parts_.model, std::span(&group, 1), TrainingSampling(config, step).inv_temperature());
      for (Rollout& rollout : group.rollouts) SealTokens(rollout);
    }
  };
  if (all) {
    ShareGroups(parts_.comm, groups, Owners(groups.size()), score);
  } else {
    // The ranks have all tokens already.
    const auto owners = Owners(groups.size());
    const auto at = static_cast<std::size_t>(chosen);
    ShareGroups(parts_.comm, std::span(groups).subspan(at, 1), std::span(owners).subspan(at, 1),
                score);
  }
  metrics["timing_s/old_log_prob"] = Seconds() - start;
  return groups;
}

template <class T>
std::vector<RolloutGroup> Collector<T>::CollectWindow(idx step, ordered_json& metrics) {
  const TrainConfig& config = parts_.config;
  Comm& comm = parts_.comm;
  SamplingConfig sampling = TrainingSampling(config, step);
  sampling.max_new_tokens = std::min(sampling.max_new_tokens, config.rollout.window);
  std::vector<RolloutGroup> groups = carried_.Groups(sampling);
  const idx answers = config.rollout.prompts * config.rollout.samples;
  const idx goes_on = carried_.size();
  const idx stale = carried_.tokens();
  const idx drawn = (answers - goes_on) / config.rollout.samples;
  std::map<idx, idx> occurrences;
  for (RolloutGroup& group : Draw(drawn, occurrences)) {
    group.number = std::ssize(groups);
    groups.push_back(std::move(group));
  }
  Deal(groups);
  double generate_seconds = 0;
  double reward_seconds = 0;
  ShareGroups(comm, groups, Owners(groups.size()), [&](std::span<RolloutGroup> own) {
    comm.Note("rollout", step);
    const double begun = Seconds();
    Generate(parts_.model, parts_.tokenizer, own, sampling, {}, &parts_.tape);
    const double generated = Seconds();
    comm.Note("reward", step);
    carried_.MarkUnfinished(own);
    std::vector<RolloutGroup> whole;
    for (const RolloutGroup& group : own) whole.push_back(carried_.Whole(group, parts_.tokenizer));
    ScoreGroups(whole, parts_.problems, parts_.prompts, parts_.rewards,
                {&parts_.journal, step, "train", config.rollout.samples});
    for (std::size_t g = 0; g < whole.size(); ++g) TakeScores(whole[g], own[g]);
    generate_seconds += generated - begun;
    reward_seconds += Seconds() - generated;
  });
  parts_.journal.Share(comm);
  carried_.MarkUnfinished(groups);
  finished_.clear();
  idx tokens = 0;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) tokens += rollout.length();
    RolloutGroup whole = carried_.Whole(group, parts_.tokenizer);
    if (whole.rollouts.empty()) continue;
    for (const Rollout& answer : whole.rollouts) {
      ++answers_;
      answer_tokens_ += answer.length();
    }
    finished_.push_back(std::move(whole));
  }
  NormalizeScores(finished_, parts_.rewards);
  auto whole = finished_.begin();
  for (RolloutGroup& group : groups) {
    const bool any = std::any_of(group.rollouts.begin(), group.rollouts.end(),
                                 [](const Rollout& r) { return !r.unfinished; });
    if (any) TakeScores(*whole++, group);
  }
  carried_.Advance(groups, step);
  if (!finished_.empty()) {
    PutRewardMetrics(finished_, parts_.rewards, metrics);
  } else {  // no reward was asked
    metrics["critic/score/mean"] = metrics["reward"] = 0.0;
  }
  const auto part = [](idx some, idx of) {
    return of > 0 ? static_cast<double>(some) / static_cast<double>(of) : 0.0;
  };
  idx finished = 0;
  for (const RolloutGroup& group : finished_) finished += std::ssize(group.rollouts);
  metrics["rollout/prompts_drawn"] = drawn;
  metrics["rollout/finished_answers"] = finished;
  metrics["rollout/unfinished_answers"] = carried_.size();
  metrics["rollout/stale_answers"] = part(goes_on, goes_on + drawn * config.rollout.samples);
  metrics["rollout/stale_tokens"] = part(stale, stale + tokens);
  metrics["timing_s/gen"] = generate_seconds;
  metrics["timing_s/reward"] = reward_seconds;
  return groups;
}

template <class T>
std::vector<RolloutGroup> Collector<T>::Draw(idx count, std::map<idx, idx>& occurrences) {
  const TrainConfig& config = parts_.config;
  std::vector<RolloutGroup> groups;
  for (const idx p : parts_.order.Take(position_, count)) {
    const Problem& problem = parts_.problems[static_cast<std::size_t>(p)];
    RolloutGroup group;
    if (IsGiven(config)) {
      group = GivenGroup(config, parts_.model.config().max_position, parts_.tokenizer,
                         parts_.prompts, problem);
    } else {
      group.prompt = parts_.prompts.Render(problem.messages);
      CutPrompt(config.data, group.prompt);
      group.rollouts.resize(static_cast<std::size_t>(config.rollout.samples));
    }
    group.problem = p;
    group.key = PromptKey(problem.id, group.prompt, occurrences[p]++);
    groups.push_back(std::move(group));
  }
  position_ += count;
  return groups;
}

template <class T>
void Collector<T>::AnswerGreedily(idx step, std::span<RolloutGroup> groups) {
  SamplingConfig sampling = TrainingSampling(parts_.config, step);
  sampling.temperature = 0;
  std::vector<RolloutGroup> answers;
  for (const RolloutGroup& group : groups) {
    RolloutGroup& answer = answers.emplace_back();
    answer.problem = group.problem;
    answer.key = group.key;
    answer.prompt = group.prompt;
    answer.number = group.number;
    answer.rollouts.resize(1);
  }
  Generate(parts_.model, parts_.tokenizer, std::span<RolloutGroup>(answers), sampling);
  ScoreGroups(answers, parts_.problems, parts_.prompts, parts_.rewards,
              {&parts_.journal, step, "greedy", 1});
  for (std::size_t g = 0; g < groups.size(); ++g) {
    groups[g].greedy = std::move(answers[g].rollouts.front());
  }
}

template <class T>
void Collector<T>::Deal(std::span<const RolloutGroup> groups) {
  const TrainConfig& config = parts_.config;
  const idx length = answers_ > 0 ? answer_tokens_ / answers_ : config.rollout.max_new_tokens;
  deal_ = DealGroups(config, groups, length, parts_.comm.size());
}

template class Collector<float>;
template class Collector<bf16>;

}  // namespace opo
