#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <map>
#include <random>

#include "base/error.h"
#include "format/gguf.h"
#include "text/shared_data.h"
#include "text/tokenizer_parts.h"

namespace opo {
namespace {

using Ids = std::vector<TokenId>;

// A byte vocabulary with a few merges and markup, as tokenizer.json holds it.
nlohmann::ordered_json SmallTokenizerJson() {
  nlohmann::ordered_json vocab;
  for (int byte = 0; byte < 256; ++byte) vocab[ByteText(static_cast<std::uint8_t>(byte))] = byte;
  const std::pair<const char*, const char*> merges[] = {
      {"h", "e"},     {"l", "l"}, {"he", "ll"}, {"hell", "o"},
      {"Ġ", "hello"}, {"a", "a"}, {"aa", "aa"}, {"1", "2"},
  };
  nlohmann::ordered_json merge_lines = nlohmann::ordered_json::array();
  int next = 256;
  for (const auto& [left, right] : merges) {
    vocab[std::string(left) + right] = next++;
    merge_lines.push_back(std::string(left) + " " + right);
  }
  const auto added = [](int id, const char* text, bool special) {
    return nlohmann::ordered_json{{"id", id},          {"content", text}, {"single_word", false},
                                  {"lstrip", false},   {"rstrip", false}, {"normalized", false},
                                  {"special", special}};
  };
  return {
      {"version", "1.0"},
      {"added_tokens",
       {added(264, "<|im_start|>", true), added(265, "<|im_end|>", true),
        added(266, "<|im_end|>!", true), added(267, "<tool>", false)}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merge_lines}}}};
}

std::string ErrorOf(const nlohmann::ordered_json& json) {
  const TempFolder folder("broken");
  folder.Write("tokenizer.json", json.dump());
  try {
    Tokenizer::Load(folder.path());
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInput);
    return e.what();
  }
  return "";
}

Tokenizer LoadSmall(const nlohmann::ordered_json& json = SmallTokenizerJson()) {
  const TempFolder folder("small");
  folder.Write("tokenizer.json", json.dump());
  return Tokenizer::Load(folder.path());
}

std::string RandomBytes(std::mt19937& random, std::size_t size) {
  // Half of the time from few bytes, so that words, spaces and parts of characters meet.
  constexpr unsigned char kFew[] = {'a',  'e',  'h',  'l',  'o',  ' ',  ' ',  '\n', '1',
                                    '2',  '\'', 's',  0xC3, 0xA9, 0xE2, 0x80, 0x89, 0xF0,
                                    0x9F, 0x98, 0x80, 0xFF, '<',  '|',  '>'};
  std::string text;
  const bool few = random() % 2 == 0;
  while (text.size() < size) {
    text += static_cast<char>(few ? kFew[random() % sizeof(kFew)] : random() % 256);
  }
  return text;
}

void ExpectRoundTrips(const Tokenizer& tokenizer, int rounds) {
  std::mt19937 random(7);
  for (int i = 0; i < rounds; ++i) {
    const std::string text = RandomBytes(random, random() % 200);
    for (const bool parse_special : {false, true}) {
      ASSERT_EQ(tokenizer.Decode(tokenizer.Encode(text, parse_special), false), text);
    }
  }
}

TEST(ByteTokenizer, HasATokenForEveryByteAndThreeSpecials) {
  const Tokenizer tokenizer = Tokenizer::Bytes();
  EXPECT_EQ(tokenizer.vocab_size(), 259);
  EXPECT_EQ(tokenizer.Encode("Hi\xFF"), (Ids{'H', 'i', 0xFF}));
  EXPECT_EQ(tokenizer.Encode("<|im_end|>").size(), 10u);
  EXPECT_EQ(tokenizer.Encode("a<|im_end|>b", true), (Ids{'a', 258, 'b'}));
  EXPECT_EQ(tokenizer.SpecialText(256), "<|endoftext|>");
  EXPECT_EQ(tokenizer.SpecialText(257), "<|im_start|>");
  EXPECT_EQ(tokenizer.SpecialText('a'), "");
  EXPECT_EQ(tokenizer.SpecialText(-1), "");
  EXPECT_EQ(tokenizer.eos_ids(), (Ids{258, 256}));
  EXPECT_FALSE(tokenizer.chat_template().empty());
  ExpectRoundTrips(tokenizer, 300);
}

