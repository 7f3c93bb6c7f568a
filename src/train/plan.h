// What a run will need, computed before it starts from the model's shape and the settings alone.
#pragma once

#include "model/config.h"
#include "text/tokenizer.h"
#include "train/config.h"

namespace opo {

// The shape of the model that [model.init] asks for.
ModelConfig FreshModel(const ModelInitConfig& init, const Tokenizer& tokenizer);

struct MemoryPlan {
  // Bytes of each part.
  idx weights = 0;      // f32 masters
  idx optimizer = 0;    // m and v
  idx gradient = 0;     // one slab, and one a level of the shard tree
  idx packed = 0;       // what the kernels read: both directions, embedding, a frozen reference
  idx head = 0;         // logits of one chunk of rows, their gradient and its transpose
  idx rollout = 0;      // KV pages and scratch of the samples decoded at once
  idx tape = 0;         // the sampler's activations, kept for the learner
  idx micro_batch = 0;  // activations and scratch of one micro-batch of the learner
  idx total() const {
    return weights + optimizer + gradient + packed + head + rollout + tape + micro_batch;
  }
  idx row_bytes = 0;         // of one row of a micro-batch that is not on the tape
  idx micro_batch_rows = 0;  // such rows that fit
  idx tape_row_bytes = 0;    // of one row on the tape
  idx least_rows = 0;        // of a sample and its prompt: what a micro-batch must hold
  idx budget = 0;            // run.memory_mb, or what was chosen from the machine
};

// For prompts of `prompt_tokens`. Throws Error(kUsage) where the budget cannot hold one sample,
// even layer by layer, saying what would.
MemoryPlan PlanMemory(const TrainConfig& config, const ModelConfig& model, idx prompt_tokens);

}  // namespace opo
