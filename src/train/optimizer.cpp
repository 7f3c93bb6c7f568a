#include "train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "base/error.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "kernels/kernels.h"

namespace opo {
namespace {
constexpr idx kNormChunk = 4096;
constexpr idx kStepChunk = 65536;
constexpr std::uint64_t kMomentsDomain = 0x6d6f6d656e7473;  // "moments"
}  // namespace

double LearningRate(const OptimizerConfig& config, idx step, idx total) {
  if (step < config.warmup_steps) {
    return config.lr * static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  }
  if (config.schedule == "constant") return config.lr;
  const double span = static_cast<double>(std::max<idx>(1, total - config.warmup_steps));
  const double done = std::min(1.0, static_cast<double>(step - config.warmup_steps) / span);
  const double shape =
      config.schedule == "linear" ? 1.0 - done : 0.5 * (1.0 + std::cos(std::numbers::pi * done));
  return config.lr * (config.min_lr_ratio + (1.0 - config.min_lr_ratio) * shape);
}

double GradientNorm(const Buffer<float>& grad) {
  const idx chunks = CeilDiv(grad.size(), kNormChunk);
  std::vector<double> sums(static_cast<std::size_t>(chunks));
  const auto sum_squares = ActiveKernels().sum_squares;
  ParallelChunks(chunks, 16, [&](idx begin, idx end) {
    for (idx c = begin; c < end; ++c) {
      const idx first = c * kNormChunk;
      sums[static_cast<std::size_t>(c)] =
          sum_squares(grad.data() + first, std::min(kNormChunk, grad.size() - first));
    }
  });
  double total = 0;
  for (const double s : sums) total += s;
  return std::sqrt(total);
}

std::string FindNonFinite(const SlabLayout& layout, const Buffer<float>& slab) {
  for (const TensorSpec& t : layout.tensors) {
    for (idx i = 0; i < t.size(); ++i) {
      if (!std::isfinite(slab[t.offset + i])) return fmt::format("{}[{}]", t.name, i);
    }
  }
  return "";
}

AdamW::AdamW(const SlabLayout& layout, const OptimizerConfig& config) : config_(config) {
  if (config.moments == "bf16") {
    moments_ = Moments<bf16>{Buffer<bf16>(layout.size), Buffer<bf16>(layout.size)};
  } else {
    moments_ = Moments<float>{Buffer<float>(layout.size), Buffer<float>(layout.size)};
  }
  for (const TensorSpec& t : layout.tensors) {
    for (idx at = 0; at < t.size(); at += kStepChunk) {
      chunks_.push_back(
          {t.offset + at, t.offset + std::min(t.size(), at + kStepChunk), !t.is_vector});
    }
  }
}

void AdamW::Step(Buffer<float>& weights, const Buffer<float>& grad, double lr, double grad_scale) {
  ++steps_;
  AdamWArgs args;
  args.lr = static_cast<float>(lr);
  args.beta1 = static_cast<float>(config_.beta1);
  args.beta2 = static_cast<float>(config_.beta2);
  args.eps = static_cast<float>(config_.eps);
  args.weight_decay = static_cast<float>(config_.weight_decay);
  args.grad_scale = static_cast<float>(grad_scale);
  const double t = static_cast<double>(steps_);
  args.bias1 = static_cast<float>(1.0 - std::pow(config_.beta1, t));
  args.bias2 = static_cast<float>(1.0 - std::pow(config_.beta2, t));
  // Draws of their own: the sampler's keys are MixBits(seed, step) (base/rng.h).
  const std::uint64_t key =
      MixBits(MixBits(config_.seed, kMomentsDomain), static_cast<std::uint64_t>(steps_));
  args.key[0] = static_cast<std::uint32_t>(key);
  args.key[1] = static_cast<std::uint32_t>(key >> 32);
  std::visit(
      [&]<class T>(Moments<T>& moments) {
        const auto kernel = ActiveKernels().of<T>().adamw;
        ParallelFor(static_cast<idx>(chunks_.size()), [&](idx i) {
          const Chunk& c = chunks_[static_cast<std::size_t>(i)];
          AdamWArgs own = args;
          own.first = c.begin;
          if (!c.decay) own.weight_decay = 0;
          kernel(weights.data() + c.begin, moments.m.data() + c.begin, moments.v.data() + c.begin,
                 grad.data() + c.begin, c.end - c.begin, own);
        });
      },
      moments_);
}

DType AdamW::dtype() const {
  return std::holds_alternative<Moments<bf16>>(moments_) ? DType::kBf16 : DType::kF32;
}

std::vector<SafeTensorToWrite> AdamW::Tensors() const {
  return std::visit(
      [](const auto& moments) {
        return std::vector<SafeTensorToWrite>{{"m", {moments.m.size()}, moments.m.span()},
                                              {"v", {moments.v.size()}, moments.v.span()}};
      },
      moments_);
}

void AdamW::Read(const SafetensorsFile& file) {
  const char* type = dtype() == DType::kBf16 ? "BF16" : "F32";
  const auto read = [&]<class T>(const char* name, Buffer<T>& slab) {
    const SafeTensor* tensor = file.Find(name);
    if (tensor == nullptr || tensor->num_elements() != slab.size()) {
      Fail(ErrorCode::kInput, "{}: tensor `{}` is missing or of another size than this model's",
           file.path(), name);
    }
    if (tensor->dtype != type) {
      Fail(ErrorCode::kInput, "{}: tensor `{}` is {}, train.moments asks for {}", file.path(), name,
           tensor->dtype, type);
    }
    if constexpr (std::is_same_v<T, bf16>) {
      file.ReadBf16(*tensor, slab.span());
    } else {
      file.ReadF32(*tensor, slab.span());
    }
  };
  std::visit(
      [&](auto& moments) {
        read("m", moments.m);
        read("v", moments.v);
      },
      moments_);
}

}  // namespace opo
