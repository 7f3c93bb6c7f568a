#include <algorithm>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "report/report.h"

namespace opo {

using Json = ReportJson;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxFileBytes = 256 << 20;
constexpr idx kMaxCurves = 256;

Json ReadObject(const std::string& path) {
  const MappedFile file(path);
  if (file.bytes().size() > kMaxFileBytes) {
    Fail(ErrorCode::kInput, "{}: larger than 256 MiB: give a smaller file", path);
  }
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  Json value = ParseJson<Json>(text, path, "file");
  if (!value.is_object()) Fail(ErrorCode::kInput, "{}: must be a JSON object", path);
  return value;
}

bool Has(const Json& value, const char* key, Json::value_t type) {
  const auto at = value.find(key);
  return at != value.end() && at->type() == type;
}
bool HasList(const Json& value, const char* key) { return Has(value, key, Json::value_t::array); }
bool HasObject(const Json& value, const char* key) {
  return Has(value, key, Json::value_t::object);
}

// Fields of a list that are not objects, and lists that are something else, are left out and told.
void KeepObjects(Json& value, const char* key, const std::string& path,
                 std::vector<std::string>& notices) {
  if (!value.contains(key)) return;
  Json kept = Json::array();
  std::size_t dropped = 0;
  if (!value[key].is_array()) {
    ++dropped;
  } else {
    for (Json& item : value[key]) {
      if (item.is_object()) {
        kept.push_back(std::move(item));
      } else {
        ++dropped;
      }
    }
  }
  if (dropped > 0)
    notices.push_back(fmt::format("{}: `{}`: {} left out: no object", path, key, dropped));
  value[key] = std::move(kept);
}

// The file of a curve: of a run below the comparison's folder, and nowhere else.
std::string CurvePath(const std::string& folder, const std::string& name) {
  std::error_code error;
  const fs::path base = fs::canonical(folder.empty() ? "." : folder, error);
  if (error) return "";
  const fs::path path = fs::canonical(base / fs::path(name), error);
  if (error || fs::path(name).is_absolute()) return "";
  const auto [at, ignored] = std::mismatch(base.begin(), base.end(), path.begin(), path.end());
  if (at != base.end() || path.filename() != "metrics.jsonl") return "";
  return path.string();
}

void AddCompare(const std::string& path, Json value, Report& report) {
  for (const char* key : {"arms", "columns", "paired", "claims", "runs"}) {
    KeepObjects(value, key, path, report.notices);
  }
  const std::string folder = fs::path(path).parent_path().string();
  idx curves = 0;
  if (HasObject(value, "curves")) {
    for (const auto& [arm, seeds] : value["curves"].items()) {
      if (!seeds.is_object()) continue;
      for (const auto& [seed, file] : seeds.items()) {
        const std::string metrics =
            file.is_string() ? CurvePath(folder, file.get<std::string>()) : "";
        if (metrics.empty() || ++curves > kMaxCurves) {
          report.notices.push_back(
              fmt::format("{}: curves of {}, seed {}: left out: {}", path, arm.substr(0, 100),
                          seed.substr(0, 40),
                          metrics.empty() ? "no metrics.jsonl below the comparison's folder"
                                          : "there are too many"));
          if (curves > kMaxCurves) break;
          continue;
        }
        try {
          Json run = ReadRun(fs::path(metrics).parent_path().string(), 0, nullptr, report.notices);
          run["arm"] = arm;
          run["seed"] = seed;
          run["name"] = arm + " / " + seed;
          report.runs.push_back(std::move(run));
          report.rollouts.emplace_back(nullptr);
        } catch (const Error& error) {
          report.notices.push_back(error.what());
        }
      }
    }
  }
  value.erase("curves");
  report.compare.push_back(std::move(value));
}

// Adds a file by what it holds; false: it is none that a report knows.
bool AddFile(const std::string& path, Report& report) {
  Json value = ReadObject(path);
  if (HasList(value, "arms") && HasObject(value, "cells")) {
    AddCompare(path, std::move(value), report);
  } else if (HasList(value, "estimators")) {
    KeepObjects(value, "estimators", path, report.notices);
    KeepObjects(value, "per_prompt", path, report.notices);
    report.variance.push_back(std::move(value));
  } else if (HasList(value, "sets") || value.contains("pass_rate") || value.contains("pass@1")) {
    if (value.contains("sets")) KeepObjects(value, "sets", path, report.notices);
    value["file"] = fs::path(path).filename().string();
    report.eval.push_back(std::move(value));
  } else {
    return false;
  }
  return true;
}

}  // namespace

void AddToReport(const std::string& given, Report& report) {
  std::error_code error;
  std::string path = given;
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  if (!fs::is_directory(path, error)) {
    if (!Exists(path)) Fail(ErrorCode::kInput, "{}: no such file or folder", path);
    if (fs::path(path).filename() != "metrics.jsonl") {
      if (AddFile(path, report)) return;
      Fail(ErrorCode::kInput,
           "{}: not a file that a report knows; give a run's folder, or a compare.json (`arms` and "
           "`cells`), variance.json (`estimators`) or evaluation (`sets`)",
           path);
    }
    path = fs::path(path).parent_path().string();
    if (path.empty()) path = ".";
  }
  bool found = false;
  if (Exists(path + "/metrics.jsonl")) {
    found = true;
    Json rollouts;
    report.runs.push_back(ReadRun(path, kPageRolloutBytes, &rollouts, report.notices));
    report.rollouts.push_back(std::move(rollouts));
  }
  for (const char* name : {"compare.json", "variance.json", "eval.json"}) {
    const std::string file = fmt::format("{}/{}", path, name);
    if (!Exists(file)) continue;
    if (!AddFile(file, report)) {
      Fail(ErrorCode::kInput, "{}: has not the fields of such a file (docs/report.md)", file);
    }
    found = true;
  }
  if (!found) {
    Fail(ErrorCode::kInput,
         "{}: nothing to report: there is no metrics.jsonl, compare.json, variance.json or "
         "eval.json",
         path);
  }
}

Report ReadReport(const std::vector<std::string>& paths) {
  Report report;
  for (const std::string& path : paths) AddToReport(path, report);
  // Names that tell the runs apart.
  std::multiset<std::string> names;
  for (const Json& run : report.runs) names.insert(run["name"].get<std::string>());
  for (Json& run : report.runs) {
    if (names.count(run["name"].get<std::string>()) > 1) run["name"] = run["dir"];
  }
  return report;
}

}  // namespace opo
