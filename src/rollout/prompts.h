// Problems to token ids: the chat template that came with the model, then its tokenizer.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/problem.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace opo {

// Which tokens of a given answer are learned.
enum class Learn {
  kAssistant,  // the assistant's turns
  kAll,        // all of the conversation but its first token, which is then the prompt
};

// A prompt and a given answer to it, as a sampler would have seen the one and drawn the other.
struct GivenTokens {
  std::vector<TokenId> prompt;
  std::vector<TokenId> answer;
  std::vector<bool> learned;  // whether each token of the answer is; empty: all are
};

class PromptRenderer {
 public:
  // `system`: a system message to put before the problem's own ones ("": none).
  explicit PromptRenderer(const Tokenizer& tokenizer, std::string system = "");

  // Ids of the messages with the generation prompt. Where the model has no template the contents
  // are joined by newlines. Throws Error(kInput) with the template's own words where it refuses.
  std::vector<TokenId> Render(const nlohmann::ordered_json& messages) const;
  std::string RenderText(const nlohmann::ordered_json& messages) const;

  // The prompt's ids are those of Render(messages). The answer, messages that begin and end with
  // the assistant's, is what the template writes behind them, up to the first token that ends the
  // last turn; where the template ends turns without one, eos_ids().front() stands behind the last
  // message's text. Of several turns each is tokenised by itself from where the sampler would begin
  // it, and learned up to the token that ends it. Throws Error(kInput) with the cure where the
  // template writes a conversation in another way than its prompts, and where a message holds the
  // mark of a turn's end.
  GivenTokens RenderAnswer(const nlohmann::ordered_json& messages,
                           const nlohmann::ordered_json& answer,
                           Learn learn = Learn::kAssistant) const;

 private:
  std::string RenderText(const nlohmann::ordered_json& messages, bool generation_prompt) const;
  bool EndsTurn(TokenId token) const;
  const Tokenizer& tokenizer_;
  std::string system_;
  std::optional<ChatTemplate> template_;
};

}  // namespace opo
