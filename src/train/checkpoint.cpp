#include "train/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
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

// What is wrong with a checkpoint's files; "" where nothing is.
std::string Damage(const Checkpoint& checkpoint) {
  const std::string manifest_path = checkpoint.path + "/manifest.json";
  try {
    const ordered_json manifest = ordered_json::parse(ReadFile(manifest_path));
    if (manifest.at("files").empty()) return manifest_path + ": lists no files";
    for (const auto& [name, entry] : manifest.at("files").items()) {
      const std::string path = checkpoint.path + "/" + name;
      std::error_code error;
      if (fs::file_size(path, error) != entry.at("bytes").get<std::uintmax_t>() || error) {
        return path + ": is missing or has another size than when it was written";
      }
      if (FileDigest(path) != entry.at("xxh3").get<std::string>()) {
        return path + ": differs from what was written";
      }
    }
  } catch (const Error& e) {
    return e.what();
  } catch (const ordered_json::exception& e) {
    return fmt::format("{}: {}", manifest_path, e.what());
  }
  return "";
}

}  // namespace

Checkpoint WriteCheckpoint(const std::string& run_dir, idx step, const Weights& weights,
                           AdamW& optimizer, const Tokenizer& tokenizer, const std::string& base,
                           const ordered_json& state) {
  const std::string folder = run_dir + "/checkpoints";
  const std::string final_path = folder + "/" + StepName(step);
  const std::string beside = final_path + std::string(kPartial);
  std::error_code error;
  fs::remove_all(beside, error);
  fs::create_directories(beside, error);
  if (error) Fail(ErrorCode::kWork, "{}: cannot be made: {}", beside, error.message());
  try {
    SaveTrained(beside + "/model", weights, base);
    tokenizer.Save(beside + "/model");
    WriteSafetensors(beside + "/optimizer.safetensors", optimizer.Tensors(), optimizer.dtype(),
                     {{"steps", std::to_string(optimizer.steps())}});
    WriteFileAtomically(beside + "/state.json", state.dump(2) + "\n");
    ordered_json manifest;
    manifest["step"] = step;
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(beside)) {
      if (entry.is_regular_file()) names.push_back(fs::relative(entry.path(), beside).string());
    }
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
      const std::string path = beside + "/" + name;
      SyncPath(path);
      manifest["files"][name] = {{"bytes", fs::file_size(path)}, {"xxh3", FileDigest(path)}};
    }
    WriteFileAtomically(beside + "/manifest.json", manifest.dump(2) + "\n");
    SyncPath(beside + "/model");
  } catch (...) {
    fs::remove_all(beside, error);
    throw;
  }
  // Only a damaged or abandoned checkpoint can be in the way: a step is never written twice else.
  fs::remove_all(final_path, error);
  fs::rename(beside, final_path, error);
  if (error)
    Fail(ErrorCode::kWork, "{}: cannot be renamed into place: {}", final_path, error.message());
  SyncPath(folder);
  return {final_path, step};
}

std::optional<Checkpoint> FindCheckpoint(const std::string& run_dir,
                                         const std::function<void(const std::string&)>& warn,
                                         idx before) {
  std::vector<Checkpoint> all = ListCheckpoints(run_dir);
  while (!all.empty() && all.back().step >= before) all.pop_back();
  while (!all.empty()) {
    const std::string damage = Damage(all.back());
    if (damage.empty()) return all.back();
    warn(fmt::format("checkpoint {} is not used: {}", all.back().path, damage));
    all.pop_back();
  }
  return std::nullopt;
}

ordered_json ReadCheckpoint(const Checkpoint& checkpoint, Weights& weights, AdamW& optimizer) {
  ReadTrained(weights, checkpoint.path + "/model");
  const std::string path = checkpoint.path + "/optimizer.safetensors";
  optimizer.Read(SafetensorsFile::Open(path));
  try {
    const ordered_json state = ordered_json::parse(ReadFile(checkpoint.path + "/state.json"));
    optimizer.SetSteps(state.at("optimizer_steps").get<idx>());
    return state;
  } catch (const ordered_json::exception& e) {
    Fail(ErrorCode::kInput, "{}/state.json: {}", checkpoint.path, e.what());
  }
}

void PruneCheckpoints(const std::string& run_dir, idx keep_last, idx best_step) {
  const std::vector<Checkpoint> all = ListCheckpoints(run_dir);
  std::error_code error;
  for (std::size_t i = 0; i + static_cast<std::size_t>(std::max<idx>(1, keep_last)) < all.size();
       ++i) {
    if (all[i].step != best_step) fs::remove_all(all[i].path, error);
  }
  for (const auto& entry : fs::directory_iterator(run_dir + "/checkpoints", error)) {
    if (entry.path().string().ends_with(kPartial)) fs::remove_all(entry.path(), error);
  }
}

}  // namespace opo
