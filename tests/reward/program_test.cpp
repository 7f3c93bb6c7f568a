// The kind "program": its protocol, and each way in which a program can fail.
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "format/expect_error.h"
#include "reward/ask.h"
#include "reward/reply.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// A judge in Python: `body` runs for each request `q`, and may call reply(anything as JSON).
std::string Judge(const std::string& body) {
  std::string script =
      "import json, os, sys, time\n"
      "def reply(x): print(json.dumps(x), flush=True)\n"
      "for line in sys.stdin:\n"
      "  q = json.loads(line)\n"
      "  text = q['completion']\n";
  std::size_t begin = 0;
  while (begin < body.size()) {
    const std::size_t end = std::min(body.find('\n', begin), body.size());
    script += "  " + body.substr(begin, end - begin) + "\n";
    begin = end + 1;
  }
  return script;
}

RewardConfig Python(const std::string& script) {
  RewardConfig config;
  config.kind = "program";
  config.command = {"python3", "-c", script};
  config.timeout_s = 20;
  return config;
}

RewardConfig Shell(const std::string& script) {
  RewardConfig config = Python("");
  config.command = {"sh", "-c", script};
  return config;
}

std::unique_ptr<Reward> Make(const RewardConfig& config) {
  return MakeProgramReward(config, "reward.0");
}

// Asks with one completion after the other.
std::vector<RewardResult> AskInTurn(const RewardConfig& config,
                                    const std::vector<std::string>& completions) {
  const auto reward = Make(config);
  std::vector<RewardResult> results;
  for (const std::string& completion : completions) {
    results.push_back(Ask(*reward, WithAnswer("42"), completion));
  }
  return results;
}

void ExpectError(const RewardResult& result, const std::string& reason, const std::string& note) {
  EXPECT_EQ(result.verdict, Verdict::kError);
  EXPECT_EQ(result.reason, reason) << result.note;
  EXPECT_NE(result.note.find(note), std::string::npos) << result.note;
}

void ExpectScore(const RewardResult& result, double value) {
  EXPECT_EQ(result.verdict, Verdict::kScored) << result.note;
  EXPECT_EQ(result.value, value);
}

TEST(Program, ANumberNullOrAnObjectIsAnAnswer) {
  const auto results = AskInTurn(Python(Judge("reply(json.loads(text))")),
                                 {"0.25", "null", "true", R"({"score": -1, "acc": 1, "ok": true})",
                                  R"({"score": null, "pred": "7"})", R"({"error": "no idea"})"});
  ExpectScore(results[0], 0.25);
  EXPECT_EQ(results[1].verdict, Verdict::kSkipped);
  ExpectScore(results[2], 1);
  ExpectScore(results[3], -1);
  EXPECT_EQ(results[3].logged,
            (std::vector<std::pair<std::string, double>>{{"acc", 1}, {"ok", 1}}));
  EXPECT_EQ(results[4].verdict, Verdict::kSkipped);
  EXPECT_EQ(results[4].note, "the judge skipped it, pred '7'");
  ExpectError(results[5], "program", "no idea");
}

TEST(Program, TheRequestHasVerlsAndTrlsKeys) {
  const fs::path seen = fs::temp_directory_path() / ("opo_request_" + std::to_string(getpid()));
  const auto reward =
      Make(Python(Judge("open('" + seen.string() + "', 'w').write(line); reply(1)")));
  Problem problem = WithAnswer("42");
  problem.extra = Json::parse(
      R"({"extra_info": {"index": 3}, "level": "hard", "completion": "clash", "id": "row"})");
  ExpectScore(Ask(*reward, problem, "a\xff\"\n\xc3\xa9"), 1);
  const Json request = Json::parse(ReadFile(seen.string()));
  fs::remove(seen);
  EXPECT_EQ(request, Json::parse(R"({
    "id": 1, "data_source": "test", "solution_str": "a\ufffd\"\n\u00e9", "ground_truth": "42",
    "extra_info": {"index": 3}, "prompt": [{"role": "user", "content": "What?"}],
    "completion": "a\ufffd\"\n\u00e9", "completion_ids": [1, 2, 3], "finish_reason": "eos",
    "level": "hard", "answer": "42"})"));
}

TEST(Program, ManyWorkersKeepTheOrder) {
  RewardConfig config = Python(Judge("time.sleep(0.002 * (int(text) % 7)); reply(int(text))"));
  config.workers = 5;
  const auto reward = Make(config);
  std::vector<std::string> completions;
  for (int i = 0; i < 100; ++i) completions.push_back(std::to_string(i));
  for (int round = 0; round < 2; ++round) {
    const auto results = AskAll(*reward, WithAnswer("42"), completions);
    for (int i = 0; i < 100; ++i) ExpectScore(results[static_cast<std::size_t>(i)], i);
  }
}

