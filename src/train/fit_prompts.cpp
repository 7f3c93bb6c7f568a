#include "train/fit_prompts.h"

#include <utility>

#include "base/error.h"

namespace opo {

void FitPrompts(const PromptRenderer& prompts, const DataConfig& config, DataSets& data) {
  std::vector<Problem> kept;
  std::size_t next = 0;
  for (std::size_t s = 0; s < data.sizes.size(); ++s) {
    const auto size = static_cast<std::size_t>(data.sizes[s]);
    idx longer = 0;
    for (const std::size_t end = next + size; next < end; ++next) {
      Problem& problem = data.train[next];
      const auto tokens = static_cast<idx>(prompts.Render(problem.messages).size());
      if (tokens > config.prompt_limit) {
        ++longer;
        if (config.overlong == "error") {
          Fail(ErrorCode::kInput,
               "{}: problem {} (id '{}') has {} prompt tokens, data.prompt_limit is {}; raise it, "
               "or set data.overlong to drop or truncate",
               data.names[s], next - (end - size) + 1, problem.id, tokens, config.prompt_limit);
        }
        if (config.overlong == "drop") continue;
      }
      kept.push_back(std::move(problem));
    }
    if (longer == 0) continue;
    const bool dropped = config.overlong == "drop";
    data.notes.push_back(fmt::format(
        "{}: {} of {} prompts have more than data.prompt_limit = {} tokens and {}", data.names[s],
        longer, size, config.prompt_limit, dropped ? "are dropped" : "lose their beginning"));
    if (dropped) data.sizes[s] -= longer;
    if (data.sizes[s] == 0) {
      Fail(ErrorCode::kInput, "{}: every prompt is longer than data.prompt_limit = {}; raise it",
           data.names[s], config.prompt_limit);
    }
  }
  data.train = std::move(kept);
}

void CutPrompt(const DataConfig& config, std::vector<TokenId>& prompt) {
  const auto limit = static_cast<std::size_t>(config.prompt_limit);
  if (config.overlong != "truncate" || prompt.size() <= limit) return;
  prompt.erase(prompt.begin(), prompt.end() - static_cast<std::ptrdiff_t>(limit));
}

}  // namespace opo
