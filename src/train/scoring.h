// The rewards of rollouts: asked for once, kept in the run's journal, put into numbers.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>

#include "comm/comm.h"
#include "rollout/prompts.h"
#include "rollout/rollout.h"
#include "train/run_log.h"

namespace opo {

// RUN/rewards.jsonl: every term's result, written as it arrives. A resumed run takes what is there
// for the steps that it takes again, so that a judge who might answer otherwise is not asked twice
// (E5). A line is {"training/global_step", "phase": "train", "greedy" or "eval", "answer": its
// number in the step, "term", "digest" of its prompt and text, "verdict", "value", "reason",
// "note", "logged"}; an answer with another digest is asked for anew, and of two lines the later
// one counts.
class RewardJournal {
 public:
  // Continues behind what is there, of which it keeps in mind the lines from `last_step` on; or
  // starts anew (`resume` false). Of several ranks, the root has the file, and all know what is in
  // it.
  RewardJournal(const std::string& run_dir, idx last_step, bool resume, Comm& comm = Comm::Alone());
  // Of a replay, which reads the rewards of the steps from `first_step` on and writes nothing.
  RewardJournal(const std::string& run_dir, idx first_step, Comm& comm = Comm::Alone());
  bool replays() const { return replays_; }

  struct Key {
    idx step = 0;
    std::string phase;
    idx answer = 0;
    std::string term;
    std::string digest;
    auto operator<=>(const Key&) const = default;
  };
  const RewardResult* Find(const Key& key) const;
  // Of a replay: throws for a result that is not there. Error(kExactness) where the journal knows
  // the answer by another text, and Error(kInput) where it does not know it at all. `place` is what
  // the message calls it.
  const RewardResult& Need(const Key& key, const std::string& place) const;
  void Write(const Key& key, const RewardResult& result);
  // Gives what the ranks wrote since the last time to the root, which writes it. What a kill loses
  // before, nobody has used.
  void Share(Comm& comm);
  // What was written is on the disk: before a checkpoint of its steps is. For the root.
  void Sync() { file_->Sync(); }

 private:
  std::string path_;
  std::map<Key, RewardResult> kept_;
  // Keeps the lines of steps from `first_step` on; `lines` gets them for the other ranks.
  void Take(const nlohmann::ordered_json& line, idx first_step, std::string& lines);
  void Tell(std::string lines, Comm& comm);  // the root's lines to all
  bool replays_ = false;
  std::unique_ptr<LineFile> file_;  // the root's
  std::string pending_;             // lines of another rank
};

// Where the rewards of a call stand in the journal: sample s of a group is answer `number * samples
// + s`.
struct JournalPlace {
  RewardJournal* journal = nullptr;
  idx step = 0;
  const char* phase = "train";
  idx samples = 1;
};

// Fills `scores` and `reward` of all rollouts; `problems` are what RolloutGroup::problem counts.
// Throws as RewardSet::Score.
void ScoreGroups(std::span<RolloutGroup> groups, std::span<const Problem> problems,
                 const PromptRenderer& prompts, RewardSet& rewards, const JournalPlace& place = {});

// What [[reward]] normalize and clip make of a training batch (RewardSet::Normalize): the answers'
// values, sums and `reward`, those of the greedy answers too.
void NormalizeScores(std::span<RolloutGroup> groups, RewardSet& rewards);

// TRL's normalize_then_sum: each term becomes (r - mean) / (std + 1e-4) over the answers of a group
// to which it applies (sample standard deviation, ddof 1; 0 for one answer), and `reward` the
// weighted sum of these.
void NormalizeTerms(std::span<RolloutGroup> groups, const RewardSet& rewards);

// Is the reward the same for all scored answers of the group?
bool IsUniform(const RolloutGroup& group);

// What a step drew, the groups that were replaced included.
struct CollectCounts {
  idx prompts = 0;
  idx all_right = 0, all_wrong = 0;  // uniform groups: with a reward above 0, or not
  idx filled = 0;                    // uniform groups that stayed, for want of others
  double reward = 0;                 // sum over scored answers
  idx scored = 0;
  void Add(const RolloutGroup& group);
  void Put(nlohmann::ordered_json& metrics) const;
};

// Means and deviations, of the sum and of each term, counts of skips and of errors by reason.
// Throws Error(kWork) if no answer could be scored.
void PutRewardMetrics(std::span<const RolloutGroup> groups, const RewardSet& rewards,
                      nlohmann::ordered_json& metrics);

}  // namespace opo
