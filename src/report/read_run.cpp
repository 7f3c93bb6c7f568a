#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "report/report.h"

namespace opo {

using Json = ReportJson;

namespace {

constexpr std::size_t kMaxLineBytes = 64 << 20;
constexpr std::size_t kMaxMetrics = 600;       // names; a run has about a hundred
constexpr std::size_t kMaxCells = 40'000'000;  // steps times names
constexpr std::size_t kMaxConfigBytes = 1 << 20;
constexpr const char* kStep = "training/global_step";

std::string_view TextOf(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// fn(line, number from 1, whole): `whole` is false of a last line without its end.
template <class F>
void EachLine(std::string_view text, const F& fn) {
  idx number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    const std::size_t stop = std::min(end, text.size());
    fn(text.substr(begin, stop - begin), ++number, end != std::string_view::npos);
    begin = stop + 1;
  }
}

// Lines that were left out of a file, for one notice.
struct LeftOut {
  idx count = 0, first = 0;
  std::string why;
  void Add(idx line, std::string_view reason) {
    if (count++ > 0) return;
    first = line;
    why = reason;
  }
  void Tell(const std::string& path, std::vector<std::string>& notices) const {
    if (count == 0) return;
    notices.push_back(fmt::format("{}: {} {} left out, the first is line {}: {}", path, count,
                                  count == 1 ? "line was" : "lines were", first, why));
  }
};

std::optional<Json> LineObject(std::string_view line, bool whole, std::string& fault) {
  if (!whole) {
    fault = "it has no end: a kill or a full disk cut it short, or it is being written";
    return std::nullopt;
  }
  if (line.size() > kMaxLineBytes) {
    fault = "it is longer than 64 MiB";
    return std::nullopt;
  }
  auto value = TryParseJson<Json>(line, fault);
  if (value && !value->is_object()) {
    fault = "it is no object";
    return std::nullopt;
  }
  return value;
}

idx StepOf(const Json& line) {
  const auto step = line.find(kStep);
  return step != line.end() && step->is_number_integer() ? step->get<idx>() : -1;
}

Json NumberOrNull(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }

// The columns of metrics.jsonl: numbers by name, null where a step has none; and texts by name.
struct Table {
  std::vector<idx> steps;
  std::vector<std::string> names, text_names;  // in the order in which they came
  std::map<std::string, Json> numbers, texts;

