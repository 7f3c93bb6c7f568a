#include "compare/summary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "compare/statistics.h"
#include "train/given.h"

namespace opo {

using nlohmann::ordered_json;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Column {
  const char* key;
  const char* label;
  int better;  // 1 higher, -1 lower, 0 neither
  int digits;
  bool shown;  // in the table for people
};

// In the order of the table. Others (more eval sets, other k) follow behind with their own names.
constexpr Column kColumns[] = {
    {"reward/first", "reward, first steps", 0, 3, false},
    {"reward/last", "reward, last steps", 1, 3, true},
    {"reward/peak", "reward, best steps", 1, 3, false},
    {"reward/drop", "drop from the best", -1, 3, true},
    {"grad_norm/max", "largest gradient norm", -1, 2, false},
    {"grad_norm/spikes", "gradient spikes", -1, 1, true},
    {"collapsed", "collapsed", -1, 2, true},
    {"entropy/last", "entropy", 1, 3, true},
    {"kl/last", "KL to the start", -1, 4, true},
    {"length/last", "length", 0, 1, true},
    {"eval/pass@1", "pass@1", 1, 3, true},
    {"eval/pass@2", "pass@2", 1, 3, false},
    {"eval/pass@4", "pass@4", 1, 3, true},
    {"eval/pass@8", "pass@8", 1, 3, false},
    {"eval/pass@16", "pass@16", 1, 3, true},
    {"eval/win_rate", "win rate against the start", 1, 3, true},
    {"eval/judge", "the judge's score", 1, 3, false},
    {"eval/entropy", "entropy in evaluation", 1, 3, false},
    {"eval/kl/k3_token", "KL in evaluation, a token", -1, 4, false},
    {"eval/kl/k1_sequence", "KL in evaluation, an answer", -1, 3, false},
    {"eval/self_bleu", "Self-BLEU", -1, 1, true},
    {"eval/rep_2", "Rep-2", -1, 3, true},
    {"eval/rep_5", "Rep-5", -1, 3, false},
    {"eval/diversity", "diversity", 1, 3, false},
    {"eval/length/mean", "length in evaluation", 0, 1, false},
    {"eval/length/cv_within", "spread of lengths", 0, 2, false},
    {"eval/reward_length_correlation", "reward with length", 0, 2, false},
    {"eval/truncated", "truncated", -1, 3, false},
    {"models", "models in memory", -1, 0, true},
    {"memory_gb/peak", "peak memory, GB", -1, 2, true},
    {"step_s/median", "step, s", -1, 2, true},
    {"updates/total", "updates", 0, 0, true},
    {"steps/total", "steps", 0, 0, false},
    {"tokens/total", "tokens", 0, 0, false},
    {"tokens/to_target", "tokens to target", -1, 0, true},
    {"seconds/to_target", "seconds to target", -1, 0, true},
};

double NumberOf(const ordered_json& value) {
  return value.is_number() ? value.get<double>() : kNaN;
}

double MeanOf(const std::vector<double>& values, std::size_t first, std::size_t count) {
  double sum = 0;
  for (std::size_t i = first; i < first + count; ++i) sum += values[i];
  return sum / static_cast<double>(count);
}

ordered_json Json(double value) {
  return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr);
}

ordered_json JsonOf(const SeedMean& interval) {
  return {
      {"mean", Json(interval.mean)}, {"low", Json(interval.low)}, {"high", Json(interval.high)}};
}

// All numbers below an object, names joined by '/'; {"value", "low", "high"} counts as its value.
void Flatten(const ordered_json& value, const std::string& name, RunNumbers& out) {
  if (value.is_number()) {
    out[name] = value.get<double>();
  } else if (value.is_object() && value.contains("value")) {
    Flatten(value.at("value"), name, out);
  } else if (value.is_object()) {
    for (const auto& [key, inner] : value.items()) Flatten(inner, name + "/" + key, out);
  }
}

