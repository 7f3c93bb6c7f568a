// Supervised fine-tuning: loss and gradient against PyTorch, packs, and whole runs.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/parallel.h"
#include "model/load.h"
#include "train/given.h"
#include "train/learner.h"
#include "train/objective.h"
#include "train/runs.h"

namespace opo {
namespace {

using nlohmann::json;

std::string Golden(const std::string& name) {
  return std::string(OPO_SOURCE_DIR) + "/tests/golden/" + name;
}

struct GoldenLoss {
  json file = json::parse(ReadFile(Golden("sft.json")));
  std::vector<RolloutGroup> groups;
  std::vector<LearnGroup> learn;
  AlgorithmConfig algorithm;

  GoldenLoss() {
    algorithm.name = "sft";
    std::vector<idx> lengths;
    for (const json& s : file["sequences"]) {
      RolloutGroup& group = groups.emplace_back();
      group.number = static_cast<idx>(groups.size()) - 1;
      group.prompt = s["prompt"].get<std::vector<TokenId>>();
      Rollout& rollout = group.rollouts.emplace_back();
      rollout.tokens = s["answer"].get<std::vector<TokenId>>();
      rollout.learned = s["learned"].get<std::vector<bool>>();
      rollout.advantage = 1;
      rollout.scores.total.verdict = Verdict::kScored;
      lengths.push_back(rollout.num_learned());
    }
    const std::vector<double> weights = TokenWeights("token-mean", lengths, 0);
    for (std::size_t g = 0; g < groups.size(); ++g) learn.push_back({&groups[g], {weights[g]}});
  }
};

struct Learned {
  LearnResult result;
  Buffer<float> grad;
};

template <class T>
Learned Learn(GoldenLoss& golden, Transformer<T>& model, const Weights& weights,
              LearnerConfig config) {
  Learned out{{}, Buffer<float>(weights.layout.size)};
  Learner<T> learner(model, weights.layout, config);
  const UpdateLoss loss(golden.algorithm, true, golden.groups);
  out.result = learner.Accumulate(golden.learn, std::cref(loss), out.grad.data());
  return out;
}

TEST(SftLoss, LossAndGradientAgreeWithPyTorch) {
  GoldenLoss golden;
  const Weights weights = LoadWeights(Golden(golden.file["model"]));
  const PackedWeights<float> packed(weights, true);
  Transformer<float> model(packed);
  for (const bool pack : {false, true}) {
    LearnerConfig config;
    config.pack = pack;
    const Learned got = Learn(golden, model, weights, config);
    EXPECT_EQ(got.result.tokens, golden.file["tokens"].get<idx>());
    EXPECT_EQ(got.result.compared_tokens, 0) << "nothing was scored before";
    // f32 sums of log-probs that are good to 5e-5 (learner_test.cpp); TRL's is float32 too.
    EXPECT_NEAR(got.result.loss, golden.file["loss"].get<double>(), 2e-5);
    EXPECT_NEAR(got.result.loss, golden.file["trl_loss"].get<double>(), 2e-5);
    for (const TensorSpec& t : weights.layout.tensors) {
      const json& want = golden.file["gradient"].at(t.name);
      double norm = 0;
      for (idx i = 0; i < t.size(); ++i) norm += std::pow(got.grad[t.offset + i], 2);
      const double wanted = want["norm"].get<double>();
      EXPECT_NEAR(std::sqrt(norm), wanted, 1e-4 * wanted) << t.name;
      for (std::size_t i = 0; i < want["first"].size(); ++i) {
        EXPECT_NEAR(got.grad[t.offset + static_cast<idx>(i)], want["first"][i].get<double>(),
                    1e-4 * wanted)
            << t.name << " " << i;
      }
    }
  }
}

// E3 and E6 of packs, in both types; and how much padding they leave.
template <class T>
void PacksGiveTheSameBitsInAnyMemory() {
  GoldenLoss golden;
  const Weights weights = LoadWeights(Golden(golden.file["model"]));
  const PackedWeights<T> packed(weights, true);
  Transformer<T> model(packed);
  LearnerConfig config;
  config.unit_tokens = 96;
  config.pack = true;
  const Learned whole = Learn(golden, model, weights, config);
  EXPECT_EQ(whole.result.micro_batches, 1);
  const Learner<T> sizes(model, weights.layout, config);
  for (const Record record : {Record::kAll, Record::kResiduals}) {
    for (const int threads : {1, 3}) {
      SetNumThreads(threads);
      LearnerConfig small = config;
      // The longest pack, 104 rows of one problem, and no more.
      small.memory_bytes = 128 * sizes.row_bytes(record);
      const Learned again = Learn(golden, model, weights, small);
      EXPECT_GT(again.result.micro_batches, 1);
      if (record == Record::kResiduals) {
        EXPECT_GT(again.result.rows_rerun, 0);
      }
      ASSERT_EQ(std::memcmp(whole.grad.data(), again.grad.data(),
                            sizeof(float) * static_cast<std::size_t>(weights.layout.size)),
                0);
      EXPECT_EQ(again.result.loss, whole.result.loss);
    }
  }
  SetNumThreads(0);
}

// 40 times the six sequences of 4 to 103 rows: 9000 rows, of which 5080 more were padding
// on AMX.
TEST(SftLoss, PacksLeaveLittlePadding) {
  const GoldenLoss golden;
  std::vector<LearnGroup> many;
  for (int i = 0; i < 40; ++i) many.insert(many.end(), golden.learn.begin(), golden.learn.end());
  const auto padding = [&](bool pack) {
    idx sum = 0, rows = 0;
    for (const Unit& unit : CutUnits(many, 1024, pack)) {
      rows += unit.rows();
      EXPECT_LE(rows, 1024);
      if (unit.joins) continue;
      sum += RoundUp(rows, kRowBlock) - rows;
      rows = 0;
    }
    return sum;
  };
  EXPECT_EQ(padding(false), 5080);
  EXPECT_LT(padding(true), 10 * kRowBlock);
}
TEST(SftLoss, PacksGiveTheSameBitsInAnyMemoryF32) { PacksGiveTheSameBitsInAnyMemory<float>(); }
TEST(SftLoss, PacksGiveTheSameBitsInAnyMemoryBf16) { PacksGiveTheSameBitsInAnyMemory<bf16>(); }

// A neighbour in the pack is not seen.
TEST(SftLoss, APacksSequencesDoNotSeeEachOther) {
  GoldenLoss golden;
  const Weights weights = LoadWeights(Golden(golden.file["model"]));
  const PackedWeights<float> packed(weights, true);
  Transformer<float> model(packed);
  Score<float>(model, golden.groups, 1.0f);  // each by itself
  LearnerConfig config;
  config.pack = true;
  const Learned got = Learn(golden, model, weights, config);
  EXPECT_EQ(got.result.compared_tokens, golden.file["tokens"].get<idx>());
  EXPECT_EQ(got.result.mismatched_tokens, 0);
}

class Sft : public RunTest {
 protected:
  TrainConfig Config(const std::string& name, const Settings& settings) const {
    Settings all = {"run.dir=" + Folder(name), "algorithm.name=sft", "train.lr=1e-2",
                    "monitor.tensorboard=false", "monitor.report_every=0"};
    all.insert(all.end(), settings.begin(), settings.end());
    return LoadTrainConfig("", all);
  }
  static std::string Digest(const std::vector<nlohmann::ordered_json>& steps) {
    return steps.back().at("exact/weights_digest").get<std::string>();
  }
};

TEST_F(Sft, TheHeldOutLossFalls) {
  const auto [steps, result] =
      Take(Config("run", {"train.steps=40", "eval.every=10", "checkpoint.every=10",
                          "checkpoint.keep_best=true"}),
           false, /*evaluate=*/true);
  EXPECT_LT(result.after.loss, 0.5 * result.before.loss);
  EXPECT_EQ(result.after.metrics["eval/perplexity"].get<double>(), std::exp(result.after.loss));
  EXPECT_EQ(result.after.metrics["eval/tokens"], result.before.metrics["eval/tokens"]);
  for (const auto& step : steps) {
    // One problem a step is scored before: the learner's log-probs are those of a forward pass.
    EXPECT_GT(step["exact/compared_tokens"].get<idx>(), 0);
    EXPECT_LT(step["exact/compared_tokens"].get<idx>(), step["learn/tokens"].get<idx>());
    EXPECT_EQ(step["exact/mismatched_tokens"], 0);
    EXPECT_FALSE(step.contains("critic/score/mean"));
    EXPECT_EQ(step.contains("eval/loss"), step["training/global_step"].get<int>() % 10 == 0);
  }
  EXPECT_EQ(steps.back()["eval/loss"].get<double>(), result.after.loss);
}

TEST_F(Sft, SameBitsResumedReplayedAndOnOtherThreads) {
  const Settings settings = {"train.steps=5", "checkpoint.every=2", "checkpoint.keep_last=9",
                             "rollout.prompts=8", "train.shards=2"};
  const auto whole = Run(Config("whole", settings));
  EXPECT_EQ(Digest(Run(Config("threads", With(settings, {"run.threads=2"})))), Digest(whole));
  EXPECT_EQ(Digest(Run(Config("one", With(settings, {"run.threads=1"})))), Digest(whole));
  Run(Config("cut", With(settings, {"train.steps=3"})));
  EXPECT_EQ(Digest(Run(Config("cut", settings), /*resume=*/true)), Digest(whole));
  ExpectReplays("whole", 3, 5);
}

TEST_F(Sft, ConversationsLearnTheAssistantOrAll) {
  const std::string file = Folder("chat.jsonl");
  std::ofstream(file)
      << R"({"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"},)"
      << R"( {"role": "user", "content": "d"}, {"role": "assistant", "content": "ef"}]})"
      << "\n";
  const Settings settings = {"data.train=" + file, "train.steps=1", "rollout.prompts=2",
                             "checkpoint.every=0"};
  // The answer "c\nd\nef" and its end, of which "c", "ef" and the end are learned.
  const auto assistant = Run(Config("assistant", settings));
  EXPECT_EQ(assistant[0]["response_length/mean"], 7);
  EXPECT_EQ(assistant[0]["learn/tokens"], 2 * 4);
  Settings all = settings;
  all.push_back("data.learn=all");
  const auto whole = Run(Config("all", all));
  EXPECT_EQ(whole[0]["prompt_length/mean"], 1);
  EXPECT_EQ(whole[0]["learn/tokens"], 2 * 9);
}

TEST_F(Sft, OverlongAnswersAreRefusedDroppedOrCut) {
  const std::string file = Folder("long.jsonl");
  std::ofstream(file) << R"({"prompt": "a", "completion": "bcdefghij"})"
                      << "\n"
                      << R"({"prompt": "a", "completion": "b"})"
                      << "\n";
  const Settings settings = {"data.train=" + file, "train.steps=1",         "rollout.prompts=2",
                             "checkpoint.every=0", "data.sequence_limit=8", "data.prompt_limit=4"};
  const auto run = [&](const char* overlong) {
    Settings all = settings;
    all.push_back(std::string("data.overlong=") + overlong);
    return Run(Config(overlong, all)).front();
  };
  EXPECT_EQ(run("drop")["response_length/max"], 2);
  EXPECT_EQ(run("truncate")["response_length/max"], 6);
  try {
    run("error");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(
        std::string(error.what())
            .find("problem 1 (id '') has 12 tokens with its answer, data.sequence_limit is 8; "
                  "raise it, or set data.overlong to drop or truncate"),
        std::string::npos)
        << error.what();
  }
}

TEST_F(Sft, SettingsThatMeanNothingAreRefused) {
  const auto error = [&](const Settings& settings) -> std::string {
    try {
      Config("x", settings);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return e.what();
    }
    return "accepted";
  };
  EXPECT_NE(
      error({"rollout.samples=4"})
          .find("rollout.samples: the answers that \"sft\" learns from are those of the data"),
      std::string::npos);
  EXPECT_NE(error({"rollout.temperature=0.7"}).find("rollout.temperature"), std::string::npos);
  EXPECT_NE(error({"reward.0.kind=math"}).find("reward"), std::string::npos);
  EXPECT_NE(error({"algorithm.loss_agg=seq-mean-token-sum-norm"}).find("algorithm.norm = 0"),
            std::string::npos);
  EXPECT_NE(error({"algorithm.name=opo", "data.completion_key=x"})
                .find("data.completion_key: algorithm.name = \"opo\" samples its answers"),
            std::string::npos);
  const std::string file = Folder("rl.jsonl");
  std::ofstream(file) << R"({"prompt": "a", "answer": "b"})"
                      << "\n";
  try {
    Run(Config("run", {"data.train=" + file}));
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("rl.jsonl:1: is no demonstration"), std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace opo
