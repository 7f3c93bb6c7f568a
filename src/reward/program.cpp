// The kind "program": a long-lived process that is asked in JSON lines on its stdin and answers on
// its stdout, a line a query. examples/rewards/README.md is the protocol.
#include <algorithm>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "format/quote.h"
#include "reward/kinds.h"
#include "reward/reply.h"
#include "reward/workers.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

// What is read at once, and so how far an output can grow beyond its limit.
constexpr std::size_t kReadAtOnce = 1 << 16;
// A look at the CPU time reads all of /proc. So there is some time between two of them, and a call
// is charged what the program used since the last one before it, if that cannot be more than this
// part of the limit.
constexpr double kCpuCheck = 0.05;
constexpr double kCpuSlack = 0.1;

// The request: ours, verl's and TRL's keys, then the row's other columns. ASCII, and bytes that are
// no UTF-8 become U+FFFD.
std::string Request(const RewardQuery& query, idx id) {
  const Problem& problem = query.problem;
  const Json::object_t* const columns = problem.extra.get_ptr<const Json::object_t*>();
  Json request;
  request["id"] = id;
  request["data_source"] = problem.data_source;
  request["solution_str"] = query.completion;
  request["ground_truth"] = problem.answer.empty() ? Json() : Json(problem.answer);
  request["extra_info"] = columns != nullptr && problem.extra.contains("extra_info")
                              ? problem.extra["extra_info"]
                              : Json();
  request["prompt"] = problem.messages;
  request["completion"] = query.completion;
  request["completion_ids"] = Json(std::vector<TokenId>(query.tokens.begin(), query.tokens.end()));
  request["finish_reason"] = FinishReasonName(query.finish);
  if (columns != nullptr) {
    for (const auto& [name, value] : problem.extra.items()) {
      if (!request.contains(name)) request[name] = value;
    }
  }
  if (!request.contains("answer")) request["answer"] = request["ground_truth"];
  return request.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n";
}

// What the workers of one reward know of their program's health: one that dies again and again
// without an answer in between stops the run, instead of an error an answer.
class Health {
 public:
  Health(std::string where, std::size_t num_workers)
      : where_(std::move(where)), num_workers_(num_workers) {}

  void Answered() {
    has_answered_ = true;
    barren_ = 0;
  }

  // A life ended that brought no answer. Throws Error(kWork) where it is one too many.
  void Barren(const std::string& how, const Process& process) {
    ++barren_;
    const std::size_t limit = has_answered_ ? 2 + 2 * num_workers_ : 2;
    if (barren_ < limit) return;
    Fail(ErrorCode::kWork,
         "{}.command: the program {} times in a row ended without an answer, last with: {}; try it "
         "by hand with a request line of examples/rewards/README.md.{}",
         where_, barren_, how,
         process.err_tail().empty() ? " It wrote nothing to stderr"
                                    : " The end of its stderr:\n" + process.err_tail());
  }

 private:
  std::string where_;
  std::size_t num_workers_;
  std::size_t barren_ = 0;
  bool has_answered_ = false;
};

class ProgramWorker final : public Worker {
 public:
  ProgramWorker(const RewardConfig& config, Health& health) : config_(config), health_(health) {}

  void Begin(const RewardQuery& query) override {
    id_ = ++last_id_;
    request_ = Request(query, id_);
    if (process_) {
      // What came since the last answer.
      process_->DrainErr();
      if (!process_->Read(answer_, kReadAtOnce) && answer_.empty()) process_.reset();
    }
    out_of_step_ = !answer_.empty();
    Ask();
    deadline_ = Seconds() + config_.timeout_s;
  }

  std::optional<RewardResult> Advance() override {
    if (out_of_step_) return Broken("garbage", "a line that was not asked for: " + Quote(answer_));
    process_->DrainErr();
    const bool writes = process_->Read(answer_, kReadAtOnce);
    const std::size_t end = answer_.find('\n');
    if (end != std::string::npos) return TakeAnswer(end);
    if (static_cast<idx>(answer_.size()) > config_.output_kb * 1024) {
      return Broken("output", fmt::format("more than {} KB without a line end", config_.output_kb));
    }
    if (!writes || !process_->Write(unsent_)) return Ended();
    const double now = Seconds();
    if (now >= deadline_) {
      return Broken("timeout", fmt::format("no answer within {} s", config_.timeout_s));
    }
    if (now >= cpu_check_ && SpentCpu(now)) {
      return Broken("timeout", fmt::format("no answer within {} s of CPU time", CpuLimit(config_)));
    }
    return std::nullopt;
  }

  void Abandon() override { process_.reset(); }
  const Process* process() const override { return process_.get(); }
  bool is_writing() const override { return !unsent_.empty(); }
  double due() const override { return out_of_step_ ? 0 : std::min(deadline_, cpu_check_); }

