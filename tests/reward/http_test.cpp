// The kind "http" against servers that behave and that do not.
#include <httplib.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <mutex>
#include <thread>

#include "base/process.h"
#include "format/expect_error.h"
#include "reward/ask.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

// A server on a free port, with one handler for POST /score; it counts and keeps what it is asked.
class JudgeServer {
 public:
  using Handler = std::function<void(const Json& asked, int request, httplib::Response& response)>;

  explicit JudgeServer(Handler handler) {
    server_.Post("/score",
                 [this, handler](const httplib::Request& request, httplib::Response& response) {
                   const int number = requests++;
                   const Json asked = Json::parse(request.body);
                   {
                     const std::lock_guard lock(mutex_);
                     asked_.push_back(asked);
                   }
                   handler(asked, number, response);
                 });
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
  }
  ~JudgeServer() {
    server_.stop();
    thread_.join();
  }

  RewardConfig Config() const {
    RewardConfig config;
    config.kind = "http";
    config.url = "http://127.0.0.1:" + std::to_string(port_) + "/score";
    config.timeout_s = 20;
    return config;
  }
  std::vector<Json> asked() {
    const std::lock_guard lock(mutex_);
    return asked_;
  }

  std::atomic<int> requests = 0;

 private:
  httplib::Server server_;
  std::thread thread_;
  std::mutex mutex_;
  std::vector<Json> asked_;
  int port_ = 0;
};

void Answer(httplib::Response& response, const std::string& body) {
  response.set_content(body, "application/json");
}

std::vector<RewardResult> AskHttp(const RewardConfig& config,
                                  const std::vector<std::string>& completions) {
  return AskAll(*MakeHttpReward(config, "reward.0"), WithAnswer("42"), completions);
}

void ExpectError(const RewardResult& result, const std::string& reason, const std::string& note) {
  EXPECT_EQ(result.verdict, Verdict::kError);
  EXPECT_EQ(result.reason, reason) << result.note;
  EXPECT_NE(result.note.find(note), std::string::npos) << result.note;
}

TEST(Http, AsksInBatchesOfOpenRlhfsShape) {
  JudgeServer server([](const Json& asked, int, httplib::Response& response) {
    Json rewards;
    for (const Json& query : asked["query"]) {
      const std::string text = query.get<std::string>();
      rewards.push_back(text.back() == 'x' ? Json() : Json(text.back() - '0'));
    }
    Answer(response, Json{{"rewards", rewards}}.dump());
  });
  RewardConfig config = server.Config();
  config.batch = 3;
  const auto results = AskHttp(config, {"0", "1", "x", "3", "4", "a\xff 5", "6"});
  for (std::size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].verdict, i == 2 ? Verdict::kSkipped : Verdict::kScored);
    EXPECT_EQ(results[i].value, i == 2 ? 0 : static_cast<double>(i));
  }
  const auto asked = server.asked();
  ASSERT_EQ(asked.size(), 3U);
  EXPECT_EQ(asked[0], Json::parse(R"({
    "query": ["<user>What?0", "<user>What?1", "<user>What?x"],
    "prompts": ["<user>What?", "<user>What?", "<user>What?"],
    "labels": ["42", "42", "42"]})"));
  EXPECT_EQ(asked[1]["query"][2], "<user>What?a\xef\xbf\xbd 5");
  EXPECT_EQ(asked[2]["query"].size(), 1U);
}

TEST(Http, FurtherNumbersAreLogged) {
  JudgeServer server([](const Json&, int, httplib::Response& response) {
    Answer(response, R"({"rewards": [1, 0.5], "scores": [0.25, null], "info": "ignored",
                         "extra_logs": {"length": [10, 20], "version": 3}})");
  });
  const auto results = AskHttp(server.Config(), {"a", "b"});
  using Logged = std::vector<std::pair<std::string, double>>;
  EXPECT_EQ(results[0].value, 1);
  EXPECT_EQ(results[0].logged, (Logged{{"score", 0.25}, {"length", 10}, {"version", 3}}));
  EXPECT_EQ(results[1].value, 0.5);
  EXPECT_EQ(results[1].logged, (Logged{{"length", 20}, {"version", 3}}));
}

