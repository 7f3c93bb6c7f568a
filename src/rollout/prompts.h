// Problems to token ids: the chat template that came with the model, then its tokenizer.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/problem.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace opo {

class PromptRenderer {
 public:
  // `system`: a system message to put before the problem's own ones ("": none).
  explicit PromptRenderer(const Tokenizer& tokenizer, std::string system = "");

  // Ids of the messages with the generation prompt. Where the model has no template the contents
  // are joined by newlines. Throws Error(kInput) with the template's own words where it refuses.
  std::vector<TokenId> Render(const nlohmann::ordered_json& messages) const;
  std::string RenderText(const nlohmann::ordered_json& messages) const;

 private:
  const Tokenizer& tokenizer_;
  std::string system_;
  std::optional<ChatTemplate> template_;
};

}  // namespace opo
