// The server of a report: what it answers, and whom.
#include "report/serve.h"

#include <gtest/gtest.h>
#include <httplib.h>

#include "app/program.h"
#include "base/error.h"

namespace opo {
namespace {

using json = nlohmann::json;

class Serve : public testing::Test {
 protected:
  Serve() {
    std::filesystem::create_directories(scratch_ / "run");
    Step(1);
  }
  void Step(int step) {
    std::ofstream(scratch_ / "run/metrics.jsonl", std::ios::app)
        << "{\"training/global_step\":" << step << ",\"critic/score/mean\":0.5}\n";
  }
  ScratchFolder scratch_;
};

TEST_F(Serve, AnswersTwoPathsToItsOwnAddressOnly) {
  const ReportServer server({scratch_ / "run"}, 0);
  ASSERT_GT(server.port(), 0);
  httplib::Client client("127.0.0.1", server.port());
  const auto page = client.Get("/");
  ASSERT_TRUE(page);
  EXPECT_EQ(page->status, 200);
  EXPECT_NE(page->body.find("<title>opo report</title>"), std::string::npos);
  EXPECT_NE(page->body.find("connect-src 'self'"), std::string::npos);
  EXPECT_EQ(page->get_header_value("X-Content-Type-Options"), "nosniff");
  EXPECT_FALSE(page->has_header("Access-Control-Allow-Origin"));
  const auto twin = client.Get("/report.json");
  ASSERT_TRUE(twin);
  EXPECT_EQ(json::parse(twin->body)["runs"][0]["steps"], json({1}));

  for (const char* path : {"/etc/passwd", "/../metrics.jsonl", "/metrics.jsonl", "/report.html"}) {
    const auto other = client.Get(path);
    ASSERT_TRUE(other) << path;
    EXPECT_EQ(other->status, 404) << path;
  }
  EXPECT_EQ(client.Post("/", "x", "text/plain")->status, 405);
  EXPECT_EQ(client.Delete("/")->status, 405);
  EXPECT_EQ(client.Options("/")->status, 405);
  // A name of another site that points here.
  const std::string port = std::to_string(server.port());
  for (const std::string& host :
       {std::string("evil.example"), "evil.example:" + port, "127.0.0.1:" + port + ".evil.example",
        std::string("127.0.0.1"), std::string()}) {
    const auto refused = client.Get("/report.json", {{"Host", host}});
    ASSERT_TRUE(refused) << host;
    EXPECT_EQ(refused->status, 403) << host;
    EXPECT_EQ(refused->body.find("runs"), std::string::npos);
  }
  EXPECT_EQ(client.Get("/report.json", {{"Host", "localhost:" + port}})->status, 200);
}

TEST_F(Serve, SaysWhetherTheRunHasGoneOn) {
  const ReportServer server({scratch_ / "run"}, 0);
  httplib::Client client("127.0.0.1", server.port());
  const std::string tag = client.Get("/report.json")->get_header_value("ETag");
  EXPECT_EQ(client.Get("/report.json", {{"If-None-Match", tag}})->status, 304);
  Step(2);
  const auto changed = client.Get("/report.json", {{"If-None-Match", tag}});
  EXPECT_EQ(changed->status, 200);
  EXPECT_NE(changed->get_header_value("ETag"), tag);
  EXPECT_EQ(json::parse(changed->body)["runs"][0]["steps"], json({1, 2}));
  // What was there is kept while the files cannot be read.
  std::filesystem::remove(scratch_ / "run/metrics.jsonl");
  EXPECT_EQ(client.Get("/")->status, 200);
}

TEST_F(Serve, RefusesWhatIsNoReportAndPortsThatAreTaken) {
  EXPECT_THROW(ReportServer({scratch_ / "absent"}, 0), Error);
  const ReportServer server({scratch_ / "run"}, 0);
  EXPECT_THROW(ReportServer({scratch_ / "run"}, server.port()), Error);
}

TEST_F(Serve, TheProgramPrintsItsAddressAndEndsOnASignal) {
  RunningProgram program({"serve", scratch_ / "run"});
  std::string url;
  for (int i = 0; i < 600 && !url.ends_with("/\n"); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    url = program.out();
  }
  ASSERT_TRUE(url.starts_with("http://127.0.0.1:")) << url << program.err();
  httplib::Client client(url.substr(0, url.size() - 2));
  const auto page = client.Get("/");
  ASSERT_TRUE(page);
  EXPECT_EQ(page->status, 200);
  program.Signal(SIGINT);
  EXPECT_EQ(program.Wait().exit_code, 0);
}

TEST_F(Serve, ReportWritesThePageAndItsTwin) {
  const std::string out = scratch_ / "page.html";
  const ProgramResult result = RunProgram({"report", scratch_ / "run", "-o", out});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.last_line()["runs"], 1);
  EXPECT_TRUE(std::filesystem::exists(out));
  EXPECT_EQ(json::parse(ReadText(scratch_ / "page.json"))["runs"][0]["summary"]["steps"], 1);
  EXPECT_EQ(RunProgram({"report", scratch_ / "absent", "-o", out}).exit_code, 3);
  EXPECT_EQ(RunProgram({"report", scratch_ / "run", "-o", scratch_ / "x.json"}).exit_code, 2);
}

}  // namespace
}  // namespace opo
