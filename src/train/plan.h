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
  idx micro_batch = 0;  // activations and scratch of one micro-batch of the learner
  idx total() const {
    return weights + optimizer + gradient + packed + head + rollout + micro_batch;
  }
  idx row_bytes = 0;         // of one row of a micro-batch
  idx micro_batch_rows = 0;  // rows that fit
  idx unit_rows = 0;         // the most rows that one unit can have
  idx budget = 0;            // run.memory_mb, or what was chosen from the machine
};

// Throws Error(kUsage) where the budget cannot hold one unit, saying what would.
MemoryPlan PlanMemory(const TrainConfig& config, const ModelConfig& model, idx prompt_tokens);

// The share of the learner's micro-batches in a plan whose prompts are as long as data.prompt_limit
// allows at the most; never more than 1 GiB: larger ones are not faster.
idx MicroBatchBytes(const TrainConfig& config, const ModelConfig& model);

}  // namespace opo
