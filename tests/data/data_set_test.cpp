#include "data/data_set.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "base/error.h"

namespace opo {
namespace {

class DataSet : public ::testing::Test {
 protected:
  // A file of the numbered questions [first, last).
  std::string Numbered(const std::string& name, int first, int last) const {
    std::string text;
    for (int i = first; i < last; ++i) {
      text += fmt::format("{{\"prompt\": \"Question {}?\", \"answer\": {}}}\n", i, i);
    }
    return Write(name, text);
  }
  std::string Write(const std::string& name, const std::string& text) const {
    const std::string path = testing::TempDir() + "/data_set_" + name;
    std::ofstream(path) << text;
    return path;
  }
  static std::set<std::string> Prompts(const std::vector<Problem>& problems) {
    std::set<std::string> prompts;
    for (const Problem& problem : problems) prompts.insert(PromptText(problem));
    return prompts;
  }
  static std::string UsageError(const DataConfig& config) {
    try {
      ValidateDataConfig(config);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      return error.what();
    }
    ADD_FAILURE() << "accepted";
    return "";
  }
  static std::string InputError(const DataConfig& config) {
    try {
      LoadDataSets(config);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInput);
      return error.what();
    }
    ADD_FAILURE() << "accepted";
    return "";
  }
};

TEST_F(DataSet, DefaultsAreTheProducts) {
  const DataSets data = LoadDataSets({});
  EXPECT_EQ(data.train.size(), 70U);
  EXPECT_EQ(data.eval.size(), 18U);
  EXPECT_EQ(data.sizes, std::vector<idx>{70});
  EXPECT_TRUE(data.notes.empty());
}

TEST_F(DataSet, TheSplitStaysWhenRowsAreAdded) {
  DataConfig config;
  config.train = Numbered("a.jsonl", 0, 1000);
  EXPECT_TRUE(LoadDataSets(config).eval.empty());
  config.held_out = 0.1;
  const DataSets before = LoadDataSets(config);
  EXPECT_EQ(before.train.size() + before.eval.size(), 1000U);
  // Binomial: 100 with a standard deviation of 9.5.
  EXPECT_NEAR(static_cast<double>(before.eval.size()), 100, 48);
  config.train = Numbered("b.jsonl", -500, 1500);
  const DataSets after = LoadDataSets(config);
  const auto eval = Prompts(after.eval);
  const auto train = Prompts(after.train);
  for (const std::string& prompt : Prompts(before.eval)) EXPECT_TRUE(eval.contains(prompt));
  for (const std::string& prompt : Prompts(before.train)) EXPECT_TRUE(train.contains(prompt));
  // The order of what is left is the file's.
  EXPECT_EQ(after.train.back().answer,
            after.train.back().messages[0]["content"].get<std::string>().substr(
                9, after.train.back().answer.size()));
  EXPECT_LT(std::stoi(after.train[0].answer), std::stoi(after.train[1].answer));
}

TEST_F(DataSet, CopiesAreOnOneSide) {
  std::string text;
  for (int i = 0; i < 300; ++i) {
    text += fmt::format("{{\"prompt\": \"Question {}?\", \"id\": {}}}\n", i, i);
    text += fmt::format("{{\"prompt\": \" question  {}\", \"id\": {}}}\n", i, 1000 + i);
  }
  DataConfig config;
  config.train = Write("copies.jsonl", text);
  config.held_out = 0.3;
  const DataSets data = LoadDataSets(config);
  std::set<std::string> eval;
  for (const Problem& problem : data.eval) eval.insert(Normalised(PromptText(problem)));
  EXPECT_EQ(data.eval.size(), 2 * eval.size());
  for (const Problem& problem : data.train) {
    EXPECT_FALSE(eval.contains(Normalised(PromptText(problem))));
  }
}

TEST_F(DataSet, ASplitWithAnEmptySideIsRefused) {
  DataConfig config;
  config.train = Numbered("one.jsonl", 0, 1);
  config.held_out = 0.05;
  EXPECT_NE(InputError(config).find("data.held_out = 0.05 leaves one side of its 1 problems empty"),
            std::string::npos);
}

TEST_F(DataSet, SetsAreMixedWithKeysOfTheirOwn) {
  DataConfig config;
  config.answer_key = "gold";
  config.mix.resize(3);
  config.mix[0].path = Write("m1.jsonl", "{\"prompt\": \"a\", \"gold\": 1}\n");
  config.mix[0].weight = 2;
  config.mix[1].path = Write("m2.csv", "q,a\nb,2\nc,3\n");
  config.mix[1].prompt_key = "q";
  config.mix[1].answer_key = "a";
  config.mix[1].template_text = "<{}>";
  config.mix[2].path = "gcd";
  config.size = 50;
  ValidateDataConfig(config);
  const DataSets data = LoadDataSets(config);
  EXPECT_EQ(data.sizes, (std::vector<idx>{1, 2, 50}));
  EXPECT_EQ(data.weights, (std::vector<double>{2, 1, 1}));
  EXPECT_EQ(data.train[0].answer, "1");
  EXPECT_EQ(PromptText(data.train[2]), "<c>");
  EXPECT_EQ(data.train[2].answer, "3");
  EXPECT_EQ(data.train[3].data_source, "gcd");
  EXPECT_EQ(data.eval.size(), 5U);  // gcd's own
}

TEST_F(DataSet, BadRowsAreCountedInANote) {
  DataConfig config;
  config.train = Write("bad.jsonl", "{\"prompt\": \"a\"}\nx\n{}\n");
  EXPECT_NE(InputError(config).find("bad.jsonl:2: not valid JSON"), std::string::npos);
  config.on_bad_row = "skip";
  const DataSets data = LoadDataSets(config);
  EXPECT_EQ(data.train.size(), 1U);
  ASSERT_EQ(data.notes.size(), 1U);
  EXPECT_NE(data.notes[0].find("2 of 3 rows are bad and left out; the first: "), std::string::npos);
}

TEST_F(DataSet, TheBandOfPassRatesKeepsWhatIsInIt) {
  DataConfig config;
  config.train = Numbered("rated.jsonl", 0, 4);
  config.pass_rates = Write("rates.jsonl",
                            "{\"prompt\": \"Question 0?\", \"pass_rate\": 0}\n"
                            "{\"prompt\": \"Question 1?\", \"pass_rate\": 0.5}\n"
                            "{\"prompt\": \"Question 1?\", \"pass_rate\": 1}\n"
                            "{\"prompt\": \"Question 2?\", \"pass_rate\": 1}\n"
                            "{\"prompt\": \"Question 3?\", \"pass_rate\": 0.2, \"id\": 9}\n");
  config.pass_rate_min = 0.2;
  config.pass_rate_max = 0.75;
  const DataSets data = LoadDataSets(config);
  EXPECT_EQ(Prompts(data.train), (std::set<std::string>{"Question 1?", "Question 3?"}));
  EXPECT_EQ(data.sizes, std::vector<idx>{2});
  ASSERT_EQ(data.notes.size(), 1U);
  EXPECT_NE(data.notes[0].find("2 of 4 problems have a pass rate outside of 0.2 to 0.75"),
            std::string::npos);
  config.pass_rate_min = config.pass_rate_max = 0.6;
  EXPECT_NE(InputError(config).find("no problem has a pass rate from 0.6 to 0.6"),
            std::string::npos);
}

TEST_F(DataSet, PassRatesAreFoundByIdAndMissingOnesNamed) {
  DataConfig config;
  config.train =
      Write("ids.jsonl", "{\"prompt\": \"a\", \"id\": 1}\n{\"prompt\": \"b\", \"id\": \"two\"}\n");
  config.pass_rate_max = 0.5;
  config.pass_rates = Write(
      "by_id.jsonl", "{\"id\": \"1\", \"pass_rate\": 1}\n{\"id\": \"two\", \"pass_rate\": 0}\n");
  EXPECT_EQ(Prompts(LoadDataSets(config).train), std::set<std::string>{"b"});
  config.pass_rates = Write("missing.jsonl", "{\"id\": 1, \"pass_rate\": 1}\n");
  EXPECT_NE(
      InputError(config).find("missing.jsonl: has no pass rate of the problem 'b' (id 'two')"),
      std::string::npos);
  config.pass_rates = Write("no_rate.jsonl", "{\"id\": 1}\n");
  EXPECT_NE(InputError(config).find("no_rate.jsonl:1: 'pass_rate' must be a number"),
            std::string::npos);
  config.pass_rates = Write("no_name.jsonl", "{\"pass_rate\": 1}\n");
  EXPECT_NE(InputError(config).find("no_name.jsonl:1: needs a 'prompt' or an 'id'"),
            std::string::npos);
}

TEST_F(DataSet, KeysThatContradictEachOtherAreRefused) {
  DataConfig config;
  config.train = "x.jsonl";
  config.mix.resize(1);
  config.mix[0].path = "gcd";
  EXPECT_NE(UsageError(config).find("data.train: the sets of data.mix"), std::string::npos);
  config.train = DataConfig{}.train;
  config.mix[0].path = "";
  EXPECT_NE(UsageError(config).find("data.mix.0.path: is empty"), std::string::npos);
  config = {};
  config.held_out = 0.1;
  EXPECT_NE(UsageError(config).find("data.held_out: built-in sets"), std::string::npos);
  config.train = "x.jsonl";
  config.eval = "y.jsonl";
  EXPECT_NE(UsageError(config).find("data.held_out: data.eval"), std::string::npos);
  config = {};
  for (const char* text : {"no hole", "{} and {}"}) {
    config.template_text = text;
    EXPECT_NE(UsageError(config).find("data.template: needs one {}"), std::string::npos);
  }
  config = {};
  config.pass_rate_min = 0.1;
  EXPECT_NE(UsageError(config).find("need data.pass_rates"), std::string::npos);
  config.pass_rates = "r.jsonl";
  config.pass_rate_max = 0.05;
  EXPECT_NE(UsageError(config).find("above data.pass_rate_max"), std::string::npos);
}

}  // namespace
}  // namespace opo
