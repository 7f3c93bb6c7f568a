// The page in headless Chromium: its figures are those of metrics.jsonl, nothing is said on the
// console, and nothing of what models and data sets say runs.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <regex>

#include "app/program.h"
#include "report/report.h"

namespace opo {
namespace {

using json = nlohmann::json;

struct Browsed {
  std::string dom, said;  // `said`: what the page wrote to the console
};

bool HasBrowser() { return std::system("command -v chromium >/dev/null 2>&1") == 0; }

class Browser : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasBrowser()) GTEST_SKIP() << "chromium is not installed (packages.txt, part browser)";
  }
  std::string Write(const std::string& name, const std::string& content) {
    const std::string path = scratch_ / name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  // The document after its scripts ran, as a browser of `width` sees it.
  Browsed Browse(const std::string& page, int width = 1400) {
    const std::string out = scratch_ / "dom";
    const std::string err = scratch_ / "said";
    const std::string command =
        "timeout 300 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage "
        "--no-first-run --enable-logging=stderr --virtual-time-budget=8000 --window-size=" +
        std::to_string(width) + ",1200 --user-data-dir='" + (scratch_ / "profile") +
        "' --dump-dom 'file://" + page + "' >'" + out + "' 2>'" + err + "'";
    EXPECT_EQ(std::system(command.c_str()), 0) << ReadText(err);
    Browsed browsed;
    browsed.dom = ReadText(out);
    std::istringstream lines(ReadText(err));
    for (std::string line; std::getline(lines, line);) {
      if (line.find("CONSOLE") != std::string::npos) browsed.said += line + "\n";
    }
    return browsed;
  }
  static void ExpectWhole(const Browsed& browsed) {
    EXPECT_EQ(browsed.said, "");
    EXPECT_NE(browsed.dom.find("data-ready=\"1\""), std::string::npos);
    EXPECT_EQ(browsed.dom.find("data-errors="), std::string::npos);
    EXPECT_EQ(browsed.dom.find("data-pwned="), std::string::npos);
  }
  ScratchFolder scratch_;
};

// The figures that a page shows, by what they are.
std::map<std::string, std::string> Figures(const std::string& dom) {
  std::map<std::string, std::string> figures;
  const std::string key = "data-figure=\"";
  const std::string value = "data-value=\"";
  for (std::size_t at = dom.find(key); at != dom.npos; at = dom.find(key, at + 1)) {
    const std::size_t begin = at + key.size();
    const std::size_t from = dom.find(value, begin) + value.size();
    figures[dom.substr(begin, dom.find('"', begin) - begin)] =
        dom.substr(from, dom.find('"', from) - from);
  }
  return figures;
}

double Number(const std::string& text) {
  EXPECT_FALSE(text.empty());
  return std::strtod(text.c_str(), nullptr);
}

// The page without its policy, and with a script that uses every control and then drags across a
// chart.
std::string Driven(std::string page) {
  const std::size_t begin = page.find("<meta http-equiv=\"Content-Security-Policy\"");
  EXPECT_NE(begin, std::string::npos);
  page.erase(begin, page.find('>', begin) + 1 - begin);
  return page + R"(<script>
    const send = (node, type, more) =>
      node.dispatchEvent(Object.assign(new Event(type, {bubbles: true}), more));
    const each = (what, use) => document.querySelectorAll(what).forEach(use);
    Element.prototype.setPointerCapture = () => {};
    each('details', (node) => { node.open = true; });
    each('select', (node) => {
      for (const value of [...node.options].map((o) => o.value).reverse()) {
        node.value = value;
        send(node, 'change');
      }
    });
    each('input', (node) => {
      for (const value of node.type === 'range' ? [node.max, node.min, node.max] : ['zzz', '']) {
        node.value = value;
        send(node, 'input');
      }
    });
    each('[tabindex], .answer .text', (node) => {
      for (const key of ['+', '-', 'ArrowRight', 'ArrowLeft', 'End', 'Home', '0']) {
        send(node, 'keydown', {key});
      }
    });
    each('.tok', (node) => send(node, 'mouseenter'));
    each('button', (node) => { node.click(); if (node.id !== 'theme') node.click(); });
    const plot = document.querySelector('.plot');
    if (plot) {
      const box = plot.getBoundingClientRect();
      const at = (part) =>
        ({button: 0, clientX: box.left + part * box.width, clientY: box.top + 20});
      send(plot, 'dblclick', at(0.5));
      send(plot, 'pointerdown', at(0.4));
      send(plot, 'pointermove', at(0.6));
      send(plot, 'pointerup', at(0.6));
      const {min, max} = Report.charts[0].chart.scales.x;
      if (min > 10 && max < 40 && max - min > 3) document.documentElement.dataset.zoomed = '1';
    }
    document.documentElement.dataset.driven = '1';
  </script>)";
}

