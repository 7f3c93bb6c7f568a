// The files a tokenizer is read from and written to. What a file asks for and we do not do is
// refused by name: a tokenizer that is nearly right trains on the wrong text.
#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "format/gguf.h"
#include "text/tokenizer_parts.h"

namespace opo {
namespace {

using Json = nlohmann::json;             // read: its keys are found fast
using OutJson = nlohmann::ordered_json;  // written: keys stay in order
namespace fs = std::filesystem;

Json ReadJson(const fs::path& path) {
  return ParseJson<Json>(ReadFile(path.string()), path.string(), "file");
}

// The member of an object, null where it is absent or `object` is none.
const Json& Member(const Json& object, const char* key) {
  static const Json null;
  if (!object.is_object()) return null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

std::string Shortened(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  constexpr std::size_t kMost = 300;
  if (text.size() > kMost) text.replace(kMost, std::string::npos, "...");
  return text;
}

TokenId CheckedId(const Json& value, const std::string& source, std::string_view field) {
  if (!value.is_number_integer() || value < Json(0) || value >= Json(kMaxTokens)) {
    Fail(ErrorCode::kInput, "{}: {} is {}, not a token id (0 to {})", source, field,
         Shortened(value), kMaxTokens - 1);
  }
  return value.get<TokenId>();
}

void SetToken(TokenizerParts& parts, TokenId id, const std::string& text, TokenKind kind) {
  const auto i = static_cast<std::size_t>(id);
  if (i >= parts.tokens.size()) parts.tokens.resize(i + 1);
  TokenEntry& token = parts.tokens[i];
  if (token.kind != TokenKind::kNone && token.text != text) {
    Fail(ErrorCode::kInput, "{}: id {} is given to two tokens, \"{}\" and \"{}\"", parts.source, id,
         token.text, text);
  }
  token = {text, kind};
}

void ReadVocabulary(const Json& vocabulary, const std::string& source, TokenizerParts& parts) {
  if (!vocabulary.is_object()) {
    Fail(ErrorCode::kInput, "{}: the vocabulary is not an object of tokens and ids", source);
  }
  for (const auto& [text, id] : vocabulary.items()) {
    SetToken(parts, CheckedId(id, source, "the id of \"" + text + "\""), text,
             TokenKind::kOrdinary);
  }
}

void ReadMergeLines(const fs::path& path, TokenizerParts& parts) {
  const std::string text = ReadFile(path.string());
  for (std::size_t pos = 0; pos < text.size();) {
    const std::size_t end = std::min(text.find('\n', pos), text.size());
    std::string line = text.substr(pos, end - pos);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty() && !(pos == 0 && line.starts_with("#version"))) parts.merges.push_back(line);
    pos = end + 1;
  }
}

// --- tokenizer.json ---------------------------------------------------------------------------

[[noreturn]] void RefuseField(const std::string& source, std::string_view field,
                              const Json& value) {
  Fail(ErrorCode::kInput, "{}: {} is {}; supported is {}", source, field, Shortened(value),
       kSupportedTokenizers);
}

// The pre-tokenizer of the file: one of ours where it is one, else its steps.
void ReadPreTokenizer(const Json& pre, TokenizerParts& parts) {
  const auto refuse = [&](const Json& step) { RefuseField(parts.source, "pre_tokenizer", step); };
  const auto is_type = [](const Json& step, const char* type) {
    return Member(step, "type") == Json(type);
  };
  Json list = Json::array({pre});
  if (is_type(pre, "Sequence")) list = Member(pre, "pretokenizers");
  if (!list.is_array() || list.empty() || list.size() > 20) refuse(pre);
  std::vector<std::string> regexes;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Json& step = list[i];
    const bool last = i + 1 == list.size();
    if (is_type(step, "ByteLevel") && last && Member(step, "add_prefix_space") != Json(true)) {
      // Absent in old files, which meant true.
      const Json& uses = Member(step, "use_regex");
      if (uses.is_null() || uses == Json(true)) regexes.emplace_back(Gpt2HfRegex());
    } else if (is_type(step, "Digits") && !last) {
      const bool each = Member(step, "individual_digits") == Json(true);
      regexes.emplace_back(each ? "\\p{N}" : "\\p{N}+");
    } else if (is_type(step, "Split") && !last && Member(step, "behavior") == Json("Isolated") &&
               Member(step, "invert") != Json(true)) {
      const Json& pattern = Member(step, "pattern");
      if (Member(pattern, "Regex").is_string()) {
        regexes.push_back(Member(pattern, "Regex").get<std::string>());
      } else if (Member(pattern, "String").is_string()) {
        regexes.push_back(LiteralRegex(Member(pattern, "String").get<std::string>()));
      } else {
        refuse(step);
      }
    } else {
      refuse(step);
    }
  }
  if (!is_type(list.back(), "ByteLevel")) refuse(pre);
  const PreTokenizerSpec* spec = nullptr;
  if (regexes == std::vector<std::string>{std::string(Gpt2HfRegex())}) {
    spec = &SpecOf(PreTokenizer::kGpt2);
  } else if (regexes == std::vector<std::string>{"\\p{N}", std::string(Gpt2HfRegex())}) {
    spec = &SpecOf(PreTokenizer::kSmolLm);
  } else if (regexes.size() == 1) {
    spec = FindPreTokenizerByRegex(regexes[0]);
  }
  if (spec != nullptr) {
    parts.Apply(*spec);
  } else {
    parts.pre = PreTokenizer::kSteps;
    parts.steps = std::move(regexes);
  }
}

// None, NFC, or a sequence of these.
bool ReadsNfc(const Json& normalizer, const std::string& source) {
  if (normalizer.is_null()) return false;
  if (Member(normalizer, "type") == Json("NFC")) return true;
  const Json& list = Member(normalizer, "normalizers");
  if (Member(normalizer, "type") != Json("Sequence") || !list.is_array()) {
    RefuseField(source, "normalizer", normalizer);
  }
  bool nfc = false;
  for (const Json& step : list) {
    if (Member(step, "type") != Json("NFC")) RefuseField(source, "normalizer", step);
    nfc = true;
  }
  return nfc;
}

void ReadAddedToken(const Json& token, TokenizerParts& parts) {
  const Json& content = Member(token, "content");
  if (!content.is_string()) {
    Fail(ErrorCode::kInput, "{}: added_tokens has {}, without a content", parts.source,
         Shortened(token));
  }
  const TokenId id = CheckedId(Member(token, "id"), parts.source, "added_tokens.id");
  const bool special = Member(token, "special") == Json(true);
  SetToken(parts, id, content.get<std::string>(),
           special ? TokenKind::kSpecial : TokenKind::kAdded);
  TokenEntry& entry = parts.tokens[static_cast<std::size_t>(id)];
  entry.lstrip = Member(token, "lstrip") == Json(true);
  entry.rstrip = Member(token, "rstrip") == Json(true);
  entry.single_word = Member(token, "single_word") == Json(true);
  const Json& normalized = Member(token, "normalized");
  entry.normalized = normalized.is_null() ? !special : normalized == Json(true);
}

// --- vocab.json and merges.txt ----------------------------------------------------------------

// vocab.json and merges.txt do not say how text is cut. special_tokens.json does (keys
// special_tokens, pattern, pre_tokenizer, normalizer), so does the class in tokenizer_config.json;
// the two files alone are what GPT-2 was published as.
void ReadVocabAndMerges(const fs::path& folder, const Json& config, TokenizerParts& parts) {
  parts.source = (folder / "vocab.json").string();
  ReadVocabulary(ReadJson(folder / "vocab.json"), parts.source, parts);
  ReadMergeLines(folder / "merges.txt", parts);
  const fs::path special_path = folder / "special_tokens.json";
  if (fs::exists(special_path)) {
    parts.source = special_path.string();
    const Json file = ReadJson(special_path);
    const Json& specials = Member(file, "special_tokens");
    if (!specials.is_object()) {
      Fail(ErrorCode::kInput, "{}: special_tokens is missing (an object of tokens and ids)",
           parts.source);
    }
    for (const auto& [text, id] : specials.items()) {
      SetToken(parts, CheckedId(id, parts.source, "special_tokens"), text, TokenKind::kSpecial);
    }
    const Json& pattern = Member(file, "pattern");
    const Json& steps = Member(file, "pre_tokenizer");
    const PreTokenizerSpec* spec = nullptr;
    if (pattern.is_string()) {
      const std::string& regex = pattern.get_ref<const std::string&>();
      spec = FindPreTokenizerByRegex(regex);
      const bool gpt2 = regex == Gpt2HfRegex();
      if (gpt2 && steps.is_null()) spec = &SpecOf(PreTokenizer::kGpt2);
      if (gpt2 && steps.is_array() && steps.size() == 2 && steps[0].is_string() &&
          steps[0].get_ref<const std::string&>().starts_with("Digits(individual_digits=True)")) {
        spec = &SpecOf(PreTokenizer::kSmolLm);
      }
    }
    if (spec == nullptr) RefuseField(parts.source, "pattern", pattern);
    parts.Apply(*spec);
    const Json& normalizer = Member(file, "normalizer");
    if (!normalizer.is_null() && normalizer != Json("NFC")) {
      RefuseField(parts.source, "normalizer", normalizer);
    }
    parts.nfc = normalizer == Json("NFC");
    if (Member(file, "bos_id").is_number()) {
      parts.bos = CheckedId(Member(file, "bos_id"), parts.source, "bos_id");
    }
    for (const char* key : {"eos_id", "eot_id"}) {
      if (!Member(file, key).is_null()) {
        parts.eos.push_back(CheckedId(Member(file, key), parts.source, key));
      }
    }
    return;
  }
  const Json& type = Member(config, "tokenizer_class");
  if (type.is_null() || type == Json("GPT2Tokenizer") || type == Json("GPT2TokenizerFast")) {
    parts.Apply(SpecOf(PreTokenizer::kGpt2));
  } else if (type == Json("Qwen2Tokenizer") || type == Json("Qwen2TokenizerFast")) {
    parts.Apply(SpecOf(PreTokenizer::kQwen2));
  } else {
    RefuseField((folder / "tokenizer_config.json").string(), "tokenizer_class", type);
  }
  const Json& added = Member(config, "added_tokens_decoder");
  if (added.is_object()) {
    for (const auto& [id, token] : added.items()) {
      const Json& content = Member(token, "content");
      std::string fault;
      const Json number = TryParseJson<Json>(id, fault, 0).value_or(Json(id));
      if (!content.is_string()) RefuseField(parts.source, "added_tokens_decoder", token);
      SetToken(parts, CheckedId(number, parts.source, "added_tokens_decoder"),
               content.get<std::string>(),
               Member(token, "special") == Json(true) ? TokenKind::kSpecial : TokenKind::kAdded);
    }
  } else {
    for (TokenEntry& token : parts.tokens) {
      if (token.text == "<|endoftext|>") token.kind = TokenKind::kSpecial;
    }
  }
}

// bos_token and the like: a string, or an object with a content.
TokenId NamedToken(const Json& config, const char* key, const std::string& source,
                   const TokenizerParts& parts) {
  const Json& value = Member(config, key);
  const Json& text = value.is_object() ? Member(value, "content") : value;
  if (text.is_null()) return -1;
  for (std::size_t id = 0; id < parts.tokens.size() && text.is_string(); ++id) {
    if (parts.tokens[id].kind != TokenKind::kNone &&
        parts.tokens[id].text == text.get_ref<const std::string&>()) {
      return static_cast<TokenId>(id);
    }
  }
  Fail(ErrorCode::kInput, "{}: {} is {}, which is not in the vocabulary", source, key,
       Shortened(value));
}

void ReadTemplate(const fs::path& folder, const Json& config, TokenizerParts& parts) {
  if (fs::exists(folder / "chat_template.jinja")) {
    parts.chat_template = ReadFile((folder / "chat_template.jinja").string());
    return;
  }
  const Json& value = Member(config, "chat_template");
  if (value.is_string()) parts.chat_template = value.get<std::string>();
  if (!value.is_array()) return;
  for (const Json& named : value) {  // several, one of them for chats
    if (Member(named, "name") == Json("default") && Member(named, "template").is_string()) {
      parts.chat_template = Member(named, "template").get<std::string>();
    }
  }
}

// A BOS before every text.
OutJson HfPostProcessor(const TokenizerParts& parts) {
  if (!parts.add_bos || parts.bos < 0) return {};
  const std::string& text = parts.tokens[static_cast<std::size_t>(parts.bos)].text;
  const auto bos = [&](int type) {
    OutJson step = OutJson::object();
    step["SpecialToken"] = {{"id", text}, {"type_id", type}};
    return step;
  };
  const auto sequence = [](const char* id, int type) {
    OutJson step = OutJson::object();
    step["Sequence"] = {{"id", id}, {"type_id", type}};
    return step;
  };
  OutJson processor = {{"type", "TemplateProcessing"}};
  processor["single"] = OutJson::array({bos(0), sequence("A", 0)});
  processor["pair"] = OutJson::array({bos(0), sequence("A", 0), bos(1), sequence("B", 1)});
  OutJson& token = processor["special_tokens"][text];
  token["id"] = text;
  token["ids"] = OutJson::array({parts.bos});
  token["tokens"] = OutJson::array({text});
  return processor;
}

OutJson HfPreTokenizer(const TokenizerParts& parts) {
  OutJson byte_level = {{"type", "ByteLevel"},
                        {"add_prefix_space", false},
                        {"trim_offsets", true},
                        {"use_regex", true}};
  if (parts.pre == PreTokenizer::kGpt2) return byte_level;
  OutJson steps = OutJson::array();
  if (parts.pre == PreTokenizer::kSmolLm) {
    steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
    steps.push_back(byte_level);
  } else {
    std::vector<std::string> regexes = parts.steps;
    if (parts.pre != PreTokenizer::kSteps) regexes = {std::string(SpecOf(parts.pre).hf_regex)};
    for (const std::string& regex : regexes) {
      OutJson pattern = OutJson::object();
      pattern["Regex"] = regex;
      steps.push_back(
          {{"type", "Split"}, {"pattern", pattern}, {"behavior", "Isolated"}, {"invert", false}});
    }
    steps.push_back(byte_level);
    steps.back()["use_regex"] = false;
  }
  OutJson sequence = {{"type", "Sequence"}};
  sequence["pretokenizers"] = std::move(steps);
  return sequence;
}

}  // namespace

