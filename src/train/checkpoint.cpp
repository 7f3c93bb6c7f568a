#include "train/checkpoint.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "format/safetensors.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::string_view kPartial = ".partial";

std::string StepName(idx step) { return fmt::format("step_{:06}", step); }

// Checkpoints of a run by their names alone, oldest first.
std::vector<Checkpoint> ListCheckpoints(const std::string& run_dir) {
  std::vector<Checkpoint> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_dir + "/checkpoints", error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("step_") || name.ends_with(kPartial)) continue;
    idx step = 0;
    bool digits = name.size() > 5;
    for (std::size_t i = 5; i < name.size(); ++i) {
      digits = digits && name[i] >= '0' && name[i] <= '9' && name.size() < 20;
      if (digits) step = step * 10 + (name[i] - '0');
    }
    if (digits) found.push_back({entry.path().string(), step});
  }
  std::sort(found.begin(), found.end(),
            [](const Checkpoint& a, const Checkpoint& b) { return a.step < b.step; });
  return found;
}

std::string FileDigest(const std::string& path) {
  const MappedFile file(path);
  Digest digest;
  digest.Add(file.bytes());
  return digest.Hex();
}

// The paths of all files below `folder`, relative to it, sorted.
std::vector<std::string> FilesBelow(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_directory()) names.push_back(fs::relative(entry.path(), folder).string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// A manifest's digest over all of itself but this digest.
constexpr const char* kOwnDigest = "xxh3";
std::string OwnDigest(ordered_json manifest) {
  manifest.erase(kOwnDigest);
  return HexDigest(manifest.dump());
}

void CheckFiles(const Checkpoint& checkpoint) {
  const std::string manifest_path = checkpoint.path + "/manifest.json";
  const auto manifest = ParseJson<ordered_json>(ReadFile(manifest_path), manifest_path, "file");
  const auto bad = ErrorCode::kInput;
  if (manifest.at(kOwnDigest) != OwnDigest(manifest)) {
    Fail(bad, "{}: differs from what was written", manifest_path);
  }
  if (manifest.at("step") != checkpoint.step) {
    Fail(bad, "{}: is of step {}", manifest_path, manifest.at("step").dump());
  }
  for (const auto& [name, entry] : manifest.at("files").items()) {
    if (fs::path(name).is_absolute() || name.starts_with("..") || name.find("/..") != name.npos) {
      Fail(bad, "{}: names a file outside of its folder", manifest_path);
    }
    const std::string path = checkpoint.path + "/" + name;
    std::error_code error;
    const auto bytes =
        IntegerOf<std::uintmax_t>(entry.at("bytes"), checkpoint.path + "/manifest.json: " + name);
    if (fs::file_size(path, error) != bytes || error) {
      Fail(bad, "{}: is missing or has another size than when it was written", path);
    }
    if (FileDigest(path) != entry.at("xxh3").get<std::string>()) {
      Fail(bad, "{}: differs from what was written", path);
    }
  }
  for (const std::string& name : FilesBelow(checkpoint.path)) {
    if (name != "manifest.json" && !manifest.at("files").contains(name)) {
      Fail(bad, "{}/{}: is not in manifest.json", checkpoint.path, name);
    }
  }
}

// A whole checkpoint may have been put into another run's folder, or under another step's name.
void CheckOrigin(const Checkpoint& checkpoint, const std::string& run_dir) {
  const std::string path = checkpoint.path + "/state.json";
  const auto state = ParseJson<ordered_json>(ReadFile(path), path, "file");
  if (state.at("step") != checkpoint.step) {
    Fail(ErrorCode::kInput, "{}: is of step {}", path, state.at("step").dump());
  }
  const std::string run_path = run_dir + "/manifest.json";
  const auto run = ParseJson<ordered_json>(ReadFile(run_path), run_path, "file");
  const ordered_json of = state.value("manifest", ordered_json::object());
  for (const auto& [key, value] : of.items()) {
    if (key == "opo_version" || !run.contains(key) || run[key] == value) continue;
    Fail(ErrorCode::kInput, "{}: is of another run: its `{}` is {}, this run's {}", path, key,
         value.dump(), run[key].dump());
  }
}

// What is wrong with a checkpoint; "" where nothing is.
std::string Damage(const Checkpoint& checkpoint, const std::string& run_dir) {
  try {
    CheckFiles(checkpoint);
    CheckOrigin(checkpoint, run_dir);
  } catch (const Error& e) {
    return e.what();
  } catch (const fs::filesystem_error& e) {
    return e.what();
  } catch (const ordered_json::exception& e) {
    return fmt::format("{}: manifest.json or state.json cannot be read: {}", checkpoint.path,
                       e.what());
  }
  return "";
}

// The folder of models[i] in a checkpoint: "" or "critic/".
std::string PlaceOf(std::span<const CheckpointModel> models, std::size_t i) {
  return i == 0 ? "" : models[i].name + "/";
}

// Where a state has what is said of models[i].
ordered_json& EntryOf(ordered_json& state, std::span<const CheckpointModel> models, std::size_t i) {
  return i == 0 ? state : state["models"][models[i].name];
}

std::string NotUsed(const Checkpoint& checkpoint, const std::string& damage) {
  return fmt::format("checkpoint {} is not used: {}", checkpoint.path, damage);
}

}  // namespace

