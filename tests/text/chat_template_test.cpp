#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "text/shared_data.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

std::string Render(const std::string& source, const Json& variables = Json::object()) {
  return ChatTemplate(source, "t")
      .Render(Json::parse(R"([{"role": "user", "content": "Hi"}])"), true, variables);
}

std::string ErrorOf(const std::string& source, const Json& variables = Json::object()) {
  try {
    const std::string text = Render(source, variables);
    return "no error: " + text.substr(0, 200);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInput);
    return e.what();
  }
}

// What Jinja 3.1 as transformers sets it up writes.
TEST(ChatTemplate, ExpressionsMeanWhatTheyMeanInPython) {
  const std::pair<const char*, const char*> cases[] = {
      {"{{ 1 + 2 * 3 }}", "7"},
      {"{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }}", "3 -4 2 3.5"},
      {"{{ 1e16 }} {{ 0.0001 }} {{ 1.0 }} {{ 1e-5 }}", "1e+16 0.0001 1.0 1e-05"},
      {"{{ true }} {{ none }} {{ True == 1 }}", "True None True"},
      {"{{ 'a' ~ 1 ~ none }}", "a1None"},
      {"{{ 'x' * 3 }}", "xxx"},
      {"{{ [1, 'a', \"it's\", none, {'k': 1.5}] }}", "[1, 'a', \"it's\", None, {'k': 1.5}]"},
      {"{{ (1,) }} {{ 1, 2 }}", "(1,) (1, 2)"},
      {"{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }}", "True False"},
      {"{{ 'b' in 'abc' }} {{ 4 not in [1, 2] }} {{ 'x' in nothing }}", "True True False"},
      {"{{ 'yes' if 1 > 2 else 'no' }}{{ 'never' if false }}", "no"},
      {"{{ 0 or 'x' }} {{ 1 and 'y' }} {{ not 1 }}", "x y False"},
      {"{{ 'abcdef'[1:3] }} {{ 'abc'[::-1] }} {{ [1, 2, 3][-1] }} {{ 'h\u00e9llo'[1] }}",
       "bc cba 3 \u00e9"},
      {"{{ messages[0].role }} {{ messages[0]['content'] }} {{ messages[5] }}|", "user Hi |"},
      {"{{ 'a' + 'b' | upper }}", "aB"},
      {"{{ -2 | abs }} {{ 'a' 'b' }}", "2 ab"},
      {"{{ '\\n\\t\\x41\\u00e9\\d' }}", "\n\tA\u00e9\\d"},
      {"{{ messages == [{'content': 'Hi', 'role': 'user'}] }}", "True"},
  };
  for (const auto& [source, expected] : cases) {
    try {
      EXPECT_EQ(Render(source), expected) << source;
    } catch (const Error& e) {
      ADD_FAILURE() << source << ": " << e.what();
    }
  }
}

TEST(ChatTemplate, FiltersTestsAndMethods) {
  const std::pair<const char*, const char*> cases[] = {
      {"{{ '  a ' | trim }}|{{ ' a'.lstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'axx'.rstrip('x') }}",
       "a|a|a|a"},
      {"{{ 'a,b,c'.split(',')[-1] }} {{ 'a  b'.split() }} {{ 'a,b,c'.split(',', 1) }}",
       "c ['a', 'b'] ['a', 'b,c']"},
      {"{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }}", "True True"},
      {"{{ 'aXbX'.replace('X', '-') }} {{ 'aXbX' | replace('X', '', 1) }}", "a-b- abX"},
      {"{{ [3, 1, 2] | sort | join(', ') }} {{ [1, 2] | length }} {{ '\u00e9a' | length }}",
       "1, 2, 3 2 2"},
      {"{{ {'b': 1, 'a': [1, {}]} | tojson }}", R"({"b": 1, "a": [1, {}]})"},
      {"{{ {'b': [1, 2], 'a': []} | tojson(indent=2) }}",
       "{\n  \"b\": [\n    1,\n    2\n  ],\n  \"a\": []\n}"},
      {"{{ '\u00e9\"<\\n' | tojson }}", "\"\u00e9\\\"<\\n\""},
      {"{{ messages | map(attribute='role') | list }}", "['user']"},
      {"{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"},
      {"{{ [1, 2, 3, 4] | reject('odd') | list }} {{ ['', 'a'] | select | join }}", "[2, 4] a"},
      {"{{ nothing | default('d') }} {{ '' | default('d', true) }} {{ 'v' | default('d') }}",
       "d d v"},
      {"{{ {'a': 1}.items() | list }} {{ {'a': 1}.get('b', 2) }} {{ {'a': 1}.get('b') }}",
       "[('a', 1)] 2 None"},
      {"{{ 'x' is string }} {{ {} is mapping }} {{ 1 is number }} {{ 'x' is not defined }}",
       "True True True False"},
      {"{{ [] is iterable }} {{ 3 is divisibleby 3 }} {{ false is false }} {{ none is none }}",
       "True True True True"},
      {"{{ '12' | int + 1 }} {{ 'x' | int(7) }} {{ '1.5' | float }}", "13 7 1.5"},
      {"{{ [1, 2] | first }}{{ [1, 2] | last }}{{ [] | first }}", "12"},
      {"{{ 'a\nb' | indent(2) }}", "a\n  b"},
      {"{{ range(1, 7, 2) | list }}", "[1, 3, 5]"},
      {"{% filter upper %}abc{% endfilter %}", "ABC"},
      {"{{ strftime_now('%Y') | length }}", "4"},
  };
  for (const auto& [source, expected] : cases) {
    try {
      EXPECT_EQ(Render(source), expected) << source;
    } catch (const Error& e) {
      ADD_FAILURE() << source << ": " << e.what();
    }
  }
}

