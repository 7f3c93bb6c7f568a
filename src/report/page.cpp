#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "report/assets.h"
#include "report/report.h"

namespace opo {

using Json = ReportJson;

namespace {

// Of hex digits; what a Content-Security-Policy wants.
std::string Base64OfHex(std::string_view hex) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bits;  // four a digit
  for (const char c : hex) {
    const int digit = c <= '9' ? c - '0' : c - 'a' + 10;
    for (int bit = 3; bit >= 0; --bit) bits += static_cast<char>(digit >> bit & 1);
  }
  std::string out;
  for (std::size_t at = 0; at < bits.size(); at += 6) {
    int value = 0;
    for (std::size_t i = 0; i < 6; ++i) {
      value = 2 * value + (at + i < bits.size() ? bits[at + i] : 0);
    }
    out += kDigits[static_cast<std::size_t>(value)];
  }
  while (out.size() % 4 != 0) out += '=';
  return out;
}

std::string PolicyHash(const Asset& asset) {
  return fmt::format("'sha256-{}'", Base64OfHex(asset.sha256));
}

// A run as a page holds it: {"steps", "metrics": {name: {"v": [...], "at": [indices]?}}}.
Json PageRun(const Json& run, std::size_t points) {
  Json out = run;
  out.erase("texts");
  // Other axes than the step: sums up to it.
  for (const auto& [name, metric] :
       {std::pair{"seconds", "timing_s/step"}, {"tokens", "perf/total_num_tokens"}}) {
    if (!run["metrics"].contains(metric)) continue;
    double sum = 0;
    out[name] = Json::array();
    for (const Json& v : run["metrics"][metric]) {
      sum += v.is_number() ? v.get<double>() : 0;
      out[name].push_back(std::isfinite(sum) ? Json(std::round(sum * 1e3) / 1e3) : Json(nullptr));
    }
  }
  for (auto& [name, column] : out["metrics"].items()) {
    Json series;
    if (column.size() > points) {
      std::vector<double> values;
      for (const Json& v : column) {
        values.push_back(v.is_number() ? v.get<double>()
                                       : std::numeric_limits<double>::quiet_NaN());
      }
      series["v"] = Json::array();
      series["at"] = Json::array();
      for (const std::size_t i : Thinned(values, points)) {
        series["v"].push_back(column[i]);
        series["at"].push_back(i);
      }
    } else {
      series["v"] = std::move(column);
    }
    column = std::move(series);
  }
  return out;
}

Json Head(const Report& report) {
  Json out;
  out["schema"] = 1;
  out["generator"] = "opo 0.1.0";
  out["notices"] = report.notices;
  return out;
}

void Replace(std::string& text, std::string_view mark, std::string_view with) {
  const std::size_t at = text.find(mark);
  OPO_CHECK(at != std::string::npos);
  text.replace(at, mark.size(), with);
}

}  // namespace

std::vector<std::size_t> Thinned(const std::vector<double>& values, std::size_t points) {
  std::vector<std::size_t> kept;
  const std::size_t n = values.size();
  if (n <= points || points < 4) {
    for (std::size_t i = 0; i < n; ++i) kept.push_back(i);
    return kept;
  }
  const std::size_t buckets = (points - 2) / 2;
  kept.push_back(0);
  for (std::size_t b = 0; b < buckets; ++b) {
    const std::size_t begin = 1 + b * (n - 2) / buckets;
    const std::size_t end = 1 + (b + 1) * (n - 2) / buckets;
    std::size_t low = n, high = n;
    for (std::size_t i = begin; i < end; ++i) {
      if (!std::isfinite(values[i])) continue;
      if (low == n || values[i] < values[low]) low = i;
      if (high == n || values[i] > values[high]) high = i;
    }
    if (low == n) continue;
    kept.push_back(std::min(low, high));
    if (low != high) kept.push_back(std::max(low, high));
  }
  kept.push_back(n - 1);
  return kept;
}

std::string ScriptSafe(const Json& value) {
  const std::string plain = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  std::string out;
  out.reserve(plain.size());
  for (const char c : plain) {
    if (c == '<' || c == '>' || c == '&') {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));  // they stand in texts only
    } else {
      out += c;
    }
  }
  return out;
}

Json ReportTwin(const Report& report) {
  Json out = Head(report);
  out["runs"] = report.runs;
  out["compare"] = report.compare;
  out["variance"] = report.variance;
  out["eval"] = report.eval;
  return out;
}

std::string ReportPage(const Report& report, bool live) {
  Json data = Head(report);
  data["live"] = live;
  const std::size_t runs = std::max<std::size_t>(1, report.runs.size());
  const std::size_t points = std::max<std::size_t>(200, kPagePoints / ((runs + 3) / 4));
  data["points"] = points;
  data["runs"] = Json::array();
  for (std::size_t r = 0; r < report.runs.size(); ++r) {
    Json run = PageRun(report.runs[r], points);
    run["rollouts"] = report.rollouts[r];
    data["runs"].push_back(std::move(run));
  }
  data["compare"] = report.compare;
  data["variance"] = report.variance;
  data["eval"] = report.eval;

  std::string scripts = fmt::format("<script>{}</script>\n", kChartScript.text);
  std::string policy = "default-src 'none'; script-src " + PolicyHash(kChartScript);
  for (int s = 0; s < kNumPageScripts; ++s) {
    scripts += fmt::format("<script>{}</script>\n", kPageScripts[s].text);
    policy += " " + PolicyHash(kPageScripts[s]);
  }
  policy += fmt::format("; style-src {}; connect-src {}; base-uri 'none'; form-action 'none'",
                        PolicyHash(kPageCss), live ? "'self'" : "'none'");
  std::string page(kPageHtml.text);
  Replace(page, "@POLICY@", policy);
  Replace(page, "@STYLE@", fmt::format("<style>{}</style>", kPageCss.text));
  // The data last: no mark is looked for in it.
  const std::size_t at = page.find("@DATA@");
  OPO_CHECK(at != std::string::npos);
  return page.substr(0, at) + ScriptSafe(data) + "</script>\n" + scripts +
         page.substr(at + std::string_view("@DATA@").size());
}

}  // namespace opo