TEST(Http, TriesAgainWhereThatMayHelp) {
  for (const int status : {500, 503, 429}) {
    JudgeServer server([&](const Json&, int request, httplib::Response& response) {
      if (request < 2) {
        response.status = status;
      } else {
        Answer(response, R"({"rewards": [1]})");
      }
    });
    EXPECT_EQ(AskHttp(server.Config(), {"a"})[0].value, 1);
    EXPECT_EQ(server.requests, 3);
  }
  JudgeServer server([](const Json&, int, httplib::Response& response) {
    response.status = 500;
    response.set_content("out of order", "text/plain");
  });
  RewardConfig config = server.Config();
  config.retries = 1;
  const auto results = AskHttp(config, {"a", "b"});
  for (const RewardResult& result : results) {
    ExpectError(result, "http", "status 500, 'out of order', in the last of 2 attempts");
  }
  EXPECT_EQ(server.requests, 2);
}

TEST(Http, ARefusalIsFinal) {
  for (const int status : {400, 401, 404, 301, 204}) {
    JudgeServer server([&](const Json&, int, httplib::Response& response) {
      response.status = status;
      if (status == 301) response.set_header("Location", "/elsewhere");
    });
    ExpectError(AskHttp(server.Config(), {"a"})[0], "http", "status " + std::to_string(status));
    EXPECT_EQ(server.requests, 1);
  }
}

TEST(Http, ASlowJudgeIsATimeout) {
  std::atomic<bool> stop = false;
  JudgeServer server([&](const Json&, int, httplib::Response& response) {
    while (!stop) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    Answer(response, R"({"rewards": [1]})");
  });
  RewardConfig config = server.Config();
  config.timeout_s = 0.5;
  config.retries = 0;
  ExpectError(AskHttp(config, {"a"})[0], "timeout", "no answer within 0.5 s");
  stop = true;
}

// Each byte comes in time, the whole never.
TEST(Http, ADrippingJudgeIsATimeout) {
  std::atomic<bool> stop = false;
  JudgeServer server([&](const Json&, int, httplib::Response& response) {
    response.set_chunked_content_provider(
        "application/json", [&](std::size_t, httplib::DataSink& sink) {
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
          if (stop) sink.done();
          return sink.write(" ", 1);
        });
  });
  RewardConfig config = server.Config();
  config.timeout_s = 0.5;
  config.retries = 0;
  ExpectError(AskHttp(config, {"a"})[0], "timeout", "no answer within 0.5 s");
  stop = true;
}

TEST(Http, ATooLargeAnswerIsStopped) {
  JudgeServer server([](const Json&, int, httplib::Response& response) {
    response.set_content_provider(std::size_t{1} << 30, "application/json",
                                  [](std::size_t, std::size_t size, httplib::DataSink& sink) {
                                    const std::string part(std::min<std::size_t>(size, 1 << 16),
                                                           ' ');
                                    return sink.write(part.data(), part.size());
                                  });
  });
  RewardConfig config = server.Config();
  config.output_kb = 10;
  ExpectError(AskHttp(config, {"a", "b"})[0], "output", "more than 20480 bytes");
}

TEST(Http, WhatIsNoAnswerIsGarbage) {
  const struct {
    const char* body;
    const char* note;
  } cases[] = {
      {"", "not JSON"},
      {"<html>", "not JSON: '<html>'"},
      {"{}", "without \"rewards\""},
      {"1", "without \"rewards\""},
      {R"({"rewards": 1})", "no list"},
      {R"({"rewards": [1]})", "1 entries for 2"},
      {R"({"rewards": [1, 2, 3]})", "3 entries for 2"},
      {R"({"rewards": ["1", "2"]})", "no number"},
      {R"({"rewards": [1e300, 1e300]})", "beyond"},
      {R"({"rewards": [NaN, NaN]})", "not JSON"},
      {R"({"rewards": [1, 2], "scores": [1]})", "\"scores\" has 1 entries"},
      {R"({"rewards": [1, 2], "extra_logs": [1]})", "no object"},
      {R"({"rewards": [1, 2], "extra_logs": {"a": "b"}})", "cannot be logged"},
      {R"({"rewards": [1, 2], "extra_logs": {"a": [1]}})", "\"a\" has 1 entries"},
  };
  for (const auto& c : cases) {
    JudgeServer server(
        [&](const Json&, int, httplib::Response& response) { Answer(response, c.body); });
    const auto results = AskHttp(server.Config(), {"a", "b"});
    const std::string note =
        std::string(c.note) == "\"scores\" has 1 entries" ? "1 entries" : c.note;
    for (const RewardResult& result : results) ExpectError(result, "garbage", note);
    EXPECT_EQ(server.requests, 1) << "asked again";
  }
  // A bad number is the error of its answer alone.
  JudgeServer server([](const Json&, int, httplib::Response& response) {
    Answer(response, R"({"rewards": [1, "2"]})");
  });
  const auto results = AskHttp(server.Config(), {"a", "b"});
  EXPECT_EQ(results[0].value, 1);
  ExpectError(results[1], "garbage", "no number");
}