class Series {
 public:
  explicit Series(const std::string& path) : path_(path) {
    const std::string text = ReadFile(path);
    idx line_number = 0;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = text.find('\n', at);
      ++line_number;
      if (end == std::string::npos) {
        Fail(ErrorCode::kInput, "{}: line {}: is torn", path, line_number);
      }
      lines_.push_back(ParseJson<ordered_json>(
          text.substr(at, end - at), fmt::format("{}: line {}", path, line_number), "line"));
      at = end + 1;
    }
    if (lines_.empty()) Fail(ErrorCode::kInput, "{}: has no steps", path);
  }
  std::size_t size() const { return lines_.size(); }
  const std::vector<ordered_json>& lines() const { return lines_; }
  std::vector<double> operator()(const char* key) const {
    std::vector<double> values;
    for (const ordered_json& line : lines_) {
      if (!line.contains(key)) Fail(ErrorCode::kInput, "{}: a step has no `{}`", path_, key);
      values.push_back(NumberOf(line.at(key)));
    }
    return values;
  }
  // Of a metric that not all steps have.
  double LastOf(const char* key) const {
    for (auto line = lines_.rbegin(); line != lines_.rend(); ++line) {
      if (line->contains(key)) return NumberOf(line->at(key));
    }
    return kNaN;
  }

 private:
  std::string path_;
  std::vector<ordered_json> lines_;
};

// The config's. Of a term that a run normalises, its scores as they were given: what arms have in
// common.
std::string RewardKey(const CompareConfig& config, const Series& series) {
  constexpr std::string_view kMean = "/mean";
  const std::string& key = config.reward_key;
  if (!key.starts_with("rewards/") || !key.ends_with(kMean)) return key;
  const std::string given = key.substr(0, key.size() - kMean.size()) + "/score/mean";
  return series.lines().front().contains(given) ? given : key;
}

// First, last and best reward, each the mean of a window of steps, and the tokens and the time that
// the target took.
void SummarizeReward(const CompareConfig& config, const std::vector<double>& reward,
                     const std::vector<double>& tokens, const std::vector<double>& seconds,
                     RunNumbers& out) {
  const std::size_t n = reward.size();
  const std::size_t window = std::min(n, static_cast<std::size_t>(config.window));
  const double first = MeanOf(reward, 0, window);
  const double last = MeanOf(reward, n - window, window);
  double peak = first;
  double tokens_spent = 0;
  double seconds_spent = 0;
  double tokens_to_target = kNaN;
  double seconds_to_target = kNaN;
  for (std::size_t i = 0; i < n; ++i) {
    tokens_spent += tokens[i];
    seconds_spent += seconds[i];
    if (i + 1 < window) continue;
    const double mean = MeanOf(reward, i + 1 - window, window);
    peak = std::max(peak, mean);
    const bool there = config.target_reward != 0 && mean >= config.target_reward;
    if (!there || !std::isnan(tokens_to_target)) continue;
    tokens_to_target = tokens_spent;
    seconds_to_target = seconds_spent;
  }
  out["reward/first"] = first;
  out["reward/last"] = last;
  out["reward/peak"] = peak;
  out["reward/drop"] = peak - last;
  out["tokens/to_target"] = tokens_to_target;
  out["seconds/to_target"] = seconds_to_target;
  // Half of the best means nothing where rewards fall below 0.
  const bool signless = *std::min_element(reward.begin(), reward.end()) >= 0;
  out["collapsed"] = signless ? (last < peak / 2 ? 1 : 0) : kNaN;
}

}  // namespace

void SummarizeTraining(const CompareConfig& config, FinishedRun& finished) {
  const CompareRun& run = finished.run;
  const Series series(run.dir + "/metrics.jsonl");
  const std::size_t n = series.size();
  const std::size_t window = std::min(n, static_cast<std::size_t>(config.window));
  const std::size_t last = n - window;
  RunNumbers& out = finished.numbers;
  const std::vector<double> tokens = series("perf/total_num_tokens");
  const std::vector<double> seconds = series("timing_s/step");
  out["tokens/total"] = MeanOf(tokens, 0, n) * static_cast<double>(n);
  out["collapsed"] = 0;
  // Runs on given answers sample none, and nothing rewards them.
  if (!IsGiven(run.config)) {
    finished.first_rollouts = series.lines().front().value("exact/rollout_digest", "");
    SummarizeReward(config, series(RewardKey(config, series).c_str()), tokens, seconds, out);
    out["entropy/last"] = MeanOf(series("actor/entropy"), last, window);
    out["length/last"] = MeanOf(series("response_length/mean"), last, window);
  }
  const std::vector<double> norms = series("actor/grad_norm");
  const double median = Median(norms);
  out["grad_norm/max"] = *std::max_element(norms.begin(), norms.end());
  out["grad_norm/spikes"] = static_cast<double>(std::count_if(
      norms.begin(), norms.end(), [&](double x) { return x > config.spike * median; }));
  out["kl/last"] = series.LastOf("monitor/kl_k3");
  const std::vector<double> updates = series("training/optimizer_steps");
  out["updates/total"] = MeanOf(updates, 0, n) * static_cast<double>(n);
  out["steps/total"] = static_cast<double>(n);
  out["step_s/median"] = Median(seconds);
  const std::vector<double> memory = series("perf/cpu_memory_used_gb");
  out["memory_gb/peak"] = *std::max_element(memory.begin(), memory.end());
  out["models"] = static_cast<double>(ModelsHeld(run.config));
}

