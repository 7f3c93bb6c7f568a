// The folder of a run: its config and manifest, its checkpoints, which one is best, and `model`, a
// link to the newest.
#pragma once

#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "train/checkpoint.h"
#include "train/config.h"

namespace opo {

class RunFolder {
 public:
  explicit RunFolder(std::string dir) : dir_(std::move(dir)) {}
  const std::string& dir() const { return dir_; }

  // A new run: throws Error(kUsage) where the folder holds one already.
  void Begin(const std::string& config_toml, const nlohmann::ordered_json& manifest);
  // An old one: throws Error(kUsage) where its manifest differs from `manifest`, key and values
  // named, since the same bits could then not be had.
  void Continue(const nlohmann::ordered_json& manifest);
  // The same, and nothing is written.
  void Compare(const nlohmann::ordered_json& manifest) const;

  struct State {
    idx step = 0;
    nlohmann::ordered_json state;  // as it was given to Save
  };
  // The newest good checkpoint, into weights and optimizer; nothing where there is none yet. All
  // ranks call it; the root alone needs to see the folder. For a replay: only those of steps before
  // `before`, and a run that goes on may remove one while it is being read.
  std::optional<State> Load(Weights& weights, AdamW& optimizer, Comm& comm,
                            idx before = std::numeric_limits<idx>::max());

  // An evaluation of the step at hand; the next Save() knows by it whether it is the best.
  void NoteEval(idx step, double reward);
  // Writes a checkpoint, points `model` at it, removes the ones that are no longer kept.
  void Save(idx step, const Weights& weights, AdamW& optimizer, const Tokenizer& tokenizer,
            const std::string& base, nlohmann::ordered_json state, const CheckpointConfig& config);

 private:
  void Make() const;
  std::string dir_;
  double last_eval_ = 0;
  idx last_eval_step_ = -1;
  double best_reward_ = -1e300;
  idx best_step_ = -1;
};

}  // namespace opo
