// Any bytes are rows or an Error(kInput) that names the file; and rows are what the header
// promises, whatever answers are wanted of them.
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "data/problem.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto check = [](const nlohmann::ordered_json& messages) {
    if (!messages.is_array() || messages.empty()) std::abort();
    for (const auto& message : messages) {
      if (!message.at("role").is_string() || !message.at("content").is_string()) std::abort();
    }
  };
  using opo::GivenAnswers;
  for (const GivenAnswers given : {GivenAnswers::kNothing, GivenAnswers::kDemonstrations,
                                   GivenAnswers::kPairs, GivenAnswers::kBoth}) {
    opo::LoadOptions options;
    options.given = given;
    try {
      for (const opo::Problem& problem :
           opo::ParseProblems(text, opo::DataFormat::kJsonLines, "fuzz.jsonl", options)) {
        check(problem.messages);
        const std::size_t answers = problem.answers.size();
        if (given == GivenAnswers::kNothing ? answers != 0 : answers == 0 || answers > 2) {
          std::abort();
        }
        if (given == GivenAnswers::kDemonstrations && answers != 1) std::abort();
        if (given == GivenAnswers::kPairs && answers != 2) std::abort();
        for (const auto& answer : problem.answers) {
          check(answer);
          if (answer.front()["role"] != "assistant" || answer.back()["role"] != "assistant") {
            std::abort();
          }
        }
      }
    } catch (const opo::Error& error) {
      if (error.code() != opo::ErrorCode::kInput) std::abort();
      if (!std::string_view(error.what()).starts_with("fuzz.jsonl")) std::abort();
    }
  }
  return 0;
}
