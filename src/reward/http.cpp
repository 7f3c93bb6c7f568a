// The kind "http": a judge behind a URL, asked in OpenRLHF's shape: POST {"query": [prompt and
// completion, ...], "prompts": [...], "labels": [gold answers]} for {"rewards": [...]} (reply.h).
#include <httplib.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/process.h"
#include "format/quote.h"
#include "reward/kinds.h"
#include "reward/reply.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

// The pauses between attempts: these seconds, twice as long each time, up to a limit.
constexpr double kFirstPause = 0.25;
constexpr double kLongestPause = 30;

struct Url {
  std::string server;  // scheme://host:port
  std::string path;
};

// HOST or HOST:PORT, where HOST may be an IPv6 address in brackets.
bool IsAuthority(std::string_view text) {
  const std::size_t bracket = text.rfind(']');
  const std::size_t colon = text.find(':', bracket == std::string_view::npos ? 0 : bracket);
  const std::string_view host = text.substr(0, colon);
  if (host.empty() || text.find_first_of(" \t\r\n@") != std::string_view::npos) return false;
  if (colon == std::string_view::npos) return true;
  const std::string_view port = text.substr(colon + 1);
  return !port.empty() && port.size() <= 5 &&
         port.find_first_not_of("0123456789") == std::string_view::npos;
}

Url SplitUrl(const std::string& url, const std::string& where) {
  const bool known = url.starts_with("http://") || url.starts_with("https://");
  const std::size_t host = known ? url.find("://") + 3 : 0;
  const std::size_t path = std::min(url.find_first_of("/?#", host), url.size());
  if (!known || !IsAuthority(std::string_view(url).substr(host, path - host))) {
    Fail(ErrorCode::kUsage, "{}.url = {}: must be http://HOST:PORT/PATH or https://...", where,
         Quote(url));
  }
  std::string rest = url.substr(path, url.find('#', path) - path);
  if (!rest.starts_with('/')) rest = "/" + rest;
  return {url.substr(0, path), rest};
}

std::string Body(std::span<const RewardQuery> queries) {
  Json body;
  for (const char* name : {"query", "prompts", "labels"}) body[name] = Json::array();
  for (const RewardQuery& query : queries) {
    body["query"].push_back(fmt::format("{}{}", query.prompt, query.completion));
    body["prompts"].push_back(query.prompt);
    body["labels"].push_back(query.problem.answer);
  }
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// One attempt: the answer's body, or what went wrong.
struct Attempt {
  std::string body;
  std::string reason;  // "" where the body is one
  std::string note;
  bool may_pass = false;  // trying again may help
};

class HttpReward final : public Reward {
 public:
  HttpReward(const RewardConfig& config, const Url& url)
      : config_(config), url_(url), client_(url.server) {
    const auto timeout = std::chrono::microseconds(std::llround(config.timeout_s * 1e6));
    client_.set_connection_timeout(timeout);
    client_.set_read_timeout(timeout);
    client_.set_write_timeout(timeout);
    client_.set_keep_alive(true);
  }

  bool is_valid() const { return client_.is_valid(); }

  void Score(std::span<const RewardQuery> queries, std::span<RewardResult> results,
             const ScoredCallback& on_scored) override {
    const auto batch = static_cast<std::size_t>(config_.batch);
    for (std::size_t begin = 0; begin < queries.size(); begin += batch) {
      const std::size_t count = std::min(batch, queries.size() - begin);
      const Attempt attempt = Ask(Body(queries.subspan(begin, count)), count);
      const auto part = results.subspan(begin, count);
      if (attempt.reason.empty()) {
        ReadHttpReply(attempt.body, part);
      } else {
        std::fill(part.begin(), part.end(), RewardError(attempt.reason, attempt.note));
      }
      for (std::size_t i = begin; i < begin + count; ++i) on_scored(i);
    }
  }

 private:
  Attempt Ask(const std::string& body, std::size_t count) {
    double pause = kFirstPause;
    for (idx retry = 0;; ++retry) {
      Attempt attempt = Post(body, static_cast<std::size_t>(config_.output_kb) * 1024 * count);
      if (attempt.reason.empty() || !attempt.may_pass || retry == config_.retries) {
        if (retry > 0) attempt.note += fmt::format(", in the last of {} attempts", retry + 1);
        return attempt;
      }
      std::this_thread::sleep_for(std::chrono::duration<double>(pause));
      pause = std::min(2 * pause, kLongestPause);
    }
  }

  Attempt Post(const std::string& body, std::size_t most_bytes) {
    const SigpipeBlock block;
    const double deadline = Seconds() + config_.timeout_s;
    Attempt attempt;
    bool too_large = false;
    httplib::Request request;
    request.method = "POST";
    request.path = url_.path;
    request.set_header("Content-Type", "application/json");
    request.body = body;
    request.content_receiver = [&](const char* data, std::size_t size, std::uint64_t,
                                   std::uint64_t) {
      too_large = attempt.body.size() + size > most_bytes;
      if (!too_large) attempt.body.append(data, size);
      return !too_large && Seconds() < deadline;
    };
    const httplib::Result result = client_.send(request);
    attempt.may_pass = true;
    if (too_large) {
      attempt.reason = "output";
      attempt.note = fmt::format("{}: more than {} bytes", config_.url, most_bytes);
      attempt.may_pass = false;
    } else if (!result && Seconds() >= deadline) {
      attempt.reason = "timeout";
      attempt.note = fmt::format("{}: no answer within {} s", config_.url, config_.timeout_s);
    } else if (!result) {
      attempt.reason = "http";
      attempt.note = fmt::format("{}: {}", config_.url, httplib::to_string(result.error()));
    } else if (result->status != 200) {
      attempt.reason = "http";
      attempt.note =
          fmt::format("{}: status {}, {}", config_.url, result->status, Quote(attempt.body));
      attempt.may_pass = result->status >= 500 || result->status == 429;
    }
    return attempt;
  }

  const RewardConfig config_;
  const Url url_;
  httplib::Client client_;
};

}  // namespace

std::unique_ptr<Reward> MakeHttpReward(const RewardConfig& config, const std::string& where) {
  if (config.url.empty()) {
    Fail(ErrorCode::kUsage,
         "{}.url: is missing; give the judge's, e.g. http://localhost:5000/score", where);
  }
  auto reward = std::make_unique<HttpReward>(config, SplitUrl(config.url, where));
  if (!reward->is_valid()) {
    Fail(ErrorCode::kUsage, "{}.url = {}: is no URL that can be asked", where, Quote(config.url));
  }
  return reward;
}

}  // namespace opo
