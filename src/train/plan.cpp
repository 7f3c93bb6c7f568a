#include "train/plan.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/layout.h"
#include "model/segment.h"
#include "rollout/rollout.h"
#include "train/floor.h"

namespace opo {
namespace {

constexpr idx kMaxMicroBatch = idx{1} << 30;  // larger ones are not faster
constexpr idx kHeadChunkRows = 512;           // of the learner (train/learner.cpp)
constexpr idx kSampleChunkRows = 128;         // of the sampler (rollout/generate.cpp)

idx Packed(idx n, idx k, idx bytes) { return (PackedSize(n, k) + PackedSize(k, n)) * bytes; }

template <class T>
MemoryPlan PlanFor(const TrainConfig& config, const ModelConfig& m, idx prompt_tokens) {
  constexpr idx kBytes = sizeof(T);
  const idx slab = SlabSize(ListTensors(m)) * 4;
  const idx q = m.num_heads * m.head_dim;
  const idx kv = m.num_kv_heads * m.head_dim;
  const idx d = m.hidden_size;
  const idx f = m.intermediate_size;
  const idx ld_v = RoundUp(m.vocab_size, kPad);
  MemoryPlan plan;
  plan.weights = slab;
  plan.optimizer = 2 * slab;
  idx levels = 0;
  for (idx s = config.train.shards; s > 1; s = (s + 1) / 2) ++levels;
  plan.gradient = slab * (1 + (levels > 0 ? levels + 1 : 0));
  const idx layer = Packed(q + 2 * kv, d, kBytes) + Packed(d, q, kBytes) +
                    Packed(2 * f, d, kBytes) + Packed(d, f, kBytes);
  const idx embed = m.vocab_size * RoundUp(d, kPad) * kBytes;
  plan.packed = m.num_layers * layer + Packed(m.vocab_size, d, kBytes) + embed;
  if (config.monitor.kl_every > 0) plan.packed += plan.packed / 2;
  plan.head = kHeadChunkRows * ld_v * (4 + 2 * kBytes) + kSampleChunkRows * ld_v * 4;

  const idx samples = config.rollout.prompts * config.rollout.samples;
  const idx slots =
      std::min(samples, config.rollout.slots > 0 ? config.rollout.slots : kDefaultSlots);
  const idx page = m.num_layers * ShapeOf(m).page_size() * kBytes;
  const idx forward_row =
      (4 * RoundUp(d, kPad) + 3 * q + 2 * kv + 3 * f) * kBytes + (q + 2 * kv) * 4;
  plan.rollout = (slots * CeilDiv(config.rollout.max_new_tokens, kKeyBlock) +
                  CeilDiv(slots, config.rollout.samples) * CeilDiv(prompt_tokens, kKeyBlock)) *
                     page +
                 2048 * forward_row;

  const ActivationLayout<T> activations(m);
  // As Learner::row_bytes: the record, a backward pass's scratch, the row's share of a KV page.
  const idx scratch =
      (4 * d + 6 * f + 4 * f + 4 * q + 3 * kv + 2 * f) * kBytes + (2 * d + 2 * q + 4 * kv) * 4;
  plan.tape_row_bytes = activations.row_bytes(Record::kAll);
  plan.row_bytes = plan.tape_row_bytes + scratch + page / kKeyBlock;
  plan.least_rows = RoundUp(prompt_tokens + config.rollout.max_new_tokens, kRowBlock);
  plan.budget =
      config.run.memory_mb > 0 ? config.run.memory_mb << 20 : AvailableMemoryBytes() / 10 * 7;
  const idx rest = std::max<idx>(0, plan.budget - plan.total());
  // The longest step, all of it on the tape; a micro-batch is then scratch alone, and may be small.
  const idx step_rows = samples * config.rollout.max_new_tokens +
                        config.rollout.prompts * std::max<idx>(0, prompt_tokens - 1);
  plan.tape = config.run.tape_mb >= 0
                  ? config.run.tape_mb << 20
                  : std::clamp<idx>(rest - kMaxMicroBatch / 2, 0, step_rows * plan.tape_row_bytes);
  plan.micro_batch = std::clamp<idx>(rest - plan.tape, 0, kMaxMicroBatch);
  plan.micro_batch_rows = plan.micro_batch / plan.row_bytes;
  const idx least = plan.least_rows * (plan.row_bytes - plan.tape_row_bytes +
                                       activations.row_bytes(Record::kResiduals));
  if (plan.micro_batch < least) {
    const idx need = plan.total() - plan.micro_batch + least;
    Fail(ErrorCode::kUsage,
         "run.memory_mb: {} MB cannot hold this run; the least is {} MB (weights {} MB, optimizer "
         "{} MB, gradient {} MB, packed weights {} MB, tape {} MB, one sample of {} rows {} MB)",
         plan.budget >> 20, (need >> 20) + 1, plan.weights >> 20, plan.optimizer >> 20,
         plan.gradient >> 20, plan.packed >> 20, plan.tape >> 20, plan.least_rows, least >> 20);
  }
  return plan;
}

}  // namespace

ModelConfig FreshModel(const ModelInitConfig& init, const Tokenizer& tokenizer) {
  ModelConfig c;
  c.architecture = init.architecture;
  c.vocab_size = tokenizer.vocab_size();
  c.hidden_size = init.hidden_size;
  c.intermediate_size = init.intermediate_size;
  c.num_layers = init.num_layers;
  c.num_heads = init.num_heads;
  c.num_kv_heads = init.num_kv_heads;
  c.head_dim = init.head_dim;
  c.max_position = init.max_position;
  c.rope_theta = init.rope_theta;
  c.tied_embeddings = init.tied;
  c.qkv_bias = init.architecture == "qwen2";
  c.bos_id = tokenizer.bos_id();
  c.pad_id = tokenizer.pad_id();
  c.eos_ids = tokenizer.eos_ids();
  return c;
}

MemoryPlan PlanMemory(const TrainConfig& config, const ModelConfig& model, idx prompt_tokens) {
  return config.model.dtype == "f32" ? PlanFor<float>(config, model, prompt_tokens)
                                     : PlanFor<bf16>(config, model, prompt_tokens);
}

}  // namespace opo