TEST(ChatTemplate, StatementsAndScopes) {
  const std::pair<const char*, const char*> cases[] = {
      {"{% for i in range(3) %}{{ loop.index }}{{ ',' if not loop.last }}{% endfor %}", "1,2,3"},
      {"{% for i in [] %}x{% else %}none{% endfor %}", "none"},
      {"{% for k, v in {'a': 1, 'b': 2}.items() if k != 'a' %}{{ loop.length }}{{ k }}{{ v }}"
       "{% endfor %}",
       "1b2"},
      {"{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "231"},
      {"{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}"
       "{{ ns.n }}",
       "3"},
      {"{% if false %}{% elif 1 %}b{% else %}c{% endif %}", "b"},
      {"{% macro m(a, b='d') %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, b=2) }}", "1d12"},
      {"{% set x %}a{{ 1 }}{% endset %}{{ x | upper }}", "A1"},
      {"{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}"
       "{% endif %}{{ i }}{% endfor %}",
       "02"},
      {"{% set a, b = 1, 2 %}{{ b }}{{ a }}", "21"},
      {"{% with a = 1 %}{{ a }}{% endwith %}{{ a }}", "1"},
      {"{% generation %}x{% endgeneration %}", "x"},
      {"{% raw %}{{ x }}{% endraw %}{# gone #}", "{{ x }}"},
      {"{% for i in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}{% endfor %}",
       "ab1a2"},
  };
  for (const auto& [source, expected] : cases) {
    try {
      EXPECT_EQ(Render(source), expected) << source;
    } catch (const Error& e) {
      ADD_FAILURE() << source << ": " << e.what();
    }
  }
}

TEST(ChatTemplate, WhiteSpaceRulesAreThoseOfTransformers) {
  EXPECT_EQ(Render("a\n  {% if 1 %}\n  b\n  {% endif %}\nc\n"),
            "a\n  b\nc");  // one end newline goes
  EXPECT_EQ(Render("a \n {%- if 1 -%} \n b {%- endif %}\n"), "ab");
  EXPECT_EQ(Render("  {{ 1 }}\n  {{- 2 -}}  \n3"), "  123");
  EXPECT_EQ(Render("a\n  {#- c #}\n  {# d #}\ne"), "ae");
  EXPECT_EQ(Render("x {% if 1 %}\ny{% endif %}"), "x y");
  EXPECT_EQ(Render("  {%+ if 1 %}y{% endif +%}\nz"), "  y\nz");
  EXPECT_EQ(Render("a\r\nb\n\n"), "a\nb\n");
}

TEST(ChatTemplate, ErrorsNameLineAndConstruct) {
  const std::pair<const char*, const char*> cases[] = {
      {"a\n{% include 'x' %}", "t: line 2: the tag {% include %}"},
      {"\n\n{{ 'x' | frobnicate }}", "t: line 3: the filter frobnicate"},
      {"{{ 1 is frobbed }}", "the test frobbed"},
      {"{{ frobnicate(1) }}", "frobnicate"},
      {"{{ 'a'.encode(1) }}", "the method encode"},
      {"{{ 'a' | urlize }}", "the filter urlize"},
      {"{{ messages.append(1) }}", "the sandbox denies append of a list"},
      {"{{ nothing.x }}", "'nothing' is undefined"},
      {"{{ messages[0].name.x }}", "no attribute 'name'"},
      {"{{ nothing + 'x' }}", "'nothing' is undefined"},
      {"{{ 'a' + 1 }}", "between a str and a int"},
      {"{% if 1 %}", "endif"},
      {"{{ 1", "never closed"},
      {"{{ 'abc }}", "never closed"},
      {"{{ 1 / 0 }}", "division by zero"},
      {"{{ 9223372036854775807 + 1 }}", "64 bits"},
      {"{% for a, b in [[1]] %}{% endfor %}", "1 values for 2 names"},
      {"{% set x = 1 %}{% set x.y = 2 %}", "namespace"},
      {"{{ raise_exception('No ' ~ 'way') }}", "No way"},
      {"{{ nothing | tojson }}", "'nothing' is undefined"},
      {"{% break %}", "outside of a loop"},
      {"{{ 2 ** 64 }}", "64 bits"},
      {"{{ messages | map('upper') }}", "a generator as text"},
  };
  for (const auto& [source, expected] : cases) {
    EXPECT_NE(ErrorOf(source).find(expected), std::string::npos)
        << source << " gives: " << ErrorOf(source);
  }
}

TEST(ChatTemplate, TimeOutputAndRecursionAreBounded) {
  const auto start = std::chrono::steady_clock::now();
  const std::string loops =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
      "{% endfor %}{% endfor %}{% endfor %}";
  EXPECT_NE(ErrorOf(loops).find("steps"), std::string::npos);
  const std::string doubling =
      "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s %}"
      "{% endfor %}";
  EXPECT_NE(ErrorOf(doubling).find("bytes"), std::string::npos);
  EXPECT_NE(ErrorOf("{{ 'x' * 999999999999 }}").find("bytes"), std::string::npos);
  EXPECT_NE(ErrorOf("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").find("deep"),
            std::string::npos);
  const std::string nested =
      "{% set ns = namespace(l=[]) %}{% for a in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}";
  EXPECT_NE(ErrorOf(nested).find("deep"), std::string::npos);
  const std::string ring = "{% set ns = namespace() %}{% set ns.me = ns %}ok";
  EXPECT_EQ(Render(ring), "ok");
  for (const char* open : {"(", "[", "not ", "-", "{'a':", "x if "}) {
    std::string deep = "{{ ";
    for (int i = 0; i < 100000; ++i) deep += open;
    EXPECT_NE(ErrorOf(deep).find("t: line 1"), std::string::npos) << open;
  }
  for (const char* more : {"+1", ".a", "|trim", "[0]", "(1)", " is none", " and 1", " == 1"}) {
    std::string wide = "{{ 1";
    for (int i = 0; i < 10000; ++i) wide += more;
    EXPECT_NO_FATAL_FAILURE(ErrorOf(wide + " }}"));
  }
  std::string tags;
  for (int i = 0; i < 10000; ++i) tags += "{% if 1 %}";
  EXPECT_NE(ErrorOf(tags).find("deep"), std::string::npos);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(120));
}