 private:
  void Restart() {
    process_.reset();  // the old one ends first
    ProcessSpec spec;
    spec.argv = config_.command;
    spec.environment = CleanEnvironment();
    process_ = std::make_unique<Process>(spec);
    cpu_known_ = 0;
    cpu_looked_ = Seconds();
    answers_ = 0;
    answer_.clear();
  }

  void Ask() {
    if (!process_) Restart();
    unsent_ = request_;
    const double now = Seconds();
    if ((now - cpu_looked_) * NumCpus() > kCpuSlack * CpuLimit(config_)) {
      cpu_known_ = process_->CpuSeconds();
      cpu_looked_ = now;
    }
    cpu_check_ = now + NextCpuCheck(CpuLimit(config_));
  }

  static double NumCpus() { return std::max(1U, std::thread::hardware_concurrency()); }

  // No sooner can the group use up what is left of its time.
  static double NextCpuCheck(double left) { return std::max(kCpuCheck, left / NumCpus()); }

  bool SpentCpu(double now) {
    const double left = cpu_known_ + CpuLimit(config_) - process_->CpuSeconds();
    cpu_check_ = now + NextCpuCheck(left);
    return left <= 0;
  }

  // A line is there, up to `end`. It must be all that there is, and come after the whole request.
  RewardResult TakeAnswer(std::size_t end) {
    if (end + 1 != answer_.size()) {
      return Broken("garbage", "more than one line for one request: " + Quote(answer_));
    }
    if (!unsent_.empty()) {
      return Broken("garbage", "an answer before the request was read: " + Quote(answer_));
    }
    if (static_cast<idx>(end) > config_.output_kb * 1024) {
      return Broken("output", fmt::format("an answer of more than {} KB", config_.output_kb));
    }
    answer_.pop_back();
    if (answer_.ends_with('\r')) answer_.pop_back();
    RewardResult result = ReadProgramReply(answer_, id_);
    // It may be out of step.
    if (result.reason == "garbage") return Broken(result.reason, result.note);
    answer_.clear();
    ++answers_;
    health_.Answered();
    return result;
  }

  // Nobody reads, or nothing comes any more. A program may end between two calls, and only then we
  // may not know yet that it did: such a request goes to its successor.
  std::optional<RewardResult> Ended() {
    const std::string how = process_->End(0.2);
    if (how == "exit code 0" && answers_ > 0 && answer_.empty()) {
      process_.reset();
      Ask();
      return std::nullopt;
    }
    std::string note = how.empty() ? "the program closed its streams" : "the program ended: " + how;
    if (!answer_.empty()) note += ", after a part of an answer: " + Quote(answer_);
    return Broken("crash", std::move(note));
  }

  // The program is ended, a new one starts with the next query.
  RewardResult Broken(const std::string& reason, std::string note) {
    process_->End(0);
    RewardResult result = RewardError(reason, note + ErrNote(*process_));
    const bool barren = answers_ == 0;
    const std::unique_ptr<Process> ended = std::move(process_);
    answer_.clear();
    unsent_ = {};
    if (barren) health_.Barren(note, *ended);
    return result;
  }

  const RewardConfig config_;
  Health& health_;
  std::unique_ptr<Process> process_;
  idx answers_ = 0;  // of this process
  idx last_id_ = 0;
  idx id_ = 0;           // of the request at hand
  std::string request_;  // with its line end
  std::string_view unsent_;
  std::string answer_;  // what was read since the last answer
  bool out_of_step_ = false;
  double deadline_ = 0;
  double cpu_check_ = 0;  // when to look at the CPU time
  double cpu_known_ = 0;  // before the call, as seen at the time cpu_looked_
  double cpu_looked_ = 0;
};

class ProgramReward final : public Reward {
 public:
  ProgramReward(const RewardConfig& config, const std::string& where)
      : health_(where, static_cast<std::size_t>(NumWorkers(config))) {
    for (idx i = 0; i < NumWorkers(config); ++i) {
      workers_.push_back(std::make_unique<ProgramWorker>(config, health_));
    }
  }

  void Score(std::span<const RewardQuery> queries, std::span<RewardResult> results,
             const ScoredCallback& on_scored) override {
    ScoreWithWorkers(workers_, queries, results, on_scored);
  }

 private:
  Health health_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace

std::unique_ptr<Reward> MakeProgramReward(const RewardConfig& config, const std::string& where) {
  if (config.command.empty()) {
    Fail(ErrorCode::kUsage,
         "{}.command: is missing; give the program and its arguments, e.g. [\"python3\", "
         "\"judge.py\"]",
         where);
  }
  try {
    FindProgram(config.command[0]);
  } catch (const Error& error) {
    Fail(ErrorCode::kUsage, "{}.command: {}", where, error.what());
  }
  return std::make_unique<ProgramReward>(config, where);
}

}  // namespace opo
