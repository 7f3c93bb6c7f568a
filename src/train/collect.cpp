#include "train/collect.h"

#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "train/exchange.h"

namespace opo {

using nlohmann::ordered_json;

namespace {

// data.overlong = "truncate": keeps the last data.prompt_limit tokens.
void CutPrompt(const DataConfig& config, std::vector<TokenId>& prompt) {
  const auto limit = static_cast<std::size_t>(config.prompt_limit);
  if (config.overlong != "truncate" || prompt.size() <= limit) return;
  prompt.erase(prompt.begin(), prompt.end() - static_cast<std::ptrdiff_t>(limit));
}

}  // namespace

void FitPrompts(const PromptRenderer& prompts, const DataConfig& config, DataSets& data) {
  std::vector<Problem> kept;
  std::size_t next = 0;
  for (std::size_t s = 0; s < data.sizes.size(); ++s) {
    const auto size = static_cast<std::size_t>(data.sizes[s]);
    idx longer = 0;
    for (const std::size_t end = next + size; next < end; ++next) {
      Problem& problem = data.train[next];
      const auto tokens = static_cast<idx>(prompts.Render(problem.messages).size());
      if (tokens > config.prompt_limit) {
        ++longer;
        if (config.overlong == "error") {
          Fail(ErrorCode::kInput,
               "{}: problem {} (id '{}') has {} prompt tokens, data.prompt_limit is {}; raise it, "
               "or set data.overlong to drop or truncate",
               data.names[s], next - (end - size) + 1, problem.id, tokens, config.prompt_limit);
        }
        if (config.overlong == "drop") continue;
      }
      kept.push_back(std::move(problem));
    }
    if (longer == 0) continue;
    const bool dropped = config.overlong == "drop";
    data.notes.push_back(fmt::format(
        "{}: {} of {} prompts have more than data.prompt_limit = {} tokens and {}", data.names[s],
        longer, size, config.prompt_limit, dropped ? "are dropped" : "lose their beginning"));
    if (dropped) data.sizes[s] -= longer;
    if (data.sizes[s] == 0) {
      Fail(ErrorCode::kInput, "{}: every prompt is longer than data.prompt_limit = {}; raise it",
           data.names[s], config.prompt_limit);
    }
  }
  data.train = std::move(kept);
}

std::string DataDigest(const DataSets& data) {
  Digest digest;
  for (const Problem& problem : data.train) {
    const std::string text =
        nlohmann::ordered_json{problem.id, problem.messages, problem.answer, problem.extra}.dump(
            -1, ' ', false, ordered_json::error_handler_t::replace);
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

template <class T>
std::vector<RolloutGroup> Collector<T>::Collect(idx step, ordered_json& metrics) {
  const TrainConfig& config = parts_.config;
  const auto wanted = static_cast<std::size_t>(config.rollout.prompts);
  const idx limit = config.rollout.prompts * config.rollout.max_draws;
  const SamplingConfig sampling = TrainingSampling(config, step);
  Comm& comm = parts_.comm;
  CollectCounts counts;
  std::vector<RolloutGroup> groups;
  std::vector<RolloutGroup> replaced;
  std::map<idx, idx> occurrences;  // of a problem in the step: each has draws of its own
  double generate_seconds = 0;
  double reward_seconds = 0;
  while (groups.size() < wanted && counts.prompts < limit) {
    const idx missing = static_cast<idx>(wanted - groups.size());
    const double start = Seconds();
    auto drawn = Draw(std::min(missing, limit - counts.prompts), occurrences);
    if (counts.prompts == 0) Deal(drawn);
    std::vector<int> owner;
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      drawn[i].number = counts.prompts + static_cast<idx>(i);
      owner.push_back(deal_.RankOf(ShardOf(config, static_cast<idx>(groups.size() + i))));
    }
    ShareGroups(comm, drawn, owner, [&](std::span<RolloutGroup> own) {
      comm.Note("rollout", step);
      Generate(parts_.model, parts_.tokenizer, own, sampling, {}, &parts_.tape);
      const double generated = Seconds();
      comm.Note("reward", step);
      ScoreGroups(own, parts_.problems, parts_.prompts, parts_.rewards,
                  {&parts_.journal, step, "train", config.rollout.samples});
      generate_seconds += generated - start;
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
  if (config.algorithm.multi_objective_aggregation == "normalize_then_sum") {
    NormalizeTerms(groups, parts_.rewards);
  }
  PutRewardMetrics(groups, parts_.rewards, metrics);
  counts.Put(metrics);
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
    group.problem = p;
    group.prompt = parts_.prompts.Render(problem.messages);
    CutPrompt(config.data, group.prompt);
    group.key = PromptKey(problem.id, group.prompt, occurrences[p]++);
    group.rollouts.resize(static_cast<std::size_t>(config.rollout.samples));
    groups.push_back(std::move(group));
  }
  position_ += count;
  return groups;
}

template <class T>
void Collector<T>::Deal(std::span<const RolloutGroup> groups) {
  const TrainConfig& config = parts_.config;
  const idx length = answers_ > 0 ? answer_tokens_ / answers_ : config.rollout.max_new_tokens;
  std::vector<idx> work(static_cast<std::size_t>(NumShards(config)));
  for (std::size_t i = 0; i < groups.size(); ++i) {
    work[static_cast<std::size_t>(ShardOf(config, static_cast<idx>(i)))] +=
        static_cast<idx>(groups[i].prompt.size()) + config.rollout.samples * length;
  }
  deal_ = DealShards(work, parts_.comm.size());
}

template class Collector<float>;
template class Collector<bf16>;

}  // namespace opo