RunNumbers SummarizeEval(const ordered_json& eval) {
  RunNumbers out;
  if (!eval.contains("sets") || !eval.at("sets").is_array()) {
    Fail(ErrorCode::kInput, "the evaluation has no `sets`");
  }
  const ordered_json& sets = eval.at("sets");
  for (const ordered_json& set : sets) {
    const std::string prefix =
        sets.size() == 1 ? "eval" : "eval/" + set.at("name").get<std::string>();
    for (const auto& [key, value] : set.items()) Flatten(value, prefix + "/" + key, out);
  }
  return out;
}

ordered_json Comparison(const CompareConfig& config, const std::vector<FinishedRun>& runs,
                        const RunNumbers& start) {
  ordered_json out;
  out["schema"] = 1;
  out["title"] = config.title;
  out["rule"] =
      "confirmed: the paired 95% interval (Student's t over seeds, three or more) lies on the "
      "claimed side of 0; not confirmed: on the other side; else undecided at this size";
  for (const auto& [key, value] : start) out["start"][key] = Json(value);

  // Columns: the known ones that some run has a number for, then the others by name.
  std::set<std::string> present;
  for (const FinishedRun& run : runs) {
    for (const auto& [key, value] : run.numbers) {
      if (!std::isnan(value)) present.insert(key);
    }
  }
  out["columns"] = ordered_json::array();
  std::vector<std::string> keys;
  const auto add = [&](const Column& column) {
    keys.emplace_back(column.key);
    ordered_json higher;  // null: neither is better
    if (column.better != 0) higher = column.better > 0;
    out["columns"].push_back({{"key", column.key},
                              {"label", column.label},
                              {"higher_is_better", higher},
                              {"digits", column.digits},
                              {"shown", column.shown}});
    present.erase(column.key);
  };
  for (const Column& column : kColumns) {
    if (present.count(column.key) != 0) add(column);
  }
  for (const std::string& key : std::set<std::string>(present)) {
    add({key.c_str(), key.c_str(), 0, 3, false});
  }

  // values[arm][key] by seed; NaN where a run has none.
  std::map<std::string, std::map<std::string, std::vector<double>>> values;
  for (const CompareArm& arm : config.arm) {
    for (const std::string& key : keys) {
      std::vector<double>& of_key = values[arm.name][key];
      for (const FinishedRun& run : runs) {
        if (run.run.arm != arm.name) continue;
        const auto at = run.numbers.find(key);
        of_key.push_back(at == run.numbers.end() ? kNaN : at->second);
      }
    }
  }
  for (const CompareArm& arm : config.arm) {
    const auto run = std::find_if(runs.begin(), runs.end(),
                                  [&](const FinishedRun& r) { return r.run.arm == arm.name; });
    if (run == runs.end()) continue;
    out["arms"].push_back({{"name", arm.name},
                           {"algorithm", run->run.config.algorithm.name},
                           {"summary", arm.summary}});
    for (const std::string& key : keys) {
      ordered_json cell = JsonOf(MeanOverSeeds(values[arm.name][key]));
      cell["values"] = ordered_json::array();
      for (const double v : values[arm.name][key]) cell["values"].push_back(Json(v));
      out["cells"][arm.name][key] = cell;
    }
  }
  const std::string& first = config.arm.front().name;
  out["paired"] = ordered_json::array();
  for (const CompareArm& arm : config.arm) {
    if (arm.name == first) continue;
    for (const std::string& key : keys) {
      const SeedMean difference = PairedMean(values[first][key], values[arm.name][key]);
      if (difference.count == 0) continue;
      ordered_json line = {{"key", key}, {"arm", first}, {"against", arm.name}};
      line.update(JsonOf(difference));
      line["seeds"] = difference.count;
      out["paired"].push_back(line);
    }
  }
  out["claims"] = ordered_json::array();
  for (const CompareClaim& claim : config.claim) {
    // A known column without any number leaves the claim undecided.
    const bool known = std::find(keys.begin(), keys.end(), claim.key) != keys.end() ||
                       std::any_of(std::begin(kColumns), std::end(kColumns),
                                   [&](const Column& c) { return claim.key == c.key; });
    if (!known) {
      Fail(ErrorCode::kUsage, "[[claim]] \"{}\": there is no column \"{}\"; there are: {}",
           claim.id, claim.key, fmt::join(keys, ", "));
    }
    const SeedMean difference =
        PairedMean(values[claim.arm][claim.key], values[claim.against][claim.key]);
    ordered_json line = {{"id", claim.id},
                         {"text", claim.text},
                         {"rule", fmt::format("{} of {} {} than of {}", claim.key, claim.arm,
                                              claim.direction, claim.against)},
                         {"key", claim.key},
                         {"arm", claim.arm},
                         {"against", claim.against},
                         {"verdict", VerdictOf(difference, claim.direction == "higher")}};
    line.update(JsonOf(difference));
    line["seeds"] = difference.count;
    out["claims"].push_back(line);
  }
  std::map<idx, std::set<std::string>> digests;  // of the first rollouts, by seed
  for (const FinishedRun& run : runs) {
    out["runs"].push_back({{"arm", run.run.arm},
                           {"seed", run.run.seed},
                           {"dir", run.run.dir},
                           {"status", run.status},
                           {"first_rollouts", run.first_rollouts}});
    if (!run.first_rollouts.empty()) digests[run.run.seed].insert(run.first_rollouts);
    out["curves"][run.run.arm][std::to_string(run.run.seed)] =
        fmt::format("{}/{}/metrics.jsonl", run.run.arm, run.run.seed);
  }
  out["same_first_rollouts"] = std::all_of(digests.begin(), digests.end(),
                                           [](const auto& d) { return d.second.size() == 1; });
  return out;
}

