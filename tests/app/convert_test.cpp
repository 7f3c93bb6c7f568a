// opo convert, from one format to the other and back.
#include <gtest/gtest.h>

#include "app/program.h"

namespace opo {
namespace {

namespace fs = std::filesystem;

class Convert : public testing::Test {
 protected:
  void SetUp() override {
    const auto made = RunProgram({"init", scratch_ / "hf", "--architecture", "qwen2", "--untied"});
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }
  std::string Path(const std::string& name) const { return scratch_ / name; }
  void Run(const std::string& from, const std::string& to,
           const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {"convert", Path(from), Path(to)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto result = RunProgram(arguments);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.last_line()["model"], Path(to));
    EXPECT_FALSE(fs::exists(Path(to) + ".partial"));
  }
  void ExpectRefused(const std::string& from, const std::string& to,
                     const std::vector<std::string>& more, int code, const std::string& why) const {
    std::vector<std::string> arguments = {"convert", Path(from), Path(to)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto result = RunProgram(arguments);
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_NE(result.err.find(why), std::string::npos) << result.err;
    EXPECT_FALSE(fs::exists(Path(to) + ".partial"));
  }
  std::string Ids(const std::string& model) const {
    const std::string input = scratch_ / "texts.jsonl";
    std::ofstream(input) << R"({"messages": [{"role": "user", "content": "7 * 8? zwölf\n"}]})"
                         << "\n"
                         << R"({"text": "<|im_start|>a b<|im_end|>"})"
                         << "\n";
    const auto result =
        RunProgram({"tokenize", "--model", Path(model), "--special", "--input", input});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_NE(result.out.find("257"), std::string::npos) << "<|im_start|>";
    return result.out;
  }

  ScratchFolder scratch_;
};

TEST_F(Convert, ThereAndBackIsTheSameModelAndTokenizer) {
  Run("hf", "m.gguf");  // f32, as the source
  Run("m.gguf", "back");
  EXPECT_EQ(ReadText(Path("back/model.safetensors")), ReadText(Path("hf/model.safetensors")));
  EXPECT_EQ(ReadText(Path("back/config.json")), ReadText(Path("hf/config.json")));
  EXPECT_EQ(ReadText(Path("back/generation_config.json")),
            ReadText(Path("hf/generation_config.json")));
  EXPECT_EQ(ReadText(Path("back/tokenizer_config.json")),
            ReadText(Path("hf/tokenizer_config.json")));
  EXPECT_EQ(ReadText(Path("back/tokenizer.json")), ReadText(Path("hf/tokenizer.json")));
  EXPECT_EQ(Ids("m.gguf"), Ids("hf"));
  EXPECT_EQ(Ids("back"), Ids("hf"));

  // bf16 from here on: every way gives the same bits.
  Run("m.gguf", "bf16.gguf", {"--type", "bf16"});
  Run("hf", "bf16", {"--type", "bf16"});
  Run("bf16.gguf", "bf16_back");  // bf16, as the source
  EXPECT_EQ(ReadText(Path("bf16_back/model.safetensors")),
            ReadText(Path("bf16/model.safetensors")));
  EXPECT_EQ(ReadText(Path("bf16/tokenizer.json")), ReadText(Path("hf/tokenizer.json")));
  EXPECT_NE(ReadText(Path("bf16/config.json")).find("bfloat16"), std::string::npos);

  // What was quantised is expanded to bf16.
  Run("hf", "q8_0.gguf", {"--type", "q8_0"});
  EXPECT_LT(fs::file_size(Path("q8_0.gguf")), fs::file_size(Path("bf16.gguf")));
  Run("q8_0.gguf", "expanded");
  EXPECT_NE(ReadText(Path("expanded/config.json")).find("bfloat16"), std::string::npos);
  EXPECT_EQ(Ids("q8_0.gguf"), Ids("hf"));
}

TEST_F(Convert, NothingIsReplacedUnasked) {
  Run("hf", "m.gguf");
  const std::string before = ReadText(Path("m.gguf"));
  ExpectRefused("hf", "m.gguf", {"--type", "bf16"}, 2, "--force");
  EXPECT_EQ(ReadText(Path("m.gguf")), before);
  Run("hf", "m.gguf", {"--type", "bf16", "--force"});
  EXPECT_LT(fs::file_size(Path("m.gguf")), before.size());
  ExpectRefused("hf", "hf", {"--force"}, 2, "the input itself");

  // A folder: files of the model that was there go, others stay.
  Run("hf", "out");
  std::ofstream(Path("out/model-00001-of-00002.safetensors")) << "old";
  std::ofstream(Path("out/model.safetensors.index.json")) << "old";
  std::ofstream(Path("out/chat_template.jinja")) << "old";
  std::ofstream(Path("out/README.md")) << "mine";
  ExpectRefused("m.gguf", "out", {}, 2, "--force");
  Run("m.gguf", "out", {"--force"});
  EXPECT_FALSE(fs::exists(Path("out/model-00001-of-00002.safetensors")));
  EXPECT_FALSE(fs::exists(Path("out/model.safetensors.index.json")));
  EXPECT_FALSE(fs::exists(Path("out/chat_template.jinja")));
  EXPECT_EQ(ReadText(Path("out/README.md")), "mine");
  EXPECT_NE(ReadText(Path("out/config.json")).find("bfloat16"), std::string::npos);
  fs::create_directories(Path("other"));
  std::ofstream(Path("other/thesis.txt")) << "mine";
  ExpectRefused("hf", "other", {"--force"}, 2, "other things than a model");
  EXPECT_EQ(ReadText(Path("other/thesis.txt")), "mine");
  fs::create_directories(Path("folder.gguf"));
  ExpectRefused("hf", "folder.gguf", {"--force"}, 2, "is a folder");
}

TEST_F(Convert, WhatCannotBeIsRefused) {
  ExpectRefused("hf", "out", {"--type", "q8_0"}, 2, "ends in .gguf");
  ExpectRefused("hf", "m.gguf", {"--type", "q4_0"}, 2, "--type");
  ExpectRefused("nothing", "m.gguf", {}, 3, "no such model");
  fs::remove(Path("hf/tokenizer.json"));
  ExpectRefused("hf", "m.gguf", {}, 3, "has no tokenizer");
  EXPECT_FALSE(fs::exists(Path("m.gguf")));
  // Half a model leaves nothing behind.
  Run("hf", "copy");
  std::ofstream(Path("copy/model.safetensors")) << "torn";
  ExpectRefused("copy", "out", {}, 3, "copy/model.safetensors");
  EXPECT_FALSE(fs::exists(Path("out")));
}

}  // namespace
}  // namespace opo
