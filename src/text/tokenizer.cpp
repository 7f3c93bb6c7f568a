#include "text/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "base/utf8.h"
#include "format/gguf.h"
#include "text/nfc.h"
#include "text/tokenizer_parts.h"

namespace opo {
namespace {

// Alphabet character -> byte, and back.
struct ByteAlphabet {
  ByteAlphabet() {
    // Printable characters of Latin-1 stand for themselves, the rest follow from U+0100 on.
    std::uint32_t next = 0x100;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
      characters[byte] = printable ? byte : next++;
      byte_of[characters[byte]] = static_cast<std::int16_t>(byte);
    }
  }
  std::array<std::uint32_t, 256> characters{};
  std::array<std::int16_t, 0x144> byte_of = [] {
    std::array<std::int16_t, 0x144> none{};
    none.fill(-1);
    return none;
  }();
};

const ByteAlphabet& Alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

// White_Space of Unicode, which is what \s means to tokenizers.
bool IsSpace(std::uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// Where the white space at the end of the text begins; the size of that at its start.
std::size_t SpaceStart(std::string_view text) {
  std::size_t start = text.size();
  while (start > 0) {
    std::size_t pos = start - 1;
    while (pos > 0 && start - pos < 4 && (text[pos] & 0xC0) == 0x80) --pos;
    const Utf8Step step = NextUtf8(text.substr(0, start), pos);
    if (step.kind != Utf8Kind::kCharacter || pos + step.size != start || !IsSpace(step.code)) break;
    start = pos;
  }
  return start;
}
std::size_t SpaceEnd(std::string_view text) {
  std::size_t pos = 0;
  while (pos < text.size()) {
    const Utf8Step step = NextUtf8(text, pos);
    if (step.kind != Utf8Kind::kCharacter || !IsSpace(step.code)) break;
    pos += step.size;
  }
  return pos;
}

}  // namespace

std::string ByteText(std::uint8_t byte) {
  std::string out;
  AppendUtf8(Alphabet().characters[byte], out);
  return out;
}

bool BytesOfText(std::string_view text, std::string& bytes) {
  bytes.clear();
  for (std::size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text, pos);
    if (step.kind != Utf8Kind::kCharacter || step.code >= Alphabet().byte_of.size()) return false;
    const std::int16_t byte = Alphabet().byte_of[step.code];
    if (byte < 0) return false;
    bytes.push_back(static_cast<char>(byte));
    pos += step.size;
  }
  return true;
}