TokenizerParts ParseTokenizerJson(std::string_view text, const std::string& source) {
  TokenizerParts parts;
  parts.source = source;
  const Json file = ParseJson<Json>(text, source, "file");
  const Json& model = Member(file, "model");
  const Json& type = Member(model, "type");  // absent in old files
  if (!type.is_null() && type != Json("BPE")) {
    RefuseField(parts.source, "model.type", Member(model, "type"));
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json& value = Member(model, key);
    if (!value.is_null() && value != Json("")) {
      RefuseField(parts.source, std::string("model.") + key, value);
    }
  }
  if (Member(model, "byte_fallback") == Json(true)) {
    RefuseField(parts.source, "model.byte_fallback", Member(model, "byte_fallback"));
  }
  const Json& dropout = Member(model, "dropout");
  if (!dropout.is_null() && dropout != Json(0.0)) {
    RefuseField(parts.source, "model.dropout", dropout);
  }
  ReadVocabulary(Member(model, "vocab"), parts.source, parts);

  const Json& merges = Member(model, "merges");
  if (!merges.is_array()) Fail(ErrorCode::kInput, "{}: model.merges is missing", parts.source);
  for (const Json& merge : merges) {
    if (merge.is_string()) {
      parts.merges.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      parts.merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    } else {
      Fail(ErrorCode::kInput, "{}: model.merges has {}, not two tokens", parts.source,
           Shortened(merge));
    }
  }

  ReadPreTokenizer(Member(file, "pre_tokenizer"), parts);
  parts.whole_words = Member(model, "ignore_merges") == Json(true);  // here the file does say
  parts.nfc = ReadsNfc(Member(file, "normalizer"), parts.source);
  const Json& decoder = Member(file, "decoder");
  if (!decoder.is_null() && Member(decoder, "type") != Json("ByteLevel")) {
    RefuseField(parts.source, "decoder", decoder);
  }

  // A BOS before every text is a template that starts with a token in place of the text.
  const Json& post = Member(file, "post_processor");
  const Json& steps = Member(post, "processors");
  for (const Json& step : steps.is_array() ? steps : Json::array({post})) {
    const Json& single = Member(step, "single");
    if (single.is_array() && !single.empty() && single[0].contains("SpecialToken")) {
      parts.add_bos = true;
    }
  }

  const Json& added = Member(file, "added_tokens");
  for (const Json& token : added.is_array() ? added : Json::array()) ReadAddedToken(token, parts);
  return parts;
}

