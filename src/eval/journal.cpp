#include "eval/journal.h"

#include <array>
#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "base/fault.h"
#include "base/json.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

std::string LineText(const ordered_json& line) {
  return line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

// What reading the line back gives: text that is no UTF-8 was replaced.
ordered_json AsWritten(const ordered_json& line) { return ordered_json::parse(LineText(line)); }

template <class E, std::size_t N>
E Named(const std::array<E, N>& known, const char* (*name)(E), const std::string& wanted,
        const std::string& where) {
  for (const E value : known) {
    if (wanted == name(value)) return value;
  }
  Fail(ErrorCode::kInput, "{}: \"{}\" is unknown", where, wanted);
}

double Finite(const ordered_json& value, const std::string& where) {
  if (!value.is_number() || !std::isfinite(value.get<double>())) {
    Fail(ErrorCode::kInput, "{}: is no finite number", where);
  }
  return value.get<double>();
}

idx Count(const ordered_json& value, const std::string& where) {
  if (!value.is_number_unsigned() || value > idx{1} << 40) {
    Fail(ErrorCode::kInput, "{}: is no count", where);
  }
  return value.get<idx>();
}

Answer ReadAnswer(const ordered_json& line, idx problem, idx sample, const std::string& where) {
  const auto at = [&](const char* key) -> const ordered_json& {
    const auto it = line.is_object() ? line.find(key) : line.end();
    if (!line.is_object() || it == line.end()) {
      Fail(ErrorCode::kInput, "{}: answer {} has no `{}`", where, sample, key);
    }
    return *it;
  };
  const auto place = [&](const char* key) {
    return fmt::format("{}: answer {}: `{}`", where, sample, key);
  };
  const auto text = [&](const char* key) {
    if (!at(key).is_string()) Fail(ErrorCode::kInput, "{}: is no text", place(key));
    return at(key).get<std::string>();
  };
  Answer a;
  a.problem = problem;
  a.sample = sample;
  a.text = text("text");
  a.length = Count(at("length"), place("length"));
  a.finish = Named(std::array{FinishReason::kEos, FinishReason::kStop, FinishReason::kLength},
                   FinishReasonName, text("finish_reason"), place("finish_reason"));
  a.reward.value = Finite(at("reward"), place("reward"));
  a.reward.verdict = Named(std::array{Verdict::kScored, Verdict::kSkipped, Verdict::kError},
                           VerdictName, text("verdict"), place("verdict"));
  a.reward.note = text("note");
  a.entropy = Finite(at("entropy"), place("entropy"));
  if (line.contains("k1")) {
    a.kl = KlSums{Finite(line["k1"], place("k1")), Finite(at("k3"), place("k3"))};
  }
  if (line.contains("judge")) a.judge = Finite(line["judge"], place("judge"));
  return a;
}

void CheckHead(const ordered_json& line, const ordered_json& head, const std::string& where) {
  if (line == head) return;
  std::string other = "opo's version";
  if (line.is_object()) {
    for (const auto& [key, value] : head.items()) {
      const auto it = line.find(key);
      if (it != line.end() && *it == value) continue;
      other = fmt::format("`{}` was {} and is {}", key, it == line.end() ? "absent" : it->dump(),
                          value.dump());
      break;
    }
  }
  Fail(ErrorCode::kUsage,
       "{}: holds the answers of another evaluation ({}); go on with its settings, choose another "
       "--out, or remove the folder",
       where, other);
}

}  // namespace

std::string JournalLine(const std::string& set, idx problem, std::span<const Answer> answers) {
  ordered_json line;
  line["set"] = set;
  line["problem"] = problem;
  ordered_json& list = line["answers"] = ordered_json::array();
  for (const Answer& a : answers) {
    ordered_json answer;
    answer["text"] = a.text;
    answer["length"] = a.length;
    answer["finish_reason"] = FinishReasonName(a.finish);
    answer["reward"] = a.reward.value;
    answer["verdict"] = VerdictName(a.reward.verdict);
    answer["note"] = a.reward.note;
    answer["entropy"] = a.entropy;
    if (a.kl) {
      answer["k1"] = a.kl->k1;
      answer["k3"] = a.kl->k3;
    }
    if (a.judge) answer["judge"] = *a.judge;
    list.push_back(std::move(answer));
  }
  return LineText(line);
}

