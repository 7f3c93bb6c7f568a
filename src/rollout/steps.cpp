#include "rollout/steps.h"

namespace opo {

std::vector<std::size_t> StepEnds(const Tokenizer& tokenizer, std::span<const TokenId> answer) {
  std::vector<std::size_t> ends;
  for (std::size_t t = 0; t < answer.size(); ++t) {
    if (tokenizer.TokenBytes(answer[t]).find('\n') != std::string::npos) ends.push_back(t + 1);
  }
  return ends;
}

}  // namespace opo