TokenizerParts ReadTokenizerFolder(const std::string& folder_name) {
  const fs::path folder(folder_name);
  const fs::path config_path = folder / "tokenizer_config.json";
  const Json config = fs::exists(config_path) ? ReadJson(config_path) : Json();
  TokenizerParts parts;
  if (fs::exists(folder / "tokenizer.json")) {
    const fs::path path = folder / "tokenizer.json";
    parts = ParseTokenizerJson(ReadFile(path.string()), path.string());
  } else if (fs::exists(folder / "vocab.json") && fs::exists(folder / "merges.txt")) {
    ReadVocabAndMerges(folder, config, parts);
  } else {
    Fail(
        ErrorCode::kInput,
        "{}: has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt; name a model "
        "folder or a .gguf file",
        folder_name);
  }
  if (const TokenId bos = NamedToken(config, "bos_token", config_path.string(), parts); bos >= 0) {
    parts.bos = bos;
  }
  parts.pad = NamedToken(config, "pad_token", config_path.string(), parts);
  parts.AddEos(NamedToken(config, "eos_token", config_path.string(), parts));
  const fs::path generation_path = folder / "generation_config.json";
  if (fs::exists(generation_path)) {
    const Json generation = ReadJson(generation_path);
    const Json& eos = Member(generation, "eos_token_id");
    for (const Json& id : eos.is_array()  ? eos
                          : eos.is_null() ? Json::array()
                                          : Json::array({eos})) {
      parts.AddEos(CheckedId(id, generation_path.string(), "eos_token_id"));
    }
  }
  ReadTemplate(folder, config, parts);
  return parts;
}

