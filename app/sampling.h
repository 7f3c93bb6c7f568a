// How answers are sampled: options of generate, chat and eval, and keys of generate's input lines.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "base/error.h"
#include "base/progress.h"
#include "rollout/rollout.h"

namespace opo {

inline constexpr idx kMaxSamples = idx{1} << 20;  // a prompt

struct SamplingOptions {
  SamplingConfig config;
  // Options write into `config` as they are parsed: this must stay where it is. Values out of range
  // throw Error(kUsage) naming the option.
  void Add(CLI::App& app, double temperature, idx max_new_tokens);
};

// Throws Error(code) naming `place` for a logit_bias of a token that the model does not have.
void CheckBias(const SamplingConfig& config, idx vocab, ErrorCode code, const std::string& place);

// Applies a line's keys to `config`, and its `n` to `n`. Throws Error(kInput) naming `where` and
// the key, also for a key that is none of these, of the prompt's or of a data set's (`answer` and
// the like, which are for training).
void ReadSamplingKeys(const nlohmann::ordered_json& line, const std::string& where,
                      SamplingConfig& config, idx& n);

// Progress over answers on stderr, where it is not in the way of answers on stdout: as one line
// that is drawn again on a terminal, else a line now and then.
class AnswerProgress {
 public:
  AnswerProgress(idx answers, bool quiet);
  void Add(const TokenEvent& event);

 private:
  idx answers_, done_ = 0, tokens_ = 0;
  bool terminal_;
  double last_ = 0;
  std::unique_ptr<Progress> progress_;  // none: nothing is shown
};

}  // namespace opo
