// The kind "code": runs the Python code of an answer against the problem's test cases, in a sandbox
// of its own. 1 if all cases pass.
#include "base/clock.h"
#include "base/error.h"
#include "format/quote.h"
#include "reward/code_cases.h"
#include "reward/kinds.h"
#include "reward/sandbox.h"
#include "reward/workers.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kReadAtOnce = 1 << 18;
constexpr std::string_view kReady = "ready\n";

constexpr char kDriver[] =
#include "reward/code_driver.inc"
    ;

std::string Frame(std::string_view bytes) { return fmt::format("{}\n{}", bytes.size(), bytes); }

std::string Dump(const Json& value) {
  return value.dump(-1, ' ', true, Json::error_handler_t::replace);
}

class CodeWorker final : public Worker {
 public:
  explicit CodeWorker(const RewardConfig& config) : config_(config) {}

  void Begin(const RewardQuery& query) override {
    std::string fault;
    cases_ = ReadCodeCases(query.problem, fault);
    early_.reset();
    if (!fault.empty()) {
      early_ = RewardError("gold", "the problem's test cases: " + fault);
    } else if (cases_.inputs.empty()) {
      early_ = RewardResult{Verdict::kSkipped, 0, "the problem has no test cases", {}, {}};
    }
    if (early_) return;
    passed_ = done_ = 0;
    first_failure_.clear();
    ready_ = false;
    bytes_.clear();
    job_ = Job(FindCode(query.completion));
    unsent_ = job_;
    process_ = StartPython(Script(), config_.memory_mb);
    deadline_ = Seconds() + config_.timeout_s;
  }

  std::optional<RewardResult> Advance() override {
    if (early_) return early_;
    process_->DrainErr();
    // Whoever closes its stdin early still has its say.
    if (!process_->Write(unsent_)) unsent_ = {};
    if (unsent_.empty()) process_->CloseIn();
    const bool open = process_->Read(bytes_, kReadAtOnce);
    if (!ready_ && bytes_.starts_with(kReady)) {
      ready_ = true;
      bytes_.erase(0, kReady.size());
    }
    bool bad = false;
    if (ready_) bad = !TakeOutcomes();
    if (done_ == cases_.inputs.size()) return Result();
    if (bad) return Stopped("the judge was killed or disturbed");
    if (!open) return Stopped("the processes ended before all cases were judged");
    if (Seconds() >= deadline_) {
      return Stopped(fmt::format("the time limit of {} s was reached", config_.timeout_s));
    }
    return std::nullopt;
  }

  void Abandon() override { process_.reset(); }
  const Process* process() const override { return early_ ? nullptr : process_.get(); }
  bool is_writing() const override { return !unsent_.empty(); }
  double due() const override { return early_ ? 0 : deadline_; }

 private:
  static std::string Script() {
    return fmt::format("PROCESSES = {}\n{}", kSandboxProcesses, kDriver);
  }

  std::string Job(std::string_view code) const {
    const bool is_call = cases_.form == CodeCases::Form::kCall;
    const bool is_stdin = cases_.form == CodeCases::Form::kStdin;
    Json job;
    job["form"] = is_call ? "call" : is_stdin ? "stdin" : "assert";
    job["code"] = code;
    job["fn_name"] = cases_.fn_name;
    job["cases"] = cases_.inputs.size();
    job["cpu_s"] = CpuLimit(config_);
    job["output_bytes"] = config_.output_kb * 1024;
    std::string frames = Frame(Dump(job));
    for (const Json& input : cases_.inputs) {
      frames += Frame(is_call ? Dump(input) : input.get_ref<const std::string&>());
    }
    return frames;
  }

  // Judges the cases whose outcome has come. False where what came is none.
  bool TakeOutcomes() {
    std::string_view bytes = bytes_;
    bool bad = false;
    while (done_ < cases_.inputs.size()) {
      const std::optional<CodeOutcome> outcome = TakeOutcome(bytes, bad);
      if (!outcome) break;
      Judge(*outcome);
      ++done_;
    }
    bytes_.erase(0, bytes_.size() - bytes.size());
    return !bad;
  }

