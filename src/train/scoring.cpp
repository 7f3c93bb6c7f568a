#include "train/scoring.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>

#include "base/error.h"
#include "base/fault.h"
#include "base/hash.h"
#include "train/step_metrics.h"

namespace opo {

using nlohmann::ordered_json;

namespace {

ordered_json LineOf(const RewardJournal::Key& key, const RewardResult& result) {
  ordered_json line;
  line["training/global_step"] = key.step;
  line["phase"] = key.phase;
  line["answer"] = key.answer;
  line["term"] = key.term;
  line["digest"] = key.digest;
  line["verdict"] = VerdictName(result.verdict);
  line["value"] = result.value;
  if (!result.reason.empty()) line["reason"] = result.reason;
  line["note"] = result.note;
  if (!result.logged.empty()) {
    ordered_json& logged = line["logged"] = ordered_json::object();
    for (const auto& [name, value] : result.logged) logged[name] = value;
  }
  return line;
}

// Throws nlohmann's exception where the line is not one of ours.
std::pair<RewardJournal::Key, RewardResult> ReadLine(const ordered_json& line) {
  RewardJournal::Key key{line.at("training/global_step"), line.at("phase"), line.at("answer"),
                         line.at("term"), line.at("digest")};
  RewardResult result;
  const std::string verdict = line.at("verdict");
  const std::array<Verdict, 3> known = {Verdict::kScored, Verdict::kSkipped, Verdict::kError};
  const auto it = std::find_if(known.begin(), known.end(),
                               [&](Verdict v) { return verdict == VerdictName(v); });
  if (it == known.end()) Fail(ErrorCode::kInput, "a line has the verdict \"{}\"", verdict);
  result.verdict = *it;
  result.value = line.at("value");
  result.reason = line.value("reason", "");
  result.note = line.at("note");
  const ordered_json logged = line.value("logged", ordered_json::object());
  for (const auto& [name, value] : logged.items()) result.logged.emplace_back(name, value);
  return {std::move(key), std::move(result)};
}

struct MeanAndStd {
  double mean = 0;
  double std = 0;  // of the sample, ddof 1; 0 for fewer than two values
};

MeanAndStd Summary(std::span<const double> values) {
  MeanAndStd s;
  if (values.empty()) return s;
  for (const double v : values) s.mean += v;
  s.mean /= static_cast<double>(values.size());
  double square = 0;
  for (const double v : values) square += (v - s.mean) * (v - s.mean);
  if (values.size() > 1) s.std = std::sqrt(square / static_cast<double>(values.size() - 1));
  return s;
}

}  // namespace

RewardJournal::RewardJournal(const std::string& run_dir, idx last_step, bool resume, Comm& comm)
    : path_(run_dir + "/rewards.jsonl") {
  std::string lines;
  if (comm.root()) {
    file_ =
        std::make_unique<LineFile>(path_, resume ? last_step : -1, [&](const ordered_json& line) {
          if (resume) Take(line, last_step, lines);
          return resume;
        });
  }
  Tell(std::move(lines), comm);
}

RewardJournal::RewardJournal(const std::string& run_dir, idx first_step, Comm& comm)
    : path_(run_dir + "/rewards.jsonl"), replays_(true) {
  std::string lines;
  if (comm.root()) {
    for (const ordered_json& line : ReadLines(path_)) Take(line, first_step, lines);
  }
  Tell(std::move(lines), comm);
}

void RewardJournal::Take(const ordered_json& line, idx first_step, std::string& lines) {
  try {
    auto [key, result] = ReadLine(line);
    if (key.step < first_step) return;
    kept_.insert_or_assign(std::move(key), std::move(result));
    lines += LineText(line);
  } catch (const std::exception& error) {
    Fail(ErrorCode::kInput, "{}: a line is not of the journal: {}; restore the file", path_,
         error.what());
  }
}

void RewardJournal::Tell(std::string lines, Comm& comm) {
  if (comm.alone()) return;
  std::istringstream all(comm.Broadcast(std::move(lines)));
  if (comm.root()) return;
  std::string own;
  for (std::string line; std::getline(all, line);) Take(ordered_json::parse(line), 0, own);
}

const RewardResult& RewardJournal::Need(const Key& key, const std::string& place) const {
  if (const RewardResult* known = Find(key)) return *known;
  Key any = key;
  any.digest.clear();  // which comes last in the order of keys
  const auto next = kept_.lower_bound(any);
  any.digest = next == kept_.end() ? "" : next->first.digest;
  if (next != kept_.end() && next->first == any) {
    Fail(ErrorCode::kExactness,
         "step {}: {}: the rollouts differ: this is not the answer that {} has a reward of",
         key.step, place, path_);
  }
  Fail(ErrorCode::kInput,
       "{}: there is no reward \"{}\" of step {}, answer {} ({}); a replay asks no judge, so the "
       "file must be whole",
       path_, key.term, key.step, key.answer, place);
}

const RewardResult* RewardJournal::Find(const Key& key) const {
  const auto it = kept_.find(key);
  return it == kept_.end() ? nullptr : &it->second;
}

void RewardJournal::Write(const Key& key, const RewardResult& result) {
  // The evaluation of a step may be the final one too, or the first one of a resumed run.
  kept_.erase(kept_.begin(), kept_.lower_bound(Key{key.step, "", 0, "", ""}));
  if (key.phase == "eval") kept_.insert_or_assign(key, result);
  if (file_ != nullptr) {
    file_->Append(LineOf(key, result));
  } else {
    pending_ += LineText(LineOf(key, result));
  }
}

void RewardJournal::Share(Comm& comm) {
  if (comm.alone() || replays_) return;
  for (const std::string& lines : comm.Gather(std::exchange(pending_, ""))) {
    std::istringstream all(lines);
    for (std::string line; std::getline(all, line);) file_->Append(ordered_json::parse(line));
  }
}

void ScoreGroups(std::span<RolloutGroup> groups, std::span<const Problem> problems,
                 const PromptRenderer& prompts, RewardSet& rewards, const JournalPlace& place) {
  std::vector<std::string> texts;  // one a group; outlives the queries
  std::vector<RewardQuery> queries;
  std::vector<Rollout*> rollouts;
  std::vector<idx> answers;        // their numbers in the journal
  std::vector<std::string> names;  // for a replay's errors
  texts.reserve(groups.size());
  for (RolloutGroup& group : groups) {
    const Problem& problem = problems[static_cast<std::size_t>(group.problem)];
    texts.push_back(prompts.RenderText(problem.messages));
    for (Rollout& rollout : group.rollouts) {
      queries.push_back(
          {problem, texts.back(), rollout.text, rollout.tokens, rollout.finish, group.prompt});
      rollouts.push_back(&rollout);
      const idx sample = &rollout - group.rollouts.data();
      answers.push_back(group.number * place.samples + sample);
      names.push_back(
          fmt::format("prompt {} (problem {}), sample {}", group.number, group.problem, sample));
    }
  }
  std::vector<RewardScores> scores(queries.size());
  std::vector<RewardJournal::Key> keys;
  if (place.journal != nullptr) {
    for (std::size_t i = 0; i < queries.size(); ++i) {
      const RewardQuery& q = queries[i];
      keys.push_back(
          {place.step, place.phase, answers[i], "",
           HexDigest(fmt::format("{}\n{}\n{}", q.prompt.size(), q.prompt, q.completion))});
      scores[i].terms.resize(rewards.size());
      for (std::size_t t = 0; t < rewards.size(); ++t) {
        keys[i].term = rewards.name(t);
        if (place.journal->replays()) {
          scores[i].terms[t] = place.journal->Need(keys[i], names[i]);
        } else if (const RewardResult* known = place.journal->Find(keys[i])) {
          scores[i].terms[t] = *known;
        }
      }
    }
  }
  rewards.Score(queries, scores, [&](std::size_t term, std::size_t query) {
    if (place.journal == nullptr) return;
    keys[query].term = rewards.name(term);
    place.journal->Write(keys[query], *scores[query].terms[term]);
  });
  for (std::size_t i = 0; i < scores.size(); ++i) {
    rollouts[i]->scores = std::move(scores[i]);
    rollouts[i]->reward = rollouts[i]->scores.total.value;
    CorruptNumbers("reward", std::span(&rollouts[i]->reward, 1));
  }
}

void NormalizeScores(std::span<RolloutGroup> groups, RewardSet& rewards) {
  if (!rewards.normalizes()) return;
  std::vector<RewardScores*> batch, greedy;
  for (RolloutGroup& group : groups) {
    for (Rollout& rollout : group.rollouts) batch.push_back(&rollout.scores);
    if (group.greedy.has_value()) greedy.push_back(&group.greedy->scores);
  }
  rewards.Normalize(batch, greedy);
  for (RolloutGroup& group : groups) {
    for (Rollout& rollout : group.rollouts) rollout.reward = rollout.scores.total.value;
    if (group.greedy.has_value()) group.greedy->reward = group.greedy->scores.total.value;
  }
}

void NormalizeTerms(std::span<RolloutGroup> groups, const RewardSet& rewards) {
  constexpr double kEps = 1e-4;  // TRL's
  for (RolloutGroup& group : groups) {
    for (Rollout& rollout : group.rollouts) rollout.reward = 0;
    for (std::size_t t = 0; t < rewards.size(); ++t) {
      std::vector<double> values;
      std::vector<Rollout*> applies;
      for (Rollout& rollout : group.rollouts) {
        if (!rollout.scored()) continue;
        const auto& value = rollout.scores.values[t];
        if (!value) continue;
        values.push_back(*value);
        applies.push_back(&rollout);
      }
      const auto [mean, deviation] = Summary(values);
      for (std::size_t i = 0; i < values.size(); ++i) {
        applies[i]->reward += rewards.weight(t) * (values[i] - mean) / (deviation + kEps);
      }
    }
  }
}

bool IsUniform(const RolloutGroup& group) {
  const Rollout* first = nullptr;
  for (const Rollout& rollout : group.rollouts) {
    if (!rollout.scored()) continue;
    if (first != nullptr && rollout.scores.total.value != first->scores.total.value) return false;
    first = &rollout;
  }
  return true;
}

void CollectCounts::Add(const RolloutGroup& group) {
  ++prompts;
  bool right = false;
  for (const Rollout& rollout : group.rollouts) {
    if (!rollout.scored()) continue;
    reward += rollout.scores.total.value;
    ++scored;
    right = rollout.scores.total.value > 0;
  }
  if (IsUniform(group)) ++(right ? all_right : all_wrong);
}

void CollectCounts::Put(ordered_json& metrics) const {
  metrics["rollout/prompts_drawn"] = prompts;
  metrics["rollout/groups_all_right"] = all_right;
  metrics["rollout/groups_all_wrong"] = all_wrong;
  metrics["rollout/groups_filled"] = filled;
  if (scored > 0) metrics["rollout/reward_of_drawn"] = reward / static_cast<double>(scored);
}

void PutRewardMetrics(std::span<const RolloutGroup> groups, const RewardSet& rewards,
                      ordered_json& metrics) {
  Spread scores;
  Spread used;
  Spread std_of_groups;
  idx uniform = 0;
  idx skipped = 0;
  idx errors = 0;
  std::string note;
  struct Term {
    std::vector<double> values;
    std::map<std::string, idx> reasons;
    std::map<std::string, Spread> logged;
  };
  std::vector<Term> terms(rewards.size());
  for (const RolloutGroup& group : groups) {
    std::vector<double> here;
    for (const Rollout& rollout : group.rollouts) {
      const RewardResult& total = rollout.scores.total;
      skipped += total.verdict == Verdict::kSkipped ? 1 : 0;
      errors += total.verdict == Verdict::kError ? 1 : 0;
      if (!rollout.scored()) note = total.note;
      for (std::size_t t = 0; t < rewards.size(); ++t) {
        const RewardResult& term = *rollout.scores.terms[t];
        if (term.verdict == Verdict::kError) ++terms[t].reasons[term.reason];
        if (rollout.scores.values[t]) terms[t].values.push_back(*rollout.scores.values[t]);
        for (const auto& [name, value] : term.logged) terms[t].logged[name].Add(value);
      }
      if (!rollout.scored()) continue;
      scores.Add(total.value);
      used.Add(rollout.reward);
      here.push_back(total.value);
    }
    if (here.size() > 1) std_of_groups.Add(Summary(here).std);
    if (!here.empty() && IsUniform(group)) ++uniform;
  }
  if (scores.count == 0) {
    Fail(ErrorCode::kWork,
         "no answer of this step could be scored ({} skipped, {} errors); the last said: {}; see "
         "the reward's settings and the data's answers",
         skipped, errors, note);
  }
  scores.Put(metrics, "critic/score");
  used.Put(metrics, "critic/rewards");
  metrics["reward"] = scores.mean();
  metrics["reward_std"] = std_of_groups.mean();
  metrics["frac_reward_zero_std"] =
      static_cast<double>(uniform) / static_cast<double>(groups.size());
  metrics["reward/skipped"] = skipped;
  metrics["reward/errors"] = errors;
  for (const auto& [name, moments] : rewards.moments()) {
    metrics["rewards/" + name + "/running_mean"] = moments.mean;
    metrics["rewards/" + name + "/running_std"] = moments.std();
  }
  for (std::size_t t = 0; t < rewards.size(); ++t) {
    const std::string name = "rewards/" + rewards.name(t);
    if (!terms[t].values.empty()) {
      const MeanAndStd summary = Summary(terms[t].values);
      metrics[name + "/mean"] = summary.mean;
      metrics[name + "/std"] = summary.std;
    }
    for (const auto& [reason, count] : terms[t].reasons) {
      metrics[name + "/errors/" + reason] = count;
    }
    for (const auto& [key, spread] : terms[t].logged) {
      metrics[name + "/" + key + "/mean"] = spread.mean();
    }
  }
}

}  // namespace opo