  Json& Column(std::map<std::string, Json>& columns, std::vector<std::string>& order,
               const std::string& name) {
    const auto [at, is_new] = columns.try_emplace(name, Json::array());
    if (is_new) {
      order.push_back(name);
      for (std::size_t i = 1; i < steps.size(); ++i) at->second.push_back(nullptr);
    }
    return at->second;
  }
  void Fill() {
    for (auto* columns : {&numbers, &texts}) {
      for (auto& [name, column] : *columns) {
        while (column.size() < steps.size()) column.push_back(nullptr);
      }
    }
  }
  std::vector<double> Values(const std::string& name) const {
    std::vector<double> values;
    const auto at = numbers.find(name);
    if (at == numbers.end()) return values;
    for (const Json& v : at->second) {
      values.push_back(v.is_number() ? v.get<double>() : std::numeric_limits<double>::quiet_NaN());
    }
    return values;
  }
};

Table ReadMetrics(const std::string& path, std::vector<std::string>& notices) {
  Table table;
  LeftOut left_out;
  std::set<std::string> too_many;
  const MappedFile file(path);
  EachLine(TextOf(file), [&](std::string_view text, idx number, bool whole) {
    std::string fault;
    const auto line = LineObject(text, whole, fault);
    if (!line) return left_out.Add(number, fault);
    const idx step = StepOf(*line);
    if (step < 0) return left_out.Add(number, fmt::format("it names no step ({})", kStep));
    if (!table.steps.empty() && step <= table.steps.back()) {
      return left_out.Add(
          number, fmt::format("its step {} does not come after step {}", step, table.steps.back()));
    }
    if (table.steps.size() * (table.names.size() + table.text_names.size() + 1) > kMaxCells) {
      return left_out.Add(number, "there are too many");
    }
    table.steps.push_back(step);
    for (const auto& [name, value] : line->items()) {
      if (name == kStep) continue;
      const bool is_text = value.is_string();
      if (!is_text && !value.is_number() && !value.is_null()) continue;
      auto& columns = is_text ? table.texts : table.numbers;
      if (columns.size() >= kMaxMetrics && !columns.count(name)) {
        too_many.insert(name.substr(0, 80));
        if (too_many.size() > 1000) too_many.erase(too_many.begin());
        continue;
      }
      table.Column(columns, is_text ? table.text_names : table.names, name).push_back(value);
    }
    table.Fill();
  });
  left_out.Tell(path, notices);
  if (!too_many.empty()) {
    notices.push_back(fmt::format("{}: {} or more metrics beyond {} were left out, among them {}",
                                  path, too_many.size(), kMaxMetrics, *too_many.begin()));
  }
  if (table.steps.empty()) return table;
  const idx span = table.steps.back() - table.steps.front() + 1;
  if (span != static_cast<idx>(table.steps.size())) {
    notices.push_back(fmt::format("{}: {} of the steps {} to {} are missing", path,
                                  span - static_cast<idx>(table.steps.size()), table.steps.front(),
                                  table.steps.back()));
  }
  return table;
}

// First, last, best (largest) and its step, and the mean, of a series; null where it is empty.
Json SummaryOf(const std::vector<idx>& steps, const std::vector<double>& values) {
  Json out;
  double sum = 0;
  idx count = 0;
  std::size_t best = values.size(), worst = values.size(), first = values.size(), last = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) continue;
    if (count++ == 0) first = i;
    last = i;
    sum += values[i];
    if (best == values.size() || values[i] > values[best]) best = i;
    if (worst == values.size() || values[i] < values[worst]) worst = i;
  }
  if (count == 0) return nullptr;
  out["first"] = values[first];
  out["last"] = values[last];
  out["max"] = values[best];
  out["max_step"] = steps[best];
  out["min"] = values[worst];
  out["min_step"] = steps[worst];
  out["mean"] = sum / static_cast<double>(count);
  out["count"] = count;
  return out;
}

double Total(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += std::isfinite(v) ? v : 0;
  return sum;
}

// "exact": log-probs of sampler and learner were compared, and all agreed; "broken": some differed;
// "unmeasured": nothing was compared; "off_policy": all agreed, in the first update of each batch,
// and there were further ones.
Json ExactnessOf(const Table& table) {
  const double compared = Total(table.Values("exact/compared_tokens"));
  const double tokens = Total(table.Values("exact/mismatched_tokens"));
  const double rows = Total(table.Values("exact/mismatched_rows"));
  const std::vector<double> diffs = table.Values("exact/logprob_diff_max");
  double diff = 0;
  for (const double d : diffs) diff = std::isfinite(d) ? std::max(diff, d) : diff;
  Json out;
  const std::vector<double> updates = table.Values("training/optimizer_steps");
  const bool several = std::any_of(updates.begin(), updates.end(), [](double n) { return n > 1; });
  out["state"] = tokens > 0 || rows > 0 ? "broken"
                 : compared == 0        ? "unmeasured"
                 : several              ? "off_policy"
                                        : "exact";
  out["compared_tokens"] = compared;
  out["mismatched_tokens"] = tokens;
  out["rechecked_rows"] = Total(table.Values("exact/rechecked_rows"));
  out["mismatched_rows"] = rows;
  out["logprob_diff_max"] = diff;
  return out;
}

// config.toml as `opo train` prints it: {"section.key": "value as it stands"}.
Json SettingsOf(const std::string& toml) {
  Json out = Json::object();
  std::map<std::string, idx> lists;
  std::string section;
  EachLine(toml, [&](std::string_view line, idx, bool) {
    if (line.starts_with("[[") && line.ends_with("]]")) {
      const std::string name(line.substr(2, line.size() - 4));
      section = fmt::format("{}.{}.", name, lists[name]++);
    } else if (line.starts_with("[") && line.ends_with("]")) {
      section = std::string(line.substr(1, line.size() - 2)) + ".";
    } else if (const std::size_t equal = line.find(" = ");
               equal != std::string_view::npos && !line.starts_with("#") && out.size() < 1000) {
      out[section + std::string(line.substr(0, equal))] = std::string(line.substr(equal + 3));
    }
  });
  return out;
}

