// The rules that judge an answer: the first byte chooses the kind, then come a pattern and a gold
// answer, each ended by the byte 0xFF, and the answer. A verdict, the same one twice.
#include <cmath>
#include <cstdlib>
#include <vector>

#include "fuzz/fuzz_folder.h"
#include "reward/reward.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  constexpr const char* kKinds[] = {"regex",     "format", "number",   "exact",     "choice",
                                    "countdown", "length", "overlong", "repetition"};
  if (size == 0) return 0;
  std::string_view bytes = opo::AsText(data + 1, size - 1);
  opo::RewardConfig config;
  config.kind = kKinds[data[0] % std::size(kKinds)];
  const std::string_view pattern = opo::TakePiece(bytes);
  if (data[0] % std::size(kKinds) < 2) config.pattern = pattern;
  if (config.kind == std::string("length") || config.kind == std::string("overlong")) {
    config.max_tokens = 16;
    config.buffer_tokens = config.kind == std::string("overlong") ? 4 : 0;
  }
  config.on_error = "skip";
  config.error_limit = 1;
  try {
    opo::RewardSet rewards({config});
    opo::Problem problem;
    problem.answer = opo::TakePiece(bytes);
    std::vector<opo::TokenId> tokens(bytes.begin(), bytes.end());
    const opo::RewardQuery query = {problem, "", bytes, tokens, opo::FinishReason::kEos};
    opo::RewardScores first;
    opo::RewardScores second;
    rewards.Score({&query, 1}, {&first, 1});
    rewards.Score({&query, 1}, {&second, 1});
    if (first.total.verdict != second.total.verdict || first.total.value != second.total.value) {
      std::abort();
    }
    if (!std::isfinite(first.total.value)) std::abort();
  } catch (const opo::Error& error) {
    if (error.code() != opo::ErrorCode::kUsage) std::abort();  // a pattern that is none
  }
  return 0;
}
