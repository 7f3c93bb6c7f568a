// Given answers as tokens, against transformers (tests/golden/answers.json).
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "rollout/prompts.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json Messages(std::initializer_list<std::pair<const char*, std::string>> list) {
  Json messages = Json::array();
  for (const auto& [role, content] : list) {
    messages.push_back({{"role", role}, {"content", content}});
  }
  return messages;
}

class Answers : public testing::Test {
 protected:
  Answers()
      : golden_(Json::parse(ReadFile(std::string(OPO_SOURCE_DIR) + "/tests/golden/answers.json"))),
        folder_(fs::path(testing::TempDir()) / ("opo_answers_" + std::to_string(::getpid()))) {
    fs::create_directories(folder_);
  }
  ~Answers() override { fs::remove_all(folder_); }
  Tokenizer WithTemplate(const std::string& source, const std::string& eos) {
    std::ofstream(folder_ / "tokenizer.json") << golden_["tokenizer"].dump();
    std::ofstream(folder_ / "tokenizer_config.json")
        << Json{{"bos_token", "<s>"}, {"eos_token", eos}, {"chat_template", source}}.dump();
    return Tokenizer::Load(folder_.string());
  }
  Tokenizer WithGolden(const std::string& name) {
    const Json& of = golden_["templates"][name];
    return WithTemplate(of["source"], of["eos_token"]);
  }
  Json golden_;
  fs::path folder_;
};

TEST_F(Answers, IdsAndMasksAreThoseOfTransformers) {
  std::size_t several = 0;
  for (const Json& c : golden_["cases"]) {
    const Tokenizer tokenizer = WithGolden(c["template"]);
    const PromptRenderer prompts(tokenizer);
    const GivenTokens got = prompts.RenderAnswer(c["prompt"], c["answer"]);
    const std::string where = c["template"].get<std::string>() + ", " + c["answer"].dump();
    EXPECT_EQ(got.prompt, c["prompt_ids"].get<std::vector<TokenId>>()) << where;
    EXPECT_EQ(got.prompt, prompts.Render(c["prompt"])) << where;
    EXPECT_EQ(got.answer, c["answer_ids"].get<std::vector<TokenId>>()) << where;
    std::vector<bool> learned = got.learned;
    if (learned.empty()) learned.assign(got.answer.size(), true);
    std::vector<bool> want;
    for (const Json& m : c["learned"]) want.push_back(m.get<int>() == 1);
    EXPECT_EQ(learned, want) << where;
    several += c["answer"].size() > 1 ? 1 : 0;
    // All of the conversation.
    const GivenTokens all = prompts.RenderAnswer(c["prompt"], c["answer"], Learn::kAll);
    std::vector<TokenId> joined = got.prompt;
    joined.insert(joined.end(), got.answer.begin(), got.answer.end());
    std::vector<TokenId> together = all.prompt;
    together.insert(together.end(), all.answer.begin(), all.answer.end());
    EXPECT_EQ(together, joined) << where;
    EXPECT_EQ(all.prompt.size(), 1U);
    EXPECT_TRUE(all.learned.empty());
  }
  EXPECT_EQ(several, 8U);
}

TEST_F(Answers, ATemplateWithoutAnEndGetsOne) {
  const Tokenizer bytes = Tokenizer::Bytes();
  const PromptRenderer prompts(bytes);
  const GivenTokens one =
      prompts.RenderAnswer(Messages({{"user", "1+1?"}}), Messages({{"assistant", "2"}}));
  EXPECT_EQ(bytes.Decode(one.prompt), "1+1?\n");
  EXPECT_EQ(one.answer, (std::vector<TokenId>{'2', bytes.eos_ids().front()}));
  const GivenTokens two =
      prompts.RenderAnswer(Messages({{"user", "a"}}),
                           Messages({{"assistant", "bc"}, {"user", "d"}, {"assistant", "e"}}));
  EXPECT_EQ(bytes.Decode(two.answer), "bc\nd\ne");
  EXPECT_EQ(two.learned, (std::vector<bool>{true, true, false, false, false, true, true}));
}

TEST_F(Answers, WhatCannotBeLearnedAsItIsSampledIsRefused) {
  const auto error = [](const PromptRenderer& prompts, const Json& answer) -> std::string {
    try {
      prompts.RenderAnswer(Messages({{"user", "a"}}), answer);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kInput);
      return e.what();
    }
    return "accepted";
  };
  {
    const Tokenizer tokenizer = WithGolden("chatml");
    const PromptRenderer prompts(tokenizer);
    EXPECT_EQ(error(prompts, Messages({{"assistant", "b<|im_end|>c"}})),
              "a message of the assistant holds '<|im_end|>', which ends a turn: remove it from "
              "'b<|im_end|>c'");
  }
  {
    // Writes another beginning where there is an answer.
    const Tokenizer tokenizer = WithTemplate(
        "{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}<|eot|>",
        "<|eot|>");
    EXPECT_NE(error(PromptRenderer(tokenizer), Messages({{"assistant", "b"}}))
                  .find("in another way than the prompt of its answer"),
              std::string::npos);
  }
  {
    const Tokenizer tokenizer =
        WithTemplate("{% for m in messages %}{{ m.content | upper }}\n{% endfor %}", "<|eot|>");
    EXPECT_NE(error(PromptRenderer(tokenizer), Messages({{"assistant", "b"}}))
                  .find("does not write the assistant's message 'b' as it is"),
              std::string::npos);
  }
}

// SmolLM2's own file.
TEST_F(Answers, OfSmolLm2) {
  const char* path = std::getenv("OPO_SMOLLM2_GGUF");
  if (path == nullptr) GTEST_SKIP() << "OPO_SMOLLM2_GGUF names no model";
  const Tokenizer tokenizer = Tokenizer::Load(path);
  const PromptRenderer prompts(tokenizer);
  const GivenTokens got = prompts.RenderAnswer(
      Messages({{"user", "a"}}), Messages({{"assistant", "b"}, {"user", "c"}, {"assistant", "d"}}));
  EXPECT_EQ(tokenizer.Decode(got.answer, /*skip_special=*/false),
            "b<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nd<|im_end|>");
  std::string learned;
  for (std::size_t t = 0; t < got.answer.size(); ++t) {
    if (got.learned[t]) learned += tokenizer.TokenBytes(got.answer[t], false);
  }
  EXPECT_EQ(learned, "b<|im_end|>d<|im_end|>");
}

}  // namespace
}  // namespace opo
