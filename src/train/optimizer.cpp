#include "train/optimizer.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/fault.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "kernels/kernels.h"

namespace opo {
namespace {
constexpr idx kStepChunk = 65536;
constexpr std::uint64_t kMomentsDomain = 0x6d6f6d656e7473;  // "moments"
constexpr int kMomentsTag = 29998;
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

double GradientNorm(const Buffer<float>& grad, Comm& comm) {
  const SlabPart part = OwnedPart(grad.size(), comm.rank(), comm.size());
  const idx blocks = CeilDiv(part.size(), kSlabBlock);
  std::vector<double> sums(static_cast<std::size_t>(blocks));
  const auto sum_squares = ActiveKernels().sum_squares;
  ParallelChunks(blocks, 16, [&](idx begin, idx end) {
    for (idx b = begin; b < end; ++b) {
      const idx first = part.begin + b * kSlabBlock;
      sums[static_cast<std::size_t>(b)] =
          sum_squares(grad.data() + first, std::min(kSlabBlock, part.end - first));
    }
  });
  double total = 0;
  for (const double sum : comm.AllGatherValues<double>(sums)) total += sum;
  return std::sqrt(total);
}

std::string FindNonFinite(const SlabLayout& layout, const Buffer<float>& slab, Comm& comm) {
  const SlabPart part = OwnedPart(slab.size(), comm.rank(), comm.size());
  const auto look = [&]() -> std::string {
    for (const TensorSpec& t : layout.tensors) {
      const idx end = std::min(part.end, t.offset + t.size());
      for (idx i = std::max(part.begin, t.offset); i < end; ++i) {
        if (!std::isfinite(slab[i])) return fmt::format("{}[{}]", t.name, i - t.offset);
      }
    }
    return "";
  };
  for (std::string& found : comm.AllGather(look())) {
    if (!found.empty()) return found;
  }
  return "";
}

AdamW::AdamW(const SlabLayout& layout, const OptimizerConfig& config, Comm& comm)
    : config_(config),
      comm_(comm),
      size_(layout.size),
      part_(OwnedPart(layout.size, comm.rank(), comm.size())) {
  if (config.moments == "bf16") {
    moments_ = Moments<bf16>{Buffer<bf16>(part_.size()), Buffer<bf16>(part_.size())};
  } else {
    moments_ = Moments<float>{Buffer<float>(part_.size()), Buffer<float>(part_.size())};
  }
  for (const TensorSpec& t : layout.tensors) {
    const idx begin = std::max(t.offset, part_.begin);
    const idx end = std::min(t.offset + t.size(), part_.end);
    for (idx at = begin; at < end; at += kStepChunk) {
      chunks_.push_back({at, std::min(end, at + kStepChunk), !t.is_vector});
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
          const idx at = c.begin - part_.begin;
          kernel(weights.data() + c.begin, moments.m.data() + at, moments.v.data() + at,
                 grad.data() + c.begin, c.end - c.begin, own);
        });
      },
      moments_);
}

namespace {

// Whether any of n numbers is infinite or NaN, or (`squares`) below 0: compared as integers, which
// the compiler makes vectors of.
template <class T>
bool AnyBad(const T* values, idx n, bool squares) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>;
  constexpr Bits kInfinity = sizeof(T) == 4 ? 0x7f800000U : 0x7f80U;
  constexpr Bits kAll = std::numeric_limits<Bits>::max();
  const Bits mask = squares ? kAll : static_cast<Bits>(kAll >> 1);
  Bits bad = 0;
  for (idx i = 0; i < n; ++i) {
    const Bits bits = static_cast<Bits>(std::bit_cast<Bits>(values[i]) & mask);
    bad |= static_cast<Bits>(bits >= kInfinity);
  }
  return bad != 0;
}

}  // namespace

