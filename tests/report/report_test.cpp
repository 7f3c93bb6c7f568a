// What is read, what is left out, and what stands in the page.
#include "report/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "app/program.h"
#include "base/error.h"

namespace opo {
namespace {

using json = nlohmann::json;

class ReportTest : public testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& content) {
    const std::string path = scratch_ / name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  static std::string Line(int step, double reward) {
    return fmt::format(
        "{{\"training/global_step\":{},\"critic/score/mean\":{},\"exact/compared_tokens\":10,"
        "\"exact/mismatched_tokens\":0,\"exact/weights_digest\":\"d{}\"}}\n",
        step, reward, step);
  }
  std::string Dir() { return scratch_ / "run"; }
  ScratchFolder scratch_;
};

TEST_F(ReportTest, SumsUpARun) {
  Write("run/metrics.jsonl", Line(1, 0.25) + Line(2, 0.75) + Line(3, 0.5));
  Write("run/config.toml", "# why\n[train]\n# lr\nlr = 0.5\n\n[[reward]]\nkind = \"math\"\n");
  Write("run/manifest.json", "{\"initial_weights_digest\":\"w0\"}");
  const Report report = ReadReport({Dir() + "/"});
  ASSERT_EQ(report.runs.size(), 1U);
  EXPECT_TRUE(report.notices.empty());
  const ReportJson& run = report.runs[0];
  EXPECT_EQ(run["name"], "run");
  const ReportJson& reward = run["summary"]["reward"];
  EXPECT_EQ(reward["first"], 0.25);
  EXPECT_EQ(reward["last"], 0.5);
  EXPECT_EQ(reward["max"], 0.75);
  EXPECT_EQ(reward["max_step"], 2);
  EXPECT_EQ(run["summary"]["exactness"]["state"], "exact");
  EXPECT_EQ(run["summary"]["exactness"]["compared_tokens"], 30);
  EXPECT_EQ(run["digests"]["exact/weights_digest"], "d3");
  EXPECT_EQ(run["digests"]["initial_weights_digest"], "w0");
  EXPECT_EQ(run["settings"]["train.lr"], "0.5");
  EXPECT_EQ(run["settings"]["reward.0.kind"], "\"math\"");
  EXPECT_EQ(run["metrics"]["critic/score/mean"], ReportJson({0.25, 0.75, 0.5}));
}

TEST_F(ReportTest, AReliabilityCurveIsReadOrLeftOutAndTold) {
  Write("run/metrics.jsonl", Line(1, 0.25));
  EXPECT_TRUE(ReadReport({Dir()}).runs[0]["calibration"].is_null());
  const std::string bin =
      "{\"low\":0.5,\"high\":0.75,\"pairs\":3,\"confidence\":0.6,\"accuracy\":0.5}";
  const auto curve = [](const std::string& bins) {
    return "{\"step\":1,\"error\":0.1,\"best_scale\":2,\"bins\":" + bins + "}";
  };
  Write("run/calibration.json", curve("[" + bin + "]"));
  const Report report = ReadReport({Dir()});
  EXPECT_TRUE(report.notices.empty());
  EXPECT_EQ(report.runs[0]["calibration"]["bins"][0]["accuracy"], 0.5);
  for (const std::string& bad : {std::string("[1]"), std::string("{\"bins\":[]}"), std::string("{"),
                                 curve("7"), curve("[[]]"), curve("[{\"low\":\"<script>\"}]")}) {
    Write("run/calibration.json", bad);
    const Report left = ReadReport({Dir()});
    EXPECT_TRUE(left.runs[0]["calibration"].is_null()) << bad;
    ASSERT_EQ(left.notices.size(), 1U) << bad;
    EXPECT_NE(left.notices[0].find("calibration.json: left out: "), std::string::npos);
  }
}

TEST_F(ReportTest, SaysWhatExactnessIsWorth) {
  Write("run/metrics.jsonl",
        "{\"training/global_step\":1,\"exact/compared_tokens\":5,\"exact/mismatched_tokens\":1}\n");
  EXPECT_EQ(ReadReport({Dir()}).runs[0]["summary"]["exactness"]["state"], "broken");
  Write("run/metrics.jsonl", "{\"training/global_step\":1,\"critic/score/mean\":1}\n");
  EXPECT_EQ(ReadReport({Dir()}).runs[0]["summary"]["exactness"]["state"], "unmeasured");
  // What was compared is each batch's first update: the other three were off policy.
  Write(
      "run/metrics.jsonl",
      "{\"training/global_step\":1,\"exact/compared_tokens\":5,\"training/optimizer_steps\":4}\n");
  EXPECT_EQ(ReadReport({Dir()}).runs[0]["summary"]["exactness"]["state"], "off_policy");
}

TEST_F(ReportTest, TornAndForeignLinesAreLeftOutAndTold) {
  Write("run/metrics.jsonl", Line(1, 0.5) + "no json\n" + "[1]\n" + Line(1, 0.9) + Line(4, 0.75) +
                                 "{\"training/global_step\":5,\"critic");
  Write("run/samples.jsonl",
        "{\"training/global_step\":1,\"output\":\"a\"}\n{\"output\":\"no step\"}\n");
  const Report report = ReadReport({Dir()});
  EXPECT_EQ(report.runs[0]["steps"], ReportJson({1, 4}));
  ASSERT_EQ(report.notices.size(), 3U);
  EXPECT_NE(report.notices[0].find("4 lines were left out, the first is line 2: not JSON"),
            std::string::npos)
      << report.notices[0];
  EXPECT_NE(report.notices[1].find("2 of the steps 1 to 4 are missing"), std::string::npos)
      << report.notices[1];
  EXPECT_NE(report.notices[2].find("samples.jsonl: 1 line was left out"), std::string::npos)
      << report.notices[2];
  // And the page says so.
  EXPECT_NE(ReportPage(report).find("4 lines were left out"), std::string::npos);
}

TEST_F(ReportTest, MetricsThatComeLaterStandAtTheirSteps) {
  Write("run/metrics.jsonl",
        "{\"training/global_step\":1,\"a\":1,\"t\":\"x\"}\n"
        "{\"training/global_step\":2,\"b\":null,\"c\":2}\n"
        "{\"training/global_step\":3,\"a\":3,\"t\":4}\n");
  const ReportJson run = ReadReport({Dir()}).runs[0];
  EXPECT_EQ(run["metrics"]["a"].dump(), "[1,null,3]");
  EXPECT_EQ(run["metrics"]["b"].dump(), "[null,null,null]");
  EXPECT_EQ(run["metrics"]["c"].dump(), "[null,2,null]");
  EXPECT_EQ(run["metrics"]["t"].dump(), "[null,null,4]");
  EXPECT_EQ(run["texts"]["t"].dump(), "[\"x\",null,null]");
}

TEST_F(ReportTest, RolloutsAreThinnedOutToWhatAPageHolds) {
  std::string metrics, samples;
  for (int step = 1; step <= 500; ++step) {
    metrics += Line(step, step == 333 ? 1.0 : 0.5);
    samples += fmt::format("{{\"training/global_step\":{},\"step\":{},\"output\":\"answer {}\"}}\n",
                           step, step, step);
  }
  Write("run/metrics.jsonl", metrics);
  Write("run/samples.jsonl", samples);
  const ReportJson rollouts = ReadReport({Dir()}).rollouts[0];
  EXPECT_EQ(rollouts["steps"], 500);
  const std::vector<int> shown = rollouts["shown"];
  EXPECT_EQ(shown.size(), kPageRolloutSteps + 1);  // and the best
  EXPECT_EQ(shown.front(), 1);
  EXPECT_EQ(shown.back(), 500);
  EXPECT_EQ(std::count(shown.begin(), shown.end(), 333), 1);
  EXPECT_EQ(rollouts["lines"][0][0]["output"], "answer 1");
  // A budget of a few lines.
  ReportJson few;
  std::vector<std::string> notices;
  ReadRun(Dir(), 200, &few, notices);
  EXPECT_LE(few["shown"].size(), 4U);
  EXPECT_GE(few["shown"].size(), 1U);
}

TEST(Thinned, KeepsEndsAndExtremesInOrder) {
  std::vector<double> values(10000, 0.0);
  values[1234] = 5;
  values[1235] = -5;
  values[7000] = std::numeric_limits<double>::quiet_NaN();
  const std::vector<std::size_t> kept = Thinned(values, 200);
  EXPECT_LE(kept.size(), 200U);
  EXPECT_EQ(kept.front(), 0U);
  EXPECT_EQ(kept.back(), 9999U);
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
  EXPECT_EQ(std::adjacent_find(kept.begin(), kept.end()), kept.end());
  for (const std::size_t at : {1234, 1235}) {
    EXPECT_EQ(std::count(kept.begin(), kept.end(), at), 1) << at;
  }
  EXPECT_EQ(Thinned({1, 2, 3}, 200).size(), 3U);
}

TEST(ScriptSafe, IsAsciiWithoutMarkupAndReadsBackTheSame) {
  const std::string hostile =
      std::string("</script><!--<script>&\"'\\ \xE2\x80\xA8\xE2\x80\xAE\x01") + '\0' +
      "\xE6\x95\xB0";
  const std::string text = ScriptSafe(ReportJson{{hostile, hostile}});
  for (const char c : text) {
    EXPECT_TRUE(c >= 0x20 && c < 0x7F && c != '<' && c != '>' && c != '&') << static_cast<int>(c);
  }
  EXPECT_EQ(ReportJson::parse(text)[hostile], hostile);
  // What is no UTF-8 is replaced.
  EXPECT_EQ(ScriptSafe(ReportJson("a\xFFz")), "\"a\\ufffdz\"");
}

TEST_F(ReportTest, ComparisonsBringTheirCurvesAndReadNothingElse) {
  Write("cmp/a/1/metrics.jsonl", Line(1, 0.5));
  Write("secret/metrics.jsonl", Line(1, 0.5));
  Write("cmp/compare.json",
        R"({"schema":1,"title":"t","arms":[{"name":"a"},7],"columns":[],"cells":{},
            "curves":{"a":{"1":"a/1/metrics.jsonl","2":"../secret/metrics.jsonl","3":"/etc/passwd",
                           "4":"missing/metrics.jsonl","5":5}}})");
  const Report report = ReadReport({scratch_ / "cmp"});
  ASSERT_EQ(report.runs.size(), 1U);
  EXPECT_EQ(report.runs[0]["arm"], "a");
  EXPECT_EQ(report.runs[0]["seed"], "1");
  ASSERT_EQ(report.compare.size(), 1U);
  EXPECT_EQ(report.compare[0]["arms"].size(), 1U);
  EXPECT_EQ(report.notices.size(), 5U);
}

