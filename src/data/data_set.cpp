#include "data/data_set.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "data/built_in.h"
#include "data/rows.h"
#include "format/quote.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

// The sets to train on; those of the mix take what they do not say from [data].
std::vector<DataMixConfig> Sets(const DataConfig& config) {
  std::vector<DataMixConfig> sets = config.mix;
  if (sets.empty()) {
    sets.emplace_back();
    sets.back().path = config.train;
  }
  for (DataMixConfig& set : sets) {
    const auto inherit = [](std::string& own, const std::string& common) {
      if (own.empty()) own = common;
    };
    inherit(set.prompt_key, config.prompt_key);
    inherit(set.answer_key, config.answer_key);
    inherit(set.completion_key, config.completion_key);
    inherit(set.id_key, config.id_key);
    inherit(set.template_text, config.template_text);
  }
  return sets;
}

LoadOptions OptionsOf(const DataConfig& config, const DataMixConfig& set, GivenAnswers given,
                      bool held_out) {
  LoadOptions options;
  options.keys = {.prompt = set.prompt_key,
                  .answer = set.answer_key,
                  .id = set.id_key,
                  .template_text = set.template_text,
                  .completion = set.completion_key};
  options.given = given;
  options.skip_bad = config.on_bad_row == "skip";
  options.held_out = held_out;
  options.size = config.size;
  options.seed = config.seed;
  return options;
}

std::vector<Problem> Load(const DataConfig& config, const DataMixConfig& set, GivenAnswers given,
                          bool held_out, std::vector<std::string>& notes) {
  LoadReport report;
  std::vector<Problem> problems =
      LoadProblems(set.path, OptionsOf(config, set, given, held_out), &report);
  if (report.ties > 0) {
    notes.push_back(fmt::format("{}: {} of {} rows have two equal answers and are left out",
                                set.path, report.ties, report.rows));
  }
  if (report.bad > 0) {
    notes.push_back(fmt::format("{}: {} of {} rows are bad and left out; the first: {}", set.path,
                                report.bad, report.rows, report.first_bad));
  }
  return problems;
}

bool IsHeldOut(const Problem& problem, double fraction) {
  const std::string text = PromptText(problem);
  const std::string normal = Normalised(text);
  const std::uint64_t hash = Hash64(normal.empty() ? text : normal);
  return static_cast<double>(hash >> 11) * 0x1.0p-53 < fraction;
}

void Append(std::vector<Problem>& to, std::vector<Problem>&& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

// Moves what is held out from `problems` to `eval`.
void Split(const DataConfig& config, const std::string& path, std::vector<Problem>& problems,
           std::vector<Problem>& eval) {
  const auto held_out = std::stable_partition(
      problems.begin(), problems.end(),
      [&](const Problem& problem) { return !IsHeldOut(problem, config.held_out); });
  if (held_out == problems.begin() || held_out == problems.end()) {
    Fail(
        ErrorCode::kInput,
        "{}: data.held_out = {} leaves one side of its {} problems empty; choose another fraction, "
        "or name a file as data.eval",
        path, config.held_out, problems.size());
  }
  eval.insert(eval.end(), std::make_move_iterator(held_out),
              std::make_move_iterator(problems.end()));
  problems.erase(held_out, problems.end());
}

// Measured pass rates, JSON lines {"prompt" or "id", "pass_rate"} as `opo eval --pass-rates` writes
// them; `prompt` is PromptText(). Of several for a problem the mean counts.
class PassRates {
 public:
  explicit PassRates(const std::string& path) : path_(path) {
    RowVisitor visitor;
    visitor.row = [&](Json&& row, const std::string& where) { Add(row, where); };
    VisitRows(path, visitor);
  }

  // Throws Error(kInput) for a problem without one.
  double Of(const Problem& problem) const {
    const auto by_prompt = prompts_.find(PromptText(problem));
    if (by_prompt != prompts_.end()) return by_prompt->second.Mean();
    const auto by_id = problem.id.empty() ? ids_.end() : ids_.find(problem.id);
    if (by_id != ids_.end()) return by_id->second.Mean();
    Fail(ErrorCode::kInput,
         "{}: has no pass rate of the problem {} (id {}); measure all that are trained on with "
         "`opo eval --pass-rates`",
         path_, Quote(PromptText(problem)), Quote(problem.id));
  }

 private:
  struct Rate {
    double sum = 0;
    idx count = 0;
    double Mean() const { return sum / static_cast<double>(count); }
  };

  void Add(const Json& row, const std::string& where) {
    const auto rate = row.find("pass_rate");
    if (rate == row.end() || !rate->is_number()) {
      Fail(ErrorCode::kInput, "{}: 'pass_rate' must be a number", where);
    }
    const auto prompt = row.find("prompt");
    const auto id = row.find("id");
    Rate* target = nullptr;
    if (prompt != row.end() && prompt->is_string()) {
      target = &prompts_[prompt->get<std::string>()];
    } else if (id != row.end() && (id->is_string() || id->is_number())) {
      target = &ids_[id->is_string() ? id->get<std::string>() : id->dump()];
    } else {
      Fail(ErrorCode::kInput, "{}: needs a 'prompt' or an 'id' that names the problem", where);
    }
    target->sum += rate->get<double>();
    ++target->count;
  }

  std::string path_;
  std::map<std::string, Rate> prompts_, ids_;
};

// Removes the problems whose rate is outside of the band; returns how many.
idx KeepBand(const PassRates& rates, double low, double high, std::vector<Problem>& problems) {
  const auto outside = [&](const Problem& problem) {
    const double rate = rates.Of(problem);
    return rate < low || rate > high;
  };
  return static_cast<idx>(std::erase_if(problems, outside));
}

}  // namespace