TEST(Program, AHangIsATimeoutAndTheWholeGroupEnds) {
  const fs::path pids = fs::temp_directory_path() / ("opo_hang_" + std::to_string(getpid()));
  RewardConfig config =
      Python(Judge("if text == 'hang':\n"
                   "  import subprocess\n"
                   "  child = subprocess.Popen(['sleep', '1000'])\n"
                   "  open('" +
                   pids.string() +
                   "', 'w').write('%d %d' % (os.getpid(), child.pid))\n"
                   "  time.sleep(1000)\n"
                   "reply(1)"));
  config.timeout_s = 5;
  const auto results = AskInTurn(config, {"fine", "hang", "fine"});
  ExpectScore(results[0], 1);
  ExpectError(results[1], "timeout", "no answer within 5 s");
  ExpectScore(results[2], 1);
  std::ifstream in(pids);
  int parent = 0;
  int child = 0;
  in >> parent >> child;
  fs::remove(pids);
  ASSERT_GT(child, 0);
  EXPECT_FALSE(ProcText("/proc/self/stat").empty());
  EXPECT_TRUE(IsGone(parent));
  EXPECT_TRUE(IsGone(child));
}

TEST(Program, CpuTimeHasALimitOfItsOwn) {
  RewardConfig config =
      Python(Judge("if text == 'burn':\n"
                   "  if os.fork() == 0:\n"
                   "    while True: pass\n"
                   "  os.wait()\n"
                   "reply(1)"));
  config.cpu_s = 0.5;
  config.timeout_s = 100;
  const auto results = AskInTurn(config, {"fine", "burn", "fine"});
  ExpectScore(results[0], 1);
  ExpectError(results[1], "timeout", "no answer within 0.5 s of CPU time");
  ExpectScore(results[2], 1);
}

TEST(Program, ACrashIsAnErrorAndItStartsAgain) {
  RewardConfig config =
      Python(Judge("if text == 'exit':\n"
                   "  sys.stderr.write('last words\\n')\n"
                   "  sys.exit(3)\n"
                   "if text == 'kill': os.kill(os.getpid(), 9)\n"
                   "if text == 'part':\n"
                   "  sys.stdout.write('0.')\n"
                   "  sys.stdout.flush()\n"
                   "  os._exit(0)\n"
                   "if text == 'close':\n"
                   "  os.close(1)\n"
                   "  time.sleep(1000)\n"
                   "reply(1)"));
  const auto results = AskInTurn(config, {"fine", "exit", "kill", "fine", "part", "close", "fine"});
  ExpectScore(results[0], 1);
  ExpectError(results[1], "crash", "the program ended: exit code 3; stderr ends with 'last words'");
  ExpectError(results[2], "crash", "signal 9");
  ExpectScore(results[3], 1);
  ExpectError(results[4], "crash", "exit code 0, after a part of an answer: '0.'");
  ExpectError(results[5], "crash", "closed its streams");
  ExpectScore(results[6], 1);
}

// Such a program may end between two calls, before or after the next request is written.
TEST(Program, AProgramMayEndAfterAnAnswer) {
  const auto results = AskInTurn(Python(Judge("reply(1)\nos._exit(0)")), {"a", "b", "c", "d", "e"});
  for (const RewardResult& result : results) ExpectScore(result, 1);
}

