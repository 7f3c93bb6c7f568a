// opo render: what is written for a line, and what stops the program.
#include <gtest/gtest.h>

#include "app/program.h"

namespace opo {
namespace {

using nlohmann::json;

std::vector<json> Lines(const std::string& text) {
  std::vector<json> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

class Render : public ::testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(scratch_ / name, std::ios::binary) << text;
  }
  ScratchFolder scratch_;
};

TEST_F(Render, WritesOneLineForEachInOrder) {
  Write("a.jinja",
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}>{% endif %}{{ extra }}");
  Write("b.jinja", "{{ raise_exception('no ' + messages[0].role) }}");
  Write("c.jinja", "{%\ninclude 'x' %}");
  const std::string messages = R"("messages":[{"role":"user","content":"é"}])";
  Write("in.jsonl", "{\"template\":\"a.jinja\"," + messages +
                        R"(,"add_generation_prompt":true,"bos_token":"<s>","eos_token":"</s>",)"
                        R"("variables":{"extra":"!","bos_token":"<S>"}})"
                        "\n\n{\"template\":\"b.jinja\"," +
                        messages + "}\n{\"template\":\"a.jinja\",\"eos_token\":null," + messages +
                        "}\n{\"template\":\"c.jinja\"," + messages + "}\n");
  const ProgramResult result = RunProgram({"render", "--input", scratch_ / "in.jsonl"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const std::vector<json> lines = Lines(result.out);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0], json({{"text", "<S>[user] é</s>>!"}}));
  EXPECT_NE(lines[1].at("error").get<std::string>().find("b.jinja: line 1: the template refuses"),
            std::string::npos);
  EXPECT_EQ(lines[2], json({{"text", "[user] é"}}));
  EXPECT_NE(lines[3].at("error").get<std::string>().find("c.jinja: line 2: "), std::string::npos);

  const ProgramResult one =
      RunProgram({"render", "--template", scratch_ / "b.jinja", "--input", scratch_ / "in.jsonl"});
  EXPECT_EQ(Lines(one.out).size(), 4u);
  for (const json& line : Lines(one.out)) EXPECT_TRUE(line.contains("error"));
}

TEST_F(Render, TakesAModelsOwnTemplate) {
  ASSERT_EQ(RunProgram({"init", scratch_ / "model"}).exit_code, 0);
  Write("in.jsonl", R"({"messages":[{"role":"user","content":"Hi"}]})");
  const ProgramResult result =
      RunProgram({"render", "--model", scratch_ / "model", "--input", scratch_ / "in.jsonl"});
  EXPECT_EQ(result.out, "{\"text\":\"Hi\\n\"}\n") << result.err;
}

TEST_F(Render, RefusesLinesWithoutWhatItNeeds) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"template":"a.jinja"})", "`messages`"},
      {R"({"messages":[]})", "`template`"},
      {R"({"template":"absent.jinja","messages":[]})", "absent.jinja"},
      {R"({"template":"a.jinja","messages":[],"variables":[]})", "`variables`"},
      {R"({"template":"a.jinja","messages":[],"add_generation_prompt":1})", "generation_prompt"},
      {R"({"template":"../a.jinja","messages":[]})", "beside the input"},
      {R"({"template":"/etc/passwd","messages":[]})", "beside the input"},
      {R"({"template":"","messages":[]})", "beside the input"},
      {R"([])", "object"},
      {R"([)", "not valid JSON at byte 2 of the line"},
  };
  Write("a.jinja", "x");
  for (const auto& [line, reason] : cases) {
    Write("in.jsonl", line);
    const ProgramResult result = RunProgram({"render", "--input", scratch_ / "in.jsonl"});
    EXPECT_EQ(result.exit_code, 3) << line;
    EXPECT_NE(result.err.find(reason), std::string::npos) << result.err;
  }
}

// The parser of the JSON library has no limit, and copies of a value recurse.
TEST_F(Render, RefusesJsonThatIsNestedWithoutEnd) {
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  const ProgramResult result = RunProgram({"render", "--template", scratch_ / "a.jinja"}, -1,
                                          SIGKILL, "{\"messages\":[" + deep + "]}\n");
  EXPECT_EQ(result.exit_code, 3) << result.err;
  EXPECT_NE(result.err.find("standard input: line 1: nested deeper than 64 levels"),
            std::string::npos)
      << result.err;
}

}  // namespace
}  // namespace opo
