// Checkpoints: written beside, synced, hashed, then renamed, so that a kill at any instant leaves
// the one before; a torn or altered one is noticed and skipped with a warning.
//
//   RUN/checkpoints/step_000010/model/       a Hugging Face folder, f32 masters: loads anywhere; of
//                                            an adapter a PEFT folder
//                              /optimizer.safetensors   m and v, as slabs
//                              /critic/...              the same of a second model that learns
//                              /state.json              what a resume needs beside them
//                              /manifest.json           the step, size and XXH3-128 of every file,
//                                                       and one over itself
#pragma once

#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/weights.h"
#include "text/tokenizer.h"
#include "train/optimizer.h"

namespace opo {

struct Checkpoint {
  std::string path;
  idx step = 0;
};

// A model of a checkpoint. The first of several is the policy; each other has a folder of its name.
struct CheckpointModel {
  std::string name;
  Weights& weights;
  AdamW& optimizer;
  std::string base = "";  // what an adapter's folder names
};

// Returns the folder. `state` is kept as it is, with "optimizer_steps" and "weights_digest" of the
// policy, and under "models" those of the others. Throws Error(kWork) on a full disk; nothing that
// was there before is touched.
Checkpoint WriteCheckpoint(const std::string& run_dir, idx step,
                           std::span<const CheckpointModel> models, const Tokenizer& tokenizer,
                           nlohmann::ordered_json state);

// The newest checkpoint of the run that is whole: its files are those of its manifest, to the bit,
// and of its step and of this run (RUN/manifest.json). Damaged ones are reported through `warn`.
// Nothing where there is none. Throws Error(kInput) where all that there are are damaged.
// `before`: only those of earlier steps.
std::optional<Checkpoint> FindCheckpoint(const std::string& run_dir,
                                         const std::function<void(const std::string&)>& warn,
                                         idx before = std::numeric_limits<idx>::max());

// Loads the models' weights and moments; returns the state. Throws Error(kInput) naming file and
// field, also where the weights are not those of their digest.
nlohmann::ordered_json ReadCheckpoint(const Checkpoint& checkpoint,
                                      std::span<const CheckpointModel> models);
// The optimizers' steps out of a checkpoint's state. Throws as ReadCheckpoint; `where` names it.
void SetOptimizerSteps(const nlohmann::ordered_json& state, const std::string& where,
                       std::span<const CheckpointModel> models);

// Removes what is older than the newest `keep_last` that are whole, but for the one of `best_step`
// (-1: none), and what is unfinished. Those that it relies on are read again, except
// `written`, which has just been: what was damaged on the disk since does not count, and is
// reported through `warn`.
void PruneCheckpoints(const std::string& run_dir, const Checkpoint& written, idx keep_last,
                      idx best_step, const std::function<void(const std::string&)>& warn);

// Removes what a kill left half written, or half removed.
void RemoveUnfinished(const std::string& run_dir);

}  // namespace opo