TEST(Tokenizer, MergesByRankWithinWords) {
  const Tokenizer tokenizer = LoadSmall();
  EXPECT_EQ(tokenizer.Encode("hello hello"), (Ids{259, 260}));
  EXPECT_EQ(tokenizer.Encode("hell o"), (Ids{258, ' ', 'o'}));
  EXPECT_EQ(tokenizer.Encode("aaaaa"), (Ids{262, 'a'}));  // the leftmost pair first
  EXPECT_EQ(tokenizer.Encode("aaa"), (Ids{261, 'a'}));
  EXPECT_EQ(tokenizer.Encode("12"), (Ids{263}));
  EXPECT_EQ(tokenizer.Encode(""), Ids());
}

TEST(Tokenizer, LongAndShortWordsMergeAlike) {
  const Tokenizer tokenizer = LoadSmall();
  // 33 letters take the heap, 32 the scan: each is what the rule says.
  for (const std::size_t n : {31, 32, 33, 34, 35, 1000}) {
    Ids expected(n / 4, 262);
    if (n % 4 >= 2) expected.push_back(261);
    if (n % 2 == 1) expected.push_back('a');
    EXPECT_EQ(tokenizer.Encode(std::string(n, 'a')), expected) << n;
  }
  std::string word;
  Ids expected;
  for (int i = 0; i < 40; ++i) {
    word += "helloell";
    for (const TokenId id : {259, static_cast<int>('e'), 257}) expected.push_back(id);
  }
  EXPECT_EQ(tokenizer.Encode(word), expected);
}

