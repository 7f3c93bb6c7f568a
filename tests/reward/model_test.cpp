// kind = "model": scores as transformers gives them, batches, padding, refusals; and the running
// moments with PPO-max's worked numbers.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "model/weights.h"
#include "reward/kinds.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class ModelReward : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "opo_reward_model_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // A reward model of bytes; `pad` is what its config.json calls padding.
  std::string Save(const std::string& name, idx max_position = 256, TokenId pad = -1) {
    const Tokenizer tokenizer = Tokenizer::Bytes();
    ModelConfig config;
    config.vocab_size = tokenizer.vocab_size();
    config.hidden_size = 32;
    config.intermediate_size = 48;
    config.num_layers = 2;
    config.num_heads = 2;
    config.num_kv_heads = 1;
    config.head_dim = 16;
    config.max_position = max_position;
    config.pad_id = pad;
    const Weights weights = InitWeights(config, 9, 0.3, Heads{false, true, 0.5, 4});
    const std::string folder = folder_ + "/" + name;
    SaveTrained(folder, weights, "");
    tokenizer.Save(folder);
    return folder;
  }

  // A tokenizer of the first `n` printable characters.
  static Tokenizer Small(int n) {
    Json vocab = Json::object();
    for (int i = 0; i < n; ++i) vocab[std::string(1, static_cast<char>('!' + i))] = i;
    const Json json = {{"pre_tokenizer",
                        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
                       {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
    return Tokenizer::FromJson(json.dump());
  }

  static RewardConfig Term(const std::string& path, const std::string& name = "model") {
    RewardConfig term;
    term.kind = "model";
    term.path = path;
    term.name = name;
    return term;
  }

  struct Answer {
    std::vector<TokenId> prompt, tokens;
  };
  static std::vector<RewardScores> ScoreAll(RewardSet& set, const std::vector<Answer>& answers) {
    static const Problem problem;
    std::vector<RewardQuery> queries;
    for (const Answer& a : answers) {
      queries.push_back({problem, "", "", a.tokens, FinishReason::kLength, a.prompt});
    }
    std::vector<RewardScores> scores(answers.size());
    set.Score(queries, scores);
    return scores;
  }
  static std::string MessageOf(const std::vector<RewardConfig>& terms, const Tokenizer& policy,
                               ErrorCode code) {
    try {
      RewardSet(terms).Prepare(policy, DType::kF32);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      return error.what();
    }
    ADD_FAILURE() << "accepted";
    return "";
  }
  std::string folder_;
};

bool Holds(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts) {
    if (text.find(part) == std::string::npos) {
      ADD_FAILURE() << "'" << part << "' is not in: " << text;
      return false;
    }
  }
  return true;
}

std::uint64_t Bits(double x) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

std::vector<TokenId> Tokens(std::size_t n, TokenId first) {
  std::vector<TokenId> tokens;
  for (std::size_t i = 0; i < n; ++i)
    tokens.push_back(static_cast<TokenId>((first + 37 * i) % 250));
  return tokens;
}

// Alone or among others, with or without the neighbours that share its prompt: the same bits.
TEST_F(ModelReward, AScoreDependsOnPromptAndAnswerAlone) {
  std::vector<Answer> answers;
  for (std::size_t g = 0; g < 60; ++g) {
    for (std::size_t s = 0; s < 3; ++s) {
      answers.push_back({Tokens(1 + 13 * g % 40, static_cast<TokenId>(g)),
                         Tokens(1 + 7 * (g + s) % 70, static_cast<TokenId>(3 * g + s))});
    }
  }
  const std::string path = Save("rm");
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    RewardSet set({Term(path)});
    set.Prepare(Tokenizer::Bytes(), dtype);
    EXPECT_EQ(set.Digests().size(), 1u);
    const auto all = ScoreAll(set, answers);
    double most = 0;
    for (std::size_t i = 0; i < answers.size(); i += 11) {
      const auto alone = ScoreAll(set, {answers[i]});
      EXPECT_EQ(Bits(alone[0].total.value), Bits(all[i].total.value)) << i;
      most = std::max(most, std::abs(all[i].total.value - all[0].total.value));
    }
    EXPECT_GT(most, 0.1);
  }
}

