// What a run writes for its report: whole groups in samples.jsonl, and report.html as it goes.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "app/program.h"

namespace opo {
namespace {

using json = nlohmann::json;

std::vector<std::string> TrainTiny(const std::string& dir, std::vector<std::string> settings) {
  settings.insert(settings.end(), {"run.dir=" + dir, "train.steps=4", "checkpoint.every=0"});
  return WithSettings({"train", Example("tiny.toml"), "--quiet"}, settings);
}

std::vector<json> Lines(const std::string& path) {
  std::vector<json> lines;
  std::istringstream text(ReadText(path));
  for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
  return lines;
}

TEST(Samples, AreWholeGroupsWithTheTokensThatFit) {
  const ScratchFolder scratch;
  const std::string run = scratch / "run";
  constexpr int kGroups = 3;
  constexpr int kTokens = 100;
  const ProgramResult result =
      RunProgram(TrainTiny(run, {fmt::format("monitor.samples_per_step={}", kGroups),
                                 fmt::format("monitor.tokens_per_step={}", kTokens)}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const std::vector<json> lines = Lines(run + "/samples.jsonl");
  ASSERT_EQ(lines.size(), 4U * kGroups * 8);  // steps, and rollout.samples
  std::map<int, std::size_t> tokens;          // by step
  std::map<int, std::map<int, bool>> learns;  // by step and group
  for (const json& line : lines) {
    if (line["advantage"] != 0) learns[line["step"]][line["group"]] = true;
  }
  std::size_t at = 0;
  for (const json& line : lines) {
    EXPECT_EQ(line["group"].get<std::size_t>(), at / 8 % kGroups);
    EXPECT_EQ(line["sample"].get<std::size_t>(), at++ % 8);
    EXPECT_EQ(line["step"], line["training/global_step"]);
    // OPO's advantage.
    EXPECT_EQ(line["advantage"].get<double>(),
              line["reward"].get<double>() - line["baseline"].get<double>());
    EXPECT_FALSE(line.contains("cut"));
    if (!line.contains("tokens")) continue;
    const json& shown = line["tokens"];
    EXPECT_LE(shown["text"].size(), line["length"].get<std::size_t>());
    EXPECT_EQ(shown["logprob"].size(), shown["text"].size());
    EXPECT_EQ(shown["entropy"].size(), shown["text"].size());
    for (const json& logprob : shown["logprob"]) EXPECT_LE(logprob.get<double>(), 0);
    std::string text;
    for (const json& piece : shown["text"]) text += piece.get<std::string>();
    const std::string output = line["output"];
    const bool ascii =
        std::all_of(output.begin(), output.end(), [](char c) { return c >= 0 && c < 0x7F; });
    if (ascii && shown["text"].size() == line["length"].get<std::size_t>()) {
      EXPECT_EQ(text, output);
    }
    tokens[line["step"]] += shown["text"].size();
    // Groups without a gradient get what those with one have left.
    if (!learns[line["step"]][line["group"]]) {
      EXPECT_LT(learns[line["step"]].size(), 2U);
    }
  }
  for (int step = 1; step <= 4; ++step) EXPECT_EQ(tokens[step], 1U * kTokens) << step;

  const std::string none = scratch / "none";
  ASSERT_EQ(RunProgram(TrainTiny(none, {"monitor.tokens_per_step=0", "monitor.report_every=0"}))
                .exit_code,
            0);
  for (const json& line : Lines(none + "/samples.jsonl")) EXPECT_FALSE(line.contains("tokens"));
  EXPECT_FALSE(std::filesystem::exists(none + "/report.html"));
}

TEST(LiveReport, ThatCannotBeWrittenIsToldOnceAndTheRunGoesOn) {
  const ScratchFolder scratch;
  const std::string run = scratch / "run";
  RunningProgram program(TrainTiny(run, {"monitor.report_every=1"}), "",
                         {"env", "OPO_FAULT=write:ENOSPC:path=report.html:count=0"});
  const ProgramResult result = program.Wait();
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(Lines(run + "/metrics.jsonl").size(), 4U);
  const std::string warning = "warning: no report was written, the run goes on: ";
  const std::size_t at = result.err.find(warning);
  ASSERT_NE(at, std::string::npos) << result.err;
  EXPECT_EQ(result.err.find(warning, at + 1), std::string::npos) << result.err;
  EXPECT_FALSE(std::filesystem::exists(run + "/report.html"));
  EXPECT_FALSE(std::filesystem::exists(run + "/report.html.partial"));
}

}  // namespace
}  // namespace opo