Tokenizer::Impl::Impl(TokenizerParts from)
    : parts(std::move(from)),
      splitter(parts.pre == PreTokenizer::kSteps ? PieceSplitter(parts.steps, parts.source)
                                                 : PieceSplitter(parts.pre)) {
  const auto num_tokens = static_cast<TokenId>(parts.tokens.size());
  std::unordered_map<std::string_view, TokenId> by_text;
  by_text.reserve(parts.tokens.size());
  bytes.resize(parts.tokens.size());
  byte_ids.fill(-1);
  for (TokenId id = 0; id < num_tokens; ++id) {
    const TokenEntry& token = parts.tokens[static_cast<std::size_t>(id)];
    std::string& raw = bytes[static_cast<std::size_t>(id)];
    raw = token.text;
    if (token.kind == TokenKind::kNone) continue;
    if (token.text.empty()) {
      Fail(ErrorCode::kInput, "{}: token {} is empty; the file is damaged, fetch it again",
           parts.source, id);
    }
    if (!by_text.emplace(token.text, id).second) {
      Fail(ErrorCode::kInput, "{}: tokens {} and {} are both \"{}\"; the file is damaged",
           parts.source, by_text[token.text], id, token.text);
    }
    if (token.kind == TokenKind::kSpecial || token.kind == TokenKind::kAdded) {
      if (token.normalized) {
        has_normalized = true;
        if (parts.nfc) raw = ToNfc(raw);
      }
      markup_by_first[static_cast<unsigned char>(raw[0])].push_back(id);
    } else if (token.kind == TokenKind::kOrdinary) {
      // A text outside the alphabet stands for itself, as transformers decodes it.
      if (std::string decoded; BytesOfText(token.text, decoded)) raw = decoded;
      if (raw.size() == 1) byte_ids[static_cast<unsigned char>(raw[0])] = id;
      if (parts.whole_words) words.emplace(raw, id);
    }
  }
  for (std::vector<TokenId>& markup : markup_by_first) {
    std::stable_sort(markup.begin(), markup.end(), [this](TokenId a, TokenId b) {
      return bytes[static_cast<std::size_t>(a)].size() > bytes[static_cast<std::size_t>(b)].size();
    });
  }

  merges.Reserve(parts.merges.size());
  for (std::size_t rank = 0; rank < parts.merges.size(); ++rank) {
    const std::string_view merge = parts.merges[rank];
    const std::size_t space = merge.find(' ');
    if (space == std::string_view::npos || merge.find(' ', space + 1) != std::string_view::npos) {
      Fail(ErrorCode::kInput, "{}: merge {} is \"{}\", not two tokens with a space between them",
           parts.source, rank, merge);
    }
    const std::string joined = std::string(merge.substr(0, space)).append(merge.substr(space + 1));
    const auto id_of = [&](std::string_view text) {
      const auto found = by_text.find(text);
      if (found == by_text.end()) {
        Fail(ErrorCode::kInput,
             "{}: merge {} (\"{}\") needs the token \"{}\", which is not in the "
             "vocabulary; vocabulary and merges are not of the same tokenizer",
             parts.source, rank, merge, text);
      }
      return found->second;
    };
    merges.Add(id_of(merge.substr(0, space)), id_of(merge.substr(space + 1)),
               static_cast<std::int32_t>(rank), id_of(joined));
  }

  const auto check_id = [&](TokenId id, const char* what) {
    if (id < -1 || id >= num_tokens) {
      Fail(ErrorCode::kInput, "{}: the {} token is {}, the vocabulary has {} tokens", parts.source,
           what, id, num_tokens);
    }
  };
  check_id(parts.bos, "bos");
  check_id(parts.pad, "padding");
  for (const TokenId id : parts.eos) check_id(id, "eos");
  for (const std::string_view name : kTurnEnds) {
    const auto found = by_text.find(name);
    if (found == by_text.end()) continue;
    const TokenId id = found->second;
    if (parts.tokens[static_cast<std::size_t>(id)].kind != TokenKind::kSpecial) continue;
    if (std::find(parts.eos.begin(), parts.eos.end(), id) == parts.eos.end()) {
      parts.eos.push_back(id);
    }
  }

  std::vector<TokenId> pieces;
  for (const char byte : kReplacementCharacter) {
    const TokenId id = byte_ids[static_cast<unsigned char>(byte)];
    if (id >= 0) pieces.push_back(id);
  }
  if (pieces.size() == kReplacementCharacter.size()) MergePieces(merges, pieces, replacement);
}

void Tokenizer::Impl::EncodeOrdinary(std::string_view text, std::vector<TokenId>& ids) const {
  std::vector<TokenId> pieces;
  splitter.Split(text, [&](std::string_view piece) {
    if (parts.whole_words) {
      const auto found = words.find(std::string(piece));
      if (found != words.end()) {
        ids.push_back(found->second);
        return;
      }
    }
    pieces.clear();
    for (const char c : piece) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte_ids[byte] >= 0) {
        pieces.push_back(byte_ids[byte]);
        continue;
      }
      // A vocabulary may lack bytes that its training text did not have. Nothing is dropped in
      // silence: U+FFFD stands for them, or the text is refused.
      if (replacement.empty()) {
        Fail(ErrorCode::kInput,
             "{}: the vocabulary has no token for byte 0x{:02x}; take it out of "
             "the text",
             parts.source, byte);
      }
      MergePieces(merges, pieces, ids);
      pieces.clear();
      ids.insert(ids.end(), replacement.begin(), replacement.end());
    }
    MergePieces(merges, pieces, ids);
  });
}

TokenId Tokenizer::Impl::MarkupAt(std::string_view text, std::size_t pos, bool parse_special,
                                  bool normalized) const {
  for (const TokenId id : markup_by_first[static_cast<unsigned char>(text[pos])]) {
    const auto i = static_cast<std::size_t>(id);
    const TokenEntry& token = parts.tokens[i];
    if (token.normalized != normalized) continue;
    if (!parse_special && token.kind != TokenKind::kAdded) continue;
    if (text.substr(pos, bytes[i].size()) == bytes[i]) return id;
  }
  return -1;
}

void Tokenizer::Impl::EncodeMarkup(std::string_view text, bool parse_special, bool normalized,
                                   const std::function<void(std::string_view)>& plain,
                                   std::vector<TokenId>& ids) const {
  std::size_t start = 0;  // of the text that is not encoded yet
  for (std::size_t pos = 0; pos < text.size();) {
    const TokenId id = MarkupAt(text, pos, parse_special, normalized);
    if (id < 0) {
      ++pos;
      continue;
    }
    const TokenEntry& token = parts.tokens[static_cast<std::size_t>(id)];
    std::size_t begin = pos;
    pos += bytes[static_cast<std::size_t>(id)].size();
    std::size_t end = pos;
    if (token.single_word &&
        (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(end)))) {
      continue;
    }
    if (token.lstrip) begin = std::max(start, SpaceStart(text.substr(0, begin)));
    if (token.rstrip) end += SpaceEnd(text.substr(end));
    if (begin > start) plain(text.substr(start, begin - start));
    ids.push_back(id);
    start = pos = end;
  }
  if (start < text.size()) plain(text.substr(start));
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::Load(const std::string& model_path) {
  std::error_code ignored;
  return Tokenizer(std::make_unique<Impl>(std::filesystem::is_directory(model_path, ignored)
                                              ? ReadTokenizerFolder(model_path)
                                              : ReadGgufTokenizer(model_path)));
}