std::string AdamW::FindBadMoment(const SlabLayout& layout) {
  const auto look = [&]<class T>(Moments<T>& moments) -> std::string {
    if (FaultsArmed()) CorruptNumbers("moment", moments.m.span());
    const auto in = [&](idx begin, idx end) {  // of the slab
      const idx at = begin - part_.begin;
      return AnyBad(moments.m.data() + at, end - begin, false)  ? "m"
             : AnyBad(moments.v.data() + at, end - begin, true) ? "v"
                                                                : nullptr;
    };
    std::atomic<bool> any = false;
    ParallelFor(static_cast<idx>(chunks_.size()), [&](idx i) {
      const Chunk& c = chunks_[static_cast<std::size_t>(i)];
      if (in(c.begin, c.end) != nullptr) any = true;
    });
    if (!any) return "";
    for (const TensorSpec& t : layout.tensors) {
      const idx end = std::min(part_.end, t.offset + t.size());
      for (idx i = std::max(part_.begin, t.offset); i < end; ++i) {
        const char* which = in(i, i + 1);
        if (which != nullptr) return fmt::format("{} of {}[{}]", which, t.name, i - t.offset);
      }
    }
    return "";
  };
  for (std::string& found : comm_.AllGather(std::visit(look, moments_))) {
    if (!found.empty()) return std::move(found);
  }
  return "";
}

DType AdamW::dtype() const {
  return std::holds_alternative<Moments<bf16>>(moments_) ? DType::kBf16 : DType::kF32;
}

std::vector<SafeTensorToWrite> AdamW::Tensors() const {
  return std::visit(
      [&]<class T>(const Moments<T>& moments) {
        const auto one = [&](const char* name, const Buffer<T>& slab) {
          SafeTensorToWrite tensor{name, {size_}, slab.span()};
          if (comm_.alone()) return tensor;
          tensor.data = {};
          tensor.read = [this, &slab](std::span<float> out) {
            Buffer<T> all(size_);
            std::copy(slab.data(), slab.data() + slab.size(), all.data());
            for (int r = 1; r < comm_.size(); ++r) {
              const SlabPart theirs = OwnedPart(size_, r, comm_.size());
              if (theirs.size() == 0) continue;
              comm_.Recv(r, kMomentsTag, all.data() + theirs.begin,
                         theirs.size() * static_cast<idx>(sizeof(T)));
            }
            comm_.Wait();
            for (idx i = 0; i < size_; ++i) out[static_cast<std::size_t>(i)] = ToF32(all[i]);
          };
          return tensor;
        };
        return std::vector<SafeTensorToWrite>{one("m", moments.m), one("v", moments.v)};
      },
      moments_);
}

void AdamW::SendTensors() const {
  if (part_.size() == 0) return;
  std::visit(
      [&](const auto& moments) {
        comm_.Send(0, kMomentsTag, moments.m.data(), moments.m.bytes());
        comm_.Send(0, kMomentsTag, moments.v.data(), moments.v.bytes());
      },
      moments_);
  comm_.Wait();
}

void AdamW::Read(const SafetensorsFile& file) {
  const char* type = dtype() == DType::kBf16 ? "BF16" : "F32";
  const auto read = [&]<class T>(const char* name, Buffer<T>& slab) {
    const SafeTensor* tensor = file.Find(name);
    if (tensor == nullptr || tensor->num_elements() != size_) {
      Fail(ErrorCode::kInput, "{}: tensor `{}` is missing or of another size than this model's",
           file.path(), name);
    }
    if (tensor->dtype != type) {
      Fail(ErrorCode::kInput, "{}: tensor `{}` is {}, train.moments asks for {}", file.path(), name,
           tensor->dtype, type);
    }
    Buffer<T> whole(comm_.alone() ? 0 : size_);
    const std::span<T> out = comm_.alone() ? slab.span() : whole.span();
    if constexpr (std::is_same_v<T, bf16>) {
      file.ReadBf16(*tensor, out);
    } else {
      file.ReadF32(*tensor, out);
    }
    if (comm_.alone()) return;
    std::copy(out.begin(), out.begin() + slab.size(), slab.data());
    for (int r = 1; r < comm_.size(); ++r) {
      const SlabPart theirs = OwnedPart(size_, r, comm_.size());
      if (theirs.size() == 0) continue;
      comm_.Send(r, kMomentsTag, whole.data() + theirs.begin,
                 theirs.size() * static_cast<idx>(sizeof(T)));
    }
    comm_.Wait();
  };
  std::visit(
      [&](auto& moments) {
        read("m", moments.m);
        read("v", moments.v);
      },
      moments_);
}

void AdamW::ReceiveTensors() {
  if (part_.size() == 0) return;
  std::visit(
      [&](auto& moments) {
        comm_.Recv(0, kMomentsTag, moments.m.data(), moments.m.bytes());
        comm_.Recv(0, kMomentsTag, moments.v.data(), moments.v.bytes());
      },
      moments_);
  comm_.Wait();
}

}  // namespace opo
