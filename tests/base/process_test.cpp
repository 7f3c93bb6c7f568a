#include "base/process.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "base/clock.h"
#include "format/expect_error.h"

namespace opo {
namespace {

ProcessSpec Shell(const std::string& script) {
  ProcessSpec spec;
  spec.argv = {"sh", "-c", script};
  spec.environment = CleanEnvironment();
  return spec;
}

// All that the program writes until it closes its output; fails the test after 20 s.
std::string Output(Process& process) {
  std::string text;
  const double deadline = Seconds() + 20;
  while (process.Read(text, 1 << 16)) {
    pollfd fd = {process.out(), POLLIN, 0};
    poll(&fd, 1, 100);
    if (Seconds() > deadline) {
      ADD_FAILURE() << "no end of the output";
      break;
    }
  }
  return text;
}

// Whether the process is gone, or gone but for its entry in the table, within 20 s.
bool IsGone(pid_t pid) {
  const double deadline = Seconds() + 20;
  while (Seconds() < deadline) {
    std::string stat;
    if (FILE* file = std::fopen(("/proc/" + std::to_string(pid) + "/stat").c_str(), "r")) {
      char buffer[256] = {};
      stat.assign(buffer, std::fread(buffer, 1, sizeof(buffer) - 1, file));
      std::fclose(file);
    }
    if (stat.empty() || stat.find(") Z ") != std::string::npos) return true;
    usleep(1000);
  }
  return false;
}

TEST(Process, TalksThroughItsStandardStreams) {
  Process process(Shell("read line; echo \"got $line\"; echo oops >&2; exit 3"));
  std::string_view text = "hello\n";
  EXPECT_TRUE(process.Write(text));
  EXPECT_TRUE(text.empty());
  EXPECT_EQ(Output(process), "got hello\n");
  EXPECT_EQ(process.End(20), "exit code 3");
  EXPECT_EQ(process.err_tail(), "oops\n");
}

TEST(Process, SaysHowItEnded) {
  EXPECT_EQ(Process(Shell("exit 0")).End(20), "exit code 0");
  EXPECT_EQ(Process(Shell("kill -SEGV $$")).End(20), "signal 11 (Segmentation fault)");
  EXPECT_EQ(Process(Shell("sleep 1000")).End(0), "");  // it was us
  const auto code = [](const char* script, double grace_s) {
    Process process(Shell(script));
    process.End(grace_s);
    return process.exit_code();
  };
  EXPECT_EQ(code("exit 0", 20), 0);
  EXPECT_EQ(code("exit 3", 20), 3);
  EXPECT_EQ(code("kill -SEGV $$", 20), 128 + 11);
  EXPECT_EQ(code("sleep 1000", 0), 128 + 9);  // ours counts too: it did not come to its end
}

TEST(Process, WhatCannotStartIsAnErrorWithTheReason) {
  ProcessSpec spec;
  spec.argv = {"no-such-program-anywhere"};
  ExpectError(ErrorCode::kWork, [&] { Process process(spec); },
              {"no-such-program-anywhere", "PATH"});
  spec.argv = {"./no/such/file"};
  ExpectError(ErrorCode::kWork, [&] { Process process(spec); }, {"./no/such/file", "No such file"});
  spec.argv = {"/"};
  ExpectError(ErrorCode::kWork, [&] { Process process(spec); }, {"exec", "Permission denied"});
  spec = Shell("true");
  spec.directory = "/no/such/folder";
  ExpectError(ErrorCode::kWork, [&] { Process process(spec); }, {"chdir", "No such file"});
}

TEST(Process, EndsWithAllOfItsGroup) {
  Process process(Shell("sleep 1000 & echo $!; sleep 1000"));
  std::string text;
  while (text.find('\n') == std::string::npos) {
    pollfd fd = {process.out(), POLLIN, 0};
    poll(&fd, 1, 20000);
    ASSERT_TRUE(process.Read(text, 1 << 16));
  }
  const pid_t grandchild = std::stoi(text);
  EXPECT_EQ(kill(grandchild, 0), 0);
  process.End(0);
  EXPECT_TRUE(IsGone(grandchild));
}

// The leader is dead already when the group is killed.
TEST(Process, GrandchildrenThatOutliveTheirParentAreKilled) {
  Process process(Shell("sleep 1000 >/dev/null & echo $!"));
  const pid_t grandchild = std::stoi(Output(process));
  EXPECT_EQ(process.End(20), "exit code 0");
  EXPECT_TRUE(IsGone(grandchild));
}

// Killed without a chance to clean up.
TEST(Process, DiesWhenWeDo) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  const pid_t us = fork();
  if (us == 0) {
    Process process(Shell("echo $$; exec sleep 1000"));
    std::string text;
    while (text.find('\n') == std::string::npos && process.Read(text, 1 << 16)) usleep(1000);
    if (write(fds[1], text.data(), text.size()) < 0) _exit(1);
    for (;;) pause();
  }
  char text[32] = {};
  ASSERT_GT(read(fds[0], text, sizeof(text) - 1), 0);
  const pid_t program = std::stoi(text);
  EXPECT_EQ(kill(program, 0), 0);
  kill(us, SIGKILL);
  EXPECT_EQ(waitpid(us, nullptr, 0), us);
  EXPECT_TRUE(IsGone(program));
  close(fds[0]);
  close(fds[1]);
}

TEST(Process, WritingToAClosedPipeIsNoSignal) {
  Process process(Shell("exec <&-; echo closed; sleep 1000"));
  std::string text;
  pollfd fd = {process.out(), POLLIN, 0};
  ASSERT_EQ(poll(&fd, 1, 20000), 1);
  std::string_view request = "x";
  EXPECT_FALSE(process.Write(request));
}

TEST(Process, AFullPipeDoesNotBlock) {
  Process process(Shell("sleep 1000"));
  const std::string large(1 << 20, 'x');
  std::string_view text = large;
  EXPECT_TRUE(process.Write(text));
  EXPECT_LT(text.size(), large.size());
  EXPECT_FALSE(text.empty());
}

TEST(Process, FindsNothingOfOursButWhatItIsGiven) {
  setenv("OPO_TEST_SECRET", "hidden", 1);
  const int leaked = dup(1);  // without close-on-exec
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  ASSERT_EQ(write(fds[1], "passed\n", 7), 7);
  ProcessSpec spec =
      Shell("echo \"[$OPO_TEST_SECRET]\"; head -n 1 <&3; ls /proc/$$/fd | tr '\\n' ' '");
  spec.pass = {fds[0]};
  Process process(spec);
  EXPECT_EQ(Output(process), "[]\npassed\n0 1 2 3 ");
  unsetenv("OPO_TEST_SECRET");
  for (const int fd : {leaked, fds[0], fds[1]}) close(fd);
}

TEST(Process, LimitsAndFolderAreThoseOfTheSpec) {
  ProcessSpec spec = Shell("ulimit -n; pwd");
  spec.limits = {{RLIMIT_NOFILE, 17}};
  spec.directory = "/usr";
  Process process(spec);
  EXPECT_EQ(Output(process), "17\n/usr\n");
}

TEST(Process, RootCanBeDropped) {
  if (geteuid() != 0) GTEST_SKIP() << "not root";
  ProcessSpec spec = Shell("id -u; id -g; id -G");
  spec.drop_root = true;
  spec.directory = "/";
  Process process(spec);
  EXPECT_EQ(Output(process), "65534\n65534\n65534\n");
}

TEST(Process, TheEndOfStderrIsKept) {
  Process process(Shell("head -c 1000000 /dev/zero >&2; echo last words >&2"));
  const double deadline = Seconds() + 20;
  while (process.err() >= 0 && Seconds() < deadline) process.DrainErr();
  EXPECT_EQ(process.err_tail().size(), 2000U);
  EXPECT_TRUE(process.err_tail().ends_with("last words\n"));
}

TEST(Process, CpuTimeOfTheGroupIsSeen) {
  Process process(Shell("while :; do :; done & while :; do :; done"));
  const double deadline = Seconds() + 60;
  while (process.CpuSeconds() < 0.2 && Seconds() < deadline) usleep(10000);
  EXPECT_GE(process.CpuSeconds(), 0.2);
  Process idle(Shell("sleep 1000"));
  EXPECT_LT(idle.CpuSeconds(), 0.2);
}

}  // namespace
}  // namespace opo