TEST_F(ReportTest, WhatIsNoReportIsRefusedByName) {
  const auto fails = [](const std::string& path, const std::string& with) {
    try {
      ReadReport({path});
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInput);
      EXPECT_NE(std::string(error.what()).find(with), std::string::npos) << error.what();
    }
  };
  fails(scratch_ / "absent", "no such file or folder");
  fails(scratch_ / "", "nothing to report");
  fails(Write("other.json", "{\"a\":1}"), "not a file that a report knows");
  fails(Write("torn.json", "{\"a\":"), "not valid JSON");
  fails(Write("deep.json", std::string(100, '[') + std::string(100, ']')), "nested deeper");
}

TEST_F(ReportTest, TheTwinHasEveryStep) {
  std::string metrics;
  for (int step = 1; step <= 3000; ++step) metrics += Line(step, step / 3000.0);
  Write("run/metrics.jsonl", metrics);
  const Report report = ReadReport({Dir()});
  const ReportJson twin = ReportTwin(report);
  EXPECT_EQ(twin["schema"], 1);
  EXPECT_EQ(twin["runs"][0]["metrics"]["critic/score/mean"].size(), 3000U);
  EXPECT_EQ(twin["runs"][0]["texts"]["exact/weights_digest"][2999], "d3000");
  const std::string page = ReportPage(report);
  const std::string mark = "id=\"data\">";
  const std::size_t begin = page.find(mark) + mark.size();
  const ReportJson data =
      ReportJson::parse(page.substr(begin, page.find("</script>", begin) - begin));
  const ReportJson& series = data["runs"][0]["metrics"]["critic/score/mean"];
  EXPECT_LE(series["v"].size(), kPagePoints);
  EXPECT_EQ(series["at"].size(), series["v"].size());
  EXPECT_EQ(series["v"].back(), 1.0);
}

}  // namespace
}  // namespace opo
