#include "data/given.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/fields.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kAssistant = "assistant";

std::vector<std::string> KeysOf(const Json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  return keys;
}

// A column that is there; Parquet has nulls where a row has nothing.
const Json* Present(const Json& row, const std::string& key) {
  const Json* value = FindKey(row, key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Json Message(std::string_view role, std::string_view content) {
  Json message;
  message["role"] = role;
  message["content"] = content;
  return message;
}

bool SameMessage(const Json& a, const Json& b) {
  return a["role"] == b["role"] && a["content"] == b["content"];
}

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

// Anthropic's form: turns that begin with "\n\nHuman:" and "\n\nAssistant:".
struct Speaker {
  std::string_view mark, role;
};
constexpr Speaker kSpeakers[] = {{"Human:", "user"}, {"Assistant:", "assistant"}};

bool IsDialogue(const Json& value) {
  if (!value.is_string()) return false;
  const std::string_view text = Trimmed(value.get_ref<const std::string&>());
  return text.starts_with(kSpeakers[0].mark) &&
         text.find("\n\nAssistant:") != std::string_view::npos;
}

Json DialogueMessages(std::string_view text) {
  text = Trimmed(text);
  Json messages = Json::array();
  while (!text.empty()) {
    const Speaker& speaker = kSpeakers[text.starts_with(kSpeakers[0].mark) ? 0 : 1];
    text.remove_prefix(speaker.mark.size());
    std::size_t end = text.size();
    for (const Speaker& next : kSpeakers) {
      end = std::min(end, text.find(fmt::format("\n\n{}", next.mark)));
    }
    messages.push_back(Message(speaker.role, Trimmed(text.substr(0, end))));
    text.remove_prefix(std::min(text.size(), end + 2));
  }
  return messages;
}

bool IsAssistants(const Json& message) { return message["role"] == kAssistant; }

class Reader {
 public:
  Reader(const Json& row, const std::string& where, const ProblemKeys& keys)
      : row_(row), where_(where), keys_(keys) {}

  GivenRow Demonstration() {
    if (keys_.completion.empty() && Present(row_, "completion") == nullptr) return Conversation();
    const std::string prompt_key = PromptKey();
    const std::string key = keys_.completion.empty() ? "completion" : keys_.completion;
    GivenRow given;
    given.columns = {prompt_key, key};
    given.prompt = MessagesOf(RequireKey(row_, prompt_key, where_, "data.prompt_key"), "user",
                              where_, prompt_key);
    Json answer =
        MessagesOf(RequireKey(row_, key, where_, "data.completion_key"), "assistant", where_, key);
    given.answers.push_back(WithoutPrompt(std::move(answer), given.prompt, key));
    return given;
  }

  GivenRow Pair() {
    GivenRow given;
    given.columns = {"chosen", "rejected"};
    const Json& chosen = NeedAnswer("chosen");
    const Json& rejected = NeedAnswer("rejected");
    given.margin = Margin();
    const std::string prompt_key = PromptKey();
    const Json* prompt = keys_.prompt.empty()
                             ? Present(row_, prompt_key)
                             : &RequireKey(row_, prompt_key, where_, "data.prompt_key");
    if (prompt == nullptr) {
      Json first = Whole(chosen, "chosen"), second = Whole(rejected, "rejected");
      SplitPair(std::move(first), std::move(second), given);
      return given;
    }
    given.columns.push_back(prompt_key);
    const bool dialogue = IsDialogue(*prompt) &&
                          Trimmed(prompt->get_ref<const std::string&>()).ends_with("Assistant:");
    if (dialogue) {
      given.prompt = DialogueMessages(prompt->get_ref<const std::string&>());
      given.prompt.erase(given.prompt.size() - 1);
    } else {
      given.prompt = MessagesOf(*prompt, "user", where_, prompt_key);
    }
    for (const auto& [value, key] : {std::pair{&chosen, "chosen"}, {&rejected, "rejected"}}) {
      Json answer = dialogue && IsDialogue(*value)
                        ? DialogueMessages(value->get_ref<const std::string&>())
                        : MessagesOf(*value, "assistant", where_, key);
      given.answers.push_back(WithoutPrompt(std::move(answer), given.prompt, key));
    }
    return given;
  }

  bool HasRejected() const { return Present(row_, "rejected") != nullptr; }

 private:
  std::string PromptKey() const { return keys_.prompt.empty() ? "prompt" : keys_.prompt; }

  // `messages`: what comes before the first of the assistant's is the prompt.
  GivenRow Conversation() {
    const std::string key = keys_.prompt.empty() ? "messages" : keys_.prompt;
    const Json* value = Present(row_, key);
    if (value == nullptr || !value->is_array()) {
      Fail(ErrorCode::kInput,
           "{}: is no demonstration: needs 'messages', a list of messages with the assistant's, or "
           "a prompt and a 'completion', which data.prompt_key and data.completion_key name; its "
           "keys are: {}",
           where_, fmt::join(KeysOf(row_), ", "));
    }
    const Json all = MessagesOf(*value, "user", where_, key);
    std::size_t first = 0;
    while (first < all.size() && !IsAssistants(all[first])) ++first;
    if (first == all.size()) {
      Fail(ErrorCode::kInput, "{}: '{}' has no message of the assistant, which would be learned",
           where_, key);
    }
    if (first == 0) {
      Fail(ErrorCode::kInput, "{}: '{}[0]' is the assistant's: a prompt must come before it",
           where_, key);
    }
    GivenRow given;
    given.columns = {key};
    given.prompt = Json(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(first));
    given.answers.push_back(
        Checked(Json(all.begin() + static_cast<std::ptrdiff_t>(first), all.end()), key));
    return given;
  }

  const Json& NeedAnswer(const char* key) const {
    if (const Json* value = Present(row_, key)) return *value;
    Fail(ErrorCode::kInput,
         "{}: is no pair: has no '{}'; what learns from preferences needs 'chosen' and 'rejected', "
         "texts or messages, behind a 'prompt' or with one that both begin with (`opo data "
         "make-pairs` makes such rows); its keys are: {}",
         where_, key, fmt::join(KeysOf(row_), ", "));
  }

  double Margin() const {
    const Json* value = Present(row_, "margin");
    if (value == nullptr) return 0;
    double margin = NAN;
    if (value->is_number()) {
      margin = value->get<double>();
    } else if (value->is_string()) {  // all that CSV has
      const std::string_view text = Trimmed(value->get_ref<const std::string&>());
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), margin);
      if (error != std::errc() || end != text.data() + text.size()) margin = NAN;
    }
    if (!std::isfinite(margin)) {
      Fail(ErrorCode::kInput,
           "{}: 'margin' must be a number: by how much the chosen answer is "
           "better",
           where_);
    }
    return margin;
  }

  // A conversation from its beginning.
  Json Whole(const Json& value, const char* key) const {
    if (IsDialogue(value)) return DialogueMessages(value.get_ref<const std::string&>());
    if (value.is_string()) {
      Fail(ErrorCode::kInput,
           "{}: has no 'prompt', and '{}' is neither messages nor a text in the form of "
           "\"\\n\\nHuman: ...\\n\\nAssistant: ...\"; data.prompt_key names the prompt's key; its "
           "keys are: {}",
           where_, key, fmt::join(KeysOf(row_), ", "));
    }
    return MessagesOf(value, "assistant", where_, key);
  }

  // The prompt of two conversations is what both begin with. An answer begins with the assistant's:
  // where they part later in the conversation, that is the turn before.
  void SplitPair(Json&& chosen, Json&& rejected, GivenRow& given) const {
    std::size_t same = 0;
    const std::size_t both = std::min(chosen.size(), rejected.size());
    while (same < both && SameMessage(chosen[same], rejected[same])) ++same;
    const auto begins = [&](std::size_t at) {
      return at < both && IsAssistants(chosen[at]) && IsAssistants(rejected[at]);
    };
    while (same > 0 && !begins(same)) --same;
    if (same == 0) {
      Fail(ErrorCode::kInput,
           "{}: 'chosen' and 'rejected' must begin with the same prompt and then have the "
           "assistant's answers; or give the prompt as 'prompt'",
           where_);
    }
    const auto at = static_cast<std::ptrdiff_t>(same);
    given.prompt = Json(chosen.begin(), chosen.begin() + at);
    given.answers.push_back(Checked(Json(chosen.begin() + at, chosen.end()), "chosen"));
    given.answers.push_back(Checked(Json(rejected.begin() + at, rejected.end()), "rejected"));
  }

  // Some sets have the prompt in the answer's list too.
  Json WithoutPrompt(Json&& answer, const Json& prompt, const std::string& key) const {
    bool whole = answer.size() > prompt.size();
    for (std::size_t i = 0; whole && i < prompt.size(); ++i) {
      whole = SameMessage(answer[i], prompt[i]);
    }
    if (whole) {
      answer.erase(answer.begin(), answer.begin() + static_cast<std::ptrdiff_t>(prompt.size()));
    }
    return Checked(std::move(answer), key);
  }

  Json Checked(Json&& answer, const std::string& key) const {
    const char* flaw = !IsAssistants(answer.front()) ? "begin" : nullptr;
    if (flaw == nullptr && !IsAssistants(answer.back())) flaw = "end";
    if (flaw != nullptr) {
      Fail(ErrorCode::kInput,
           "{}: the answer in '{}' must {} with a message of the assistant, not of '{}'", where_,
           key, flaw, (*flaw == 'b' ? answer.front() : answer.back())["role"].get<std::string>());
    }
    return std::move(answer);
  }

  const Json& row_;
  const std::string& where_;
  const ProblemKeys& keys_;
};

}  // namespace

