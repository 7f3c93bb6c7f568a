// The answers of an evaluation on disk, so that one that was killed goes on where it was.
//
// DIR/answers.jsonl: a first line, the head, which says what the answers depend on; then a line a
// problem, {"set": name, "problem": its number, "answers": [{"text", "length", "finish_reason",
// "reward", "verdict", "note", "entropy", with a reference "k1", "k3", and with a judge "judge"},
// ...]}. Numbers have enough digits to read back the same. DIR/lock keeps a second process out.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "eval/answer.h"

namespace opo {

// (set, problem) to its answers, of which prompt and gold are empty.
using JournalAnswers = std::map<std::pair<std::string, idx>, std::vector<Answer>>;

// What such a file holds. `size`: bytes of the lines that are whole; what a kill left behind them
// is dropped. A file without a whole line is empty. Throws Error(kInput) naming `where` and the
// line for what no kill leaves, and Error(kUsage) naming the setting where the head is another.
// Every problem has `samples` answers.
struct JournalContent {
  JournalAnswers answers;
  std::size_t size = 0;
};
JournalContent ReadEvalJournal(std::string_view bytes, const std::string& where,
                               const nlohmann::ordered_json& head, idx samples);

// The answers of an earlier evaluation, DIR/answers.jsonl, to compare those under `head` with: of
// the same sets, by the same judge. Throws Error(kUsage) naming what differs.
struct JudgedAnswers {
  JournalAnswers answers;
  idx samples = 0;  // answers a problem
};
JudgedAnswers ReadJudgedAnswers(const std::string& dir, const nlohmann::ordered_json& head);

// The line of a problem, its end included, and back.
std::string JournalLine(const std::string& set, idx problem, std::span<const Answer> answers);

class EvalJournal {
 public:
  // Makes the folder, or goes on in it.
  EvalJournal(const std::string& dir, const nlohmann::ordered_json& head, idx samples);
  JournalAnswers& answers() { return answers_; }
  // Adds finished lines, and keeps what they say: with a kill behind it or without, what comes out
  // is what was read back. On the disk at its return.
  void Append(const std::string& lines);

 private:
  std::string path_;
  nlohmann::ordered_json head_;
  idx samples_;
  std::unique_ptr<FileLock> lock_;
  std::unique_ptr<AppendFile> file_;
  JournalAnswers answers_;
};

}  // namespace opo