struct SampleLine {
  std::string_view text;
  idx number = 0;
};

// The step of a line of samples.jsonl without parsing it, as `opo train` writes it; -1: unknown.
idx QuickStep(std::string_view line) {
  constexpr std::string_view kBegin = "{\"training/global_step\":";
  if (!line.starts_with(kBegin)) return -1;
  idx step = -1;
  std::from_chars(line.data() + kBegin.size(), line.data() + line.size(), step);
  return step;
}

// {"steps": n of the file, "shown": [...], "lines": [[...] a shown step]}
Json ReadSamples(const std::string& path, std::size_t max_bytes, idx best_step,
                 std::vector<std::string>& notices) {
  LeftOut left_out;
  const MappedFile file(path);
  std::map<idx, std::vector<SampleLine>> by_step;
  EachLine(TextOf(file), [&](std::string_view text, idx number, bool whole) {
    idx step = whole ? QuickStep(text) : -1;
    if (step < 0) {
      std::string fault;
      const auto line = LineObject(text, whole, fault);
      if (!line) return left_out.Add(number, fault);
      step = StepOf(*line);
    }
    if (step < 0) return left_out.Add(number, fmt::format("it names no step ({})", kStep));
    by_step[step].push_back({text, number});
  });
  std::vector<idx> steps;
  for (const auto& [step, lines] : by_step) steps.push_back(step);
  // The ends, the best, and the others at even distances, as many as the page may hold.
  std::size_t count = std::min(steps.size(), kPageRolloutSteps);
  std::set<idx> shown;
  for (;; count /= 2) {
    shown.clear();
    for (std::size_t i = 0; i < count; ++i) {
      shown.insert(steps[count > 1 ? i * (steps.size() - 1) / (count - 1) : steps.size() - 1]);
    }
    if (by_step.count(best_step) && count > 2) shown.insert(best_step);
    std::size_t bytes = 0;
    for (const idx step : shown) {
      for (const SampleLine& line : by_step[step]) bytes += line.text.size();
    }
    if (bytes <= max_bytes || count <= 1) break;
  }
  Json out;
  out["steps"] = steps.size();
  out["shown"] = Json::array();
  out["lines"] = Json::array();
  std::size_t bytes = 0;
  for (const idx step : shown) {
    Json lines = Json::array();
    for (const SampleLine& sample : by_step[step]) {
      bytes += sample.text.size();
      if (bytes > max_bytes) {
        left_out.Add(sample.number, "there are more than a page holds");
        continue;
      }
      std::string fault;
      auto line = LineObject(sample.text, true, fault);
      if (!line) {
        left_out.Add(sample.number, fault);
        continue;
      }
      line->erase(kStep);
      lines.push_back(std::move(*line));
    }
    if (lines.empty()) continue;
    out["shown"].push_back(step);
    out["lines"].push_back(std::move(lines));
  }
  left_out.Tell(path, notices);
  return out;
}

// A small file of the folder as text; "" where it is absent. Longer than `kMaxConfigBytes`: cut.
std::string SmallFile(const std::string& path, std::vector<std::string>& notices) {
  if (!Exists(path)) return "";
  const MappedFile file(path);
  if (TextOf(file).size() > kMaxConfigBytes) {
    notices.push_back(fmt::format("{}: longer than 1 MiB, left out", path));
    return "";
  }
  return std::string(TextOf(file));
}

