// AdamW on f32 masters, with global-norm clipping and the guard against non-finite numbers.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "base/buffer.h"
#include "format/safetensors.h"
#include "model/weights.h"
#include "train/config.h"
#include "train/shards.h"

namespace opo {

// The learning rate of optimizer step `step` (from 0) of `total`: linear warm-up over warmup_steps,
// then constant, or linear or cosine decay to lr * min_lr_ratio.
double LearningRate(const OptimizerConfig& config, idx step, idx total);

// The gradient's 2-norm, f64: of blocks of kSlabBlock floats, which are joined in order. Padding of
// the slab is 0. Of several ranks, each sums the blocks of its part (train/shards.h), and all get
// the same.
double GradientNorm(const Buffer<float>& grad, Comm& comm = Comm::Alone());

// Names the first number of a slab that is not finite, with its tensor; "" where all are. Each rank
// looks at its part.
std::string FindNonFinite(const SlabLayout& layout, const Buffer<float>& slab,
                          Comm& comm = Comm::Alone());

class AdamW {
 public:
  // Of several ranks, each has the moments of its own part of the slab.
  AdamW(const SlabLayout& layout, const OptimizerConfig& config, Comm& comm = Comm::Alone());

  // One step: the gradient times `grad_scale` (clipping), weights in place, both in this rank's
  // part. Weight decay is of matrices only; norms and biases are left alone, as transformers'
  // trainer does.
  void Step(Buffer<float>& weights, const Buffer<float>& grad, double lr, double grad_scale);

  // The first moment that a step could not go on from: one that is not finite, or a mean of squares
  // below 0, as "m of NAME[i]"; "" where there is none. All ranks call it, and get the same.
  std::string FindBadMoment(const SlabLayout& layout);

  idx steps() const { return steps_; }
  void SetSteps(idx steps) { steps_ = steps; }

  // The moments "m" and "v" of all weights, f32 or bf16 (train.moments), for the root to write.
  // Meanwhile the other ranks call SendTensors().
  std::vector<SafeTensorToWrite> Tensors() const;
  void SendTensors() const;
  DType dtype() const;
  // Reads them back at the root, while the others call ReceiveTensors(). Throws Error(kInput) where
  // the file's are of another size or type.
  void Read(const SafetensorsFile& file);
  void ReceiveTensors();

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
  Comm& comm_;
  idx size_;                   // of the whole slab
  SlabPart part_;              // the moments' own
  std::vector<Chunk> chunks_;  // of the part
  idx steps_ = 0;
  std::variant<Moments<float>, Moments<bf16>> moments_;
};

}  // namespace opo
