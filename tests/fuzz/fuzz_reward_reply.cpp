// Any bytes of a judge are results that the header promises: a finite, bounded score, a skip, or an
// error with a reason; and the outputs of code are compared without harm. The first byte chooses.
#include <cmath>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "reward/code_cases.h"
#include "reward/reply.h"

namespace {

void Check(const opo::RewardResult& result) {
  const bool is_error = result.verdict == opo::Verdict::kError;
  if (is_error != !result.reason.empty()) std::abort();
  if (!std::isfinite(result.value) || std::abs(result.value) > opo::kLargestScore) std::abort();
  if (result.verdict != opo::Verdict::kScored && result.value != 0) std::abort();
  for (const auto& [name, value] : result.logged) {
    if (name.empty() || !std::isfinite(value)) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  if (data[0] % 4 == 0) {
    Check(opo::ReadProgramReply(text, 1));
  } else if (data[0] % 4 == 1) {
    std::vector<opo::RewardResult> results(data[0] / 4 % 4);
    opo::ReadHttpReply(text, results);
    for (const opo::RewardResult& result : results) Check(result);
  } else if (data[0] % 4 == 2) {
    opo::Problem problem;
    problem.answer = text;
    std::string fault;
    const opo::CodeCases cases = opo::ReadCodeCases(problem, fault);
    if (fault.empty() && cases.inputs.empty() && !text.empty()) std::abort();
    const bool asserts = cases.form == opo::CodeCases::Form::kAssert;
    if (fault.empty() && cases.outputs.size() != (asserts ? 0 : cases.inputs.size())) std::abort();
  } else {
    const std::string_view code = opo::FindCode(text);
    if (code.size() > text.size()) std::abort();
    if (!opo::SameOutput(text, text)) std::abort();
    opo::SameValue(opo::JsonOrDiscarded(text), opo::JsonOrDiscarded(code));
  }
  return 0;
}