JournalContent ReadEvalJournal(std::string_view bytes, const std::string& where,
                               const ordered_json& head, idx samples) {
  JournalContent content;
  idx number = 0;
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = bytes.find('\n', begin);
    if (end == std::string_view::npos) break;
    ++number;
    const std::string place = fmt::format("{}: line {}", where, number);
    const auto line = ParseJson<ordered_json>(bytes.substr(begin, end - begin), place, "line");
    begin = content.size = end + 1;
    if (number == 1) {
      CheckHead(line, head, where);
      continue;
    }
    if (!line.is_object() || !line.contains("set") || !line["set"].is_string() ||
        !line.contains("problem") || !line.contains("answers") || !line["answers"].is_array()) {
      Fail(ErrorCode::kInput, "{}: is no problem's; restore the file, or remove the line", place);
    }
    const idx problem = Count(line["problem"], place + ": `problem`");
    std::vector<Answer>& answers = content.answers[{line["set"].get<std::string>(), problem}];
    answers.clear();
    for (const ordered_json& answer : line["answers"]) {
      answers.push_back(ReadAnswer(answer, problem, static_cast<idx>(answers.size()), place));
    }
    if (static_cast<idx>(answers.size()) != samples) {
      Fail(ErrorCode::kInput, "{}: has {} answers, not {}; restore the file, or remove the line",
           place, answers.size(), samples);
    }
  }
  return content;
}

JudgedAnswers ReadJudgedAnswers(const std::string& dir, const ordered_json& head) {
  const std::string path = dir + "/answers.jsonl";
  const std::string bytes = ReadFile(path);
  const auto theirs = ParseJson<ordered_json>(std::string_view(bytes).substr(0, bytes.find('\n')),
                                              path + ": line 1", "line");
  if (!theirs.is_object() || !theirs.contains("n")) {
    Fail(ErrorCode::kInput, "{}: line 1: is not the head of an evaluation's answers", path);
  }
  for (const auto& [key, value] : head.items()) {
    if (!key.starts_with("judge") && !key.starts_with("data ")) continue;
    if (theirs.contains(key) && theirs[key] == value) continue;
    Fail(ErrorCode::kUsage,
         "{}: its `{}` is {}, here it is {}; answers are compared on the same problems, by the "
         "same judge: evaluate that model again with the same --data and --judge",
         path, key, theirs.contains(key) ? theirs[key].dump() : "absent", value.dump());
  }
  JudgedAnswers judged;
  judged.samples = Count(theirs["n"], path + ": line 1: `n`");
  judged.answers = ReadEvalJournal(bytes, path, theirs, judged.samples).answers;
  return judged;
}

EvalJournal::EvalJournal(const std::string& dir, const ordered_json& head, idx samples)
    : path_(dir + "/answers.jsonl"), head_(AsWritten(head)), samples_(samples) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) Fail(ErrorCode::kWork, "{}: cannot be made: {}", dir, error.message());
  lock_ = std::make_unique<FileLock>(dir + "/lock", dir);
  std::size_t size = 0;
  if (Exists(path_)) {
    JournalContent content = ReadEvalJournal(ReadFile(path_), path_, head_, samples_);
    answers_ = std::move(content.answers);
    size = content.size;
  }
  file_ = std::make_unique<AppendFile>(path_);
  file_->Truncate(size);
  if (size == 0) file_->Append(LineText(head_));
  file_->Sync();
}

void EvalJournal::Append(const std::string& lines) {
  JournalContent read = ReadEvalJournal(LineText(head_) + lines, path_, head_, samples_);
  file_->Append(lines);
  file_->Sync();
  for (auto& [key, answers] : read.answers) {
    answers_[key] = std::move(answers);
  }
  FaultPoint("eval-chunk", path_);
}

}  // namespace opo
