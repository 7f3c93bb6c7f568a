// The answers that an evaluation goes on from. What is taken is written and read again: the same.
#include <cstdlib>

#include "base/error.h"
#include "eval/journal.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const nlohmann::ordered_json head = {{"opo_eval", 1}, {"n", 1}};
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const opo::JournalContent content = opo::ReadEvalJournal(bytes, "FILE", head, 1);
    if (content.size > size) std::abort();
    std::string again = head.dump() + "\n";
    for (const auto& [key, answers] : content.answers) {
      again += opo::JournalLine(key.first, key.second, answers);
    }
    const opo::JournalContent same = opo::ReadEvalJournal(again, "FILE", head, 1);
    if (same.answers.size() != content.answers.size() || same.size != again.size()) std::abort();
    std::string third = head.dump() + "\n";
    for (const auto& [key, answers] : same.answers) {
      third += opo::JournalLine(key.first, key.second, answers);
    }
    if (third != again) std::abort();
  } catch (const opo::Error& error) {
    if (error.code() != opo::ErrorCode::kInput && error.code() != opo::ErrorCode::kUsage) {
      std::abort();
    }
  }
  return 0;
}
