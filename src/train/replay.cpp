#include "train/replay.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "train/run_log.h"
#include "train/trainer.h"

namespace opo {

using nlohmann::ordered_json;

namespace {

// By step; of two lines the later one counts.
std::map<idx, ordered_json> RecordedSteps(const std::string& path) {
  std::map<idx, ordered_json> steps;
  for (ordered_json& line : ReadLines(path)) {
    const auto step = line.find("training/global_step");
    if (step == line.end() || !step->is_number_integer()) {
      Fail(ErrorCode::kInput, "{}: a line has no training/global_step; restore the file", path);
    }
    const idx number = step->get<idx>();
    steps.insert_or_assign(number, std::move(line));
  }
  return steps;
}

std::string TextOf(const ordered_json& line, const std::string& key) {
  const auto it = line.find(key);
  return it != line.end() && it->is_string() ? it->get<std::string>() : "";
}

ReplayedStep CompareStep(const ordered_json& recorded, const ordered_json& replayed) {
  ReplayedStep step;
  step.step = replayed.at("training/global_step").get<idx>();
  const std::array<std::pair<const char*, const char*>, 3> kinds = {
      {{"rollouts", "exact/rollout_digest"},
       {"gradient", "exact/gradient_digest"},
       {"weights", "exact/weights_digest"}}};
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    const auto& [name, key] = kinds[i];
    step.digests[i] = {name, TextOf(recorded, key), TextOf(replayed, key)};
  }
  return step;
}

}  // namespace

ReplayResult Replay(const ReplayOptions& options, Comm& comm) {
  const std::string metrics_path = options.run_dir + "/metrics.jsonl";
  std::map<idx, ordered_json> recorded;
  std::string printed;
  if (comm.root()) {
    std::vector<std::string> overrides = options.set;
    overrides.push_back("run.dir=" + options.run_dir);
    printed = PrintTrainConfig(
        LoadTrainConfig(options.run_dir + "/config.toml", overrides, /*asks=*/false));
    recorded = RecordedSteps(metrics_path);
    if (recorded.empty()) Fail(ErrorCode::kInput, "{}: holds no step yet", metrics_path);
    if (options.first < 1 || options.last < options.first || !recorded.contains(options.last)) {
      Fail(ErrorCode::kUsage, "--step {}..{}: {} has the steps {} to {}", options.first,
           options.last, metrics_path, recorded.begin()->first, recorded.rbegin()->first);
    }
  }
  const TrainConfig config = ParseTrainConfig(comm.Broadcast(std::move(printed)));
  ReplayResult result;
  TrainOptions train;
  train.progress = options.progress && comm.root();
  train.final_eval = false;
  train.replay_from = options.first;
  train.replay_to = options.last;
  train.on_begin = [&](idx step) {
    result.begin = step;
    if (!options.progress) return;
    const idx count = options.last - step;
    fmt::print(stderr, "replaying from step {}: {} step{}\n", step, count, count == 1 ? "" : "s");
  };
  train.on_step = [&](const ordered_json& metrics) {
    const auto it = recorded.find(metrics.at("training/global_step").get<idx>());
    const ReplayedStep step =
        CompareStep(it == recorded.end() ? ordered_json::object() : it->second, metrics);
    const auto& digests = step.digests;
    if (step.step >= options.first &&
        std::all_of(digests.begin(), digests.end(),
                    [](const auto& d) { return d.recorded.empty(); })) {
      Fail(ErrorCode::kInput, "{}: has no digest of step {}", metrics_path, step.step);
    }
    for (const ReplayedDigest& d : digests) {
      if (d.equal() || !result.difference.empty()) continue;
      // Another text would have been noticed by its reward.
      const char* hint = d.name == digests[0].name
                             ? ", in a token or a log-prob: the texts are those of rewards.jsonl"
                             : "";
      result.difference = fmt::format("step {}: the {} differ{}{}", step.step, d.name,
                                      d.name == digests[1].name ? "s" : "", hint);
    }
    result.steps.push_back(step);
    if (options.on_step) options.on_step(step);
  };
  try {
    result.signal = Train(config, train, comm).signal;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kExactness || !comm.alone()) throw;
    if (result.difference.empty()) result.difference = error.what();
  }
  return result;
}

}  // namespace opo
