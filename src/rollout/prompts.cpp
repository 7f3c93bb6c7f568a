#include "rollout/prompts.h"

#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "format/quote.h"

namespace opo {

using nlohmann::ordered_json;

PromptRenderer::PromptRenderer(const Tokenizer& tokenizer, std::string system)
    : tokenizer_(tokenizer), system_(std::move(system)) {
  if (!tokenizer.chat_template().empty()) template_.emplace(tokenizer.chat_template());
}

std::string PromptRenderer::RenderText(const ordered_json& messages) const {
  return RenderText(messages, true);
}

std::string PromptRenderer::RenderText(const ordered_json& problem_messages,
                                       bool generation_prompt) const {
  ordered_json messages = ordered_json::array();
  if (!system_.empty()) messages.push_back({{"role", "system"}, {"content", system_}});
  for (const auto& message : problem_messages) messages.push_back(message);
  if (template_.has_value()) {
    ordered_json variables = ordered_json::object();
    variables["bos_token"] = tokenizer_.SpecialText(tokenizer_.bos_id());
    variables["eos_token"] =
        tokenizer_.eos_ids().empty() ? "" : tokenizer_.SpecialText(tokenizer_.eos_ids().front());
    return template_->Render(messages, generation_prompt, variables);
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

bool PromptRenderer::EndsTurn(TokenId token) const {
  const std::vector<TokenId>& ids = tokenizer_.eos_ids();
  return std::find(ids.begin(), ids.end(), token) != ids.end();
}

GivenTokens PromptRenderer::RenderAnswer(const ordered_json& messages, const ordered_json& answer,
                                         Learn learn) const {
  const auto is_assistants = [](const ordered_json& message) {
    return message["role"] == "assistant";
  };
  OPO_CHECK(!answer.empty() && is_assistants(answer.front()) && is_assistants(answer.back()));
  // Where each of the assistant's turns begins and its message ends, in the whole text.
  struct Turn {
    std::size_t begin, message_end;
  };
  ordered_json said = messages;
  for (const auto& message : answer) said.push_back(message);
  const std::string text = RenderText(said, false);
  const std::string prompt = RenderText(messages, true);
  // Where the text no longer goes on like that.
  const auto parts = [&](const std::string& before) {
    const auto end = std::mismatch(before.begin(), before.end(), text.begin(), text.end()).first;
    return static_cast<std::size_t>(end - before.begin());
  };
  std::vector<Turn> turns;
  said = messages;
  for (const auto& message : answer) {
    if (is_assistants(message)) {
      const std::string before = turns.empty() ? prompt : RenderText(said, true);
      if (!text.starts_with(before)) {
        Fail(
            ErrorCode::kInput,
            "the model's chat template writes a conversation in another way than the prompt of its "
            "answer, so that this cannot be learned as it would be sampled: they part at {} and "
            "{}; use another template, or conversations of one turn",
            Quote(std::string_view(before).substr(parts(before), 60)),
            Quote(std::string_view(text).substr(parts(before), 60)));
      }
      const std::string& content = message["content"].get_ref<const std::string&>();
      for (const TokenId token : tokenizer_.Encode(content, /*parse_special=*/true)) {
        if (!EndsTurn(token)) continue;
        Fail(ErrorCode::kInput,
             "a message of the assistant holds {}, which ends a turn: remove it from {}",
             Quote(tokenizer_.SpecialText(token)), Quote(content.substr(0, 200)));
      }
      std::size_t at = text.find(content, before.size());
      std::size_t size = content.size();
      if (at == std::string::npos) {  // templates may strip it
        const std::size_t first = std::min(content.find_first_not_of(" \t\r\n"), size);
        size = content.find_last_not_of(" \t\r\n") + 1 - first;
        at = text.find(content.substr(first, size), before.size());
      }
      if (at == std::string::npos) {
        Fail(ErrorCode::kInput,
             "the model's chat template does not write the assistant's message {} as it is",
             Quote(content.substr(0, 200)));
      }
      turns.push_back({before.size(), at + size});
    }
    said.push_back(message);
  }
  GivenTokens given;
  given.prompt = tokenizer_.Encode(prompt, /*parse_special=*/true);
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const bool last = i + 1 == turns.size();
    const std::size_t end = last ? text.size() : turns[i + 1].begin;
    std::string_view turn = std::string_view(text).substr(turns[i].begin, end - turns[i].begin);
    std::vector<TokenId> tokens = tokenizer_.Encode(turn, /*parse_special=*/true);
    const auto ends = [this](TokenId token) { return EndsTurn(token); };
    auto eos = std::find_if(tokens.begin(), tokens.end(), ends);
    const bool marked = eos != tokens.end();
    if (!marked) {  // the turn is its message, and what the template writes before that
      turn = turn.substr(0, turns[i].message_end - turns[i].begin);
      const std::vector<TokenId> own = tokenizer_.Encode(turn, /*parse_special=*/true);
      if (last) {
        if (tokenizer_.eos_ids().empty()) {
          Fail(ErrorCode::kInput, "the model's tokenizer has no token that ends an answer");
        }
        tokens = own;
        tokens.push_back(tokenizer_.eos_ids().front());
        eos = tokens.end() - 1;
      } else {
        // What follows is tokenised from there, as if it had been given to the sampler.
        const std::vector<TokenId> rest = tokenizer_.Encode(
            std::string_view(text).substr(turns[i].message_end, end - turns[i].message_end),
            /*parse_special=*/true);
        tokens = own;
        tokens.insert(tokens.end(), rest.begin(), rest.end());
        eos = tokens.begin() + static_cast<std::ptrdiff_t>(own.size()) - 1;
      }
    }
    if (last) tokens.erase(eos + 1, tokens.end());
    const auto learned = static_cast<std::size_t>(eos - tokens.begin()) + 1;
    given.answer.insert(given.answer.end(), tokens.begin(), tokens.end());
    given.learned.resize(given.learned.size() + learned, true);
    given.learned.resize(given.answer.size(), false);
  }
  if (learn == Learn::kAll) {
    given.answer.insert(given.answer.begin(), given.prompt.begin() + 1, given.prompt.end());
    given.prompt.resize(1);
    given.learned.clear();
  } else if (turns.size() == 1) {
    given.learned.clear();
  }
  return given;
}

}  // namespace opo
