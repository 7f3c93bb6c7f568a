// The kind "code": cases, and a sandbox that nothing leaves.
#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "format/expect_error.h"
#include "reward/ask.h"
#include "reward/code_cases.h"

namespace opo {
namespace {

namespace fs = std::filesystem;

constexpr char kSum[] = R"({"inputs": ["1 2\n", "30 4\n"], "outputs": ["3\n", "34\n"]})";
constexpr char kSumCode[] = "a, b = map(int, input().split())\nprint(a + b)\n";

RewardConfig Config() {
  RewardConfig config;
  config.kind = "code";
  config.timeout_s = 20;
  config.memory_mb = 256;
  return config;
}

std::string ScriptOf(const std::string& code) { return "Here:\n```python\n" + code + "\n```\n"; }

class CodeTest : public testing::Test {
 protected:
  void SetUp() override {
    static const std::string fault = SandboxFault();
    if (!fault.empty()) GTEST_SKIP() << "no sandbox here: " << fault;
  }

  RewardResult Run(const std::string& gold, const std::string& code,
                   const RewardConfig& config = Config()) {
    const RewardResult result =
        Ask(*MakeCodeReward(config, "reward.0"), WithAnswer(gold), ScriptOf(code));
    EXPECT_NE(result.verdict, Verdict::kError) << result.reason << ": " << result.note;
    return result;
  }

