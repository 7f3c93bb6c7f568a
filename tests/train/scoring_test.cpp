#include "train/scoring.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/file.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

// A journal in a folder that is removed.
class Journal : public testing::Test {
 protected:
  Journal() {
    std::string name = (std::filesystem::temp_directory_path() / "opo_scoring_XXXXXX").string();
    dir_ = ::mkdtemp(name.data());
  }
  ~Journal() override { std::filesystem::remove_all(dir_); }
  std::string dir_;
};

RewardResult Value(double value) { return {Verdict::kScored, value, "because", {}, {}}; }

TEST_F(Journal, GivesBackToTheBitWhatAStepWrote) {
  const RewardJournal::Key a{3, "train", 7, "judge", "d1"};
  const RewardJournal::Key b{4, "eval", 0, "judge", "d2"};
  RewardResult result = Value(0.1 + 0.2);
  result.logged = {{"seconds", 1.0 / 3}};
  const RewardResult error{Verdict::kError, 0, "no reply \xff", "timeout", {}};
  {
    RewardJournal journal(dir_, 0, false);
    EXPECT_EQ(journal.Find(a), nullptr);
    journal.Write(a, result);
    journal.Write(b, error);
  }
  const RewardJournal again(dir_, 3, true);
  ASSERT_NE(again.Find(a), nullptr);
  EXPECT_EQ(again.Find(a)->value, 0.1 + 0.2);
  EXPECT_EQ(again.Find(a)->logged, result.logged);
  EXPECT_EQ(again.Find(a)->note, "because");
  ASSERT_NE(again.Find(b), nullptr);
  EXPECT_EQ(again.Find(b)->verdict, Verdict::kError);
  EXPECT_EQ(again.Find(b)->reason, "timeout");
  // Another text in the same place is another answer.
  EXPECT_EQ(again.Find({3, "train", 7, "judge", "d3"}), nullptr);
  // Steps before the checkpoint stay in the file, and are not needed any more.
  EXPECT_EQ(RewardJournal(dir_, 4, true).Find(a), nullptr);
  EXPECT_NE(ReadFile(dir_ + "/rewards.jsonl").find("\"d1\""), std::string::npos);
  RewardJournal anew(dir_, 0, false);
  EXPECT_EQ(anew.Find(b), nullptr);
}

TEST_F(Journal, ATornLineIsDroppedAndWrittenAnew) {
  const RewardJournal::Key a{1, "train", 0, "judge", "d"};
  const RewardJournal::Key b{1, "train", 1, "judge", "d"};
  {
    RewardJournal journal(dir_, 0, false);
    journal.Write(a, Value(1));
    journal.Write(b, Value(2));
  }
  const std::string whole = ReadFile(dir_ + "/rewards.jsonl");
  const std::size_t first = whole.find('\n') + 1;
  for (std::size_t cut = first; cut < whole.size(); ++cut) {
    std::ofstream(dir_ + "/rewards.jsonl") << whole.substr(0, cut);
    RewardJournal journal(dir_, 0, true);
    EXPECT_NE(journal.Find(a), nullptr);
    EXPECT_EQ(journal.Find(b), nullptr);
    journal.Write(b, Value(2));
    EXPECT_EQ(ReadFile(dir_ + "/rewards.jsonl"), whole) << cut;
  }
}

TEST_F(Journal, AStrangeLineIsNamed) {
  std::ofstream(dir_ + "/rewards.jsonl") << "{\"training/global_step\":1}\n";
  try {
    RewardJournal(dir_, 0, true);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    EXPECT_NE(std::string(error.what()).find("rewards.jsonl"), std::string::npos) << error.what();
  }
}

RolloutGroup Group(const std::vector<std::vector<std::optional<double>>>& terms_of_answers) {
  RolloutGroup group;
  for (const auto& terms : terms_of_answers) {
    Rollout& rollout = group.rollouts.emplace_back();
    rollout.scores.values = terms;
    for (const auto& value : terms) {
      rollout.scores.terms.emplace_back(value ? Value(*value)
                                              : RewardResult{Verdict::kSkipped, 0, "", "", {}});
      rollout.scores.total.value += value.value_or(0);
    }
    rollout.reward = rollout.scores.total.value;
  }
  return group;
}

// As trl 1.16.0's grpo_trainer.py computes reward_k and their nansum, in torch float64:
//   r = torch.tensor([[1., 0.25], [0., nan], [1., 0.75], [0., 0.5]], dtype=torch.float64)
//   k = (r - r.nanmean(0)) / (nanstd(r) + 1e-4); (k * torch.tensor([1., 0.5])).nansum(1)
TEST(NormalizeTerms, IsTrlsNormalizeThenSum) {
  RewardSet rewards({{.kind = "number"}, {.kind = "length", .weight = 0.5, .max_tokens = 8}});
  std::vector<RolloutGroup> groups = {Group({{1, 0.25}, {0, std::nullopt}, {1, 0.75}, {0, 0.5}}),
                                      Group({{1, 1}, {1, 1}})};
  NormalizeTerms(groups, rewards);
  const double std1 = std::sqrt(1.0 / 3) + 1e-4;
  const double std2 = 0.25 + 1e-4;
  const double wanted[] = {0.5 / std1 - 0.125 / std2, -0.5 / std1, 0.5 / std1 + 0.125 / std2,
                           -0.5 / std1};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(groups[0].rollouts[i].reward, wanted[i], 1e-15) << i;
  }
  EXPECT_EQ(groups[1].rollouts[0].reward, 0.0);
  EXPECT_EQ(groups[1].rollouts[1].reward, 0.0);
}

TEST(RewardMetrics, OfTheSumAndOfEachTermByName) {
  RewardSet rewards({{.kind = "number"}, {.kind = "exact", .name = "strict", .weight = 2}});
  std::vector<RolloutGroup> groups = {Group({{1, 1}, {0, 0}}), Group({{1, 0}, {1, 0}})};
  groups[0].rollouts[0].scores.terms[1]->logged = {{"seconds", 4}};
  Rollout& failed = groups[0].rollouts[1];
  failed.scores.terms[1] = RewardResult{Verdict::kError, 0, "", "timeout", {}};
  failed.scores.values[1] = std::nullopt;
  failed.scores.total.verdict = Verdict::kError;
  ordered_json metrics;
  PutRewardMetrics(groups, rewards, metrics);
  EXPECT_EQ(metrics["rewards/number/mean"], 0.75);
  EXPECT_EQ(metrics["rewards/number/std"], 0.5);
  EXPECT_NEAR(metrics["rewards/strict/mean"].get<double>(), 1.0 / 3, 1e-15);
  EXPECT_EQ(metrics["rewards/strict/errors/timeout"], 1);
  EXPECT_EQ(metrics["rewards/strict/seconds/mean"], 4.0);
  EXPECT_EQ(metrics["reward/errors"], 1);
  EXPECT_EQ(metrics["reward/skipped"], 0);
  EXPECT_EQ(metrics["frac_reward_zero_std"], 1.0) << "one answer is left in the first group";
  CollectCounts counts;
  for (const RolloutGroup& group : groups) counts.Add(group);
  counts.Put(metrics);
  EXPECT_EQ(metrics["rollout/groups_all_right"], 2);
  EXPECT_EQ(metrics["rollout/groups_all_wrong"], 0);
}

}  // namespace
}  // namespace opo