TEST(Tokenizer, EncodesAMegabyteOfOneLetterInSeconds) {
  const Tokenizer tokenizer = LoadSmall();
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(tokenizer.Encode(std::string(1 << 20, 'a')).size(), (1u << 20) / 4);
  EXPECT_EQ(tokenizer.Encode(std::string(1 << 20, ' ')).size(), 1u << 20);
  EXPECT_EQ(tokenizer.Encode(std::string(1 << 20, '\xFF')).size(), 1u << 20);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(Tokenizer, MatchesMarkupOnlyWhereAskedAndTheLongestFirst) {
  const Tokenizer tokenizer = LoadSmall();
  EXPECT_EQ(tokenizer.Encode("<|im_end|>", true), (Ids{265}));
  EXPECT_EQ(tokenizer.Encode("<|im_end|>!", true), (Ids{266}));
  EXPECT_EQ(tokenizer.Encode("<|im_end|", true).size(), 9u);
  EXPECT_EQ(tokenizer.Encode("<|im_end|>!").size(), 11u);
  EXPECT_EQ(tokenizer.Encode("x<tool>"), (Ids{'x', 267}));  // added, but not special
  EXPECT_EQ(tokenizer.Decode(Ids{264, 'x', 265, 267}), "x<tool>");
  EXPECT_EQ(tokenizer.Decode(Ids{264, 'x', 265, 267}, false), "<|im_start|>x<|im_end|><tool>");
  EXPECT_EQ(tokenizer.Decode(Ids{-1, 'x', 100000}), "x");
  EXPECT_EQ(tokenizer.TokenBytes(265), "");
  EXPECT_EQ(tokenizer.TokenBytes(265, false), "<|im_end|>");
}

TEST(Tokenizer, AnyBytesRoundTrip) { ExpectRoundTrips(LoadSmall(), 1000); }

TEST(Tokenizer, BytesWithoutATokenBecomeTheReplacementCharacter) {
  auto json = SmallTokenizerJson();
  json["model"]["vocab"].erase(ByteText(0x04));
  const Tokenizer tokenizer = LoadSmall(json);
  EXPECT_EQ(tokenizer.Decode(tokenizer.Encode("a\x04z")), "a\xEF\xBF\xBDz");
  json["model"]["vocab"].erase(ByteText(0xEF));  // now there is no replacement either
  const Tokenizer poorer = LoadSmall(json);
  EXPECT_THROW(poorer.Encode("a\x04z"), Error);
}

TEST(Tokenizer, RefusesWhatItDoesNotDoByName) {
  auto json = SmallTokenizerJson();
  EXPECT_EQ(ErrorOf(json), "");
  json["model"]["type"] = "Unigram";
  EXPECT_NE(ErrorOf(json).find("Unigram"), std::string::npos);
  json = SmallTokenizerJson();
  json["pre_tokenizer"]["type"] = "Metaspace";
  EXPECT_NE(ErrorOf(json).find("Metaspace"), std::string::npos);
  json = SmallTokenizerJson();
  json["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_NE(ErrorOf(json).find("pre_tokenizer"), std::string::npos);
  json = SmallTokenizerJson();
  json["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_NE(ErrorOf(json).find("Lowercase"), std::string::npos);
  json = SmallTokenizerJson();
  json["decoder"] = {{"type", "Metaspace"}};
  EXPECT_NE(ErrorOf(json).find("decoder"), std::string::npos);
  json = SmallTokenizerJson();
  json["model"]["byte_fallback"] = true;
  EXPECT_NE(ErrorOf(json).find("byte_fallback"), std::string::npos);
  json = SmallTokenizerJson();
  json["model"]["merges"].push_back("q z");
  EXPECT_NE(ErrorOf(json).find("qz"), std::string::npos);
  json = SmallTokenizerJson();
  json["model"]["merges"].push_back("one");
  EXPECT_NE(ErrorOf(json).find("two tokens"), std::string::npos);
  json = SmallTokenizerJson();
  json["model"]["vocab"]["far"] = 99999999;
  EXPECT_NE(ErrorOf(json).find("99999999"), std::string::npos);
  json = SmallTokenizerJson();
  json["model"]["vocab"]["twice"] = 5;
  EXPECT_NE(ErrorOf(json).find("twice"), std::string::npos);
  const TempFolder empty("empty");
  EXPECT_THROW(Tokenizer::Load(empty.path()), Error);
  EXPECT_THROW(Tokenizer::Load(empty.path() + "/none.gguf"), Error);
}

// Messages print the field that is refused, and prints recurse.
TEST(Tokenizer, RefusesJsonThatIsNestedWithoutEnd) {
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  try {
    Tokenizer::FromJson("{\"model\": {\"type\": " + deep + "}}", "deep.json");
    ADD_FAILURE() << "was read";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInput);
    EXPECT_STREQ(e.what(), "deep.json: nested deeper than 64 levels");
  }
  // A key that is JSON itself: an id of added_tokens_decoder.
  const TempFolder folder("nested_key");
  folder.Write("vocab.json", R"({"a": 0})");
  folder.Write("merges.txt", "");
  folder.Write("tokenizer_config.json",
               R"({"added_tokens_decoder": {")" + deep + R"(": {"content": "<x>"}}})");
  EXPECT_THROW(Tokenizer::Load(folder.path()), Error);
}

TEST(Tokenizer, RefusesExpressionsThatAreNotTheSameToAllEngines) {
  const auto with = [](const std::string& regex) {
    auto json = SmallTokenizerJson();
    nlohmann::ordered_json split = {{"type", "Split"}, {"behavior", "Isolated"}, {"invert", false}};
    split["pattern"]["Regex"] = regex;
    json["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         nlohmann::ordered_json::array({split, {{"type", "ByteLevel"}, {"use_regex", false}}})}};
    return json;
  };
  EXPECT_EQ(ErrorOf(with("\\p{N}{1,3}|[\\s!]++|(?i:'s)?x")), "");
  const std::pair<const char*, const char*> cases[] = {
      {"^a", "an anchor"},    {"a$", "an anchor"},        {"(a+)+b", "repeated"},
      {"(?>a)", "a group"},   {"[a[bc]]", "a class"},     {"[a&&b]", "intersection"},
      {"\\w+", "escape \\w"}, {"a*", "empty text"},       {"a{1,2}+", "}+"},
      {"(a", "PCRE2"},        {"\\p{Nonsense}", "PCRE2"}, {"[^\\S]", "escape \\S"},
      {"a\\", "escape"},
  };
  for (const auto& [regex, reason] : cases) {
    EXPECT_NE(ErrorOf(with(regex)).find(reason), std::string::npos)
        << regex << ": " << ErrorOf(with(regex));
  }
}

// tools/make_tokenizer_goldens.py: what the tokenizers library gives for small vocabularies.
TEST(Tokenizer, EncodesWhatTokenizersEncodes) {
  const auto lines = ReadJsonLines(std::string(OPO_SOURCE_DIR) + "/tests/golden/tokenizers.jsonl");
  ASSERT_GT(lines.size(), 8u);
  for (std::size_t i = 1; i < lines.size(); ++i) {
    nlohmann::ordered_json file = lines[i]["file"];
    file["model"] = lines[0]["model"];
    file["model"]["ignore_merges"] = lines[i]["ignore_merges"];
    const TempFolder folder("golden");
    folder.Write("tokenizer.json", file.dump());
    const Tokenizer tokenizer = Tokenizer::Load(folder.path());
    std::vector<std::string> texts;
    for (const auto& one : lines[i]["cases"]) {
      texts.push_back(one["text"]);
      EXPECT_EQ(tokenizer.Encode(texts.back(), true), one["ids"].get<Ids>())
          << lines[i]["name"] << ": " << one["text"];
    }
    const TempFolder saved("golden_saved");
    tokenizer.Save(saved.path());
    const Tokenizer again = Tokenizer::Load(saved.path());
    for (const std::string& text : texts) {
      EXPECT_EQ(again.Encode(text, true), tokenizer.Encode(text, true)) << text;
    }
  }
}

TEST(Tokenizer, ReadsNamesAndEndsOfTurnFromTheFolder) {
  const TempFolder folder("names");
  folder.Write("tokenizer.json", SmallTokenizerJson().dump());
  folder.Write("tokenizer_config.json",
               R"({"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>!",
                   "pad_token": null, "chat_template": "from config"})");
  folder.Write("generation_config.json", R"({"eos_token_id": [266, 263]})");
  {
    const Tokenizer tokenizer = Tokenizer::Load(folder.path());
    EXPECT_EQ(tokenizer.bos_id(), 264);
    EXPECT_EQ(tokenizer.pad_id(), -1);
    EXPECT_EQ(tokenizer.eos_ids(), (Ids{266, 263, 265}));  // declared ones first, then known names
    EXPECT_EQ(tokenizer.chat_template(), "from config");
  }
  folder.Write("chat_template.jinja", "from file");
  EXPECT_EQ(Tokenizer::Load(folder.path()).chat_template(), "from file");
  folder.Write("tokenizer_config.json", R"({"eos_token": "<|missing|>"})");
  EXPECT_THROW(Tokenizer::Load(folder.path()), Error);
}

void ExpectSame(const Tokenizer& again, const Tokenizer& tokenizer,
                const std::vector<std::string>& texts) {
  EXPECT_EQ(again.vocab_size(), tokenizer.vocab_size());
  EXPECT_EQ(again.bos_id(), tokenizer.bos_id());
  EXPECT_EQ(again.pad_id(), tokenizer.pad_id());
  EXPECT_EQ(again.eos_ids(), tokenizer.eos_ids());
  EXPECT_EQ(again.chat_template(), tokenizer.chat_template());
  for (const std::string& text : texts) {
    EXPECT_EQ(again.Encode(text, true), tokenizer.Encode(text, true));
  }
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    ASSERT_EQ(again.TokenBytes(id, false), tokenizer.TokenBytes(id, false)) << id;
    ASSERT_EQ(again.SpecialText(id), tokenizer.SpecialText(id)) << id;
  }
}

// As a folder and as a GGUF.
void ExpectSaveKeeps(const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  const TempFolder folder("saved");
  tokenizer.Save(folder.path());
  EXPECT_TRUE(std::filesystem::exists(folder.path() + "/special_tokens_map.json"));
  ExpectSame(Tokenizer::Load(folder.path()), tokenizer, texts);
  WriteGguf(folder.path() + "/t.gguf", tokenizer.GgufKeys(tokenizer.vocab_size()), {});
  ExpectSame(Tokenizer::Load(folder.path() + "/t.gguf"), tokenizer, texts);
}

TEST(Tokenizer, SaveAndLoadGiveTheSameTokenizer) {
  const std::vector<std::string> texts = {"hello <|im_end|>! <tool> 12", "\xFF\x04"};
  ExpectSaveKeeps(Tokenizer::Bytes(), texts);
  ExpectSaveKeeps(LoadSmall(), texts);
}

TEST(StreamDecoder, HoldsBackUnfinishedCharacters) {
  const Tokenizer tokenizer = Tokenizer::Bytes();
  StreamDecoder stream(tokenizer);
  EXPECT_EQ(stream.Push('a'), "a");
  EXPECT_EQ(stream.Push(0xF0), "");
  EXPECT_EQ(stream.Push(0x9F), "");
  EXPECT_EQ(stream.Push(258), "");  // a special token has no text
  EXPECT_EQ(stream.Push(0x98), "");
  EXPECT_EQ(stream.Push(0x80), "\xF0\x9F\x98\x80");
  EXPECT_EQ(stream.Flush(), "");
  EXPECT_EQ(stream.Push(0xE2), "");
  EXPECT_EQ(stream.Push('b'),
            "\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(stream.Push(0xFF), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.Push(0xE2), "");
  EXPECT_EQ(stream.Push(0x82), "");
  EXPECT_EQ(stream.Flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(StreamDecoder, PiecesJoinToTheWholeTextWhereItIsValid) {
  const Tokenizer tokenizer = LoadSmall();
  const std::string text = "hello \xC3\xA9\xE2\x82\xAC \xF0\x9F\x98\x80 hello";
  StreamDecoder stream(tokenizer);
  std::string joined;
  for (const TokenId id : tokenizer.Encode(text)) joined += stream.Push(id);
  EXPECT_EQ(joined + stream.Flush(), text);
}

// --- vectors ---------------------------------------------------------------------------------

std::string Sha256(std::string text) {
  std::array<std::uint32_t, 64> k{};
  std::array<std::uint32_t, 8> h{};
  int found = 0;  // the constants: fractional bits of roots of the first primes
  for (std::uint32_t n = 2; found < 64; ++n) {
    bool prime = true;
    for (std::uint32_t d = 2; d * d <= n; ++d) prime = prime && n % d != 0;
    if (!prime) continue;
    const auto fraction = [](long double root) {
      return static_cast<std::uint32_t>((root - std::floor(root)) * 4294967296.0L);
    };
    if (found < 8) h[static_cast<std::size_t>(found)] = fraction(std::sqrt(1.0L * n));
    k[static_cast<std::size_t>(found++)] = fraction(std::cbrt(1.0L * n));
  }
  const std::uint64_t bits = text.size() * 8;
  text += '\x80';
  while (text.size() % 64 != 56) text += '\0';
  for (int shift = 56; shift >= 0; shift -= 8) text += static_cast<char>(bits >> shift);
  for (std::size_t block = 0; block < text.size(); block += 64) {
    std::array<std::uint32_t, 64> w{};
    for (std::size_t i = 0; i < 64; ++i) {
      w[i / 4] |= i / 4 < 16
                      ? static_cast<std::uint32_t>(static_cast<unsigned char>(text[block + i]))
                            << (24 - 8 * (i % 4))
                      : 0;
    }
    for (std::size_t i = 16; i < 64; ++i) {
      const std::uint32_t a = w[i - 15];
      const std::uint32_t b = w[i - 2];
      w[i] = w[i - 16] + w[i - 7] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) +
             (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
    }
    std::array<std::uint32_t, 8> s = h;
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t t1 = s[7] +
                               (std::rotr(s[4], 6) ^ std::rotr(s[4], 11) ^ std::rotr(s[4], 25)) +
                               ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
      const std::uint32_t t2 = (std::rotr(s[0], 2) ^ std::rotr(s[0], 13) ^ std::rotr(s[0], 22)) +
                               ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {t1 + t2, s[0], s[1], s[2], s[3] + t1, s[4], s[5], s[6]};
    }
    for (std::size_t i = 0; i < 8; ++i) h[i] += s[i];
  }
  std::string hex;
  for (const std::uint32_t word : h) hex += fmt::format("{:08x}", word);
  return hex;
}

// Llama 3's vocabulary comes as ranks; its merges are the pairs that make each token.
void WriteLlama3Folder(const TempFolder& folder) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::ifstream file(SharedData("tokenizers/llama3/tokenizer.model"));
  std::vector<std::string> tokens;
  std::map<std::string, std::size_t, std::less<>> ranks;
  for (std::string line; std::getline(file, line);) {
    std::string bytes;
    std::uint32_t held = 0;
    int bits = 0;
    for (const char c : line.substr(0, line.find(' '))) {
      if (c == '=') break;
      held = held << 6 | static_cast<std::uint32_t>(kDigits.find(c));
      bits += 6;
      if (bits >= 8) bytes += static_cast<char>(held >> (bits -= 8));
    }
    ranks[bytes] = tokens.size();
    tokens.push_back(bytes);
  }
  const auto text = [](std::string_view bytes) {
    std::string out;
    for (const char c : bytes) out += ByteText(static_cast<std::uint8_t>(c));
    return out;
  };
  std::string merges;
  nlohmann::json vocab;
  for (std::size_t rank = 0; rank < tokens.size(); ++rank) {
    const std::string_view token = tokens[rank];
    vocab[text(token)] = rank;
    std::vector<std::array<std::size_t, 3>> splits;
    for (std::size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = ranks.find(token.substr(0, cut));
      const auto right = ranks.find(token.substr(cut));
      if (left != ranks.end() && right != ranks.end()) {
        splits.push_back({left->second, right->second, cut});
      }
    }
    std::sort(splits.begin(), splits.end());
    for (const auto& split : splits) {
      merges += text(token.substr(0, split[2])) + " " + text(token.substr(split[2])) + "\n";
    }
  }
  folder.Write("vocab.json", vocab.dump());
  folder.Write("merges.txt", merges);
  std::filesystem::copy_file(SharedData("tokenizers/llama3/special_tokens.json"),
                             folder.path() + "/special_tokens.json");
}

void ExpectVectors(const Tokenizer& tokenizer, const std::string& family) {
  int compared = 0;
  for (const std::string& file : {family, std::string("derived_all")}) {
    for (const auto& vector : ReadJsonLines(SharedData("tokenizers/vectors/" + file + ".jsonl"))) {
      if (vector["tokenizer"] != family) continue;
      Ids expected = vector["ids"].get<Ids>();
      if (vector["add_bos"] == true) expected.erase(expected.begin());
      const std::string text = vector["text"];
      // The published vectors parse markup of the own family, the derived ones have it in part.
      const Ids plain = tokenizer.Encode(text);
      EXPECT_TRUE(plain == expected || tokenizer.Encode(text, true) == expected)
          << family << ": " << text.substr(0, 200);
      if (family != "qwen2") {  // NFC may change the text
        EXPECT_EQ(tokenizer.Decode(plain, false), text);
      }
      ++compared;
    }
  }
  EXPECT_GE(compared, 140);
  for (const auto& check : ReadJsonLines(SharedData("tokenizers/vectors/hash_checks.jsonl"))) {
    if (check["tokenizer"] != family) continue;
    std::string list = check["add_bos"] == true ? "[128000, " : "[";
    const Ids ids = tokenizer.Encode(check["text"].get<std::string>());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      list += (i > 0 ? ", " : "") + std::to_string(ids[i]);
    }
    EXPECT_EQ(Sha256(list + "]"), check["sha256_of_python_list_repr"]) << family;
    ++compared;
  }
  std::cout << family << ": " << compared << " vectors compared\n";
}

TEST(TokenizerVectors, TheTestsOwnSha256IsRight) {
  EXPECT_EQ(Sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(TokenizerVectors, Gpt2) {
  OPO_NEEDS_SHARED_DATA("tokenizers/gpt2/vocab.json");
  const Tokenizer tokenizer = Tokenizer::Load(SharedData("tokenizers/gpt2"));
  ExpectVectors(tokenizer, "gpt2");
  ExpectRoundTrips(tokenizer, 300);
}

TEST(TokenizerVectors, SmolLm) {
  OPO_NEEDS_SHARED_DATA("tokenizers/smollm/vocab.json");
  const Tokenizer tokenizer = Tokenizer::Load(SharedData("tokenizers/smollm"));
  ExpectVectors(tokenizer, "smollm");
  ExpectSaveKeeps(tokenizer, {"<|im_start|>user\n1234 x  y\n\n"});
}

TEST(TokenizerVectors, Qwen2) {
  OPO_NEEDS_SHARED_DATA("tokenizers/qwen2/vocab.json");
  ExpectVectors(Tokenizer::Load(SharedData("tokenizers/qwen2")), "qwen2");
}

TEST(TokenizerVectors, Llama3) {
  OPO_NEEDS_SHARED_DATA("tokenizers/llama3/tokenizer.model");
  const TempFolder folder("llama3");
  WriteLlama3Folder(folder);
  const Tokenizer tokenizer = Tokenizer::Load(folder.path());
  ExpectVectors(tokenizer, "llama3");
  EXPECT_EQ(tokenizer.bos_id(), 128000);
  EXPECT_EQ(tokenizer.eos_ids(), (Ids{128001, 128009}));
  ExpectRoundTrips(tokenizer, 300);
}

TEST(TokenizerVectors, Gpt2VocabularyFromGguf) {
  OPO_NEEDS_SHARED_DATA("tokenizers/llamacpp/ggml-vocab-gpt-2.gguf");
  ExpectVectors(Tokenizer::Load(SharedData("tokenizers/llamacpp/ggml-vocab-gpt-2.gguf")), "gpt2");
}

TEST(TokenizerVectors, SmolLm2FromGguf) {
  const char* path = std::getenv("OPO_SMOLLM2_GGUF");
  if (path == nullptr) GTEST_SKIP() << "OPO_SMOLLM2_GGUF does not name SmolLM2's GGUF file";
  const Tokenizer tokenizer = Tokenizer::Load(path);
  EXPECT_EQ(tokenizer.vocab_size(), 49152);
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.pad_id(), 2);
  EXPECT_EQ(tokenizer.eos_ids(), (Ids{2, 0}));  // <|im_end|>, <|endoftext|>
  EXPECT_EQ(tokenizer.SpecialText(1), "<|im_start|>");
  EXPECT_NE(tokenizer.chat_template().find("SmolLM"), std::string::npos);
  EXPECT_EQ(tokenizer.Encode("<|im_start|>user\nHi<|im_end|>\n", true),
            (Ids{1, 4093, 198, 26843, 2, 198}));  // by transformers
  ExpectSaveKeeps(tokenizer, {"<|im_start|>user\n1234 x  y\n\n"});
  if (std::filesystem::exists(SharedData("tokenizers/vectors"))) {
    ExpectVectors(tokenizer, "smollm");
  }
}

}  // namespace
}  // namespace opo