Checkpoint WriteCheckpoint(const std::string& run_dir, idx step,
                           std::span<const CheckpointModel> models, const Tokenizer& tokenizer,
                           ordered_json state) {
  const std::string folder = run_dir + "/checkpoints";
  const std::string final_path = folder + "/" + StepName(step);
  const std::string beside = final_path + std::string(kPartial);
  std::error_code error;
  fs::remove_all(beside, error);
  fs::create_directories(beside, error);
  if (error) Fail(ErrorCode::kWork, "{}: cannot be made: {}", beside, error.message());
  try {
    for (std::size_t i = 0; i < models.size(); ++i) {
      const CheckpointModel& model = models[i];
      const std::string place = beside + "/" + PlaceOf(models, i);
      SaveTrained(place + "model", model.weights, model.base);
      tokenizer.Save(place + "model");
      const idx steps = model.optimizer.steps();
      WriteSafetensors(place + "optimizer.safetensors", model.optimizer.Tensors(),
                       model.optimizer.dtype(), {{"steps", std::to_string(steps)}});
      ordered_json& entry = EntryOf(state, models, i);
      entry["optimizer_steps"] = steps;
      entry["weights_digest"] = model.weights.DigestHex();
    }
    WriteFileAtomically(beside + "/state.json", state.dump(2) + "\n");
    ordered_json manifest;
    manifest["step"] = step;
    for (const std::string& name : FilesBelow(beside)) {
      const std::string path = beside + "/" + name;
      SyncPath(path);
      manifest["files"][name] = {{"bytes", fs::file_size(path)}, {"xxh3", FileDigest(path)}};
    }
    manifest[kOwnDigest] = OwnDigest(manifest);
    WriteFileAtomically(beside + "/manifest.json", manifest.dump(2) + "\n");
    for (std::size_t i = 0; i < models.size(); ++i) {
      SyncPath(beside + "/" + PlaceOf(models, i) + "model");
    }
  } catch (...) {
    fs::remove_all(beside, error);
    throw;
  }
  FaultPoint("checkpoint-written", beside);
  // Only a damaged or abandoned checkpoint can be in the way: a step is never written twice else.
  fs::remove_all(final_path, error);
  fs::rename(beside, final_path, error);
  if (error) {
    Fail(ErrorCode::kWork, "{}: cannot be renamed into place: {}", final_path, error.message());
  }
  SyncPath(folder);
  FaultPoint("checkpoint-renamed", final_path);
  return {final_path, step};
}