// The tokens that a golden folder's own class scored, in double precision (tests/golden/README.md).
TEST_F(ModelReward, ScoresAreThoseOfTransformers) {
  const std::string golden = std::string(OPO_SOURCE_DIR) + "/tests/golden/tiny_score_llama";
  const Json expected = Json::parse(ReadFile(golden + "/expected.json"));
  // The folder has no tokenizer: any with as many tokens will do.
  fs::create_directories(folder_);
  fs::copy(golden, folder_, fs::copy_options::recursive);
  std::vector<Answer> answers;
  std::vector<double> scores;
  for (const Json& c : expected["cases"]) {
    for (const Json& completion : c["completions"]) {
      answers.push_back({c["prompt_ids"], completion["ids"]});
      scores.push_back(completion["score"]);
    }
  }
  const Tokenizer tiny = Small(43);
  tiny.Save(folder_);
  RewardSet set({Term(folder_)});
  set.Prepare(tiny, DType::kF32);
  auto results = ScoreAll(set, answers);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    EXPECT_NEAR(results[i].total.value, scores[i], 3e-6);  // as in value_head_test
  }
}

// transformers takes the score from the last token that is not pad_token_id.
TEST_F(ModelReward, PaddingAtTheEndIsNotRead) {
  const std::string path = Save("padded", 256, 7);
  RewardSet set({Term(path)});
  set.Prepare(Tokenizer::Bytes(), DType::kF32);
  const std::vector<TokenId> prompt = {65, 66, 67};
  const auto value = [&](std::vector<TokenId> p, std::vector<TokenId> a) {
    return ScoreAll(set, {{std::move(p), std::move(a)}})[0].total.value;
  };
  const auto whole = value(prompt, {70, 71});
  EXPECT_EQ(value(prompt, {70, 71, 7, 7}), whole);
  EXPECT_NE(value(prompt, {70, 7, 71}), whole);
  // Where a prompt ends is where its shared keys end: sums round otherwise.
  EXPECT_NEAR(value({65, 66, 67}, {7}), value({65, 66}, {67}), 1e-5);
  EXPECT_NEAR(value({65, 66, 7}, {7, 7}), value({65}, {66}), 1e-5);
  EXPECT_GT(std::abs(value({65, 66, 67}, {7}) - value({65, 66}, {7})), 1e-2);
  EXPECT_EQ(value({7, 7}, {7}), value({7}, {7, 7}));
}

TEST_F(ModelReward, AnAnswerBeyondTheModelsPositionsIsAnError) {
  RewardConfig term = Term(Save("short", 16));
  term.on_error = "score";
  term.error_score = -3;
  term.error_limit = 1;
  RewardSet set({term});
  set.Prepare(Tokenizer::Bytes(), DType::kF32);
  const auto scores = ScoreAll(set, {{Tokens(8, 1), Tokens(8, 2)}, {Tokens(8, 1), Tokens(9, 2)}});
  EXPECT_EQ(scores[0].terms[0]->verdict, Verdict::kScored);
  EXPECT_EQ(scores[1].terms[0]->verdict, Verdict::kError);
  EXPECT_EQ(scores[1].terms[0]->reason, "length");
  EXPECT_EQ(scores[1].total.value, -3);
}

TEST_F(ModelReward, WhatCannotScoreIsRefusedWithTheCure) {
  const Tokenizer bytes = Tokenizer::Bytes();
  RewardConfig none;
  none.kind = "model";
  Holds(MessageOf({none}, bytes, ErrorCode::kUsage), {"reward.0.path", "missing"});
  Holds(MessageOf({Term("/nowhere/rm")}, bytes, ErrorCode::kUsage),
        {"reward.0.path", "/nowhere/rm"});
  // A causal LM.
  const std::string causal = folder_ + "/causal";
  ModelConfig config = LoadWeights(Save("rm")).config;
  config.has_logits = true;
  config.has_values = false;
  SaveTrained(causal, InitWeights(config, 1, 0.1), "");
  bytes.Save(causal);
  Holds(MessageOf({Term(causal)}, bytes, ErrorCode::kInput),
        {"reward.0.path", "no value head", "one label"});
  // Another tokenizer.
  Holds(MessageOf({Term(Save("rm2"))}, Small(43), ErrorCode::kInput),
        {"another tokenizer", "http"});
  Holds(MessageOf({[&] {
                    RewardConfig term = Term(Save("rm3"));
                    term.url = "http://x";
                    return term;
                  }()},
                  bytes, ErrorCode::kUsage),
        {"reward.0.url", "takes none"});
}

// ------------------------------------------------------------------ normalisation

