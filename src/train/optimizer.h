// AdamW on f32 masters, with global-norm clipping and the guard against non-finite numbers.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "base/buffer.h"
#include "format/safetensors.h"
#include "model/weights.h"
#include "train/config.h"

namespace opo {

// The learning rate of optimizer step `step` (from 0) of `total`: linear warm-up over warmup_steps,
// then constant, or linear or cosine decay to lr * min_lr_ratio.
double LearningRate(const OptimizerConfig& config, idx step, idx total);

// The gradient's 2-norm, f64: fixed chunks of 4096 floats, joined in order. Padding of the slab is
// 0.
double GradientNorm(const Buffer<float>& grad);

// Names the first tensor of the slab that holds a non-finite number; "" where all are finite.
std::string FindNonFinite(const SlabLayout& layout, const Buffer<float>& slab);

class AdamW {
 public:
  AdamW(const SlabLayout& layout, const OptimizerConfig& config);

  // One step: the gradient times `grad_scale` (clipping), weights in place. Weight decay is of
  // matrices only; norms and biases are left alone, as transformers' trainer does.
  void Step(Buffer<float>& weights, const Buffer<float>& grad, double lr, double grad_scale);

  idx steps() const { return steps_; }
  void SetSteps(idx steps) { steps_ = steps; }

  // The moments "m" and "v" of all weights, as they are in memory: f32 or bf16 (train.moments).
  std::vector<SafeTensorToWrite> Tensors() const;
  DType dtype() const;
  // Reads them back. Throws Error(kInput) where the file's are of another size or type.
  void Read(const SafetensorsFile& file);

 private:
  struct Chunk {
    idx begin, end;
    bool decay;
  };
  template <class T>
  struct Moments {
    Buffer<T> m, v;
  };
  OptimizerConfig config_;
  std::vector<Chunk> chunks_;
  idx steps_ = 0;
  std::variant<Moments<float>, Moments<bf16>> moments_;
};

}  // namespace opo
