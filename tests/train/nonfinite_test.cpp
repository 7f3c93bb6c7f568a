// Numbers that are not finite, wherever they stand.
#include "train/nonfinite.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>

#include "base/error.h"
#include "base/fault.h"
#include "reference/tiny_model.h"
#include "train/floor.h"

namespace opo {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<RolloutGroup> TwoGroups() {
  std::vector<RolloutGroup> groups(2);
  for (RolloutGroup& group : groups) {
    group.rollouts.resize(3);
    for (Rollout& r : group.rollouts) {
      r.tokens = {1, 2};
      r.logprobs = {-0.5f, -1.0f};
      r.scores.total.verdict = Verdict::kScored;
    }
  }
  return groups;
}

TEST(NonFinite, ABatchIsLookedThrough) {
  const Weights weights = InitWeights(SmallConfig(), 1, 0.02);
  std::vector<RolloutGroup> groups = TwoGroups();
  EXPECT_FALSE(NonFiniteInBatch(groups, weights).has_value());
  groups[1].rollouts[2].advantage = static_cast<double>(kNaN);
  auto found = NonFiniteInBatch(groups, weights);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->what, "advantage");
  EXPECT_EQ(found->where, "prompt 1, answer 2");
  EXPECT_FALSE(found->lasting);
  groups[1].rollouts[1].reward = static_cast<double>(-kInf);
  EXPECT_EQ(NonFiniteInBatch(groups, weights)->what, "reward") << "the cause comes first";
  groups[1].rollouts[1].scores.total.verdict = Verdict::kSkipped;
  EXPECT_EQ(NonFiniteInBatch(groups, weights)->what, "advantage");
  groups[0].rollouts[0].logprobs[1] = kNaN;
  found = NonFiniteInBatch(groups, weights);
  EXPECT_EQ(found->what, "log-prob");
  EXPECT_EQ(found->where, "prompt 0, answer 0, token 1");
  EXPECT_TRUE(found->lasting);
}

TEST(NonFinite, TokensAdvantagesAndTheReferenceAreLookedThrough) {
  const Weights weights = InitWeights(SmallConfig(), 1, 0.02);
  std::vector<RolloutGroup> groups = TwoGroups();
  groups[1].rollouts[0].token_advantages = {0.5, static_cast<double>(kInf)};
  groups[1].rollouts[1].reference_logprobs = {-1.0f, -2.0f};
  auto found = NonFiniteInBatch(groups, weights);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->what, "advantage");
  EXPECT_EQ(found->where, "prompt 1, answer 0, token 1");
  EXPECT_FALSE(found->lasting);
  groups[1].rollouts[1].reference_logprobs[0] = kNaN;
  found = NonFiniteInBatch(groups, weights);
  EXPECT_EQ(found->what, "reference log-prob");
  EXPECT_EQ(found->where, "prompt 1, answer 1, token 0");
  EXPECT_TRUE(found->lasting);
}

// Each number of the gradient and of both moments, of both types, and what no check may miss: a
// square that f32 does not hold, and a mean of squares below 0.
void EveryPlace(const char* moments) {
  OptimizerConfig config;
  config.moments = moments;
  Weights weights = InitWeights(SmallConfig(), 1, 0.02);
  auto optimizer = std::make_unique<AdamW>(weights.layout, config);
  Buffer<float> grad(weights.layout.size);
  const auto update = [&](double loss = 0.0) {
    return NonFiniteInUpdate(loss, GradientNorm(grad), grad, *optimizer, weights.layout);
  };
  EXPECT_FALSE(update().has_value());
  EXPECT_EQ(update(static_cast<double>(kNaN))->what, "loss");
  int places = 0;
  for (const TensorSpec& t : weights.layout.tensors) {
    for (const idx i : {idx{0}, t.size() / 2, t.size() - 1}) {
      ++places;
      const std::string name = fmt::format("{}[{}]", t.name, i);
      for (const float bad : {kNaN, kInf, -kInf}) {
        grad[t.offset + i] = bad;
        EXPECT_EQ(update()->what, "gradient");
        EXPECT_EQ(update()->where, name);
        grad[t.offset + i] = 0;
      }
      SetFaults(fmt::format("nan:moment:index={}", t.offset + i));
      const auto found = update();
      ASSERT_TRUE(found.has_value()) << name;
      EXPECT_EQ(found->what, "moment");
      EXPECT_EQ(found->where, "m of " + name);
      EXPECT_TRUE(found->lasting);
      SetFaults("");
      optimizer = std::make_unique<AdamW>(weights.layout, config);
    }
  }
  EXPECT_GT(places, 30);
  grad[0] = 1e19f;  // 1e38 fits; with its neighbour's it would not
  grad[1] = 1e19f;
  EXPECT_EQ(update()->what, "gradient");
  EXPECT_FALSE(NonFiniteInUpdate(0.0, 1.0, grad, *optimizer, weights.layout).has_value())
      << "clipped to a norm of 1 it is harmless";
}

TEST(AvailableMemory, FollowsControlGroupsOfBothVersions) {
  namespace fs = std::filesystem;
  const fs::path root = fs::path(testing::TempDir()) / ("opo_cgroup_" + std::to_string(::getpid()));
  const auto write = [&](const std::string& path, const std::string& text) {
    fs::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text;
  };
  const auto left = [&](const std::string& membership) {
    return CgroupMemoryBytes(membership, root.string());
  };
  const idx none = std::numeric_limits<idx>::max();
  EXPECT_EQ(left("0::/a/b\n"), none) << "nothing is there";
  write("a/b/memory.max", "max\n");
  write("a/b/memory.current", "700\n");
  EXPECT_EQ(left("0::/a/b\n"), none);
  write("a/memory.max", "1000\n");
  write("a/memory.current", "800\n");
  write("a/memory.stat", "anon 5\nactive_file 30\ninactive_file 20\n");
  EXPECT_EQ(left("0::/a/b\n"), 1000 - 800 + 50) << "the limit of the group above, less its cache";
  write("memory.max", "120\n");
  write("memory.current", "20\n");
  EXPECT_EQ(left("0::/a/b\n"), 100) << "in a container the root is the group";
  EXPECT_EQ(left("0::/\n"), 100);
  write("memory/c/memory.limit_in_bytes", "500\n");
  write("memory/c/memory.usage_in_bytes", "600\n");
  write("memory/c/memory.stat", "total_active_file 1\ntotal_inactive_file 2\nactive_file 900\n");
  EXPECT_EQ(left("5:cpu:/x\n4:blkio,memory:/c\n"), 0) << "never below 0";
  write("memory/c/memory.usage_in_bytes", "450\n");
  EXPECT_EQ(left("4:memory:/c\n"), 53);
  write("memory/c/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(left("4:memory:/c\n"), none) << "version 1's way to say that there is none";
  EXPECT_EQ(left("nonsense"), none);
  fs::remove_all(root);
  EXPECT_GT(AvailableMemoryBytes(), idx{1} << 20);
}

TEST(NonFinite, AnUpdateIsLookedThroughF32) { EveryPlace("f32"); }
TEST(NonFinite, AnUpdateIsLookedThroughBf16) { EveryPlace("bf16"); }

}  // namespace
}  // namespace opo