// The reliability curve of a reward model's last evaluation, {"step", "error", "best_scale",
// "bins": [{"low", "high", "pairs", "confidence", "accuracy"}]}; null where there is none.
Json CalibrationIn(const std::string& dir, std::vector<std::string>& notices) {
  const std::string path = dir + "/calibration.json";
  const std::string text = SmallFile(path, notices);
  if (text.empty()) return nullptr;
  std::string fault;
  const auto value = TryParseJson<Json>(text, fault);
  const auto left_out = [&](std::string_view why) {
    notices.push_back(fmt::format("{}: left out: {}", path, why));
    return Json(nullptr);
  };
  if (!value) return left_out(fault);
  const auto numbers = [](const Json& object, std::initializer_list<const char*> keys) {
    return object.is_object() && std::all_of(keys.begin(), keys.end(), [&](const char* key) {
             return object.contains(key) && object[key].is_number();
           });
  };
  if (!numbers(*value, {"step", "error", "best_scale"}) || !value->contains("bins") ||
      !(*value)["bins"].is_array() || (*value)["bins"].size() > 1000) {
    return left_out(
        "it needs the numbers step, error, best_scale, and a list of at most 1000 bins");
  }
  for (const Json& bin : (*value)["bins"]) {
    if (numbers(bin, {"low", "high", "pairs", "confidence", "accuracy"})) continue;
    return left_out("a bin needs the numbers low, high, pairs, confidence, accuracy");
  }
  return *value;
}

}  // namespace

Json ReadRun(const std::string& dir, std::size_t rollout_bytes, Json* rollouts,
             std::vector<std::string>& notices) {
  const Table table = ReadMetrics(dir + "/metrics.jsonl", notices);
  Json run;
  const std::filesystem::path path = std::filesystem::path(dir).lexically_normal();
  run["name"] =
      path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
  run["dir"] = dir;
  Json summary;
  summary["steps"] = table.steps.size();
  summary["last_step"] = table.steps.empty() ? Json(nullptr) : Json(table.steps.back());
  const Json reward = SummaryOf(table.steps, table.Values("critic/score/mean"));
  summary["reward"] = reward;
  summary["seconds"] = NumberOrNull(Total(table.Values("timing_s/step")));
  summary["tokens"] = NumberOrNull(Total(table.Values("perf/total_num_tokens")));
  Json eval = Json::array();
  for (const std::string& name : table.names) {
    if (!name.starts_with("val-core/")) continue;
    const std::vector<double> values = table.Values(name);
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(values[i])) continue;
      eval.push_back({{"step", table.steps[i]}, {"name", name}, {"value", values[i]}});
    }
    summary["eval"][name] = SummaryOf(table.steps, values);
  }
  summary["exactness"] = ExactnessOf(table);
  run["summary"] = std::move(summary);

  const std::string manifest_text = SmallFile(dir + "/manifest.json", notices);
  std::string fault;
  auto manifest = TryParseJson<Json>(manifest_text, fault);
  if (!manifest_text.empty() && (!manifest || !manifest->is_object())) {
    notices.push_back(
        fmt::format("{}/manifest.json: left out: {}", dir, manifest ? "it is no object" : fault));
  }
  run["digests"] = Json::object();
  if (manifest && manifest->is_object()) {
    for (const char* name : {"initial_weights_digest", "data_digest", "base_digest"}) {
      if (manifest->contains(name)) run["digests"][name] = (*manifest)[name];
    }
  }
  for (const std::string& name : table.text_names) {
    const Json& column = table.texts.at(name);
    for (auto value = column.rbegin(); value != column.rend(); ++value) {
      if (value->is_null()) continue;
      run["digests"][name] = *value;
      break;
    }
  }
  run["manifest"] = manifest && manifest->is_object() ? *manifest : Json(nullptr);
  const std::string config = SmallFile(dir + "/config.toml", notices);
  run["settings"] = SettingsOf(config);
  run["eval"] = std::move(eval);
  run["steps"] = table.steps;
  run["metrics"] = Json::object();
  for (const std::string& name : table.names) run["metrics"][name] = table.numbers.at(name);
  run["texts"] = Json::object();
  for (const std::string& name : table.text_names) run["texts"][name] = table.texts.at(name);
  run["config"] = config;
  run["calibration"] = CalibrationIn(dir, notices);
  if (rollouts != nullptr) {
    *rollouts = Exists(dir + "/samples.jsonl")
                    ? ReadSamples(dir + "/samples.jsonl", rollout_bytes,
                                  reward.is_object() ? reward["max_step"].get<idx>() : -1, notices)
                    : Json(nullptr);
  }
  return run;
}

}  // namespace opo