TEST(Program, WhatIsNoAnswerIsGarbage) {
  const std::string judge = Judge(
      "out = json.loads(text)\n"
      "sys.stdout.buffer.write(out.encode('latin-1'))\n"
      "sys.stdout.flush()");
  const struct {
    const char* output;  // as JSON text
    const char* note;
  } cases[] = {
      {R"("hello\n")", "not JSON: 'hello'"},
      {R"("\n")", "not JSON"},
      {R"("NaN\n")", "not JSON"},
      {R"("Infinity\n")", "not JSON"},
      {R"("1e999\n")", "out of range"},
      {R"("1e300\n")", "beyond"},
      {R"("1 2\n")", "not JSON"},
      {R"("1\n2\n")", "more than one line"},
      {R"("\"1\"\n")", "no number as score"},
      {R"("[1]\n")", "no number as score"},
      {R"("{}\n")", "without \"score\""},
      {R"("{\"score\": \"1\"}\n")", "no number as score"},
      {R"("{\"score\": 1, \"id\": 77}\n")", "another request"},
      {R"("{\"score\": 1, \"a b\": 7}\n")", "cannot be logged"},
      {R"("\u00ff\u00fe\u0000\u0001\n")", "\\xff\\xfe\\x00\\x01"},
  };
  for (const auto& c : cases) {
    const auto results = AskInTurn(Python(judge), {R"("1\n")", c.output, R"("1\n")"});
    ExpectScore(results[0], 1);
    const std::string note = std::string(c.note) == "another request" ? "request '77'" : c.note;
    ExpectError(results[1], "garbage", note);
    ExpectScore(results[2], 1);
  }
}

// The second line comes after the first was taken for the answer: the next call must not get it.
TEST(Program, AnAnswerIsNeverTakenForAnothers) {
  const auto reward = Make(Python(Judge("reply(1)\ntime.sleep(0.1)\nif text == 'two': reply(2)")));
  const Problem problem = WithAnswer("42");
  ExpectScore(Ask(*reward, problem, "one"), 1);
  ExpectScore(Ask(*reward, problem, "two"), 1);
  usleep(2'000'000);  // longer than the second line takes on a busy machine
  ExpectError(Ask(*reward, problem, "three"), "garbage", "not asked for: '2");
  ExpectScore(Ask(*reward, problem, "four"), 1);
}

TEST(Program, ALateAnswerIsNeverTakenForAnothers) {
  RewardConfig config = Python(Judge("time.sleep(float(text))\nreply(float(text))"));
  config.timeout_s = 5;
  const auto results = AskInTurn(config, {"0", "5.5", "0"});
  ExpectScore(results[0], 0);
  ExpectError(results[1], "timeout", "");
  ExpectScore(results[2], 0);
}

TEST(Program, AnAnswerBeforeTheRequestIsReadIsGarbage) {
  RewardConfig config = Shell("echo 1; cat >/dev/null");
  const auto reward = Make(config);
  // Larger than the pipe, so that it cannot have been written when the answer comes.
  ExpectError(Ask(*reward, WithAnswer("42"), std::string(1 << 20, 'x')), "garbage",
              "before the request was read");
}

TEST(Program, ARequestThatNobodyReadsIsATimeout) {
  const auto config = [] {
    RewardConfig c = Shell("sleep 1000");
    c.timeout_s = 0.5;
    return c;
  }();
  ExpectError(Ask(*Make(config), WithAnswer("42"), std::string(1 << 22, 'x')), "timeout", "0.5 s");
}

TEST(Program, LargeRequestsArrive) {
  ExpectScore(AskInTurn(Python(Judge("reply(len(text))")), {std::string(3 << 20, 'x')})[0],
              3 << 20);
}

TEST(Program, AGigabyteWithoutALineEndIsStopped) {
  RewardConfig config =
      Python(Judge("if text == 'flood':\n"
                   "  for _ in range(1024): sys.stdout.write('0' * (1 << 20))\n"
                   "reply(1)"));
  config.output_kb = 100;
  const auto results = AskInTurn(config, {"fine", "flood", "fine"});
  ExpectError(results[1], "output", "more than 100 KB");
  ExpectScore(results[2], 1);
  config = Python(Judge("print('0' * 200000 + '1', flush=True)"));
  config.output_kb = 100;
  ExpectError(AskInTurn(config, {"x"})[0], "output", "more than 100 KB");
}

TEST(Program, AGigabyteOnStderrHarmsNobody) {
  const auto results = AskInTurn(Shell("read line; head -c 1G /dev/zero >&2; echo 1"), {"x"});
  ExpectScore(results[0], 1);
}

TEST(Program, AProgramThatCannotWorkStopsTheRun) {
  // Missing: when the reward is made.
  for (const char* name : {"no-such-program-anywhere", "./no/such/file"}) {
    RewardConfig config = Shell("");
    config.command = {name};
    ExpectError(ErrorCode::kUsage, [&] { Make(config); }, {"reward.0.command", name});
  }
  ExpectError(ErrorCode::kUsage, [] { Make(RewardConfig()); }, {"reward.0.command", "missing"});
  // Dies at once: an error an answer, but not for long.
  const auto reward = Make(Shell("echo no module named judge >&2; exit 1"));
  const std::vector<std::string> many(1000, "x");
  ExpectError(ErrorCode::kWork, [&] { AskAll(*reward, WithAnswer("42"), many); },
              {"reward.0.command", "exit code 1", "no module named judge"});
  // The same after it worked for a while.
  const fs::path flag = fs::temp_directory_path() / ("opo_flag_" + std::to_string(getpid()));
  const auto later = Make(Python("import os\nif os.path.exists('" + flag.string() +
                                 "'): raise SystemExit('broken now')\n" +
                                 Judge("if text == 'x': sys.exit(1)\nreply(1)")));
  ExpectScore(Ask(*later, WithAnswer("42"), "fine"), 1);
  std::ofstream(flag) << "";
  ExpectError(ErrorCode::kWork, [&] { AskAll(*later, WithAnswer("42"), many); }, {"broken now"});
  fs::remove(flag);
}

TEST(Program, SecretsAndDescriptorsStayHere) {
  setenv("OPO_TEST_SECRET", "hidden", 1);
  const auto results = AskInTurn(Python(Judge("fds = os.listdir('/proc/self/fd')\n"
                                              "reply('OPO_TEST_SECRET' not in os.environ and "
                                              "len(fds) <= 4)")),
                                 {"x"});
  unsetenv("OPO_TEST_SECRET");
  ExpectScore(results[0], 1);
}

// Whether on_scored throws (a reward whose errors end the run) or not: queries at hand are given
// up.
TEST(Program, NothingIsLeftBehind) {
  const std::string mark = "opo_test_mark_" + std::to_string(getpid());
  {
    RewardConfig config = Python("# " + mark + "\n" + Judge("time.sleep(0.01)\nreply(int(text))"));
    config.workers = 4;
    const auto reward = Make(config);
    const Problem problem = WithAnswer("42");
    std::vector<RewardQuery> queries(20, RewardQuery{problem, "", "7", {}, FinishReason::kEos});
    std::vector<RewardResult> results(20);
    EXPECT_THROW(
        reward->Score(queries, results, [](std::size_t) { throw std::runtime_error("x"); }),
        std::runtime_error);
    // It works on, and no answer of before is taken for one of now.
    for (const RewardResult& result : AskAll(*reward, problem, std::vector<std::string>(8, "9"))) {
      ExpectScore(result, 9);
    }
    EXPECT_EQ(CountProcesses(mark), 4);
  }
  EXPECT_TRUE(NoneLeft(mark));
}

RewardConfig Adapter(const std::string& file, const std::vector<std::string>& flags = {}) {
  RewardConfig config = Python("");
  const std::string folder = std::string(OPO_SOURCE_DIR) + "/examples/rewards/";
  config.command = {"python3", folder + "adapter.py", file};
  config.command.insert(config.command.end(), flags.begin(), flags.end());
  return config;
}

TEST(Adapter, ServesVerlsFunctions) {
  const std::string file =
      std::string(OPO_SOURCE_DIR) + "/examples/rewards/compute_score_example.py";
  const auto results = AskInTurn(Adapter(file), {"It is 42.", "It is 43.", "none"});
  ExpectScore(results[0], 1);
  ExpectScore(results[1], 0);
  ExpectScore(results[2], 0);
  EXPECT_EQ(results[2].logged[0], (std::pair<std::string, double>("found_a_number", 0)));
}

// Functions as users have them: they print, raise, return odd values, are asynchronous.
TEST(Adapter, ServesWhatUsersHave) {
  const fs::path file =
      fs::temp_directory_path() / ("opo_adapter_" + std::to_string(getpid()) + ".py");
  std::ofstream(file) << R"py(
import os
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    print("a line on stdout")
    os.system("echo and one more")
    if solution_str == "raise": raise ValueError("bad answer")
    if solution_str == "nan": return float("nan")
    return len(solution_str)
async def slow(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": 2, "data_source": data_source}
def reward_func(prompts, completions, completion_ids, level, trainer_state=None, log_extra=None,
                log_metric=None, **columns):
    assert prompts == [[{"role": "user", "content": "What?"}]] and completion_ids == [[1, 2, 3]]
    assert columns["answer"] == ["42"] and columns["ground_truth"] == ["42"]
    log_metric("seen", len(completions))
    return [None if c[0]["content"] == "skip" else level[0] for c in completions]
)py";
  auto results = AskInTurn(Adapter(file.string()), {"four", "raise", "nan", "x"});
  ExpectScore(results[0], 4);
  ExpectError(results[1], "program", "ValueError: bad answer");
  ExpectError(results[2], "program", "ValueError");
  ExpectScore(results[3], 1);
  results = AskInTurn(Adapter(file.string() + ":slow"), {"x"});
  ExpectScore(results[0], 2);
  EXPECT_EQ(results[0].note, "data_source 'test'");
  const auto trl = Make(Adapter(file.string(), {"--trl"}));
  Problem problem = WithAnswer("42");
  problem.extra["level"] = 5;
  ExpectScore(Ask(*trl, problem, "x"), 5);
  EXPECT_EQ(Ask(*trl, problem, "x").logged[0], (std::pair<std::string, double>("seen", 1)));
  EXPECT_EQ(Ask(*trl, problem, "skip").verdict, Verdict::kSkipped);
  fs::remove(file);
}

}  // namespace
}  // namespace opo
