// The report of runs, comparisons, gradient-variance labs and evaluations: one page that opens from
// disk, and its machine-readable twin. docs/report.md has the fields of both.
//
// What is read is hostile: it holds what models and data sets say. Every file is bounds-checked;
// what cannot be used is left out and named in `notices`, with a count, never silently. The page
// holds it as ASCII JSON that no HTML parser sees as anything else, shows it as text only, and
// forbids by its Content-Security-Policy whatever is not this build's own script and style.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace opo {

using ReportJson = nlohmann::ordered_json;

// What was read, before it is cut to the size of a page or of the twin.
struct Report {
  // One a run: name, dir, summary, digests, config, manifest, steps, metrics, eval and texts (of
  // each step), as docs/report.md says.
  std::vector<ReportJson> runs;
  // The lines of samples.jsonl of the runs, thinned out to a size that a page can hold.
  std::vector<ReportJson> rollouts;
  std::vector<ReportJson> compare, variance, eval;
  std::vector<std::string> notices;  // what was left out, and where
};

// Adds what is at `path`: a run's folder or its metrics.jsonl; a folder with compare.json,
// variance.json or eval.json; or one of these files by any name, known by its fields. Throws
// Error(kInput) where there is none of them, or nothing in it can be read.
void AddToReport(const std::string& path, Report& report);
Report ReadReport(const std::vector<std::string>& paths);

// report.json: every step of every series, no rollouts.
ReportJson ReportTwin(const Report& report);

// The page. `live`: it asks its server for changes (report/serve.h).
std::string ReportPage(const Report& report, bool live = false);

// JSON for a <script type="application/json"> block: ASCII without < > and &.
std::string ScriptSafe(const ReportJson& value);

// Points of a curve beyond which a page holds the smallest and largest of each bucket.
inline constexpr std::size_t kPagePoints = 2000;
inline constexpr std::size_t kPageRolloutBytes = 6 << 20;  // of all runs
inline constexpr std::size_t kPageRolloutSteps = 80;       // of a run

// The indices into `values` that a curve of at most `points` points keeps: ends, and the smallest
// and largest number of each bucket, in order. NaN counts as no number.
std::vector<std::size_t> Thinned(const std::vector<double>& values, std::size_t points);

// Reads a run's folder; `notices` gets what was left out. `with_rollouts`: fills `rollouts` too.
ReportJson ReadRun(const std::string& dir, std::size_t rollout_bytes, ReportJson* rollouts,
                   std::vector<std::string>& notices);

}  // namespace opo
