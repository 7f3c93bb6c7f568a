// What SECURITY.md promises of the whole program.
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/stat.h>

#include <algorithm>

#include "app/program.h"

namespace opo {
namespace {

// What the program writes to stdout and stderr where both are a terminal.
std::string RunOnTerminal(const std::vector<std::string>& arguments) {
  const std::string program = std::string(OPO_BUILD_DIR) + "/opo";
  int terminal = -1;
  const pid_t child = ::forkpty(&terminal, nullptr, nullptr, nullptr);
  if (child == 0) {
    std::vector<char*> argv = {const_cast<char*>(program.c_str())};
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  std::string shown;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::read(terminal, buffer, sizeof(buffer))) > 0;) {
    shown.append(buffer, static_cast<std::size_t>(n));
  }
  ::close(terminal);
  ::waitpid(child, nullptr, 0);
  return shown;
}

class Security : public testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(scratch_ / name, std::ios::binary) << text;
    return scratch_ / name;
  }
  ScratchFolder scratch_;
};

// What models and files say cannot steer a terminal, and is not touched elsewhere.
TEST_F(Security, RowsCannotSteerATerminal) {
  const std::string model = scratch_ / "model";
  ASSERT_EQ(RunProgram({"init", model}).exit_code, 0);
  const std::string rows =
      Write("rows.jsonl", R"({"prompt":"\u001b]0;owned\u0007","answer":"\u001b[2J",)"
                          R"("id":"\u009b","data_source":"\u202e","\u001bkey":1})");
  const std::vector<std::string> show = {"data", "show", rows, "--model", model};
  const std::string shown = RunOnTerminal(show);
  EXPECT_EQ(shown.find('\x1b'), std::string::npos) << shown;
  for (const char* text : {"\\x1b]0;owned\\x07", "\\x1b[2J", "\\u009b", "\\u202e", "\\x1bkey"}) {
    EXPECT_NE(shown.find(text), std::string::npos) << shown;
  }
  std::vector<std::string> as_json = show;
  as_json.emplace_back("--json");
  const std::string line = RunOnTerminal(as_json);
  EXPECT_EQ(line.find("\xE2\x80\xAE"), std::string::npos) << line;
  EXPECT_EQ(nlohmann::json::parse(line), nlohmann::json::parse(RunProgram(as_json).out));
  // A pipe gets what is there.
  EXPECT_NE(RunProgram(show).out.find("\x1b]0;owned\x07"), std::string::npos);
}

TEST_F(Security, MessagesCannotSteerATerminal) {
  const std::string config = Write("run.toml", "\"\\u001b[31mlr\" = 1\n");
  const std::string shown = RunOnTerminal({"train", config});
  EXPECT_EQ(shown.find('\x1b'), std::string::npos) << shown;
  EXPECT_NE(shown.find("\\x1b[31mlr"), std::string::npos) << shown;
  const std::string verdict =
      RunOnTerminal({"verify", "--gold", "\x1b[31m1", "--pred", "The answer is \\boxed{\x1b[2J}"});
  EXPECT_EQ(verdict.find('\x1b'), std::string::npos) << verdict;
}

// Ids and sources of rows stand in metrics, and never in names of files; nothing is written outside
// of the run's folder, or removed through a link in it.
TEST_F(Security, ARunStaysInItsFolder) {
  const std::string rows =
      Write("rows.jsonl", R"({"prompt":"1","answer":"1","id":"../../a","data_source":"../../b"})"
                          "\n"
                          R"({"prompt":"2","answer":"2","id":"/tmp/a","data_source":"../../b"})"
                          "\n");
  std::filesystem::create_directory(scratch_ / "outside");
  Write("outside/kept", "x");
  const auto run = [&](int steps, std::vector<std::string> args) {
    for (const std::string& setting :
         {"data.train=" + rows, "data.eval=" + rows, std::string("eval.every=1"),
          std::string("checkpoint.every=1"), std::string("checkpoint.keep_last=1"),
          std::string("rollout.prompts=2"), "train.steps=" + std::to_string(steps)}) {
      args.insert(args.end(), {"--set", setting});
    }
    const ProgramResult result = RunProgram(args);
    ASSERT_EQ(result.exit_code, 0) << result.err;
  };
  const mode_t before = ::umask(022);
  run(1, {"train", Example("tiny.toml"), "--quiet", "--set", "run.dir=" + (scratch_ / "run")});
  std::filesystem::create_directory_symlink(scratch_ / "outside",
                                            scratch_ / "run/checkpoints/step_000000");
  run(2, {"train", "--resume", scratch_ / "run", "--quiet"});
  ::umask(before);
  EXPECT_NE(ReadText(scratch_ / "run/metrics.jsonl").find("val-core/../../b/"), std::string::npos);
  EXPECT_EQ(ReadText(scratch_ / "outside/kept"), "x");
  EXPECT_FALSE(std::filesystem::exists(scratch_ / "run/checkpoints/step_000000"));
  std::vector<std::string> here;
  for (const auto& entry : std::filesystem::directory_iterator(scratch_ / ".")) {
    here.push_back(entry.path().filename().string());
  }
  std::sort(here.begin(), here.end());
  EXPECT_EQ(here, (std::vector<std::string>{"outside", "rows.jsonl", "run"}));
  // What is written is for its owner to change, and no program.
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(scratch_ / "run")) {
    struct stat status {};
    ASSERT_EQ(::lstat(entry.path().c_str(), &status), 0);
    if (S_ISLNK(status.st_mode)) continue;
    EXPECT_EQ(status.st_mode & 07777, S_ISDIR(status.st_mode) ? 0755u : 0644u) << entry.path();
    ++files;
  }
  EXPECT_GT(files, 8);
}

}  // namespace
}  // namespace opo
