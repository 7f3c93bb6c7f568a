// The answers on disk: what was written comes back, what a kill leaves is dropped, damage is named.
#include "eval/journal.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/error.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

const ordered_json kHead = {{"opo_eval", 1}, {"model", "abc"}, {"temperature", 0.7}};

std::vector<Answer> TwoAnswers() {
  std::vector<Answer> answers(2);
  answers[0].text = "so \"4\"\n\xe2\x82\xac \x01";
  answers[0].length = 17;
  answers[0].finish = FinishReason::kStop;
  answers[0].reward = {Verdict::kScored, 0.1 + 0.2, "found 4", "", {}};
  answers[0].entropy = std::nextafter(1.0 / 3, 1);
  answers[0].kl = KlSums{-1e-17, 5e-324};
  answers[0].judge = -1.0 / 3;
  answers[1].reward.verdict = Verdict::kSkipped;
  return answers;
}

std::string File() {
  return kHead.dump() + "\n" + JournalLine("set", 3, TwoAnswers()) +
         JournalLine("other", 0, TwoAnswers());
}

Error Refusal(const std::string& bytes, const ordered_json& head = kHead) {
  try {
    ReadEvalJournal(bytes, "FILE", head, 2);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "was taken: " << bytes;
  return Error(ErrorCode::kWork, "");
}

TEST(EvalJournal, WhatWasWrittenComesBack) {
  const JournalContent content = ReadEvalJournal(File(), "FILE", kHead, 2);
  EXPECT_EQ(content.size, File().size());
  ASSERT_EQ(content.answers.size(), 2U);
  const std::vector<Answer> want = TwoAnswers();
  const std::vector<Answer>& got = content.answers.at({"set", 3});
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(got[i].problem, 3);
    EXPECT_EQ(got[i].sample, static_cast<idx>(i));
    EXPECT_EQ(got[i].text, want[i].text);
    EXPECT_EQ(got[i].length, want[i].length);
    EXPECT_EQ(got[i].finish, want[i].finish);
    EXPECT_EQ(got[i].reward.value, want[i].reward.value);
    EXPECT_EQ(got[i].reward.verdict, want[i].reward.verdict);
    EXPECT_EQ(got[i].reward.note, want[i].reward.note);
    EXPECT_EQ(got[i].entropy, want[i].entropy);
    ASSERT_EQ(got[i].kl.has_value(), want[i].kl.has_value());
    EXPECT_EQ(got[i].judge, want[i].judge);
  }
  EXPECT_EQ(got[0].kl->k1, want[0].kl->k1);
  EXPECT_EQ(got[0].kl->k3, want[0].kl->k3);
}

TEST(EvalJournal, AnyStartOfTheFileIsWholeLines) {
  const std::string all = File();
  for (std::size_t size = 0; size <= all.size(); ++size) {
    const JournalContent content = ReadEvalJournal(all.substr(0, size), "FILE", kHead, 2);
    EXPECT_LE(content.size, size);
    EXPECT_TRUE(content.size == 0 || all[content.size - 1] == '\n');
    const auto lines =
        std::count(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(size), '\n');
    EXPECT_EQ(static_cast<std::ptrdiff_t>(content.answers.size()),
              std::max<std::ptrdiff_t>(0, lines - 1));
  }
}

TEST(EvalJournal, OtherSettingsAreRefusedByName) {
  const Error error = Refusal(File(), {{"opo_eval", 1}, {"model", "abc"}, {"temperature", 1.0}});
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_NE(std::string(error.what()).find("`temperature` was 0.7 and is 1.0"), std::string::npos)
      << error.what();
  EXPECT_NE(std::string(error.what()).find("choose another --out"), std::string::npos);
  EXPECT_EQ(Refusal("[]\n").code(), ErrorCode::kUsage);
  EXPECT_EQ(Refusal("{\"opo_eval\":2}\n").code(), ErrorCode::kUsage);
}

TEST(EvalJournal, DamageIsNamed) {
  const std::string head = kHead.dump() + "\n";
  const std::string good = JournalLine("set", 3, TwoAnswers());
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string line = good;
    const std::size_t at = line.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return head + line.replace(at, from.size(), to);
  };
  const std::vector<std::pair<std::string, std::string>> bad = {
      {head + "x\n" + good, "line 2"},
      {head + good + good.substr(0, 30) + "\n", "line 3"},
      {head + std::string(200, '[') + "\n", "nested deeper"},
      {head + "{}\n", "is no problem's"},
      {with("\"problem\":3", "\"problem\":-3"), "`problem`: is no count"},
      {with("\"problem\":3", "\"problem\":1e300"), "`problem`: is no count"},
      {with("\"length\":17", "\"length\":\"17\""), "`length`: is no count"},
      {with("\"stop\"", "\"halt\""), "\"halt\" is unknown"},
      {with("\"scored\"", "7"), "`verdict`: is no text"},
      {with("\"entropy\":0", "\"entropie\":0"), "has no `entropy`"},
      {with("\"k1\":-1e-17", "\"k1\":null"), "`k1`: is no finite number"},
      {with("\"k3\"", "\"k4\""), "has no `k3`"},
      {with("},{", "},7,{"), "has no `text`"},
      {head + JournalLine("set", 3, std::vector<Answer>(1)), "has 1 answers, not 2"},
  };
  for (const auto& [bytes, message] : bad) {
    const Error error = Refusal(bytes);
    EXPECT_EQ(error.code(), ErrorCode::kInput) << bytes;
    EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
  }
}

TEST(EvalJournal, WhatIsNoUtf8OrNoNumberDoesNotSpoilTheFile) {
  const std::string dir = std::string(OPO_BUILD_DIR) + "/eval_journal_bytes";
  std::filesystem::remove_all(dir);
  const ordered_json head = {{"stop", "\xff"}};
  std::vector<Answer> bytes(1);
  bytes[0].text = "\xc3";
  std::vector<Answer> broken(1);
  broken[0].entropy = std::nan("");
  {
    EvalJournal journal(dir, head, 1);
    journal.Append(JournalLine("set", 0, bytes));
    EXPECT_THROW(journal.Append(JournalLine("set", 1, broken)), Error);
  }
  EvalJournal journal(dir, head, 1);
  ASSERT_EQ(journal.answers().size(), 1U);
  EXPECT_EQ(journal.answers().at({"set", 0})[0].text, "\xef\xbf\xbd");
  std::filesystem::remove_all(dir);
}

TEST(EvalJournal, GoesOnBehindWhatIsWhole) {
  const std::string dir = std::string(OPO_BUILD_DIR) + "/eval_journal_test";
  std::filesystem::remove_all(dir);
  {
    EvalJournal journal(dir, kHead, 2);
    EXPECT_TRUE(journal.answers().empty());
    EXPECT_THROW(EvalJournal(dir, kHead, 2), Error);  // in use
    journal.Append(JournalLine("set", 3, TwoAnswers()) + JournalLine("set", 1, TwoAnswers()));
    EXPECT_EQ(journal.answers().size(), 2U);
  }
  const std::string path = dir + "/answers.jsonl";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 5);
  {
    EvalJournal journal(dir, kHead, 2);
    EXPECT_EQ(journal.answers().size(), 1U);
    EXPECT_TRUE(journal.answers().count({"set", 3}));
    journal.Append(JournalLine("set", 1, TwoAnswers()));
  }
  EXPECT_EQ(ReadFile(path), kHead.dump() + "\n" + JournalLine("set", 3, TwoAnswers()) +
                                JournalLine("set", 1, TwoAnswers()));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace opo