TEST(RunningMoments, FollowPpoMaxsWorkedNumbers) {
  RunningMoments moments;
  EXPECT_EQ(moments.std(), 1);
  moments.Add(std::vector<double>{1, 2, 3, 4});
  EXPECT_DOUBLE_EQ(moments.mean, 2.5);
  EXPECT_NEAR(moments.std(), 1.290994, 5e-7);
  moments.Add(std::vector<double>{2, 6});
  EXPECT_DOUBLE_EQ(moments.mean, 3);
  EXPECT_NEAR(moments.std(), 1.788854, 5e-7);
  moments.Add(std::vector<double>{});
  EXPECT_DOUBLE_EQ(moments.count, 6);
  // In batches or at once.
  RunningMoments once;
  once.Add(std::vector<double>{1, 2, 3, 4, 2, 6});
  EXPECT_NEAR(once.std(), moments.std(), 1e-14);
  RunningMoments same;
  same.Add(std::vector<double>{2});
  EXPECT_EQ(same.std(), 1);
  same.Add(std::vector<double>{2, 2});
  EXPECT_EQ(same.std(), 1);
}

std::vector<double> Normalized(RewardSet& set, const std::vector<double>& values) {
  std::vector<RewardScores> scores(values.size());
  std::vector<RewardScores*> batch;
  for (std::size_t i = 0; i < values.size(); ++i) {
    scores[i].terms = {Scored(values[i], "")};
    scores[i].values = {values[i]};
    scores[i].total = Scored(values[i], "");
    batch.push_back(&scores[i]);
  }
  set.Normalize(batch);
  std::vector<double> totals;
  for (const RewardScores& s : scores) {
    totals.push_back(s.total.value);
    EXPECT_EQ(s.terms[0]->logged.back().first, "score");
  }
  return totals;
}

void ExpectNear(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 5e-7) << i;
}

TEST(Normalize, WhitensScalesAndClipsAsPpoMaxDoes) {
  RewardConfig term;
  term.kind = "length";
  term.max_tokens = 8;
  term.normalize = "whiten";
  RewardSet whiten({term});
  ExpectNear(Normalized(whiten, {1, 2, 3, 4}), {-1.161895, -0.387298, 0.387298, 1.161895});
  // A resume goes on from the moments that it kept.
  RewardSet resumed({term});
  resumed.SetMoments(whiten.moments(), "a test");
  ExpectNear(Normalized(whiten, {2, 6}), {-0.559017, 1.677051});
  ExpectNear(Normalized(resumed, {2, 6}), {-0.559017, 1.677051});
  EXPECT_EQ(Bits(whiten.moments().at("length").var), Bits(resumed.moments().at("length").var));
  EXPECT_THROW(resumed.SetMoments({}, "a test"), Error);

  term.clip = 0.8;
  RewardSet clipped({term});
  ExpectNear(Normalized(clipped, {1, 2, 3, 4}), {-0.8, -0.387298, 0.387298, 0.8});
  term.normalize = "scale";
  term.clip = 0;
  term.weight = 2;
  RewardSet scale({term});
  ExpectNear(Normalized(scale, {1, 2, 3, 4}), {1.549193, 3.098387, 4.647580, 6.196773});
  term.normalize = "none";
  term.clip = 3;
  RewardSet only_clip({term});
  EXPECT_TRUE(only_clip.normalizes());
  EXPECT_TRUE(only_clip.moments().empty());
  ExpectNear(Normalized(only_clip, {1, 2, 3, 4}), {2, 4, 6, 6});
}

TEST(Normalize, LeavesOutWhatDoesNotApplyAndMovesGreedyAnswersWithTheBatch) {
  RewardConfig whiten;
  whiten.kind = "length";
  whiten.max_tokens = 8;
  whiten.normalize = "whiten";
  RewardConfig plain = whiten;
  plain.name = "plain";
  plain.normalize = "none";
  plain.weight = 10;
  RewardSet set({whiten, plain});
  std::vector<RewardScores> all(4);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto v = static_cast<double>(i + 1);
    all[i].terms = {Scored(v, ""), Scored(v, "")};
    all[i].values = {v, v};
    all[i].total = Scored(11 * v, "");
  }
  all[1].terms[0] = RewardResult{Verdict::kSkipped, 0, "", {}, {}};
  all[1].values[0] = std::nullopt;
  std::vector<RewardScores*> batch = {&all[0], &all[1], &all[2]};
  std::vector<RewardScores*> greedy = {&all[3]};
  set.Normalize(batch, greedy);
  // Of 1 and 3: mean 2, deviation sqrt(2).
  EXPECT_DOUBLE_EQ(set.moments().at("length").mean, 2);
  ExpectNear({all[0].total.value, all[1].total.value, all[2].total.value, all[3].total.value},
             {10 - std::sqrt(0.5), 20, 30 + std::sqrt(0.5), 40 + std::sqrt(2.0)});
}

}  // namespace
}  // namespace opo
