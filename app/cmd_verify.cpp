// opo verify: the math verifier on a file of cases, or on one answer, in words.
#include <algorithm>
#include <map>

#include "app/command.h"
#include "base/clock.h"
#include "base/error.h"
#include "math/judge.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

struct VerifyArguments {
  std::string cases;
  std::string gold;
  std::string answer;
  bool each = false;
};

struct VerifyCase {
  std::string gold;
  std::string answer;
  std::optional<bool> expected;
};

std::string TextOf(const JsonLine& line, const char* key) {
  if (!line.object.contains(key)) Fail(ErrorCode::kInput, "{}: has no `{}`", line.where, key);
  if (!line.object[key].is_string()) {
    Fail(ErrorCode::kInput, "{}: `{}` is not a string", line.where, key);
  }
  return line.object[key].get<std::string>();
}

std::vector<VerifyCase> ReadCases(const std::string& path) {
  std::vector<VerifyCase> cases;
  for (const JsonLine& line : ReadJsonLines(path)) {
    VerifyCase row{TextOf(line, "gold"), TextOf(line, "pred"), std::nullopt};
    if (line.object.contains("expected")) {
      if (!line.object["expected"].is_boolean()) {
        Fail(ErrorCode::kInput, "{}: `expected` is neither true nor false", line.where);
      }
      row.expected = line.object["expected"].get<bool>();
    }
    if (!cases.empty() && cases[0].expected.has_value() != row.expected.has_value()) {
      Fail(ErrorCode::kInput, "{}: `expected` stands in some lines only; give it in all or none",
           line.where);
    }
    cases.push_back(std::move(row));
  }
  if (cases.empty()) Fail(ErrorCode::kInput, "{}: holds no cases", path);
  return cases;
}

void RunCases(const VerifyArguments& args) {
  const std::vector<VerifyCase> cases = ReadCases(args.cases);
  std::vector<MathJudgement> judgements(cases.size());
  const double begin = Seconds();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    judgements[i] = JudgeMath(cases[i].gold, cases[i].answer);
  }
  const double seconds = Seconds() - begin;
  std::map<std::string, idx> verdicts;
  idx correct = 0;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const MathJudgement& j = judgements[i];
    ++verdicts[MathVerdictName(j.verdict)];
    const bool right = j.verdict == MathJudgement::Verdict::kCorrect;
    if (cases[i].expected) correct += *cases[i].expected == right;
    if (args.each) {
      PrintJsonLine({{"verdict", MathVerdictName(j.verdict)},
                     {"gold", cases[i].gold},
                     {"pred", cases[i].answer},
                     {"extracted", j.extracted},
                     {"why", j.why}});
    }
  }
  ordered_json summary = {{"cases", cases.size()}};
  if (cases[0].expected) {
    summary["correct"] = correct;
  } else {
    summary["verdicts"] = verdicts;
  }
  summary["per_second"] = static_cast<double>(cases.size()) / std::max(seconds, 1e-9);
  PrintJsonLine(summary);
}

void RunVerify(const VerifyArguments& args) {
  if (!args.cases.empty()) return RunCases(args);
  if (args.gold.empty()) {
    Fail(ErrorCode::kUsage, "verify: give --cases FILE, or --gold and --pred");
  }
  const MathJudgement j = JudgeMath(args.gold, args.answer);
  fmt::print("gold       {}\nanswer     {}\nverdict    {}\nbecause    {}\n", ForStdout(j.gold),
             j.extracted.empty() ? "(none)" : ForStdout(j.extracted), MathVerdictName(j.verdict),
             ForStdout(j.why));
}

}  // namespace

void AddVerify(CLI::App& app, int&) {
  auto args = std::make_shared<VerifyArguments>();
  CLI::App* verb = app.add_subcommand("verify",
                                      "does an answer equal the gold answer? The rules "
                                      "of the reward `math`");
  auto* cases = verb->add_option("--cases", args->cases,
                                 "JSON lines {\"gold\", \"pred\", \"expected\"?}; -: standard "
                                 "input. The last line that is printed sums up");
  verb->add_flag("--each", args->each, "with --cases: a line for each case before the last one")
      ->needs(cases);
  auto* gold = verb->add_option("--gold", args->gold, "the right answer, or its worked solution")
                   ->excludes(cases);
  verb->add_option("--pred", args->answer, "the completion to judge")->needs(gold);
  verb->callback([args] { RunVerify(*args); });
}

}  // namespace opo