  // Code that must see `true`: its expression is printed, the case wants "True".
  void ExpectTrue(const std::string& code) {
    const RewardResult result = Run(R"({"inputs": [""], "outputs": ["True"]})", code);
    EXPECT_EQ(result.value, 1) << code << "\n" << result.note;
  }
};

TEST_F(CodeTest, RightAndWrongAnswers) {
  RewardResult result = Run(kSum, kSumCode);
  EXPECT_EQ(result.value, 1);
  EXPECT_EQ(result.note, "2 of 2 cases passed");
  result = Run(kSum, "input()\nprint(3)");
  EXPECT_EQ(result.value, 0);
  EXPECT_EQ(result.note, "1 of 2 cases passed; case 1: wrong, '3\\x0a'");
  ASSERT_EQ(result.logged.size(), 1U);
  EXPECT_EQ(result.logged[0].first, "passed_fraction");
  EXPECT_EQ(result.logged[0].second, 0.5);
  EXPECT_EQ(Run(kSum, "print('3  ')\nprint()").value, 0);
  EXPECT_EQ(Run(kSum, "this is no Python").value, 0);
  EXPECT_EQ(Run(kSum, "").value, 0);
  EXPECT_EQ(Run(kSum, std::string(kSumCode) + "raise ValueError('late')").value, 0);
  EXPECT_EQ(Run(kSum, std::string(kSumCode) + "exit(0)").value, 1);
  EXPECT_EQ(Run(kSum,
                "def main():\n  print(sum(map(int, input().split())))\n"
                "if __name__ == '__main__':\n  main()")
                .value,
            1);
  EXPECT_EQ(Run(kSum, "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))").value,
            1);
  EXPECT_EQ(Run(kSum, "import os\nos.system('read a b; echo $((a+b))')").value, 1);
}

TEST_F(CodeTest, FunctionsAreCalledWithTheirArguments) {
  const std::string gold =
      R"({"fn_name": "add", "inputs": [[1, 2], [[1], [2]], "3\n4"], "outputs": [3, [[1, 2]], "7"]})";
  EXPECT_EQ(Run(gold, "def add(a, b): return a + b").value, 1);
  EXPECT_EQ(Run(gold, "class Solution:\n  def add(self, a, b): return a + b").value, 1);
  EXPECT_EQ(Run(gold, "def add(a, b): return 3").note, "1 of 3 cases passed; case 1: wrong, '3'");
  EXPECT_EQ(Run(gold, "def sub(a, b): return a + b").value, 0);
  EXPECT_EQ(Run(gold, "def add(a, b): return add").value, 0);
  EXPECT_EQ(Run(gold, "def add(a, b): return float('nan')").value, 0);
  EXPECT_EQ(Run(gold, "def add(a, b):\n  print('3')\n  import os\n  os._exit(0)").value, 0);
}

TEST_F(CodeTest, AssertsOfAllForms) {
  const std::string code = "def twice(x): return 2 * x";
  EXPECT_EQ(Run(R"(["assert twice(1) == 2", "assert twice('a') == 'aa'"])", code).value, 1);
  EXPECT_EQ(Run("import math\nassert twice(1) == 2\nassert (\n  twice(math.pi) > 6)\n", code).value,
            1);
  EXPECT_EQ(Run(R"({"setup": "y = 3", "asserts": ["assert twice(y) == 6"]})", code).value, 1);
  RewardResult result = Run("assert twice(1) == 2\nassert twice(1) == 3", code);
  EXPECT_EQ(result.value, 0);
  EXPECT_EQ(result.note, "1 of 2 cases passed; case 1: exit:1, 'AssertionError'");
  Problem mbpp = WithAnswer("");
  mbpp.extra["test_list"] = {"assert twice(2) == 4"};
  mbpp.extra["test_setup_code"] = "";
  EXPECT_EQ(Ask(*MakeCodeReward(Config(), "reward.0"), mbpp, ScriptOf(code)).value, 1);
}

TEST_F(CodeTest, SuccessIsNotFaked) {
  const std::string gold = "assert f(1) == 2\nassert f(2) == 3";
  for (const char* code : {
           "import sys\nsys.exit(0)",
           "import os\nos._exit(0)",
           "def f(x):\n  import os\n  os._exit(0)",
           "def f(x): raise SystemExit(0)",
           "print('ok 0 0\\nok 0 0')\nimport os\nos._exit(0)",
           // The verdict's words, to every descriptor.
           "import os\nfor fd in range(64):\n  try: os.write(fd, b'ok 0 0\\nok 0 0\\n')\n"
           "  except OSError: pass\nos._exit(0)",
           "import os\nfor fd in range(64):\n  try: os.write(fd, b'L')\n"
           "  except OSError: pass\nos._exit(0)",
           // What the judge uses, replaced before it is used.
           "import builtins\nbuiltins.exec = lambda *a: None\nbuiltins.compile = lambda *a: None",
           "import os\nos.write = lambda fd, data: len(data)",
           // The judge, killed.
           "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ndef f(x): return x + 1",
           "import os, signal\nos.kill(-1, signal.SIGKILL)\ndef f(x): return x + 1",
           // The judge's secrets, in memory: the asserts come later, and expected values never.
           "import gc\ntexts = [o for o in gc.get_objects() if ''.join(['f(1)', ' == 2']) in "
           "str(o)]\n"
           "def f(x): return x + 1 if texts else 0",
       }) {
    EXPECT_EQ(Run(gold, code).value, 0) << code;
  }
  EXPECT_EQ(Run(gold, "def f(x): return x + 1").value, 1);
}

TEST_F(CodeTest, EndlessAndGreedyCodeIsWrongAndEnds) {
  RewardConfig config = Config();
  config.timeout_s = 5;
  EXPECT_EQ(Run(kSum, "while True: pass", config).value, 0);
  EXPECT_EQ(Run(kSum, "import time\ntime.sleep(1000)", config).note,
            "0 of 2 cases passed; case 0: the time limit of 5 s was reached");
  config.timeout_s = 60;
  config.cpu_s = 1;
  RewardResult result = Run(kSum, "while True: pass", config);
  EXPECT_EQ(result.note.substr(0, 40), "0 of 2 cases passed; case 0: signal:24");
  config = Config();
  result = Run(kSum, "x = bytearray(1 << 30)", config);
  EXPECT_NE(result.note.find("MemoryError"), std::string::npos) << result.note;
  config.output_kb = 64;
  result = Run(kSum, "while True: print('x' * 1000)", config);
  EXPECT_EQ(result.note, "0 of 2 cases passed; case 0: output");
  result = Run(kSum, "import sys\nwhile True: sys.stderr.write('x' * 1000)", [&] {
    config.timeout_s = 2;
    return config;
  }());
  EXPECT_EQ(result.value, 0);
  EXPECT_EQ(Run(kSum, "f = lambda x: f(x)\nf(1)").value, 0);
}

TEST_F(CodeTest, AForkBombIsContained) {
  RewardConfig config = Config();
  config.timeout_s = 4;
  EXPECT_EQ(
      Run(kSum, "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", config).value,
      0);
  // Children that stay behind are killed before the next case, and count for no later one.
  const std::string leave =
      "import os, time\nfor _ in range(8):\n  if os.fork() == 0:\n"
      "    os.setsid()\n    time.sleep(1000)\n";
  EXPECT_EQ(Run(kSum, leave + kSumCode).value, 1);
  ExpectTrue(
      "import os, time\nn = 0\ntry:\n  while n < 100:\n    if os.fork() == 0: time.sleep(100)\n"
      "    n += 1\nexcept OSError: pass\nprint(4 < n < 16)");
}

TEST_F(CodeTest, NothingOfTheMachineIsSeenOrTouched) {
  setenv("OPO_TEST_SECRET", "hidden", 1);
  const fs::path outside =
      fs::temp_directory_path() / ("opo_code_test_" + std::to_string(getpid()));
  std::ofstream(outside) << "secret";
  fs::permissions(outside, fs::perms::all);
  ExpectTrue("import os\nprint(not os.path.exists('" + outside.string() + "'))");
  ExpectTrue("try: open('/etc/shadow')\nexcept OSError: print(True)");
  ExpectTrue("try: open('/etc/passwd')\nexcept OSError: print(True)");
  ExpectTrue(
      "import os\nprint(set(os.listdir('/')) <= "
      "{'usr', 'bin', 'lib', 'lib64', 'etc', 'dev', 'tmp'})");
  const char* home = std::getenv("HOME");
  if (home != nullptr) {
    ExpectTrue("import os\nprint(not os.path.exists('" + std::string(home) + "'))");
  }
  ExpectTrue("import os\nprint('hidden' not in str(os.environ) and len(os.environ) < 12)");
  ExpectTrue("import os\nprint(os.getuid() == 65534 and os.getpid() < 100)");
  for (const char* place : {"/x", "/usr/x", "/etc/x", "/dev/x", "/dev/shm/x", "/usr/bin/x"}) {
    ExpectTrue("try: open('" + std::string(place) + "', 'w')\nexcept OSError: print(True)");
  }
  ExpectTrue("open('/tmp/x', 'w').write('x')\nprint(open('/tmp/x').read() == 'x')");
  // 16 MB of files, whether in one or in many.
  ExpectTrue(
      "try:\n  for i in range(64): open('/tmp/%d' % i, 'wb').write(bytes(1 << 20))\n"
      "except OSError: print(i < 17)");
  fs::remove(outside);
  unsetenv("OPO_TEST_SECRET");
}

TEST_F(CodeTest, SystemCallsThatLeadOutAreRefused) {
  ExpectTrue("import socket\ntry: socket.socket()\nexcept PermissionError: print(True)");
  ExpectTrue(
      "import socket\ntry: socket.create_connection(('127.0.0.1', 80), 1)\n"
      "except OSError: print(True)");
  ExpectTrue("import os\ntry: os.memfd_create('x')\nexcept PermissionError: print(True)");
  // unshare, ptrace, mount, setns, bpf and others by their numbers, through the C library.
  ExpectTrue(R"(
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def refused(function, *args):
    ctypes.set_errno(0)
    return getattr(libc, function)(*args) == -1 and ctypes.get_errno() == errno.EPERM
print(all([refused('unshare', 0x10000000), refused('ptrace', 0, 0, 0, 0),
           refused('mount', b'x', b'/tmp', b'tmpfs', 0, None), refused('setns', 0, 0),
           refused('process_vm_readv', os.getppid(), None, 0, None, 0, 0),
           refused('chroot', b'/tmp'), refused('shmget', 0, 4096, 0o1600)]))
)");
  // A clone into new namespaces; the same without them works (os.fork above).
  ExpectTrue(R"(
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
clone = 56 if platform.machine() == 'x86_64' else 220
print(libc.syscall(clone, 0x10000000 | 17, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM)
)");
  ExpectTrue(
      "import threading\nt = threading.Thread(target=lambda: print(True))\nt.start()\nt.join()");
}

TEST_F(CodeTest, ManyAnswersKeepTheirOrder) {
  RewardConfig config = Config();
  config.workers = 3;
  const auto reward = MakeCodeReward(config, "reward.0");
  std::vector<std::string> answers;
  for (int i = 0; i < 12; ++i) {
    answers.push_back(ScriptOf(i % 3 == 0 ? kSumCode : "print(" + std::to_string(i) + ")"));
  }
  const auto results = AskAll(*reward, WithAnswer(kSum), answers);
  for (std::size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(results[i].value, i % 3 == 0 ? 1 : 0) << i;
    EXPECT_EQ(results[i].note.find("'" + std::to_string(i) + "\\x0a'") != std::string::npos,
              i % 3 != 0)
        << results[i].note;
  }
}

// Neither of answers that run on, nor of those that hide in sessions of their own.
TEST_F(CodeTest, NoProcessIsLeft) {
  RewardConfig config = Config();
  config.timeout_s = 2;
  config.workers = 2;
  const std::string mark = "opo_test_mark_" + std::to_string(getpid());
  const std::string code =
      "import os, time\nfor _ in range(4):\n  if os.fork() == 0: os.setsid()\n"
      "os.execv('/usr/bin/python3', ['python3', '-c', 'import time; time.sleep(1000) #" +
      mark + "'])";
  std::atomic<bool> done = false;
  int seen = 0;
  std::thread watcher([&] {
    while (!done) seen = std::max(seen, CountProcesses(mark));
  });
  const auto results = AskAll(*MakeCodeReward(config, "reward.0"), WithAnswer(kSum),
                              {ScriptOf(code), ScriptOf(code), ScriptOf(code)});
  done = true;
  watcher.join();
  for (const RewardResult& result : results) EXPECT_EQ(result.value, 0);
  EXPECT_GE(seen, 5) << "the test sees no processes";
  EXPECT_TRUE(NoneLeft(mark));
}

TEST_F(CodeTest, SetsHaveOneOrder) {
  const auto reward = MakeCodeReward(Config(), "reward.0");
  const Problem problem = WithAnswer(R"({"inputs": [""], "outputs": ["?"]})");
  const std::string code = ScriptOf("print({str(i) for i in range(100)})");
  EXPECT_EQ(Ask(*reward, problem, code).note, Ask(*reward, problem, code).note);
}

TEST_F(CodeTest, ProblemsWithoutOrWithBadCases) {
  const auto reward = MakeCodeReward(Config(), "reward.0");
  EXPECT_EQ(Ask(*reward, WithAnswer(""), "x").verdict, Verdict::kSkipped);
  for (const char* gold :
       {"42", "{}", "[]", R"([1])", R"({"inputs": [], "outputs": []})",
        R"({"inputs": ["1"], "outputs": []})", R"({"inputs": [1], "outputs": [2]})",
        R"({"fn_name": "f", "inputs": [1], "outputs": [2]})",
        R"({"fn_name": 1, "inputs": [[1]], "outputs": [2]})",
        R"({"asserts": ["assert 1"], "setup": 1})", "assertion", "{\"inputs\": [[[[1]]]]"}) {
    const RewardResult result = Ask(*reward, WithAnswer(gold), "x");
    EXPECT_EQ(result.verdict, Verdict::kError) << gold;
    EXPECT_EQ(result.reason, "gold") << gold;
    EXPECT_NE(result.note.find("test cases: "), std::string::npos);
  }
}

// Nothing needs a sandbox from here on.

TEST(CodeCases, TheAnswersCodeIsFound) {
  const struct {
    const char* completion;
    const char* code;
  } cases[] = {
      {"print(1)", "print(1)"},
      {"", ""},
      {"```python\na\n```", "a\n"},
      {"```py\na\n```\n```python3\nb\n```", "b\n"},
      {"```Python\na\n```\nand\n```\nb\n```", "a\n"},
      {"```\na\n```\n```text\nb\n```", "b\n"},
      {"x\n```python\na = '''```'''\nb\n```\ny", "a = '''```'''\nb\n"},
      {"```python\na\nb", "a\nb"},
      {"```python", ""},
      {"```", ""},
      {"``````", ""},
      {"```python\n```", ""},
  };
  for (const auto& c : cases) EXPECT_EQ(FindCode(c.completion), c.code) << c.completion;
}

TEST(CodeCases, OutputsAreEqualButForWhiteSpaceAtEnds) {
  EXPECT_TRUE(SameOutput("1 2\n3", "1 2 \n3\n\n"));
  EXPECT_TRUE(SameOutput("", "\n \n"));
  EXPECT_TRUE(SameOutput("a\r\nb\r\n", "a\nb"));
  EXPECT_FALSE(SameOutput("1  2", "1 2"));
  EXPECT_FALSE(SameOutput(" 1", "1"));
  EXPECT_FALSE(SameOutput("1\n\n2", "1\n2"));
  EXPECT_FALSE(SameOutput("", "1"));
}

TEST(CodeCases, ValuesAreEqualAsJson) {
  using Json = nlohmann::ordered_json;
  EXPECT_TRUE(SameValue(Json::parse("[1, 2.0]"), Json::parse("[1.0, 2]")));
  EXPECT_TRUE(SameValue(1, Json::parse("[1]")));
  EXPECT_TRUE(SameValue(Json::parse("[1]"), "[1]"));
  EXPECT_TRUE(SameValue("a", "a"));
  EXPECT_TRUE(SameValue(Json::parse(R"({"a": 1, "b": 2})"), Json::parse(R"({"b": 2, "a": 1})")));
  EXPECT_FALSE(SameValue(Json::parse("[1]"), 1));
  EXPECT_FALSE(SameValue(1, true));
  EXPECT_FALSE(SameValue(Json(Json::value_t::discarded), 1));
  EXPECT_FALSE(SameValue(1, std::string(100000, '[')));
}

}  // namespace
}  // namespace opo
