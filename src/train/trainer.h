// The training run: generate, score, advantages, learn, step, log, evaluate, checkpoint.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "comm/comm.h"
#include "eval/answer.h"
#include "train/config.h"

namespace opo {

struct TrainOptions {
  bool resume = false;     // continue the run in config.run.dir from its newest good checkpoint
  bool progress = true;    // the progress line on stderr
  bool final_eval = true;  // evaluate before the first and after the last step
  // A replay (train/replay.h): takes the steps up to `replay_to` again, from the newest good
  // checkpoint before `replay_from`, with the rewards of the journal. Only reads the run's folder.
  idx replay_from = 0, replay_to = 0;
  bool replays() const { return replay_to > 0; }
  std::function<void(idx step)> on_begin;                              // the steps already taken
  std::function<void(const nlohmann::ordered_json& metrics)> on_step;  // after every step
};

struct EvalResult {
  double pass_rate = 0;         // mean reward
  std::vector<Answer> answers;  // problem after problem
  // Instead, of given answers: the algorithm's loss, and the metrics that say more.
  double loss = 0;
  double score = 0;  // by which the best checkpoint is chosen
  nlohmann::ordered_json metrics = nlohmann::ordered_json::object();
};

struct TrainResult {
  std::string run_dir;
  idx steps = 0;
  double reward = 0;  // mean training reward of the last step
  double loss = 0;    // of the last step; what a run of given answers has instead
  std::string weights_digest;
  EvalResult before, after;
  int signal = 0;  // the signal that ended the run after its checkpoint; 0: it ran to its end
};

// Runs to train.steps. Where the algorithm learns from given answers, an evaluation is their loss
// on the held-out ones, and the best checkpoint the one where it is lowest. Writes into
// config.run.dir: config.toml, manifest.json, metrics.jsonl, samples.jsonl, TensorBoard events,
// checkpoints/, and model/ (the newest checkpoint's). Throws Error: kUsage for settings that do not
// fit the model, kInput for bad files, kWork for non-finite numbers (the weights are then those of
// before the step) and full disks, kExactness where the learner's log-probs differ from the
// sampler's.
//
// Of several ranks all call it with the same settings; the root alone needs to see config.run.dir.
// All get the result.
TrainResult Train(const TrainConfig& config, const TrainOptions& options,
                  Comm& comm = Comm::Alone());

}  // namespace opo