void ValidateDataConfig(const DataConfig& config) {
  const auto usage = ErrorCode::kUsage;
  const std::vector<DataMixConfig> sets = Sets(config);
  if (!config.mix.empty() && config.train != DataConfig{}.train) {
    Fail(usage, "data.train: the sets of data.mix are trained on instead; name it there too");
  }
  if (config.held_out > 0 && !config.eval.empty()) {
    Fail(usage, "data.held_out: data.eval names what to evaluate on; remove one of the two");
  }
  if (config.held_out > 0 &&
      std::all_of(sets.begin(), sets.end(), [](const auto& set) { return IsBuiltIn(set.path); })) {
    Fail(usage, "data.held_out: built-in sets hold out a part of their own; remove it");
  }
  constexpr std::size_t kMaxSets = 100;
  if (config.mix.size() > kMaxSets) Fail(usage, "data.mix: has more than {} sets", kMaxSets);
  for (std::size_t i = 0; i < sets.size(); ++i) {
    const std::string place =
        config.mix.empty() ? std::string("data") : fmt::format("data.mix.{}", i);
    if (sets[i].path.empty()) {
      Fail(usage, "{}.{}: is empty; name a file or a built-in set", place,
           config.mix.empty() ? "train" : "path");
    }
    if (!IsTemplate(sets[i].template_text)) {
      Fail(usage, "{}.template: needs one {{}} where the prompt goes", place);
    }
  }
  if (config.pass_rate_min > config.pass_rate_max) {
    Fail(usage, "data.pass_rate_min = {}: above data.pass_rate_max = {}", config.pass_rate_min,
         config.pass_rate_max);
  }
  if (config.pass_rates.empty() && (config.pass_rate_min > 0 || config.pass_rate_max < 1)) {
    Fail(usage, "data.pass_rate_min, data.pass_rate_max: need data.pass_rates, the file of rates");
  }
}

DataSets LoadDataSets(const DataConfig& config, GivenAnswers given) {
  DataSets data;
  std::optional<PassRates> rates;
  if (!config.pass_rates.empty()) rates.emplace(config.pass_rates);
  for (const DataMixConfig& set : Sets(config)) {
    std::vector<Problem> problems = Load(config, set, given, false, data.notes);
    if (config.eval.empty() && IsBuiltIn(set.path)) {
      Append(data.eval, Load(config, set, given, true, data.notes));
    } else if (config.held_out > 0) {
      Split(config, set.path, problems, data.eval);
    }
    if (rates) {
      const std::size_t all = problems.size();
      const idx removed = KeepBand(*rates, config.pass_rate_min, config.pass_rate_max, problems);
      if (removed > 0) {
        data.notes.push_back(
            fmt::format("{}: {} of {} problems have a pass rate outside of {} to {} and are left "
                        "out",
                        set.path, removed, all, config.pass_rate_min, config.pass_rate_max));
      }
      if (problems.empty()) {
        Fail(ErrorCode::kInput, "{}: no problem has a pass rate from {} to {}; widen the band",
             set.path, config.pass_rate_min, config.pass_rate_max);
      }
    }
    data.sizes.push_back(static_cast<idx>(problems.size()));
    data.weights.push_back(set.weight);
    data.names.push_back(set.path);
    Append(data.train, std::move(problems));
  }
  if (!config.eval.empty()) {
    DataConfig only = config;
    only.train = config.eval;
    only.mix.clear();
    const DataMixConfig set = Sets(only).front();
    data.eval = Load(config, set, given, true, data.notes);
  }
  return data;
}

}  // namespace opo
