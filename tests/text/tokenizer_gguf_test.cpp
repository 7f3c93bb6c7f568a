// What a GGUF says of a tokenizer, beyond what comes back from it (tokenizer_test.cpp).
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "format/gguf.h"
#include "text/shared_data.h"
#include "text/tokenizer_parts.h"

namespace opo {
namespace {

// A byte vocabulary with a hole at 257.
TokenizerParts SmallParts() {
  TokenizerParts parts;
  parts.source = "small";
  for (int byte = 0; byte < 256; ++byte) {
    parts.tokens.push_back({ByteText(static_cast<std::uint8_t>(byte)), TokenKind::kOrdinary});
  }
  parts.tokens.push_back({"<s>", TokenKind::kSpecial});
  parts.tokens.push_back({});
  parts.tokens.push_back({"<tool>", TokenKind::kAdded});
  parts.tokens.push_back({"<|im_end|>", TokenKind::kSpecial});
  parts.tokens.push_back({"<end>", TokenKind::kSpecial});
  parts.tokens.push_back({"he", TokenKind::kOrdinary});
  parts.merges = {"h e"};
  parts.bos = 256;
  parts.eos = {259, 260};
  parts.chat_template = "{{ messages }}";
  return parts;
}

std::string ErrorOf(const TokenizerParts& parts, idx vocab_size) {
  try {
    GgufTokenizerKeys(parts, vocab_size);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInput);
    return e.what();
  }
  return "";
}

TEST(TokenizerGguf, KeysAreThoseOfLlamaCpp) {
  const TempFolder folder("gguf_keys");
  const std::string path = folder.path() + "/t.gguf";
  WriteGguf(path, GgufTokenizerKeys(SmallParts(), 264), {});
  const GgufFile file = GgufFile::Open(path);
  EXPECT_EQ(file.GetString("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(file.GetString("tokenizer.ggml.pre"), "gpt-2");
  EXPECT_EQ(file.GetStrings("tokenizer.ggml.merges"), std::vector<std::string>{"h e"});
  const std::vector<std::string>& tokens = file.GetStrings("tokenizer.ggml.tokens");
  const std::vector<std::int64_t> types = file.GetInts("tokenizer.ggml.token_type");
  ASSERT_EQ(tokens.size(), 264U);  // as many as the model has rows
  ASSERT_EQ(types.size(), 264U);
  const std::vector<std::pair<std::string, std::int64_t>> last = {
      {"<s>", 3},   {"[PAD257]", 5}, {"<tool>", 4},   {"<|im_end|>", 3},
      {"<end>", 3}, {"he", 1},       {"[PAD262]", 5}, {"[PAD263]", 5}};
  for (std::size_t i = 0; i < last.size(); ++i) {
    EXPECT_EQ(tokens[256 + i], last[i].first);
    EXPECT_EQ(types[256 + i], last[i].second);
  }
  EXPECT_EQ(file.GetInt("tokenizer.ggml.bos_token_id"), 256);
  EXPECT_EQ(file.GetInt("tokenizer.ggml.eos_token_id"), 259);
  EXPECT_EQ(file.GetInt("tokenizer.ggml.eot_token_id"), 260);
  EXPECT_FALSE(file.Has("tokenizer.ggml.padding_token_id"));
  EXPECT_FALSE(file.GetBool("tokenizer.ggml.add_bos_token"));
  EXPECT_EQ(file.GetString("tokenizer.chat_template"), "{{ messages }}");
}

TEST(TokenizerGguf, ABosBeforeEveryTextIsKeptBothWays) {
  for (const bool add_bos : {true, false}) {
    const TempFolder folder("gguf_bos");
    TokenizerParts parts = SmallParts();
    parts.add_bos = add_bos;
    WriteTokenizerFolder(parts, folder.path());
    const TokenizerParts from_folder = ReadTokenizerFolder(folder.path());
    EXPECT_EQ(from_folder.add_bos, add_bos);
    WriteGguf(folder.path() + "/t.gguf", GgufTokenizerKeys(from_folder, 262), {});
    const TokenizerParts from_gguf = ReadGgufTokenizer(folder.path() + "/t.gguf");
    EXPECT_EQ(from_gguf.add_bos, add_bos);
    EXPECT_EQ(from_gguf.bos, 256);
  }
}

TEST(TokenizerGguf, WhatGgufCannotSayIsRefused) {
  TokenizerParts parts = SmallParts();
  EXPECT_EQ(ErrorOf(parts, 262), "");
  EXPECT_NE(ErrorOf(parts, 261).find("262 tokens, the model's vocabulary 261"), std::string::npos);
  parts.nfc = true;
  EXPECT_NE(ErrorOf(parts, 262).find("NFC"), std::string::npos);
  parts = SmallParts();
  parts.whole_words = true;
  EXPECT_NE(ErrorOf(parts, 262).find("ignore_merges"), std::string::npos);
  parts = SmallParts();
  parts.eos = {0, 1, 2, 3};
  EXPECT_NE(ErrorOf(parts, 262).find("4 tokens end a turn"), std::string::npos);
}

}  // namespace
}  // namespace opo
