// AdamW, schedule and guards against plain double-precision arithmetic.
#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace opo {
namespace {

ModelConfig SmallConfig() {
  ModelConfig c;
  c.vocab_size = 11;
  c.hidden_size = 8;
  c.intermediate_size = 12;
  c.num_layers = 1;
  c.num_heads = 2;
  c.num_kv_heads = 1;
  c.head_dim = 4;
  c.max_position = 16;
  return c;
}

double Value(idx i, double scale) { return scale * std::sin(static_cast<double>(i) * 0.7 + 0.3); }

TEST(AdamW, FollowsTheFormulaInDoublePrecision) {
  OptimizerConfig config;
  config.weight_decay = 0.1;
  Weights weights = InitWeights(SmallConfig(), 1, 0.02);
  AdamW optimizer(weights.layout, config);
  Buffer<float> grad(weights.layout.size);
  const auto n = static_cast<std::size_t>(weights.layout.size);
  std::vector<double> w(n), m(n), v(n);
  for (const TensorSpec& t : weights.layout.tensors) {
    for (idx i = t.offset; i < t.offset + t.size(); ++i) {
      weights.slab[i] = static_cast<float>(Value(i, 1.0));
      w[static_cast<std::size_t>(i)] = static_cast<double>(weights.slab[i]);
    }
  }
  const double lr = 1e-2;
  for (int step = 1; step <= 5; ++step) {
    for (const TensorSpec& t : weights.layout.tensors) {
      for (idx j = t.offset; j < t.offset + t.size(); ++j) {
        grad[j] = static_cast<float>(Value(j * step, 0.5));
        const auto i = static_cast<std::size_t>(j);
        const double g = static_cast<double>(grad[j]) * 0.5;  // grad_scale
        m[i] = 0.9 * m[i] + 0.1 * g;
        v[i] = 0.95 * v[i] + 0.05 * g * g;
        const double decay = t.is_vector ? 0.0 : 0.1;
        w[i] = w[i] * (1 - lr * decay) - lr * (m[i] / (1 - std::pow(0.9, step))) /
                                             (std::sqrt(v[i] / (1 - std::pow(0.95, step))) + 1e-8);
      }
    }
    optimizer.Step(weights.slab, grad, lr, 0.5);
  }
  for (const TensorSpec& t : weights.layout.tensors) {
    for (idx j = t.offset; j < t.offset + t.size(); ++j) {
      // Five steps of at most lr each, every one rounded in f32: 5 lr 2^-21 and the weight's own
      // ulps.
      ASSERT_NEAR(static_cast<double>(weights.slab[j]), w[static_cast<std::size_t>(j)], 1e-6)
          << t.name;
    }
  }
}

TEST(AdamW, NormsAndBiasesAreNotDecayed) {
  OptimizerConfig config;
  config.weight_decay = 0.5;
  Weights weights = InitWeights(SmallConfig(), 1, 0.02);
  std::fill_n(weights.slab.data(), weights.slab.size(), 1.0f);
  AdamW optimizer(weights.layout, config);
  const Buffer<float> zero_grad(weights.layout.size);
  optimizer.Step(weights.slab, zero_grad, 0.1, 1.0);
  EXPECT_EQ(weights.slab[weights.layout.final_norm], 1.0f);
  EXPECT_FLOAT_EQ(weights.slab[weights.layout.embed], 0.95f);
}

TEST(GradientNorm, IsTheTwoNormInDouble) {
  Buffer<float> grad(10007);
  double want = 0;
  for (idx i = 0; i < grad.size(); ++i) {
    grad[i] = static_cast<float>(Value(i, 3.0));
    want += static_cast<double>(grad[i]) * static_cast<double>(grad[i]);
  }
  EXPECT_NEAR(GradientNorm(grad), std::sqrt(want), 1e-12 * std::sqrt(want));
}

TEST(FindNonFinite, NamesTensorAndElement) {
  Weights weights = InitWeights(SmallConfig(), 1, 0.02);
  EXPECT_EQ(FindNonFinite(weights.layout, weights.slab), "");
  weights.slab[weights.layout.layers[0].down.w + 5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(FindNonFinite(weights.layout, weights.slab), "model.layers.0.mlp.down_proj.weight[5]");
}

TEST(LearningRate, WarmsUpThenFollowsItsSchedule) {
  OptimizerConfig c;
  c.lr = 1.0;
  c.warmup_steps = 4;
  EXPECT_DOUBLE_EQ(LearningRate(c, 0, 24), 0.25);
  EXPECT_DOUBLE_EQ(LearningRate(c, 3, 24), 1.0);
  EXPECT_DOUBLE_EQ(LearningRate(c, 20, 24), 1.0);
  c.schedule = "linear";
  EXPECT_DOUBLE_EQ(LearningRate(c, 4, 24), 1.0);
  EXPECT_DOUBLE_EQ(LearningRate(c, 14, 24), 0.5);
  EXPECT_DOUBLE_EQ(LearningRate(c, 24, 24), 0.0);
  c.schedule = "cosine";
  c.min_lr_ratio = 0.1;
  EXPECT_DOUBLE_EQ(LearningRate(c, 14, 24), 0.55);
  EXPECT_NEAR(LearningRate(c, 24, 24), 0.1, 1e-15);
}

}  // namespace
}  // namespace opo
