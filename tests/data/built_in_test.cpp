#include "data/built_in.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <sstream>

#include "data/problem.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

const char* const kAll[] = {
    "arithmetic",   "arithmetic:1",   "arithmetic:2", "arithmetic:3", "arithmetic:4",
    "arithmetic:5", "arithmetic:2-4", "base",         "countdown",    "gcd",
    "sort"};

std::string Content(const Json& row) { return row["prompt"][0]["content"]; }

// All whole numbers of a text, in order.
std::vector<int> Numbers(const std::string& text) {
  std::vector<int> numbers;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!std::isdigit(static_cast<unsigned char>(text[i]))) continue;
    std::size_t length = 0;
    numbers.push_back(std::stoi(text.substr(i), &length));
    i += length;
  }
  return numbers;
}

// An independent calculator for "(12 + 3) * 4 - 5": recursive descent over whole numbers.
class Calculator {
 public:
  explicit Calculator(const std::string& text) : in_(text) {}
  int Sum() {
    int value = Product();
    for (char c; in_ >> c;) {
      if (c != '+' && c != '-') return in_.putback(c), value;
      value = c == '+' ? value + Product() : value - Product();
    }
    return value;
  }

 private:
  int Product() {
    int value = Atom();
    for (char c; in_ >> c;) {
      if (c != '*' && c != '/') return in_.putback(c), value;
      const int right = Atom();
      EXPECT_TRUE(c == '*' || value % right == 0);
      value = c == '*' ? value * right : value / right;
    }
    return value;
  }
  int Atom() {
    char c = 0;
    in_ >> c;
    if (c != '(') {
      in_.putback(c);
      int value = 0;
      in_ >> value;
      return value;
    }
    const int value = Sum();
    in_ >> c;
    EXPECT_EQ(c, ')');
    return value;
  }
  std::istringstream in_;
};

TEST(BuiltIn, NamesAreKnown) {
  for (const char* name : kAll) EXPECT_TRUE(IsBuiltIn(name)) << name;
  for (const char* name : {"", "arithmetic:", "arithmetic:0", "arithmetic:6", "arithmetic:3-2",
                           "arithmetic:1-", "gcd.jsonl", "GCD"}) {
    EXPECT_FALSE(IsBuiltIn(name)) << name;
  }
}

TEST(BuiltIn, RowsAreDifferentAndRepeatable) {
  for (const char* name : kAll) {
    const auto rows = BuiltInRows(name, 300, 1, false);
    EXPECT_EQ(rows, BuiltInRows(name, 300, 1, false)) << name;
    std::set<std::string> contents;
    for (const Json& row : rows) contents.insert(Content(row));
    EXPECT_EQ(contents.size(), rows.size()) << name;
    EXPECT_GE(rows.size(), 70U) << name;
    if (std::string(name) != "arithmetic") {
      EXPECT_NE(rows, BuiltInRows(name, 300, 2, false)) << name;
    }
  }
  EXPECT_EQ(BuiltInRows("gcd", 300, 1, false).size(), 300U);
  EXPECT_EQ(BuiltInRows("gcd", 300, 1, true).size(), 30U);
  EXPECT_EQ(BuiltInRows("arithmetic:2-5", 300, 1, false).size(), 300U);
}

// What makes two questions the same one: its numbers, whatever their order (and for sums the text).
std::string Essence(const std::string& name, const Json& row) {
  const std::string content = Content(row);
  if (name.starts_with("arithmetic:")) return content;
  if (name == "base") {
    // The decimal number and the base, in either direction.
    const bool to_base = content.starts_with("Write the decimal");
    std::vector<int> n = Numbers(content);
    if (to_base) return fmt::format("{} {}", n[0], n[1]);
    return fmt::format("{} {}", row["reward_model"]["ground_truth"].get<std::string>(), n[0]);
  }
  std::vector<int> n = Numbers(content);
  // The target of countdown is the last one, and is no number to take.
  std::sort(n.begin(), n.end() - (name == "countdown" ? 1 : 0));
  return fmt::format("{}", fmt::join(n, " "));
}

TEST(BuiltIn, NoQuestionOfTheHeldOutPartIsTrainedOnWithAnySeed) {
  for (const std::string name : kAll) {
    std::set<std::string> held_out;
    for (const std::uint64_t seed : {1, 2}) {
      for (const Json& row : BuiltInRows(name, 2000, seed, true)) {
        held_out.insert(Essence(name, row));
        EXPECT_EQ(row["extra_info"]["split"], "test");
      }
    }
    EXPECT_GE(held_out.size(), 10U) << name;
    for (const Json& row : BuiltInRows(name, 2000, 1, false)) {
      EXPECT_FALSE(held_out.contains(Essence(name, row))) << Content(row);
    }
  }
}

