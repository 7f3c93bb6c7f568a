// AdamW, schedule and guards against plain double-precision arithmetic.
#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "base/error.h"
#include "base/parallel.h"
#include "reference/tiny_model.h"

namespace opo {
namespace {

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

// A model of several chunks, and what a step made of it.
ModelConfig ChunkyConfig() {
  ModelConfig c = SmallConfig();
  c.vocab_size = 9001;  // an embedding of 72008 numbers
  return c;
}

OptimizerConfig Bf16Moments() {
  OptimizerConfig config;
  config.moments = "bf16";
  config.seed = 5;
  return config;
}

struct Stepped {
  Weights weights = InitWeights(ChunkyConfig(), 1, 0.02);
  AdamW optimizer;
  explicit Stepped(const OptimizerConfig& config) : optimizer(weights.layout, config) {}
  void Steps(int from, int to) {
    Buffer<float> grad(weights.layout.size);
    for (int step = from; step <= to; ++step) {
      for (idx i = 0; i < grad.size(); ++i) grad[i] = static_cast<float>(Value(i * step, 0.5));
      optimizer.Step(weights.slab, grad, 1e-2, 1.0);
    }
  }
  std::vector<std::byte> State() const {
    std::vector<std::byte> out;
    const auto add = [&](auto span) {
      const auto bytes = std::as_bytes(span);
      out.insert(out.end(), bytes.begin(), bytes.end());
    };
    add(weights.slab.span());
    for (const SafeTensorToWrite& t : optimizer.Tensors()) std::visit(add, t.data);
    return out;
  }
};

TEST(Bf16Moments, ThreadsChangeNoBit) {
  SetNumThreads(1);
  Stepped one(Bf16Moments());
  one.Steps(1, 4);
  for (const int threads : {2, 3}) {
    SetNumThreads(threads);
    Stepped more(Bf16Moments());
    more.Steps(1, 4);
    EXPECT_EQ(more.State(), one.State()) << threads << " threads";
  }
  SetNumThreads(0);
  // The control: other random bits are other moments.
  OptimizerConfig other = Bf16Moments();
  other.seed = 6;
  Stepped reseeded(other);
  reseeded.Steps(1, 4);
  EXPECT_NE(reseeded.State(), one.State());
}

TEST(Bf16Moments, ReadBackTheyGoOnAsIfNeverWritten) {
  const std::string path = testing::TempDir() + "opo_moments.safetensors";
  Stepped whole(Bf16Moments());
  whole.Steps(1, 3);
  WriteSafetensors(path, whole.optimizer.Tensors(), whole.optimizer.dtype(), {});
  Stepped resumed(Bf16Moments());
  std::copy_n(whole.weights.slab.data(), whole.weights.slab.size(), resumed.weights.slab.data());
  resumed.optimizer.Read(SafetensorsFile::Open(path));
  resumed.optimizer.SetSteps(whole.optimizer.steps());
  EXPECT_EQ(resumed.State(), whole.State());
  whole.Steps(4, 6);
  resumed.Steps(4, 6);
  EXPECT_EQ(resumed.State(), whole.State());
  // Half the bytes of f32, and not to be read as that.
  EXPECT_LT(std::filesystem::file_size(path),
            static_cast<std::uintmax_t>(4 * whole.weights.slab.size() + 4096));
  try {
    Stepped(OptimizerConfig{}).optimizer.Read(SafetensorsFile::Open(path));
    FAIL() << "bf16 was read as f32";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("train.moments"), std::string::npos) << e.what();
  }
  std::filesystem::remove(path);
}

// With beta2 = 0.999 a step moves v by less than half a bf16 ulp: rounding to nearest would leave
// it where it is long before it has reached g^2.
TEST(Bf16Moments, ReachTheSquareOfAConstantGradient) {
  OptimizerConfig config = Bf16Moments();
  config.beta2 = 0.999;
  Weights weights = InitWeights(SmallConfig(), 1, 0.02);
  AdamW optimizer(weights.layout, config);
  Buffer<float> grad(weights.layout.size);
  const float g = 0.0137f;
  std::fill_n(grad.data(), grad.size(), g);
  constexpr int kSteps = 4000;
  for (int step = 0; step < kSteps; ++step) optimizer.Step(weights.slab, grad, 0.0, 1.0);
  const auto tensors = optimizer.Tensors();
  const auto v = std::get<std::span<const bf16>>(tensors[1].data);
  double mean = 0;
  float nearest = 0;
  for (int step = 0; step < kSteps; ++step) {
    nearest = ToF32(ToBf16(nearest * 0.999f + g * g * 0.001f));
  }
  // The slab's padding is not stepped.
  idx n = 0;
  for (const TensorSpec& t : weights.layout.tensors) {
    for (idx i = t.offset; i < t.offset + t.size(); ++i, ++n) {
      mean += static_cast<double>(ToF32(v[static_cast<std::size_t>(i)]));
    }
  }
  mean /= static_cast<double>(n);
  const double want = double{g} * double{g} * (1 - std::pow(0.999, kSteps));
  // A step's rounding has a deviation of at most half an ulp, 2^-8 of v, and is forgotten at 0.001
  // a step: sqrt(1 / 0.002) = 22 of them are in v, averaged over n elements; five deviations.
  EXPECT_NEAR(mean, want, 5 * want * 0x1p-8 * 22.4 / std::sqrt(static_cast<double>(n)));
  EXPECT_LT(static_cast<double>(nearest), 0.7 * want) << "rounding to nearest would do as well";
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
