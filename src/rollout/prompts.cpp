#include "rollout/prompts.h"

#include "base/error.h"

namespace opo {

using nlohmann::ordered_json;

PromptRenderer::PromptRenderer(const Tokenizer& tokenizer, std::string system)
    : tokenizer_(tokenizer), system_(std::move(system)) {
  if (!tokenizer.chat_template().empty()) template_.emplace(tokenizer.chat_template());
}

std::string PromptRenderer::RenderText(const ordered_json& problem_messages) const {
  ordered_json messages = ordered_json::array();
  if (!system_.empty()) messages.push_back({{"role", "system"}, {"content", system_}});
  for (const auto& message : problem_messages) messages.push_back(message);
  if (template_.has_value()) {
    ordered_json variables = ordered_json::object();
    variables["bos_token"] = tokenizer_.SpecialText(tokenizer_.bos_id());
    variables["eos_token"] =
        tokenizer_.eos_ids().empty() ? "" : tokenizer_.SpecialText(tokenizer_.eos_ids().front());
    return template_->Render(messages, true, variables);
  }
  std::string text;
  for (const auto& message : messages) {
    const auto content = message.find("content");
    if (content == message.end() || !content->is_string()) {
      Fail(ErrorCode::kInput, "messages: `content` must be text for a model without chat template");
    }
    text += content->get<std::string>() + "\n";
  }
  return text;
}

std::vector<TokenId> PromptRenderer::Render(const ordered_json& messages) const {
  return tokenizer_.Encode(RenderText(messages), /*parse_special=*/true);
}

}  // namespace opo
