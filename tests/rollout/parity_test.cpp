// SmolLM2-135M-Instruct against PyTorch (tests/golden/README.md).
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "reference/tiny_model.h"

namespace opo {
namespace {

struct Golden {
  std::vector<RolloutGroup> groups;
  std::vector<std::vector<float>> f32, bf;
};

Golden LoadGolden() {
  Golden golden;
  std::ifstream file(std::string(OPO_SOURCE_DIR) + "/tests/golden/smollm2_logprobs.jsonl");
  for (std::string line; std::getline(file, line);) {
    const auto row = nlohmann::json::parse(line);
    RolloutGroup group;
    group.prompt = row["prompt_ids"].get<std::vector<TokenId>>();
    group.rollouts.resize(1);
    group.rollouts[0].tokens = row["completion_ids"].get<std::vector<TokenId>>();
    golden.groups.push_back(group);
    golden.f32.push_back(row["logprobs_f32"].get<std::vector<float>>());
    golden.bf.push_back(row["logprobs_bf16"].get<std::vector<float>>());
  }
  return golden;
}

struct Difference {
  double mean = 0, max = 0;
  idx tokens = 0;
  void Add(const std::vector<float>& a, const std::vector<float>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t t = 0; t < a.size(); ++t) {
      const double d = std::abs(double{a[t]} - double{b[t]});
      mean = (mean * static_cast<double>(tokens) + d) / static_cast<double>(tokens + 1);
      max = std::max(max, d);
      ++tokens;
    }
  }
};

template <class T>
Difference ScoreAgainst(Golden& golden) {
  const Weights weights = LoadWeights(SmolLm2Path());
  TinyModel<T> smol(weights);
  Score(smol.model, std::span<RolloutGroup>(golden.groups), 1.0f);
  Difference difference;
  for (std::size_t g = 0; g < golden.groups.size(); ++g) {
    difference.Add(golden.groups[g].rollouts[0].logprobs, golden.f32[g]);
  }
  EXPECT_EQ(difference.tokens, 1484);
  std::printf("mean |difference| %.3g, max %.3g over %lld tokens\n", difference.mean,
              difference.max, static_cast<long long>(difference.tokens));
  return difference;
}

TEST(SmolLm2Parity, F32AgreesWithPyTorchAtEveryToken) {
  OPO_NEEDS_SMOLLM2();
  Golden golden = LoadGolden();
  EXPECT_LE(ScoreAgainst<float>(golden).max, 2e-4);
}

TEST(SmolLm2Parity, Bf16IsNoFurtherFromF32ThanPyTorchsBf16) {
  OPO_NEEDS_SMOLLM2();
  Golden golden = LoadGolden();
  Difference torch;
  for (std::size_t g = 0; g < golden.groups.size(); ++g) torch.Add(golden.bf[g], golden.f32[g]);
  EXPECT_NEAR(torch.mean, 0.0350665, 1e-6);
  EXPECT_LE(ScoreAgainst<bf16>(golden).mean, torch.mean);
}

}  // namespace
}  // namespace opo