TEST(BuiltIn, LevelsComeInOrderAndEvenly) {
  std::vector<std::string> sources;
  for (const Json& row : BuiltInRows("arithmetic:3-5", 100, 1, false)) {
    sources.push_back(row["data_source"]);
  }
  EXPECT_TRUE(std::is_sorted(sources.begin(), sources.end()));
  EXPECT_EQ(std::count(sources.begin(), sources.end(), "arithmetic:3"), 33);
  EXPECT_EQ(std::count(sources.begin(), sources.end(), "arithmetic:5"), 34);
}

TEST(BuiltIn, AnswersAreRight) {
  for (const std::string name : kAll) {
    for (const bool held_out : {false, true}) {
      for (const Json& row : BuiltInRows(name, 400, 7, held_out)) {
        const std::string content = Content(row);
        const Json& gold = row["reward_model"]["ground_truth"];
        std::vector<int> n = Numbers(content);
        if (name == "countdown") {
          std::vector<int> numbers = gold["numbers"];
          numbers.push_back(gold["target"]);
          EXPECT_EQ(n, numbers) << content;
          const std::string solution = row["extra_info"]["solution"];
          EXPECT_EQ(Calculator(solution).Sum(), gold["target"].get<int>()) << solution;
          std::vector<int> used = Numbers(solution);
          numbers.pop_back();
          EXPECT_TRUE(std::is_permutation(used.begin(), used.end(), numbers.begin(), numbers.end()))
              << solution;
          continue;
        }
        const std::string answer = gold;
        if (name == "gcd") {
          int best = 0;
          for (int d = 1; d <= n[0]; ++d) best = n[0] % d == 0 && n[1] % d == 0 ? d : best;
          EXPECT_EQ(answer, std::to_string(best)) << content;
        } else if (name == "sort") {
          std::sort(n.begin(), n.end());
          EXPECT_EQ(Numbers(answer), n) << content;
        } else if (name == "base") {
          const bool to_base = content.starts_with("Write the decimal");
          const int base = to_base ? n[1] : n[0];
          const std::string digits = to_base ? answer : std::to_string(n[1]);
          EXPECT_EQ(std::stoi(digits, nullptr, base), to_base ? n[0] : std::stoi(answer))
              << content;
        } else {
          const std::size_t begin = std::string("What is ").size();
          EXPECT_EQ(answer, std::to_string(
                                Calculator(content.substr(begin, content.find('?') - begin)).Sum()))
              << content;
        }
      }
    }
  }
}

TEST(BuiltIn, ProblemsAreThoseOfTheRows) {
  const auto rows = BuiltInRows("countdown", 20, 3, false);
  const auto problems = BuiltInProblems("countdown", 20, 3, false);
  ASSERT_EQ(rows.size(), problems.size());
  EXPECT_EQ(problems[5].messages, rows[5]["prompt"]);
  EXPECT_EQ(problems[5].answer, rows[5]["reward_model"]["ground_truth"].dump());
  EXPECT_EQ(problems[5].id, "5");
  EXPECT_EQ(problems[5].data_source, "countdown");
}

TEST(BuiltIn, TheTwoPartsAreTheWholeAndDoNotShareAProduct) {
  const auto train = ArithmeticProblems(false);
  const auto held_out = ArithmeticProblems(true);
  EXPECT_EQ(train.size(), 70U);
  EXPECT_EQ(held_out.size(), 18U);
  std::set<std::string> ids;
  std::set<char> first_factors;
  for (const auto* part : {&train, &held_out}) {
    for (const Problem& p : *part) ids.insert(p.id);
  }
  EXPECT_EQ(ids.size(), 88U);
  std::set<std::string> second_factors;
  for (const Problem& p : held_out) {
    first_factors.insert(p.id[0]);
    second_factors.insert(p.id.substr(2));
    const std::string mirrored = p.id.substr(2) + "*" + p.id.substr(0, 1);
    for (const Problem& t : train) EXPECT_NE(t.id, mirrored);
  }
  EXPECT_EQ(first_factors.size(), 8U);
  EXPECT_EQ(second_factors.size(), 11U);
}

TEST(BuiltIn, ProblemsSayWhatTheyAre) {
  const Problem first = ArithmeticProblems(false).at(0);
  EXPECT_EQ(first.messages.dump(),
            R"([{"role":"user","content":"What is 2 * 3? Give only the number."}])");
  EXPECT_EQ(first.answer, "6");
  EXPECT_EQ(first.data_source, "arithmetic");
}

}  // namespace
}  // namespace opo