// A port that was free a moment ago.
TEST(Http, NobodyThereIsAnError) {
  RewardConfig config = [] {
    return JudgeServer([](const Json&, int, httplib::Response&) {}).Config();
  }();
  config.retries = 1;
  ExpectError(AskHttp(config, {"a"})[0], "http", "Connection, in the last of 2 attempts");
}

TEST(Http, AJudgeThatReturnsIsFound) {
  httplib::Server server;
  server.Post("/score", [](const httplib::Request&, httplib::Response& response) {
    Answer(response, R"({"rewards": [1]})");
  });
  const int port = server.bind_to_any_port("127.0.0.1");
  // Bound and not listening for now: the first attempts wait or fail.
  std::thread late([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    server.listen_after_bind();
  });
  RewardConfig config;
  config.kind = "http";
  config.url = "http://127.0.0.1:" + std::to_string(port) + "/score";
  EXPECT_EQ(AskHttp(config, {"a"})[0].value, 1);
  server.stop();
  late.join();
}

TEST(Http, TheExampleIsAJudge) {
  ProcessSpec spec;
  spec.argv = {"python3", std::string(OPO_SOURCE_DIR) + "/examples/rewards/server.py", "0"};
  spec.environment = CleanEnvironment();
  Process judge(spec);
  std::string url;
  const double deadline = Seconds() + 60;
  while (!url.ends_with("\n") && Seconds() < deadline) ASSERT_TRUE(judge.Read(url, 1000));
  url.pop_back();
  RewardConfig config;
  config.kind = "http";
  config.url = url;
  config.batch = 2;
  const auto results = AskHttp(config, {"It is 42.", "43", "none"});
  EXPECT_EQ(results[0].value, 1);
  EXPECT_EQ(results[1].value, 0);
  EXPECT_EQ(results[2].value, 0);
  EXPECT_EQ(results[2].logged[0], (std::pair<std::string, double>("characters", 4)));
}

// A key and a certificate for 127.0.0.1, signed by itself.
struct Identity {
  EVP_PKEY* key = EVP_RSA_gen(2048);
  X509* certificate = X509_new();

  Identity() {
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    X509_NAME* name = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>("127.0.0.1"), -1, -1, 0);
    X509_set_issuer_name(certificate, name);
    X509_EXTENSION* alternative =
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
    X509_add_ext(certificate, alternative, -1);
    X509_EXTENSION_free(alternative);
    X509_sign(certificate, key, EVP_sha256());
  }
  ~Identity() {
    X509_free(certificate);
    EVP_PKEY_free(key);
  }
};

TEST(Http, ServersAreTrustedAsTheSystemTrustsThem) {
  const Identity identity;
  httplib::SSLServer server(identity.certificate, identity.key);
  server.Post("/score", [](const httplib::Request&, httplib::Response& response) {
    Answer(response, R"({"rewards": [1]})");
  });
  const int port = server.bind_to_any_port("127.0.0.1");
  std::thread thread([&] { server.listen_after_bind(); });
  RewardConfig config;
  config.kind = "http";
  config.url = "https://127.0.0.1:" + std::to_string(port) + "/score";
  config.retries = 0;
  ExpectError(AskHttp(config, {"a"})[0], "http", "SSL");

  const std::string file =
      (std::filesystem::temp_directory_path() / ("opo_http_" + std::to_string(getpid()))).string();
  FILE* out = std::fopen(file.c_str(), "w");
  PEM_write_X509(out, identity.certificate);
  std::fclose(out);
  setenv("SSL_CERT_FILE", file.c_str(), 1);  // OpenSSL's list of whom to trust
  const RewardResult result = AskHttp(config, {"a"})[0];
  EXPECT_EQ(result.value, 1) << result.note;
  unsetenv("SSL_CERT_FILE");
  std::filesystem::remove(file);
  server.stop();
  thread.join();
}

TEST(Http, UrlsAreChecked) {
  for (const char* url :
       {"", "localhost:5000", "ftp://x/", "http://", "http:///score", "http://user@host/",
        "http://a b/", "http://host:port/x", "http://host:/x"}) {
    RewardConfig config;
    config.kind = "http";
    config.url = url;
    ExpectError(ErrorCode::kUsage, [&] { MakeHttpReward(config, "reward.0"); }, {"reward.0.url"});
  }
}

}  // namespace
}  // namespace opo