  void Judge(const CodeOutcome& outcome) {
    std::string failure;
    if (outcome.status != "ok") {
      failure = std::string(outcome.status);
      const std::string_view err = Trim(outcome.err);
      const std::size_t last_line = err.rfind('\n');
      if (!err.empty()) failure += ", " + Quote(err.substr(last_line + 1));
    } else if (cases_.form != CodeCases::Form::kAssert) {
      failure = Compare(outcome.output, cases_.outputs[done_]);
    }
    if (failure.empty()) {
      ++passed_;
    } else if (first_failure_.empty()) {
      first_failure_ = fmt::format("; case {}: {}", done_, failure);
    }
  }

  // What is wrong with the output of a case, or "".
  std::string Compare(std::string_view output, const Json& expected) const {
    bool same = false;
    if (cases_.form == CodeCases::Form::kStdin) {
      same = SameOutput(output, expected.get_ref<const std::string&>());
    } else {
      same = SameValue(JsonOrDiscarded(output), expected);
    }
    return same ? "" : "wrong, " + Quote(output);
  }

  // Some cases have no outcome: they did not pass. Before the judge was ready it is our fault.
  RewardResult Stopped(const std::string& why) {
    process_->End(0.2);
    if (!ready_) {
      RewardResult result = RewardError("sandbox", why + ErrNote(*process_));
      process_.reset();
      return result;
    }
    if (first_failure_.empty()) first_failure_ = fmt::format("; case {}: {}", done_, why);
    return Result();
  }

  RewardResult Result() {
    process_.reset();
    const std::size_t total = cases_.inputs.size();
    RewardResult result;
    result.value = passed_ == total ? 1 : 0;
    result.note = fmt::format("{} of {} cases passed{}", passed_, total, first_failure_);
    result.logged.emplace_back("passed_fraction",
                               static_cast<double>(passed_) / static_cast<double>(total));
    return result;
  }

  const RewardConfig config_;
  std::unique_ptr<Process> process_;
  CodeCases cases_;
  std::optional<RewardResult> early_;  // known without a process
  std::string job_;
  std::string_view unsent_;
  std::string bytes_;  // what was read and not judged yet
  bool ready_ = false;
  std::size_t done_ = 0;
  std::size_t passed_ = 0;
  std::string first_failure_;
  double deadline_ = 0;
};

class CodeReward final : public Reward {
 public:
  explicit CodeReward(const RewardConfig& config) {
    for (idx i = 0; i < NumWorkers(config); ++i) {
      workers_.push_back(std::make_unique<CodeWorker>(config));
    }
  }

  void Score(std::span<const RewardQuery> queries, std::span<RewardResult> results,
             const ScoredCallback& on_scored) override {
    ScoreWithWorkers(workers_, queries, results, on_scored);
  }

 private:
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace

std::string SandboxFault() {
  RewardConfig config;
  config.workers = 1;
  config.timeout_s = 20;
  config.cpu_s = 0;
  config.memory_mb = 512;
  config.output_kb = 1;
  Problem problem;
  problem.answer = R"({"inputs": ["6 7\n"], "outputs": ["42\n"]})";
  const RewardQuery query = {
      problem, "", "a, b = input().split()\nprint(int(a) * int(b))", {}, FinishReason::kEos};
  RewardResult result;
  try {
    CodeReward(config).Score({&query, 1}, {&result, 1}, [](std::size_t) {});
  } catch (const Error& error) {
    return error.what();
  }
  return result.verdict == Verdict::kScored && result.value == 1 ? "" : result.note;
}

std::unique_ptr<Reward> MakeCodeReward(const RewardConfig& config, const std::string& where) {
  // A config is checked several times before its run begins, and a try takes a process.
  static const std::string fault = SandboxFault();
  if (!fault.empty()) {
    Fail(
        ErrorCode::kUsage,
        "{}.kind = \"code\": there is no sandbox here, and answers do not run without one: {}. It "
        "needs bubblewrap and /usr/bin/python3 (apt-get install bubblewrap python3), a kernel that "
        "lets users make namespaces (sysctl user.max_user_namespaces, and on Debian and Ubuntu "
        "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0), and "
        "a container that does not forbid it",
        where, fault);
  }
  return std::make_unique<CodeReward>(config);
}

}  // namespace opo
