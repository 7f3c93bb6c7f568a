// What a run will need, computed before it starts: memory from the model's shape and the settings
// alone, time from the engine's own speed on a few layers of that shape.
#pragma once

#include "comm/comm.h"
#include "model/config.h"
#include "train/config.h"

namespace opo {

// Prompts, samples and slots of a step, every prompt and every sample of the same length.
struct StepShape {
  StepShape(const TrainConfig& config, idx prompt_tokens, idx completion_tokens);
  idx prompts, samples, slots;
  idx shared;  // rows of a prompt: its last token is a sample's first row
  idx tokens;  // rows of a sample
  idx rows() const { return samples * tokens + prompts * shared; }
};

struct MemoryPlan {
  // Peak bytes of each part in one step. The engine gives nothing back before the process ends, so
  // what sampler and learner share (KV pages, scratch of the forward pass) is counted once.
  idx process = 0;      // code, tokenizer, stacks: a round figure
  idx weights = 0;      // f32 masters
  idx optimizer = 0;    // m and v
  idx gradient = 0;     // one slab, and one a level of the shard tree
  idx packed = 0;       // what the kernels read: both directions, embedding, a frozen reference
  idx frozen = 0;       // reward models: packed weights, each once, and what their scoring takes
  idx head = 0;         // a chunk of rows each: sampler's logits, learner's, their gradient packed
  idx rollout = 0;      // KV pages of the samples decoded at once, scratch of the forward pass
  idx tape = 0;         // the sampler's records kept for the learner, and those of their recheck
  idx micro_batch = 0;  // what the learner's largest micro-batch takes beyond all that
  idx total() const {
    return process + weights + optimizer + gradient + packed + frozen + head + rollout + tape +
           micro_batch;
  }
  // What the engine is told to stay below; a short step takes less.
  idx budget = 0;              // run.memory_mb, or what was chosen from the machine
  idx tape_budget = 0;         // of records on the tape
  idx micro_batch_budget = 0;  // of one micro-batch: records, its share of KV pages, scratch

  idx row_bytes = 0;         // of one row of a micro-batch that is not on the tape
  idx micro_batch_rows = 0;  // such rows that fit
  idx tape_row_bytes = 0;    // of one row on the tape
  idx least_rows = 0;        // of the largest unit: what a micro-batch must hold

  // The step that the parts speak of.
  idx taped_prompts = 0, taped_samples = 0;
  idx taped_rows = 0;
  idx rows_rerun = 0;  // run forward a second time by the learner, layer by layer
};

// Longest given answer that is planned for where data.sequence_limit does not say it.
inline constexpr idx kUsualTokens = 2048;
// The settings of a run that samples what one of given answers learns: as many answers a prompt,
// of the greatest length, without a tape. Others stay as they are.
TrainConfig AsSampled(TrainConfig config, const ModelConfig& model);

// For prompts of `prompt_tokens`. Throws Error(kUsage) where the budget cannot hold one unit, even
// layer by layer, saying what would. The parts are those of the longest step: every sample of
// rollout.max_new_tokens.
// Of `ranks` that share the step, for one of them.
MemoryPlan PlanMemory(const TrainConfig& config, const ModelConfig& model, idx prompt_tokens,
                      idx ranks = 1);

// The same budgets, and the parts for samples of `completion_tokens`.
MemoryPlan PlanStepMemory(const TrainConfig& config, const ModelConfig& model, idx prompt_tokens,
                          idx completion_tokens, MemoryPlan plan);

struct StepTimePlan {
  // Seconds.
  double prefill = 0;
  double decode = 0;    // the sampler's head and the drawing of tokens included
  double recheck = 0;   // of the tape
  double score = 0;     // log-probs by the reference, and by the policy between updates
  double forward = 0;   // learner: rows that are not on the tape, and those run a second time
  double head = 0;      // learner: logits, loss and their gradient
  double backward = 0;  // learner: all layers
  double update = 0;    // gradient norm, AdamW, packing
  double total() const {
    return prefill + decode + recheck + score + forward + head + backward + update;
  }
};

// PlanMemory() of a run that is about to begin: prompts as long as they may be, up to a usual
// length, since they are not known yet. Ranks of one machine share its memory. Throws Error(kUsage)
// where it takes more than can be had here.
MemoryPlan PlanRun(TrainConfig config, const ModelConfig& model, const Comm& comm);

// Measures sampler, learner and optimizer in this process, on random weights of the model's shape
// but of one and of three layers, and scales to a step of `completion_tokens` a sample. Takes some
// seconds, and the memory of such a model.
StepTimePlan PlanStepTime(const TrainConfig& config, const ModelConfig& model, idx prompt_tokens,
                          idx completion_tokens, const MemoryPlan& plan);

}  // namespace opo
