// What opo plan says before a run. The figures themselves are checked against a real step by
// `opo bench step`; here: that the parts hang together.
#include "train/plan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "base/error.h"
#include "train/policy.h"

namespace opo {
namespace {

TrainConfig SmallRun() {
  TrainConfig config;
  config.rollout.prompts = 4;
  config.rollout.samples = 4;
  config.rollout.max_new_tokens = 16;
  config.run.memory_mb = 1024;
  config.run.tape_mb = 0;
  return config;
}

ModelConfig SmallModel() { return FreshModel(ModelInitConfig{}, Tokenizer::Bytes()); }

TEST(MemoryPlan, PartsSumToTheTotalAndStayBelowTheBudget) {
  const MemoryPlan plan = PlanMemory(SmallRun(), SmallModel(), 8);
  EXPECT_EQ(plan.total(), plan.process + plan.weights + plan.optimizer + plan.gradient +
                              plan.packed + plan.frozen + plan.head + plan.rollout + plan.tape +
                              plan.micro_batch);
  EXPECT_EQ(plan.budget, idx{1024} << 20);
  EXPECT_LE(plan.total(), plan.budget);
  EXPECT_EQ(plan.optimizer, 2 * plan.weights);
  EXPECT_GT(plan.micro_batch, 0);
}

TEST(MemoryPlan, Bf16MomentsTakeHalf) {
  TrainConfig config = SmallRun();
  const MemoryPlan f32 = PlanMemory(config, SmallModel(), 8);
  config.train.moments = "bf16";
  const MemoryPlan half = PlanMemory(config, SmallModel(), 8);
  EXPECT_EQ(2 * half.optimizer, f32.optimizer);
  EXPECT_EQ(half.weights, f32.weights);
}

TEST(MemoryPlan, MoreRowsTakeMore) {
  const TrainConfig config = SmallRun();
  const ModelConfig model = SmallModel();
  const MemoryPlan plan = PlanMemory(config, model, 8);
  const MemoryPlan longer = PlanStepMemory(config, model, 8, 64, plan);
  const MemoryPlan longer_prompts = PlanStepMemory(config, model, 80, 16, plan);
  EXPECT_GT(longer.total(), plan.total());
  EXPECT_GT(longer.rollout, plan.rollout);
  EXPECT_GT(longer.micro_batch, plan.micro_batch);
  EXPECT_GT(longer_prompts.total(), plan.total());
  // What does not depend on rows stays.
  EXPECT_EQ(longer.weights, plan.weights);
  EXPECT_EQ(longer.packed, plan.packed);
}

TEST(MemoryPlan, MicroBatchesTakeAtMostTheirBudget) {
  const TrainConfig config = SmallRun();
  const ModelConfig model = SmallModel();
  MemoryPlan plan = PlanMemory(config, model, 8);
  const MemoryPlan one = PlanStepMemory(config, model, 8, 16, plan);
  EXPECT_EQ(one.rows_rerun, 0);
  plan.micro_batch_budget = 100 * plan.row_bytes;  // one group of 64 + 7 rows, padded to 96
  const MemoryPlan several = PlanStepMemory(config, model, 8, 16, plan);
  EXPECT_LT(several.micro_batch, one.micro_batch);
  EXPECT_EQ(several.rows_rerun, 0);
  plan.micro_batch_budget /= 2;  // layer by layer
  const MemoryPlan rerun = PlanStepMemory(config, model, 8, 16, plan);
  EXPECT_EQ(rerun.rows_rerun, 4 * (4 * 16 + 7));
}

TEST(MemoryPlan, TapeOffAutomaticAndExplicit) {
  TrainConfig config = SmallRun();
  config.rollout.max_new_tokens = 1024;
  ModelConfig model = SmallModel();
  model.max_position = 4096;
  const idx rows = 16 * 1024 + 4 * 7;
  const MemoryPlan off = PlanMemory(config, model, 8);
  EXPECT_EQ(off.tape, 0);
  EXPECT_EQ(off.taped_rows, 0);

  config.run.tape_mb = -1;
  const MemoryPlan all = PlanMemory(config, model, 8);
  EXPECT_EQ(all.taped_rows, rows);
  EXPECT_GE(all.tape, rows * all.tape_row_bytes);
  EXPECT_LT(all.micro_batch, off.micro_batch);

  config.run.tape_mb = 20;
  const MemoryPlan some = PlanMemory(config, model, 8);
  EXPECT_EQ(some.tape_budget, idx{20} << 20);
  EXPECT_GT(some.taped_rows, 0);
  EXPECT_LT(some.taped_rows, rows);
  EXPECT_LE(some.taped_rows * some.tape_row_bytes, some.tape_budget);

  config.run.tape_mb = 900;  // more than there is to keep
  EXPECT_EQ(PlanMemory(config, model, 8).tape, all.tape);
}

// The paper's 7B in 24 GiB: not the model, but an adapter of it; and the tape leaves room for a
// unit.
TEST(MemoryPlan, AnAdapterOfALargeModelFitsWhereTheModelDoesNot) {
  TrainConfig config = LoadTrainConfig(std::string(OPO_SOURCE_DIR) + "/examples/paper/opo-7b.toml",
                                       {"run.memory_mb=24576", "rollout.prompts=4",
                                        "rollout.samples=4", "rollout.max_new_tokens=512"});
  EXPECT_THROW((void)PlanMemory(config, PolicyShape(config, Tokenizer::Bytes()), 128), Error);
  config.lora.rank = 16;
  const MemoryPlan plan = PlanMemory(config, PolicyShape(config, Tokenizer::Bytes()), 128);
  EXPECT_LE(plan.total(), plan.budget);
  EXPECT_GT(plan.taped_rows, 0);
  EXPECT_LT(plan.weights, idx{200} << 20);
}

// One sample of 32k tokens of a 7B needs more than a micro-batch takes elsewhere.
TEST(MemoryPlan, AUnitMayBeLargerThanTheUsualMicroBatch) {
  const TrainConfig config =
      LoadTrainConfig(std::string(OPO_SOURCE_DIR) + "/examples/paper/opo-7b.toml", {});
  const MemoryPlan plan = PlanMemory(config, PolicyShape(config, Tokenizer::Bytes()), 64);
  EXPECT_GT(plan.micro_batch_budget, idx{2} << 30);
  EXPECT_LE(plan.total(), plan.budget);
}

TEST(MemoryPlan, RefusesWhatCannotFit) {
  TrainConfig config = SmallRun();
  config.run.memory_mb = 16;
  try {
    (void)PlanMemory(config, SmallModel(), 8);
    FAIL() << "16 MB were accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(e.what()).find("run.memory_mb"), std::string::npos) << e.what();
  }
}

TEST(MemoryPlan, TheLeastThatIsNamedIsEnough) {
  TrainConfig config = SmallRun();
  config.run.memory_mb = 16;
  try {
    (void)PlanMemory(config, SmallModel(), 8);
    FAIL() << "16 MB were accepted";
  } catch (const Error& e) {
    const std::string text = e.what();
    const std::string before = "the least is ";
    config.run.memory_mb = std::stoll(text.substr(text.find(before) + before.size()));
  }
  EXPECT_NO_THROW((void)PlanMemory(config, SmallModel(), 8));
  --config.run.memory_mb;
  EXPECT_THROW((void)PlanMemory(config, SmallModel(), 8), Error);
}

void CheckTime(const TrainConfig& config, const ModelConfig& model, idx prompt_tokens) {
  const MemoryPlan plan = PlanMemory(config, model, prompt_tokens);
  const StepTimePlan time =
      PlanStepTime(config, model, prompt_tokens, config.rollout.max_new_tokens, plan);
  for (const double part : {time.prefill, time.decode, time.recheck, time.forward, time.head,
                            time.backward, time.update}) {
    EXPECT_TRUE(std::isfinite(part));
    EXPECT_GE(part, 0);
  }
  EXPECT_TRUE(std::isfinite(time.total()));
  EXPECT_GT(time.decode, 0);
  EXPECT_GT(time.update, 0);
  EXPECT_GT(time.total(), 0);
  EXPECT_EQ(time.recheck > 0, plan.taped_rows > 0);
}

TEST(StepTimePlan, IsPositiveForAnyShape) {
  TrainConfig config = SmallRun();
  ModelConfig model = SmallModel();
  for (const char* dtype : {"bf16", "f32"}) {
    config.model.dtype = dtype;
    for (const idx layers : {idx{1}, idx{2}, idx{5}}) {
      model.num_layers = layers;
      for (const idx tape_mb : {idx{0}, idx{-1}}) {
        config.run.tape_mb = tape_mb;
        CheckTime(config, model, layers == 2 ? 1 : 40);
      }
    }
  }
  config.rollout.slots = 6;  // waves of 6, 6 and 4 samples
  CheckTime(config, model, 8);
  config.train.mini_batch = 2;
  config.train.epochs = 2;
  CheckTime(config, model, 8);
}

}  // namespace
}  // namespace opo