void WriteTokenizerFolder(const TokenizerParts& parts, const std::string& folder_name) {
  const fs::path folder(folder_name);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    Fail(ErrorCode::kWork, "{}: cannot be made: {}", folder_name, error.message());
  }

  OutJson added = OutJson::array();
  OutJson vocabulary = OutJson::object();
  // An ordered object looks every key up; this inserts without (the texts are known to differ).
  auto& entries = vocabulary.get_ref<OutJson::object_t&>();
  for (std::size_t id = 0; id < parts.tokens.size(); ++id) {
    const TokenEntry& token = parts.tokens[id];
    if (token.kind == TokenKind::kNone) continue;
    // Special tokens too: only so does the file fix their ids.
    entries.std::vector<std::pair<const std::string, OutJson>>::emplace_back(token.text, id);
    if (token.kind != TokenKind::kSpecial && token.kind != TokenKind::kAdded) continue;
    added.push_back({{"id", id},
                     {"content", token.text},
                     {"single_word", token.single_word},
                     {"lstrip", token.lstrip},
                     {"rstrip", token.rstrip},
                     {"normalized", token.normalized},
                     {"special", token.kind == TokenKind::kSpecial}});
  }
  OutJson file;
  file["version"] = "1.0";
  file["truncation"] = nullptr;
  file["padding"] = nullptr;
  file["added_tokens"] = std::move(added);
  file["normalizer"] = parts.nfc ? OutJson{{"type", "NFC"}} : OutJson();
  file["pre_tokenizer"] = HfPreTokenizer(parts);
  file["post_processor"] = HfPostProcessor(parts);
  file["decoder"] = {{"type", "ByteLevel"},
                     {"add_prefix_space", true},
                     {"trim_offsets", true},
                     {"use_regex", true}};
  OutJson& model = file["model"];
  model["type"] = "BPE";
  model["dropout"] = nullptr;
  model["unk_token"] = nullptr;
  model["continuing_subword_prefix"] = nullptr;
  model["end_of_word_suffix"] = nullptr;
  model["fuse_unk"] = false;
  model["byte_fallback"] = false;
  model["ignore_merges"] = parts.whole_words;
  model["vocab"] = std::move(vocabulary);
  model["merges"] = parts.merges;

  OutJson names = OutJson::object();
  const auto name = [&](const char* key, TokenId id) {
    if (id >= 0) names[key] = parts.tokens[static_cast<std::size_t>(id)].text;
  };
  name("bos_token", parts.bos);
  name("eos_token", parts.eos.empty() ? -1 : parts.eos.front());
  name("pad_token", parts.pad);
  OutJson config = names;
  config["clean_up_tokenization_spaces"] = false;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (!parts.chat_template.empty()) config["chat_template"] = parts.chat_template;

  const auto write = [&](const char* file_name, const OutJson& content) {
    std::string text;
    try {
      text = content.dump(2);
    } catch (const nlohmann::json::exception& e) {
      Fail(ErrorCode::kInput,
           "{}: has a token or chat template that is not UTF-8, which {} cannot "
           "hold ({})",
           parts.source, file_name, e.what());
    }
    WriteFileAtomically((folder / file_name).string(), text + "\n");
  };
  write("tokenizer.json", file);
  write("tokenizer_config.json", config);
  write("special_tokens_map.json", names);
}

}  // namespace opo