std::optional<Checkpoint> FindCheckpoint(const std::string& run_dir,
                                         const std::function<void(const std::string&)>& warn,
                                         idx before) {
  std::vector<Checkpoint> all = ListCheckpoints(run_dir);
  while (!all.empty() && all.back().step >= before) all.pop_back();
  if (all.empty()) return std::nullopt;
  while (!all.empty()) {
    const std::string damage = Damage(all.back(), run_dir);
    if (damage.empty()) return all.back();
    warn(NotUsed(all.back(), damage));
    all.pop_back();
  }
  Fail(ErrorCode::kInput,
       "{0}/checkpoints: all are damaged; restore one, or remove them all to begin this run again "
       "at its first step",
       run_dir);
}

ordered_json ReadCheckpoint(const Checkpoint& checkpoint, std::span<const CheckpointModel> models) {
  for (std::size_t i = 0; i < models.size(); ++i) {
    const std::string place = checkpoint.path + "/" + PlaceOf(models, i);
    ReadTrained(models[i].weights, place + "model");
    models[i].optimizer.Read(SafetensorsFile::Open(place + "optimizer.safetensors"));
  }
  const std::string path = checkpoint.path + "/state.json";
  auto state = ParseJson<ordered_json>(ReadFile(path), path, "file");
  SetOptimizerSteps(state, path, models);
  try {
    for (std::size_t i = 0; i < models.size(); ++i) {
      if (models[i].weights.DigestHex() == EntryOf(state, models, i).at("weights_digest")) continue;
      Fail(ErrorCode::kInput, "{}/{}model: the weights differ from their digest in state.json",
           checkpoint.path, PlaceOf(models, i));
    }
  } catch (const ordered_json::exception& e) {
    Fail(ErrorCode::kInput, "{}: {}", path, e.what());
  }
  return state;
}

void SetOptimizerSteps(const ordered_json& state, const std::string& where,
                       std::span<const CheckpointModel> models) {
  try {
    ordered_json copy = state;
    for (std::size_t i = 0; i < models.size(); ++i) {
      const auto steps = IntegerOf<idx>(EntryOf(copy, models, i).at("optimizer_steps"),
                                        where + ": optimizer_steps");
      if (steps < 0) Fail(ErrorCode::kInput, "{}: optimizer_steps: is {}", where, steps);
      models[i].optimizer.SetSteps(steps);
    }
  } catch (const ordered_json::exception& e) {
    Fail(ErrorCode::kInput, "{}: {}", where, e.what());
  }
}

void PruneCheckpoints(const std::string& run_dir, const Checkpoint& written, idx keep_last,
                      idx best_step, const std::function<void(const std::string&)>& warn) {
  std::vector<Checkpoint> all = ListCheckpoints(run_dir);
  std::reverse(all.begin(), all.end());
  const idx keep = std::max<idx>(1, keep_last);
  if (std::ssize(all) <= keep) all.clear();  // nothing to remove, so nothing has to be known
  std::error_code error;
  idx whole = 0;
  for (const Checkpoint& checkpoint : all) {
    if (whole < keep) {
      const bool known = checkpoint.step == written.step;
      const std::string damage = known ? "" : Damage(checkpoint, run_dir);
      if (damage.empty()) ++whole;
      if (!damage.empty()) warn(NotUsed(checkpoint, damage));
    } else if (checkpoint.step != best_step) {
      // Out of the way at once: a kill must not leave half of one under its name.
      const std::string removed = checkpoint.path + std::string(kPartial);
      fs::remove_all(removed, error);
      fs::rename(checkpoint.path, removed, error);
      FaultPoint("checkpoint-removing", removed);
    }
  }
  RemoveUnfinished(run_dir);
}

void RemoveUnfinished(const std::string& run_dir) {
  std::error_code error;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(run_dir + "/checkpoints", error)) {
    if (entry.path().string().ends_with(kPartial)) found.push_back(entry.path());
  }
  for (const fs::path& path : found) fs::remove_all(path, error);
}

}  // namespace opo
