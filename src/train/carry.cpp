#include "train/carry.h"

#include <array>

#include "base/error.h"
#include "base/hash.h"
#include "base/json.h"
#include "rollout/answer_text.h"

namespace opo {

using nlohmann::ordered_json;

std::uint64_t CarriedKey(std::uint64_t key, idx step, idx sample) {
  const std::array<std::uint64_t, 3> parts = {key, static_cast<std::uint64_t>(step),
                                              static_cast<std::uint64_t>(sample)};
  return Hash64(std::as_bytes(std::span(parts)));
}

idx CarriedAnswers::tokens() const {
  idx sum = 0;
  for (const Answer& answer : answers_) sum += std::ssize(answer.tokens);
  return sum;
}

std::vector<RolloutGroup> CarriedAnswers::Groups(const SamplingConfig& sampling) const {
  std::vector<RolloutGroup> groups;
  for (const Answer& answer : answers_) {
    RolloutGroup group;
    group.problem = answer.problem;
    group.key = answer.key;
    group.prompt = answer.prompt;
    group.prompt.insert(group.prompt.end(), answer.tokens.begin(), answer.tokens.end());
    group.rollouts.resize(1);
    group.number = std::ssize(groups);
    group.sampling = sampling;
    group.sampling->max_new_tokens =
        std::min(rollout_.window, rollout_.max_new_tokens - std::ssize(answer.tokens));
    groups.push_back(std::move(group));
  }
  return groups;
}

const CarriedAnswers::Answer* CarriedAnswers::Carried(const RolloutGroup& group) const {
  return group.number < size() ? &answers_[static_cast<std::size_t>(group.number)] : nullptr;
}

void CarriedAnswers::MarkUnfinished(std::span<RolloutGroup> groups) const {
  for (RolloutGroup& group : groups) {
    const Answer* before = Carried(group);
    for (Rollout& rollout : group.rollouts) {
      const idx length = rollout.length() + (before ? std::ssize(before->tokens) : 0);
      rollout.unfinished =
          rollout.finish == FinishReason::kLength && length < rollout_.max_new_tokens;
      if (rollout.unfinished) rollout.scores.total.verdict = Verdict::kSkipped;
    }
  }
}

RolloutGroup CarriedAnswers::Whole(const RolloutGroup& group, const Tokenizer& tokenizer) const {
  const Answer* before = Carried(group);
  RolloutGroup whole;
  whole.problem = group.problem;
  whole.number = group.number;
  whole.prompt = before ? before->prompt : group.prompt;
  const std::vector<std::string> no_stops;
  for (const Rollout& rollout : group.rollouts) {
    if (rollout.unfinished) continue;
    Rollout& answer = whole.rollouts.emplace_back();
    if (before) answer.tokens = before->tokens;
    answer.tokens.insert(answer.tokens.end(), rollout.tokens.begin(), rollout.tokens.end());
    AnswerText text(tokenizer, no_stops);
    for (const TokenId token : answer.tokens) text.Push(token);
    text.End();
    answer.text = text.text();
    answer.finish = rollout.finish;
    answer.scores = rollout.scores;
    answer.reward = rollout.reward;
  }
  return whole;
}

void CarriedAnswers::Advance(std::span<const RolloutGroup> groups, idx step) {
  std::vector<Answer> next;
  for (const RolloutGroup& group : groups) {
    const Answer* before = Carried(group);
    for (std::size_t s = 0; s < group.rollouts.size(); ++s) {
      const Rollout& rollout = group.rollouts[s];
      if (!rollout.unfinished) continue;
      Answer answer;
      if (before) {
        answer = *before;
      } else {
        answer = {
            group.problem, CarriedKey(group.key, step, static_cast<idx>(s)), group.prompt, {}};
      }
      answer.tokens.insert(answer.tokens.end(), rollout.tokens.begin(), rollout.tokens.end());
      next.push_back(std::move(answer));
    }
  }
  answers_ = std::move(next);
}

ordered_json CarriedAnswers::State() const {
  ordered_json state = ordered_json::array();
  for (const Answer& a : answers_) {
    state.push_back(
        {{"problem", a.problem}, {"key", a.key}, {"prompt", a.prompt}, {"tokens", a.tokens}});
  }
  return state;
}

void CarriedAnswers::Restore(const ordered_json& state, idx problems, idx vocab_size) {
  answers_.clear();
  const auto bad = [] {
    Fail(ErrorCode::kInput, "state.json: carried: is not what a run with rollout.window writes");
  };
  const std::string where = "state.json: carried";
  const auto ids_of = [&](const ordered_json& list) {
    if (!list.is_array()) bad();
    std::vector<TokenId> ids;
    for (const ordered_json& id : list) ids.push_back(IntegerOf<TokenId>(id, where));
    return ids;
  };
  try {
    for (const ordered_json& entry : state) {
      Answer a{IntegerOf<idx>(entry.at("problem"), where),
               IntegerOf<std::uint64_t>(entry.at("key"), where), ids_of(entry.at("prompt")),
               ids_of(entry.at("tokens"))};
      if (a.problem < 0 || a.problem >= problems || a.prompt.empty()) bad();
      if (std::ssize(a.tokens) >= rollout_.max_new_tokens) bad();
      for (const auto* ids : {&a.prompt, &a.tokens}) {
        for (const TokenId id : *ids) {
          if (id < 0 || id >= vocab_size) bad();
        }
      }
      answers_.push_back(std::move(a));
    }
  } catch (const ordered_json::exception&) {
    bad();
  }
}

}  // namespace opo