// tools/make_template_goldens.py: what transformers renders, feature by feature.
TEST(ChatTemplate, RendersWhatTransformersRenders) {
  const std::vector<Json> lines =
      ReadJsonLines(std::string(OPO_SOURCE_DIR) + "/tests/golden/templates.jsonl");
  ASSERT_GT(lines.size(), 300u);
  const Json& messages = lines[0]["messages"];
  const Json& variables = lines[0]["variables"];
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const std::string source = lines[i]["source"];
    std::string text;
    std::string refusal;
    try {
      text = ChatTemplate(source, "t").Render(messages, true, variables);
    } catch (const Error& e) {
      refusal = e.what();
      EXPECT_TRUE(refusal.starts_with("t: line ")) << refusal;
    }
    if (lines[i].contains("text")) {
      EXPECT_EQ(refusal, "") << source;
      EXPECT_EQ(text, lines[i]["text"].get<std::string>()) << source;
    } else {
      EXPECT_NE(refusal, "") << source << " (" << lines[i] << ") gives " << text;
    }
  }
}

TEST(ChatTemplate, RendersTheCollectedCases) {
  OPO_NEEDS_SHARED_DATA("templates/cases.jsonl");
  std::map<std::string, int> passed;
  for (const Json& test : ReadJsonLines(SharedData("templates/cases.jsonl"))) {
    const std::string name = test["template"];
    Json variables = test["variables"];
    variables["bos_token"] = test["bos_token"];
    variables["eos_token"] = test["eos_token"];
    std::string text;
    bool refused = false;
    try {
      text = ChatTemplate(ReadFile(SharedData("templates/" + name)), name)
                 .Render(test["messages"], test["add_generation_prompt"], variables);
    } catch (const Error& e) {
      text = e.what();
      refused = true;
    }
    if (test.contains("expected")) {
      EXPECT_EQ(text, test["expected"].get<std::string>()) << name;
    } else {
      EXPECT_TRUE(refused) << name;
      EXPECT_NE(text.find(test["error"].get<std::string>()), std::string::npos) << text;
    }
    ++passed[name];
  }
  EXPECT_EQ(passed.size(), 12u);
  EXPECT_EQ(passed["HuggingFaceTB-SmolLM2-Instruct.jinja"], 20);
}

}  // namespace
}  // namespace opo
