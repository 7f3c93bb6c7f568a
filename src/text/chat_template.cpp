#include "text/chat_template.h"

#include <utility>
#include <vector>

#include "text/jinja_syntax.h"

namespace opo {

struct ChatTemplate::Impl {
  std::string name;
  jinja::Body body;
};

namespace {

// As transformers does: reasoning is there under the two names that templates read, whichever of
// three names the message gives it.
nlohmann::ordered_json WithReasoningNames(const nlohmann::ordered_json& message) {
  if (!message.is_object()) return message;
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const auto found = message.find(name);
    if (found == message.end() || found->is_null()) continue;
    nlohmann::ordered_json renamed = {{"thinking", *found}};
    renamed.update(message);
    renamed["reasoning_content"] = *found;
    return renamed;
  }
  return message;
}

}  // namespace

ChatTemplate::ChatTemplate(const std::string& source, const std::string& name)
    : impl_(std::make_unique<Impl>()) {
  impl_->name = name;
  impl_->body = jinja::Parse(source, name);
}

ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

std::string ChatTemplate::Render(const nlohmann::ordered_json& messages, bool add_generation_prompt,
                                 const nlohmann::ordered_json& variables) const {
  jinja::Meter meter(impl_->name);
  std::vector<std::pair<std::string, jinja::Value>> names;
  if (variables.is_object()) {
    for (const auto& [name, value] : variables.items()) {
      names.emplace_back(name, jinja::FromJson(value, meter));
    }
  }
  // Names that transformers always sets, so templates may compare them with none.
  for (const char* name : {"tools", "documents"}) {
    if (!variables.is_object() || !variables.contains(name)) {
      names.emplace_back(name, jinja::Value(jinja::None{}));
    }
  }
  nlohmann::ordered_json named = messages;
  for (nlohmann::ordered_json& message : named) message = WithReasoningNames(message);
  names.emplace_back("messages", jinja::FromJson(named, meter));
  names.emplace_back("add_generation_prompt", jinja::Value(add_generation_prompt));
  return jinja::Run(impl_->body, names, meter);
}

}  // namespace opo
