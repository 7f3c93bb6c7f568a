// The floor of a step (docs/performance.md): the matrix work that it cannot avoid, at the best GEMM
// rate measured in this process. Step time over floor is the figure that the project drives down.
#pragma once

#include <string>

#include "model/config.h"

namespace opo {

struct StepWork {
  idx rows_sampled = 0;     // rows of the sampler's forward passes, prompts once a group
  idx rows_recomputed = 0;  // rows of the learner's forward pass
  idx rows_learned = 0;     // rows of the backward pass
  idx tokens_sampled = 0;
  idx tokens_learned = 0;
};

// [2 Pb (rows sampled + rows recomputed) + 2 Ph (tokens sampled + learned) + 4 Pb rows learned +
// 4 Ph tokens learned]: Pb the blocks' matmul parameters, Ph the head's.
double FloorFlops(const ModelConfig& config, const StepWork& work);

// The best rate of our own GEMM, FLOP/s, over a few shapes of this model; takes about `seconds`.
double MeasureGemmRate(const ModelConfig& config, DType dtype, double seconds);

// Peak resident memory of the process so far, in bytes.
idx PeakRssBytes();
// Memory that this process could get now, in bytes: what the machine has available, within what is
// left of its control groups' limits and of its address space (ulimit -v).
idx AvailableMemoryBytes();
// The control groups' part. `membership` is the text of /proc/self/cgroup, `root` where their file
// systems are, /sys/fs/cgroup: versions 1 and 2, and all groups above. The page cache counts as
// free. The largest idx where there is no limit.
idx CgroupMemoryBytes(const std::string& membership, const std::string& root);

}  // namespace opo
