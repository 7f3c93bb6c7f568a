// The folder of a run: its config and manifest, its checkpoints, which one is best, `model`, a link
// to the newest, and `lock`, which one process at a time holds.
#pragma once

#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/file.h"
#include "train/checkpoint.h"
#include "train/config.h"

namespace opo {

class RunFolder {
 public:
  explicit RunFolder(std::string dir) : dir_(std::move(dir)) {}
  const std::string& dir() const { return dir_; }

  // A new run: throws Error(kUsage) where the folder holds one already. Both this and Continue()
  // lock the folder for the life of the object, and throw Error(kUsage) where another process has
  // it; those that only read (model.path = RUN/model) need no lock.
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
  // The newest good checkpoint, into the models; nothing where there is none yet. All
  // ranks call it; the root alone needs to see the folder. For a replay: only those of steps before
  // `before`, and a run that goes on may remove one while it is being read.
  std::optional<State> Load(std::span<const CheckpointModel> models, Comm& comm,
                            idx before = std::numeric_limits<idx>::max());

  // An evaluation of the step at hand; the next Save() knows by it whether it is the best.
  void NoteEval(idx step, double reward);
  // Writes a checkpoint, points `model` at it, removes the ones that are no longer kept. Throws
  // Error(kWork), as on a full disk; the checkpoints before are then untouched.
  void Save(idx step, std::span<const CheckpointModel> models, const Tokenizer& tokenizer,
            nlohmann::ordered_json state, const CheckpointConfig& config);

 private:
  void Make();
  void Link(const Checkpoint& checkpoint) const;
  std::string dir_;
  std::unique_ptr<FileLock> lock_;
  double last_eval_ = 0;
  idx last_eval_step_ = -1;
  double best_reward_ = -1e300;
  idx best_step_ = -1;
};

}  // namespace opo
