#include "reward/reply.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "format/quote.h"
#include "reward/kinds.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxDepth = 16;           // of an answer
constexpr std::size_t kMaxLogged = 64;  // numbers of one answer
constexpr std::size_t kLongestName = 64;

RewardResult Garbage(std::string note) { return RewardError("garbage", std::move(note)); }

// A number or a truth value; no value where it is neither, or not finite.
std::optional<double> Number(const Json& value) {
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  if (!value.is_number()) return std::nullopt;
  const auto number = value.get<double>();
  if (!std::isfinite(number)) return std::nullopt;
  return number;
}

// Null is a skip.
RewardResult FromScore(const Json& score) {
  if (score.is_null()) return {Verdict::kSkipped, 0, "the judge skipped it", {}, {}};
  const std::optional<double> number = Number(score);
  if (!number) return Garbage("no number as score: " + Quote(score.dump(-1, ' ', true)));
  if (std::abs(*number) > kLargestScore) {
    return Garbage(fmt::format("a score beyond {}: {}", kLargestScore, *number));
  }
  return Scored(*number, "");
}

// The name stands in metrics: short, printable ASCII.
bool IsName(std::string_view name) {
  if (name.empty() || name.size() > kLongestName) return false;
  for (const char c : name) {
    if (c <= ' ' || c > '~') return false;
  }
  return true;
}

bool Log(RewardResult& result, const std::string& name, double value) {
  if (!IsName(name) || result.logged.size() >= kMaxLogged) return false;
  result.logged.emplace_back(name, value);
  return true;
}

RewardResult FromObject(const Json& reply, idx id) {
  const auto echo = reply.find("id");
  if (echo != reply.end() && *echo != Json(id)) {
    return Garbage(fmt::format("an answer to the request {}, but this one is {}",
                               Quote(echo->dump(-1, ' ', true)), id));
  }
  const auto error = reply.find("error");
  if (error != reply.end() && !error->is_null()) {
    return RewardError("program", error->is_string() ? error->get<std::string>() : error->dump());
  }
  const auto score = reply.find("score");
  if (score == reply.end()) return Garbage("an object without \"score\"");
  RewardResult result = FromScore(*score);
  if (result.verdict == Verdict::kError) return result;
  for (const auto& [name, value] : reply.items()) {
    if (name == "id" || name == "score") continue;
    if (value.is_string()) {
      result.note += (result.note.empty() ? "" : ", ") + name + " " +
                     Excerpt(value.get_ref<const std::string&>());
    } else if (value.is_boolean() || value.is_number()) {
      const std::optional<double> number = Number(value);
      if (!number || !Log(result, name, *number)) {
        return Garbage("a number that cannot be logged: " + Quote(name));
      }
    }
  }
  return result;
}

// One of "rewards", "scores" or a list of extra_logs, of the right length; else says what is wrong.
std::string FaultOfList(const Json& list, const char* name, std::size_t count) {
  if (!list.is_array()) return fmt::format("\"{}\" is no list", name);
  if (list.size() != count) {
    return fmt::format("\"{}\" has {} entries for {} queries", name, list.size(), count);
  }
  return "";
}

// Adds a list of further numbers; null entries are left out.
std::string LogList(const Json& list, const std::string& name, std::span<RewardResult> results) {
  if (std::string fault = FaultOfList(list, name.c_str(), results.size()); !fault.empty()) {
    return fault;
  }
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (list[i].is_null()) continue;
    const std::optional<double> number = Number(list[i]);
    if (!number || !Log(results[i], name, *number)) {
      return fmt::format("{}[{}] cannot be logged", Quote(name), i);
    }
  }
  return "";
}

std::string LogExtra(const Json& logs, std::span<RewardResult> results) {
  if (!logs.is_object()) return "\"extra_logs\" is no object";
  for (const auto& [name, value] : logs.items()) {
    // One number stands for the whole batch.
    const Json list = value.is_array() ? value : Json(results.size(), value);
    if (std::string fault = LogList(list, name, results); !fault.empty()) return fault;
  }
  return "";
}

// Fills the results, or says what is wrong with the whole.
std::string FromBody(const Json& body, std::span<RewardResult> results) {
  const bool bare = body.is_array();
  if (!bare && !(body.is_object() && body.contains("rewards"))) {
    return "an answer without \"rewards\"";
  }
  const Json& rewards = bare ? body : body["rewards"];
  if (std::string fault = FaultOfList(rewards, "rewards", results.size()); !fault.empty()) {
    return fault;
  }
  for (std::size_t i = 0; i < results.size(); ++i) results[i] = FromScore(rewards[i]);
  if (bare) return "";
  const auto scores = body.find("scores");
  if (scores != body.end() && !scores->is_null()) {
    if (std::string fault = LogList(*scores, "score", results); !fault.empty()) return fault;
  }
  const auto logs = body.find("extra_logs");
  return logs == body.end() || logs->is_null() ? "" : LogExtra(*logs, results);
}

}  // namespace

RewardResult ReadProgramReply(std::string_view line, idx id) {
  std::string fault;
  const std::optional<Json> reply = TryParseJson<Json>(line, fault, kMaxDepth);
  if (!reply) return Garbage(fault + ": " + Quote(line));
  return reply->is_object() ? FromObject(*reply, id) : FromScore(*reply);
}

void ReadHttpReply(std::string_view body, std::span<RewardResult> results) {
  std::string fault;
  const std::optional<Json> reply = TryParseJson<Json>(body, fault, kMaxDepth);
  if (reply) {
    fault = FromBody(*reply, results);
    if (fault.empty()) return;
  } else {
    fault += ": " + Quote(body);
  }
  for (RewardResult& result : results) result = Garbage(fault);
}

}  // namespace opo