const Json* FindKey(const Json& row, const std::string& key) {
  const auto whole = row.find(key);
  if (whole != row.end()) return &*whole;
  const Json* at = &row;
  for (std::size_t begin = 0;;) {
    const std::size_t dot = std::min(key.find('.', begin), key.size());
    const auto it = at->is_object() ? at->find(key.substr(begin, dot - begin)) : at->end();
    if (!at->is_object() || it == at->end()) return nullptr;
    at = &*it;
    if (dot == key.size()) return at;
    begin = dot + 1;
  }
}

const Json& RequireKey(const Json& row, const std::string& key, const std::string& where,
                       const std::string& setting) {
  if (const Json* value = FindKey(row, key)) return *value;
  const std::vector<std::string> keys = KeysOf(row);
  const std::string near = NearestName(key, keys);
  Fail(ErrorCode::kInput, "{}: has no '{}'; {}its keys are: {}; {} names the one to take", where,
       key, near.empty() ? "" : fmt::format("did you mean '{}'? ", near), fmt::join(keys, ", "),
       setting);
}

Json MessagesOf(const Json& value, const char* role, const std::string& where,
                const std::string& key) {
  Json messages = value;
  if (messages.is_string()) {
    messages = Json::array({Message(role, value.get_ref<const std::string&>())});
  }
  if (!messages.is_array() || messages.empty()) {
    Fail(ErrorCode::kInput, "{}: '{}' must be text or a list of messages", where, key);
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    for (const char* name : {"role", "content"}) {
      if (!messages[i].is_object() || !messages[i].contains(name) ||
          !messages[i][name].is_string()) {
        Fail(ErrorCode::kInput, "{}: '{}[{}].{}' must be text", where, key, i, name);
      }
    }
  }
  return messages;
}

GivenRow ReadGiven(const Json& row, const std::string& where, const ProblemKeys& keys,
                   GivenAnswers given) {
  OPO_CHECK(given != GivenAnswers::kNothing);
  Reader reader(row, where, keys);
  const bool pair =
      given == GivenAnswers::kPairs || (given == GivenAnswers::kBoth && reader.HasRejected());
  return pair ? reader.Pair() : reader.Demonstration();
}

}  // namespace opo
