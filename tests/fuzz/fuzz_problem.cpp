// Any bytes are rows or an Error(kInput) that names the file; and rows are what the header
// promises.
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "data/problem.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const opo::Problem& problem :
         opo::ParseProblems(text, opo::DataFormat::kJsonLines, "fuzz.jsonl")) {
      if (!problem.messages.is_array() || problem.messages.empty()) std::abort();
      for (const auto& message : problem.messages) {
        if (!message.at("role").is_string() || !message.at("content").is_string()) std::abort();
      }
    }
  } catch (const opo::Error& error) {
    if (error.code() != opo::ErrorCode::kInput) std::abort();
    if (!std::string_view(error.what()).starts_with("fuzz.jsonl")) std::abort();
  }
  return 0;
}