namespace {

std::string Cell(const ordered_json& cell, int digits) {
  const double mean = NumberOf(cell.at("mean"));
  if (std::isnan(mean)) return "-";
  const double low = NumberOf(cell.at("low"));
  if (std::isnan(low)) return fmt::format("{:.{}f}", mean, digits);
  return fmt::format("{:.{}f} ±{:.{}f}", mean, digits, mean - low, digits);
}

std::size_t Width(const std::string& text) {  // of UTF-8 without wide letters
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string Grid(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths(rows.front().size());
  for (const auto& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], Width(row[c]));
  }
  std::string out;
  for (const auto& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string pad(widths[c] - Width(row[c]), ' ');
      out += c == 0 ? row[c] + pad : "  " + pad + row[c];
    }
    out += '\n';
  }
  return out;
}

}  // namespace

std::string ComparisonTable(const ordered_json& comparison) {
  constexpr std::size_t kColumnsAtOnce = 5;
  std::vector<const ordered_json*> shown;
  for (const ordered_json& column : comparison.at("columns")) {
    if (column.at("shown").get<bool>()) shown.push_back(&column);
  }
  std::string out = fmt::format("{}\nmean ± half the 95% interval over seeds\n",
                                comparison.at("title").get<std::string>());
  for (std::size_t first = 0; first < shown.size(); first += kColumnsAtOnce) {
    const std::size_t end = std::min(shown.size(), first + kColumnsAtOnce);
    std::vector<std::vector<std::string>> rows(1, {""});
    for (std::size_t c = first; c < end; ++c) rows[0].push_back(shown[c]->at("label"));
    for (const auto& [arm, cells] : comparison.at("cells").items()) {
      rows.push_back({arm});
      for (std::size_t c = first; c < end; ++c) {
        rows.back().push_back(
            Cell(cells.at(shown[c]->at("key").get<std::string>()), shown[c]->at("digits")));
      }
    }
    out += "\n" + Grid(rows);
  }
  if (!comparison.at("claims").empty()) {
    std::vector<std::vector<std::string>> rows = {{"claim", "difference", "verdict"}};
    for (const ordered_json& claim : comparison.at("claims")) {
      rows.push_back({fmt::format("{}: {}", claim.at("id").get<std::string>(),
                                  claim.at("rule").get<std::string>()),
                      Cell(claim, 4), claim.at("verdict")});
    }
    out += "\n" + Grid(rows);
  }
  return out;
}

}  // namespace opo