Tokenizer Tokenizer::FromJson(std::string_view text, const std::string& source) {
  return Tokenizer(std::make_unique<Impl>(ParseTokenizerJson(text, source)));
}

Tokenizer Tokenizer::Bytes() {
  TokenizerParts parts;
  parts.source = "byte tokenizer";
  for (int byte = 0; byte < 256; ++byte) {
    parts.tokens.push_back({ByteText(static_cast<std::uint8_t>(byte)), TokenKind::kOrdinary});
  }
  for (const char* special : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    parts.tokens.push_back({special, TokenKind::kSpecial});
  }
  parts.pad = 256;
  parts.eos = {258, 256};
  parts.chat_template = "{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}";
  return Tokenizer(std::make_unique<Impl>(std::move(parts)));
}

std::vector<TokenId> Tokenizer::Encode(std::string_view text, bool parse_special) const {
  std::vector<TokenId> ids;
  const auto ordinary = [&](std::string_view part) { impl_->EncodeOrdinary(part, ids); };
  impl_->EncodeMarkup(
      text, parse_special, false,
      [&](std::string_view part) {
        std::string normalized;
        if (impl_->parts.nfc && !IsPlainNfc(part)) {
          normalized = ToNfc(part);
          part = normalized;
        }
        if (impl_->has_normalized) {
          impl_->EncodeMarkup(part, parse_special, true, ordinary, ids);
        } else {
          ordinary(part);
        }
      },
      ids);
  return ids;
}

std::string Tokenizer::Decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string text;
  for (const TokenId id : ids) text += TokenBytes(id, skip_special);
  return text;
}

std::string Tokenizer::TokenBytes(TokenId id, bool skip_special) const {
  if (id < 0 || id >= vocab_size()) return "";
  const TokenKind kind = impl_->parts.tokens[static_cast<std::size_t>(id)].kind;
  const bool text = kind == TokenKind::kOrdinary || kind == TokenKind::kAdded;
  return text || !skip_special ? impl_->bytes[static_cast<std::size_t>(id)] : "";
}

TokenId Tokenizer::FirstDifference(const Tokenizer& other) const {
  for (TokenId id = 0; id < vocab_size(); ++id) {
    if (TokenBytes(id, false) != other.TokenBytes(id, false)) return id;
  }
  return -1;
}

idx Tokenizer::vocab_size() const { return static_cast<idx>(impl_->parts.tokens.size()); }
TokenId Tokenizer::bos_id() const { return impl_->parts.bos; }
TokenId Tokenizer::pad_id() const { return impl_->parts.pad; }
const std::vector<TokenId>& Tokenizer::eos_ids() const { return impl_->parts.eos; }
const std::string& Tokenizer::chat_template() const { return impl_->parts.chat_template; }

std::string Tokenizer::SpecialText(TokenId id) const {
  if (id < 0 || id >= vocab_size()) return "";
  const TokenEntry& token = impl_->parts.tokens[static_cast<std::size_t>(id)];
  return token.kind == TokenKind::kSpecial ? token.text : "";
}

void Tokenizer::Save(const std::string& folder) const {
  WriteTokenizerFolder(impl_->parts, folder);
}

std::vector<GgufKeyToWrite> Tokenizer::GgufKeys(idx vocab_size) const {
  return GgufTokenizerKeys(impl_->parts, vocab_size);
}

std::string StreamDecoder::Push(TokenId id) {
  held_ += tokenizer_.TokenBytes(id);
  std::string out;
  std::size_t pos = 0;
  while (pos < held_.size()) {
    const Utf8Step step = NextUtf8(held_, pos);
    if (step.kind == Utf8Kind::kUnfinished) break;
    if (step.kind == Utf8Kind::kCharacter) {
      out.append(held_, pos, step.size);
    } else {
      out += kReplacementCharacter;
    }
    pos += step.size;
  }
  held_.erase(0, pos);
  return out;
}

std::string StreamDecoder::Flush() {
  if (held_.empty()) return "";
  held_.clear();
  return std::string(kReplacementCharacter);
}

}  // namespace opo