// What the tests below look for can be found.
TEST_F(Browser, TheHarnessSeesWhatRunsAndWhatIsSaid) {
  const Browsed browsed = Browse(
      Write("control.html",
            "<p>x</p><script>document.documentElement.dataset.pwned='1';nosuchname()</script>"));
  EXPECT_NE(browsed.dom.find("data-pwned=\"1\""), std::string::npos);
  EXPECT_NE(browsed.said.find("nosuchname"), std::string::npos);
}

TEST_F(Browser, ItsFiguresAreThoseOfTheMetrics) {
  const std::string run = scratch_ / "run";
  const ProgramResult trained = RunProgram(WithSettings(
      {"train", Example("tiny.toml"), "--quiet"},
      {"run.dir=" + run, "train.steps=12", "monitor.kl_every=3", "monitor.report_every=5",
       "checkpoint.every=0", "eval.every=4", "eval.prompts=4"}));
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  EXPECT_EQ(trained.err.find("no report was written"), std::string::npos) << trained.err;
  // Written by the run itself, after its last step.
  for (const int width : {1400, 390}) {
    const Browsed browsed = Browse(run + "/report.html", width);
    ExpectWhole(browsed);
    const auto figures = Figures(browsed.dom);
    std::map<std::string, std::vector<double>> metrics;
    std::istringstream lines(ReadText(run + "/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const json step = json::parse(line);
      for (const auto& [name, value] : step.items()) {
        if (value.is_number() && name != "training/global_step") metrics[name].push_back(value);
      }
    }
    ASSERT_GT(metrics.size(), 50U);
    for (const auto& [name, values] : metrics) {
      const std::string id = "all0/" + name + "/";
      ASSERT_TRUE(figures.count(id + "first")) << name;
      EXPECT_EQ(Number(figures.at(id + "first")), values.front()) << name;
      EXPECT_EQ(Number(figures.at(id + "last")), values.back()) << name;
      EXPECT_EQ(Number(figures.at(id + "min")), *std::min_element(values.begin(), values.end()));
      EXPECT_EQ(Number(figures.at(id + "max")), *std::max_element(values.begin(), values.end()));
      EXPECT_EQ(Number(figures.at(id + "points")), static_cast<double>(values.size())) << name;
    }
    const std::vector<double>& reward = metrics.at("critic/score/mean");
    const auto best = std::max_element(reward.begin(), reward.end());
    EXPECT_EQ(Number(figures.at("run0/critic/score/mean/first")), reward.front());
    EXPECT_EQ(Number(figures.at("run0/critic/score/mean/last")), reward.back());
    EXPECT_EQ(Number(figures.at("run0/critic/score/mean/max")), *best);
    EXPECT_EQ(Number(figures.at("run0/critic/score/mean/max_step")),
              static_cast<double>(best - reward.begin() + 1));
    EXPECT_NE(browsed.dom.find("exactly on policy"), std::string::npos);
    // What the charts draw.
    for (const auto& [title, name] : std::vector<std::pair<std::string, std::string>>{
             {"Reward", "critic/score/mean"},
             {"Entropy, nats a token", "actor/entropy"},
             {"KL, nats a token", "monitor/kl_k3"},
             {"Gradient norm", "actor/grad_norm"},
             {"Answer length, tokens", "response_length/mean"},
             {"Time of a step, of its floor", "perf/ratio_to_floor"}}) {
      const std::size_t at = browsed.dom.find("aria-label=\"" + title + "\"");
      ASSERT_NE(at, std::string::npos) << title;
      const std::string tag = browsed.dom.substr(at, browsed.dom.find('>', at) - at);
      std::smatch match;
      ASSERT_TRUE(std::regex_search(tag, match,
                                    std::regex("data-points=\"(\\d+)\" data-last=\"([^\"]*)\"")))
          << tag;
      EXPECT_EQ(Number(match[1]), static_cast<double>(metrics.at(name).size())) << title;
      EXPECT_EQ(Number(match[2]), metrics.at(name).back()) << title;
    }
    EXPECT_NE(browsed.dom.find("class=\"tok"), std::string::npos);
  }
}

TEST_F(Browser, NothingThatModelsOrDataSaysRuns) {
  const std::string pwn = "document.documentElement.dataset.pwned=1";
  const std::vector<std::string> hostile = {
      "</script><script>" + pwn + "</script>",
      "<img src=x onerror=\"" + pwn + "\">",
      "\"><svg onload=" + pwn + ">",
      "<!--<script>" + pwn + "</script>",
      "--><script>" + pwn + "</script>",
      "javascript:" + pwn,
      "__proto__",
      std::string("\xE2\x80\xA8\xE2\x80\xAE\x1b[31m\xFF") + '\0' + "</textarea>'" + pwn};
  const auto quoted = [](const std::string& text) {
    return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
  };
  std::string metrics, samples;
  for (std::size_t i = 0; i < hostile.size(); ++i) {
    const std::string text = quoted(hostile[i]);
    metrics += fmt::format(
        "{{\"training/global_step\":{},\"critic/score/mean\":{},{}:0.5,\"val-core/x{}/reward/"
        "mean@1\":1,\"exact/weights_digest\":{}}}\n",
        i + 1, static_cast<double>(i), text, i, text);
    samples += fmt::format(
        "{{\"training/global_step\":{0},\"group\":0,\"sample\":{2},\"input\":{1},\"output\":{1},"
        "\"gts\":{1},\"verdict\":{1},\"note\":{1},\"finish_reason\":{1},\"score\":1,"
        "\"advantage\":0.5,\"length\":2,\"tokens\":{{\"text\":[{1},7,{1}],\"logprob\":[-1,{1}],"
        "\"entropy\":{1}}}}}\n",
        hostile.size(), text, i);
    samples +=
        fmt::format("{{\"training/global_step\":{},\"group\":{},\"output\":[{}],\"tokens\":7}}\n",
                    i + 1, i % 2, text);
  }
  const std::string name = "run <img src=x onerror=alert(1)>";
  Write(name + "/metrics.jsonl", metrics + "{\"torn\": \"</script>");
  Write(name + "/samples.jsonl", samples);
  Write(name + "/config.toml", "[a]\nb = \"" + hostile[0] + hostile[7] + "\"\n");
  Write(name + "/manifest.json", "{\"data_digest\":" + quoted(hostile[1]) + ",\"isa\":[1]}");
  json compare = {{"title", hostile[0]},
                  {"arms", {{{"name", hostile[1]}, {"summary", hostile[2]}}, {{"name", 7}}}},
                  {"columns", {{{"key", "k"}, {"label", hostile[3]}, {"digits", 1e9}}}},
                  {"cells", {{hostile[1], {{"k", {{"mean", 1}, {"low", "x"}}}}}}},
                  {"paired", {{{"key", "k"}, {"arm", hostile[1]}, {"against", hostile[2]}}}},
                  {"claims", {{{"text", hostile[0]}, {"verdict", hostile[1]}, {"id", hostile[2]}}}},
                  {"runs", {{{"status", hostile[0]}}}}};
  Write(name + "/compare.json", compare.dump());
  json variance = {{"model", hostile[0]},
                   {"estimators", {{{"name", hostile[1]}, {"cross_fitted", 7}}}},
                   {"fit", {{"points", {{1, 2}, {"x", 3}, 7}}, {"slope", hostile[2]}}},
                   {"gain", {{hostile[3], hostile[4]}}},
                   {"per_prompt", {{{"prompt", hostile[0]}, {"variance", {{hostile[1], 1}}}}}}};
  Write(name + "/variance.json", variance.dump());
  Write(name + "/eval.json", json{{"sets", {{{"name", hostile[0]}, {hostile[1], 1}}}}}.dump());
  const std::string page = Write("page.html", ReportPage(ReadReport({scratch_ / name})));
  const Browsed browsed = Browse(page);
  EXPECT_EQ(browsed.said, "");
  EXPECT_NE(browsed.dom.find("data-ready=\"1\""), std::string::npos);
  EXPECT_EQ(browsed.dom.find("data-errors="), std::string::npos);
  EXPECT_EQ(browsed.dom.find("data-pwned="), std::string::npos);
  // It is there to be read, as text.
  EXPECT_NE(browsed.dom.find("&lt;img src=x onerror="), std::string::npos);
  EXPECT_NE(browsed.dom.find(">U+202E<"), std::string::npos);
  EXPECT_NE(browsed.dom.find("1 line was left out"), std::string::npos);
  EXPECT_EQ(browsed.dom.find("<img"), std::string::npos);

  // The same without the policy, and with every control used: nothing gets that far.
  const Browsed driven = Browse(Write("driven.html", Driven(ReadText(page))));
  ExpectWhole(driven);
  EXPECT_NE(driven.dom.find("data-driven=\"1\""), std::string::npos);
  EXPECT_EQ(driven.dom.find("<img"), std::string::npos);
}

TEST_F(Browser, EveryControlWorks) {
  std::string metrics, samples;
  for (int step = 1; step <= 50; ++step) {
    metrics += fmt::format(
        "{{\"training/global_step\":{},\"critic/score/mean\":{},\"timing_s/step\":2,"
        "\"timing_s/gen\":1,\"perf/total_num_tokens\":10,\"rollout/prompts_drawn\":4,"
        "\"rollout/groups_all_right\":1,\"rollout/groups_all_wrong\":2}}\n",
        step, step / 50.0);
    samples += fmt::format("{{\"training/global_step\":{},\"output\":\"an older line\"}}\n", step);
  }
  for (const std::string run : {"one", "two"}) {
    Write(run + "/metrics.jsonl", metrics);
    Write(run + "/samples.jsonl", samples);
  }
  Write("two/calibration.json",
        "{\"step\":50,\"error\":0.125,\"best_scale\":0.5,\"bins\":["
        "{\"low\":0.5,\"high\":0.75,\"pairs\":0,\"confidence\":0,\"accuracy\":0},"
        "{\"low\":0.75,\"high\":1,\"pairs\":8,\"confidence\":0.875,\"accuracy\":0.75}]}");
  const std::string page = ReportPage(ReadReport({scratch_ / "one", scratch_ / "two"}));
  const Browsed driven = Browse(Write("driven.html", Driven(page)));
  ExpectWhole(driven);
  EXPECT_NE(driven.dom.find("data-driven=\"1\""), std::string::npos);
  EXPECT_NE(driven.dom.find("data-zoomed=\"1\""), std::string::npos);
  auto figures = Figures(driven.dom);
  EXPECT_EQ(Number(figures["calibration1/error"]), 0.125);
  EXPECT_EQ(Number(figures["calibration1/0.750"]), 0.75);
  EXPECT_FALSE(figures.count("calibration1/0.500"));
  EXPECT_NE(driven.dom.find("aria-label=\"Reliability curve\" data-points=\"1\""),
            std::string::npos);
  EXPECT_NE(driven.dom.find("data-theme=\"dark\""), std::string::npos);
}

// The policy holds by itself: markup that got into the page would not run.
TEST_F(Browser, ThePolicyForbidsWhatIsNotOurs) {
  const std::string run = scratch_ / "run";
  Write("run/metrics.jsonl", "{\"training/global_step\":1,\"critic/score/mean\":1}\n");
  std::string page = ReportPage(ReadReport({run}));
  const std::string main = "<main id=\"main\" class=\"wide\">";
  const std::size_t at = page.find(main);
  ASSERT_NE(at, std::string::npos);
  page.insert(at + main.size(),
              "<script>document.documentElement.dataset.pwned=1</script>"
              "<img src=x onerror=\"document.documentElement.dataset.pwned=1\">");
  const Browsed browsed = Browse(Write("page.html", page));
  EXPECT_EQ(browsed.dom.find("data-pwned="), std::string::npos);
  EXPECT_NE(browsed.dom.find("data-ready=\"1\""), std::string::npos);
  EXPECT_NE(browsed.said.find("Content Security Policy"), std::string::npos) << browsed.said;
}

}  // namespace
}  // namespace opo
