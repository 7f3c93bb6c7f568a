#include "train/run_folder.h"

#include <filesystem>

#include "base/error.h"
#include "base/fault.h"
#include "base/json.h"

namespace opo {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace {
void Warn(const std::string& text) { fmt::print(stderr, "warning: {}\n", text); }
}  // namespace

void RunFolder::Make() {
  std::error_code error;
  fs::create_directories(dir_ + "/checkpoints", error);
  if (error) Fail(ErrorCode::kWork, "{}: cannot be made: {}", dir_, error.message());
  lock_ = std::make_unique<FileLock>(dir_ + "/lock", dir_);
}

void RunFolder::Begin(const std::string& config_toml, const ordered_json& manifest) {
  Make();
  const std::string path = dir_ + "/manifest.json";
  if (Exists(path)) {
    Fail(ErrorCode::kUsage,
         "{}: holds a run already; continue it with `opo train --resume {}`, or choose another "
         "run.dir",
         dir_, dir_);
  }
  WriteFileAtomically(dir_ + "/config.toml", config_toml);
  WriteFileAtomically(path, manifest.dump(2) + "\n");
}

void RunFolder::Continue(const ordered_json& manifest) {
  Make();
  Compare(manifest);
}

void RunFolder::Compare(const ordered_json& manifest) const {
  const std::string path = dir_ + "/manifest.json";
  ordered_json kept = ordered_json::parse(ReadFile(path), nullptr, false);
  if (!kept.is_object()) kept = ordered_json::object();
  // Runs from before these were kept.
  if (!kept.contains("moments")) kept["moments"] = "f32";
  if (!kept.contains("data_digest")) kept["data_digest"] = manifest.at("data_digest");
  for (const auto& [key, value] : manifest.items()) {
    if (key == "opo_version" || (kept.contains(key) && kept[key] == value)) continue;
    if (key == "isa_fingerprint" && kept.contains(key)) {
      Fail(ErrorCode::kUsage,
           "{}: the run was made on the instruction-set path {}, whose sums round otherwise than "
           "this one's: no step could give the same bits. Choose it (run.isa), on a machine that "
           "has it",
           path, kept.value("isa", "?"));
    }
    Fail(ErrorCode::kUsage,
         "{}: `{}` was {} when the run began and is {} now; a resume could not give the same bits",
         path, key, kept.contains(key) ? kept[key].dump() : "absent", value.dump());
  }
}

std::optional<RunFolder::State> RunFolder::Load(std::span<const CheckpointModel> models, Comm& comm,
                                                idx before) {
  const bool replays = before != std::numeric_limits<idx>::max();
  std::optional<Checkpoint> checkpoint;
  if (comm.root()) {
    checkpoint = FindCheckpoint(dir_, Warn, before);
    if (!checkpoint.has_value() && !replays) {
      fmt::print(stderr, "{}: no checkpoint yet, starting from the first step\n", dir_);
    }
  }
  if (comm.Broadcast(std::string(checkpoint.has_value() ? "found" : "")).empty()) {
    return std::nullopt;
  }
  State found;
  if (comm.root()) {
    found.step = checkpoint->step;
    try {
      found.state = ReadCheckpoint(*checkpoint, models);
    } catch (const Error&) {
      if (!replays || !comm.alone() || Exists(checkpoint->path + "/state.json")) throw;
      return Load(models, comm, before);  // it was removed: an earlier one, or a newer
    }
    best_reward_ = found.state.value("best_reward", -1e300);
    best_step_ = IntegerOr<idx>(found.state, "best_step", -1, checkpoint->path + "/state.json");
    Link(*checkpoint);  // a kill may have come before, or the newest one was damaged
    RemoveUnfinished(dir_);
  } else {
    for (const CheckpointModel& model : models) model.optimizer.ReceiveTensors();
  }
  for (const CheckpointModel& model : models) {
    comm.Broadcast(std::as_writable_bytes(model.weights.slab.span()));
  }
  found.state = ordered_json::parse(comm.Broadcast(found.state.dump()));
  found.step = IntegerOf<idx>(found.state.at("step"), dir_ + ": a checkpoint's step");
  SetOptimizerSteps(found.state, dir_, models);
  return found;
}

void RunFolder::NoteEval(idx step, double reward) {
  last_eval_step_ = step;
  last_eval_ = reward;
}

void RunFolder::Save(idx step, std::span<const CheckpointModel> models, const Tokenizer& tokenizer,
                     ordered_json state, const CheckpointConfig& config) {
  // Every checkpoint knows which one has been best; the evaluation is that of the step at hand.
  if (config.keep_best && last_eval_step_ == step && last_eval_ > best_reward_) {
    best_reward_ = last_eval_;
    best_step_ = step;
  }
  state["step"] = step;
  state["best_reward"] = best_reward_;
  state["best_step"] = best_step_;
  const Checkpoint checkpoint = WriteCheckpoint(dir_, step, models, tokenizer, std::move(state));
  Link(checkpoint);
  FaultPoint("checkpoint-linked", checkpoint.path);
  PruneCheckpoints(dir_, checkpoint, config.keep_last, config.keep_best ? best_step_ : -1, Warn);
}

// model -> the checkpoint's folder, replaced by a rename.
void RunFolder::Link(const Checkpoint& checkpoint) const {
  const std::string link = dir_ + "/model";
  std::error_code error;
  fs::remove(link + ".partial", error);
  fs::create_directory_symlink(
      "checkpoints/" + fs::path(checkpoint.path).filename().string() + "/model", link + ".partial",
      error);
  if (!error) fs::rename(link + ".partial", link, error);
  if (error) Fail(ErrorCode::kWork, "{}: cannot be linked: {}", link, error.message());
}

}  // namespace opo
