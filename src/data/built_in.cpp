#include "data/built_in.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "base/rng.h"
#include "data/problem.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

// The draws of one candidate: a pure function of (seed, set, number of the candidate).
class Draws {
 public:
  Draws(std::uint64_t seed, std::uint64_t candidate) : seed_(seed), candidate_(candidate) {}

  // From low to high, both included.
  int Between(int low, int high) {
    DrawKey key;
    key.seed = seed_;
    key.prompt = candidate_;
    key.token = next_++;
    return low + static_cast<int>(UniformDraw(key) * (high - low + 1));
  }

 private:
  std::uint64_t seed_, candidate_;
  std::uint32_t next_ = 0;
};

struct Question {
  std::string text;
  Json answer;
  std::string key;       // equal for questions that are the same one
  std::string solution;  // "": none is kept
};

std::string Joined(const std::vector<int>& numbers) {
  return fmt::format("{}", fmt::join(numbers, ", "));
}

Question Gcd(Draws& draws) {
  const int common = draws.Between(1, 24);
  const int a = common * draws.Between(2, 40);
  const int b = common * draws.Between(2, 40);
  return {
      fmt::format("What is the greatest common divisor of {} and {}? Give only the number.", a, b),
      fmt::to_string(std::gcd(a, b)), fmt::format("{} {}", std::min(a, b), std::max(a, b)), ""};
}

Question Sort(Draws& draws) {
  std::vector<int> numbers(static_cast<std::size_t>(draws.Between(3, 7)));
  for (int& n : numbers) n = draws.Between(0, 99);
  const std::string given = Joined(numbers);
  std::sort(numbers.begin(), numbers.end());
  return {fmt::format("Sort these numbers from the smallest to the largest: {}. Give only the "
                      "numbers, with a comma and a space between them.",
                      given),
          Joined(numbers), Joined(numbers), ""};
}

std::string InBase(int number, int base) {
  std::string digits;
  for (; number > 0; number /= base) digits += static_cast<char>('0' + number % base);
  std::reverse(digits.begin(), digits.end());
  return digits;
}

Question Base(Draws& draws) {
  const int base = draws.Between(2, 9);
  const int number = draws.Between(base, 255);
  const std::string digits = InBase(number, base);
  // Both directions of a conversion are one question: neither gives the other away.
  const std::string key = fmt::format("{} {}", number, base);
  if (draws.Between(0, 1) == 0) {
    return {
        fmt::format("Write the decimal number {} in base {}. Give only the digits.", number, base),
        digits, key, ""};
  }
  return {
      fmt::format("Write the base {} number {} in decimal. Give only the number.", base, digits),
      fmt::to_string(number), key, ""};
}

// Two of the parts at hand become one, until one is left: every number is taken once.
Question Countdown(Draws& draws) {
  for (;;) {
    struct Part {
      int value;
      std::string text;
      bool is_sum;
    };
    std::vector<int> numbers(static_cast<std::size_t>(draws.Between(3, 4)));
    for (int& n : numbers) n = draws.Between(1, 99);
    std::vector<Part> parts;
    for (const int n : numbers) parts.push_back({n, fmt::to_string(n), false});
    while (parts.size() > 1) {
      const auto take = [&] {
        const auto i = draws.Between(0, static_cast<int>(parts.size()) - 1);
        Part part = std::move(parts[static_cast<std::size_t>(i)]);
        parts.erase(parts.begin() + i);
        return part;
      };
      Part a = take();
      Part b = take();
      const int op = draws.Between(0, 3);
      const bool product = op >= 2;
      if (op == 1 && a.value < b.value) std::swap(a, b);
      if (op == 3 && (b.value == 0 || a.value % b.value != 0)) {
        parts.clear();
        break;
      }
      const std::string left = product && a.is_sum ? "(" + a.text + ")" : a.text;
      const bool bare = !b.is_sum && (!product || b.text.find(' ') == std::string::npos);
      const std::string right = bare ? b.text : "(" + b.text + ")";
      const int value = op == 0   ? a.value + b.value
                        : op == 1 ? a.value - b.value
                        : op == 2 ? a.value * b.value
                                  : a.value / b.value;
      parts.push_back({value, fmt::format("{} {} {}", left, "+-*/"[op], right), !product});
      if (value > 10000) parts.clear();
    }
    if (parts.empty() || parts[0].value < 1 || parts[0].value > 100) continue;
    const int target = parts[0].value;
    Question question;
    question.text = fmt::format(
        "Using the numbers [{}], create an equation that equals {}. You can use basic arithmetic "
        "operations (+, -, *, /) and each number can only be used once.",
        Joined(numbers), target);
    question.answer["target"] = target;
    question.answer["numbers"] = numbers;
    question.solution = parts[0].text;
    std::sort(numbers.begin(), numbers.end());
    question.key = fmt::format("{} = {}", Joined(numbers), target);
    return question;
  }
}

// Sums of one digit; of two; of three terms; a product and a term; a product with parentheses.
Question Arithmetic(int level, Draws& draws) {
  const auto sign = [&] { return draws.Between(0, 1) == 0 ? 1 : -1; };
  const auto op = [](int s) { return s > 0 ? '+' : '-'; };
  const int s = sign();
  std::string text;
  int value = 0;
  if (level <= 2) {
    const int a = level == 1 ? draws.Between(0, 9) : draws.Between(10, 99);
    const int b = level == 1 ? draws.Between(0, 9) : draws.Between(10, 99);
    text = fmt::format("{} {} {}", a, op(s), b);
    value = a + s * b;
  } else if (level == 3) {
    const int a = draws.Between(10, 99), b = draws.Between(10, 99), c = draws.Between(10, 99);
    const int t = sign();
    text = fmt::format("{} {} {} {} {}", a, op(s), b, op(t), c);
    value = a + s * b + t * c;
  } else if (level == 4) {
    const int a = draws.Between(2, 9), b = draws.Between(11, 99), c = draws.Between(10, 99);
    text = fmt::format("{} * {} {} {}", a, b, op(s), c);
    value = a * b + s * c;
  } else {
    const int a = draws.Between(11, 99), b = draws.Between(11, 99), c = draws.Between(2, 12);
    const int d = draws.Between(100, 999), t = sign();
    text = fmt::format("({} {} {}) * {} {} {}", a, op(s), b, c, op(t), d);
    value = (a + s * b) * c + t * d;
  }
  return {fmt::format("What is {}? Give only the number.", text), fmt::to_string(value), text, ""};
}

constexpr int kLevels = 5;

// The levels of "arithmetic:A-B" or "arithmetic:LEVEL".
std::optional<std::pair<int, int>> LevelsOf(const std::string& name) {
  constexpr std::string_view kPrefix = "arithmetic:";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string rest = name.substr(kPrefix.size());
  const auto level = [](char c) { return c >= '1' && c <= '0' + kLevels; };
  if (rest.size() == 1 && level(rest[0])) return std::pair(rest[0] - '0', rest[0] - '0');
  if (rest.size() == 3 && level(rest[0]) && rest[1] == '-' && level(rest[2]) &&
      rest[0] <= rest[2]) {
    return std::pair(rest[0] - '0', rest[2] - '0');
  }
  return std::nullopt;
}

Question Ask(const std::string& name, int level, Draws& draws) {
  if (name == "base") return Base(draws);
  if (name == "countdown") return Countdown(draws);
  if (name == "gcd") return Gcd(draws);
  if (name == "sort") return Sort(draws);
  return Arithmetic(level, draws);
}

Json VerlRow(const std::string& source, const std::string& content, Json answer, bool held_out,
             idx index) {
  Json row;
  row["data_source"] = source;
  row["prompt"] = Json::array({{{"role", "user"}, {"content", content}}});
  row["ability"] = "math";
  row["reward_model"] = {{"style", "rule"}, {"ground_truth", std::move(answer)}};
  row["extra_info"] = {{"split", held_out ? "test" : "train"}, {"index", index}};
  return row;
}

// Appends up to `size` different questions of one kind.
void AddRows(const std::string& name, int level, idx size, std::uint64_t seed, bool held_out,
             std::vector<Json>& rows) {
  const std::string source = level > 0 ? fmt::format("arithmetic:{}", level) : name;
  const std::uint64_t key = MixBits(seed, Hash64(source));
  std::set<std::string> seen;
  // A small set is nearly exhausted after this many candidates.
  const idx last = 20 * size + 20000;
  for (idx candidate = 0; candidate < last && static_cast<idx>(seen.size()) < size; ++candidate) {
    Draws draws(key, static_cast<std::uint64_t>(candidate));
    Question question = Ask(name, level, draws);
    const bool aside = (Hash64(source + " " + question.key) >> 40) % 10 == 0;
    if (aside != held_out) continue;
    if (!seen.insert(question.key).second) continue;
    Json row = VerlRow(source, question.text, std::move(question.answer), held_out,
                       static_cast<idx>(rows.size()));
    if (!question.solution.empty()) row["extra_info"]["solution"] = question.solution;
    rows.push_back(std::move(row));
  }
}

}  // namespace

std::vector<std::string> BuiltInNames() {
  return {"arithmetic", "arithmetic:LEVEL", "base", "countdown", "gcd", "sort"};
}

bool IsBuiltIn(const std::string& name) {
  return name == "arithmetic" || name == "base" || name == "countdown" || name == "gcd" ||
         name == "sort" || LevelsOf(name).has_value();
}

std::vector<Json> BuiltInRows(const std::string& name, idx size, std::uint64_t seed,
                              bool held_out) {
  OPO_CHECK(IsBuiltIn(name) && size > 0);
  std::vector<Json> rows;
  if (name == "arithmetic") {
    for (const Problem& problem : ArithmeticProblems(held_out)) {
      Json row = VerlRow(name, PromptText(problem), problem.answer, held_out,
                         static_cast<idx>(rows.size()));
      row["id"] = problem.id;
      rows.push_back(std::move(row));
    }
    return rows;
  }
  if (held_out) size = std::max<idx>(1, size / 10);
  const auto [first, last] = LevelsOf(name).value_or(std::pair(0, 0));
  for (int level = first; level <= last; ++level) {
    const idx part = size * (level - first + 1) / (last - first + 1);
    const idx before = size * (level - first) / (last - first + 1);
    AddRows(name, level, std::max<idx>(1, part - before), seed, held_out, rows);
  }
  return rows;
}

std::vector<Problem> BuiltInProblems(const std::string& name, idx size, std::uint64_t seed,
                                     bool held_out) {
  if (name == "arithmetic") return ArithmeticProblems(held_out);
  std::vector<Problem> problems;
  for (Json& row : BuiltInRows(name, size, seed, held_out)) {
    problems.push_back(ProblemFromRow(std::move(row), name, name));
  }
  return problems;
}

std::vector<Problem> ArithmeticProblems(bool held_out) {
  std::vector<Problem> problems;
  for (int a = 2; a <= 9; ++a) {
    for (int b = 2; b <= 12; ++b) {
      if (((a + b) % 5 == 4) != held_out) continue;
      Problem problem;
      problem.id = fmt::format("{}*{}", a, b);
      Json message;
      message["role"] = "user";
      message["content"] = fmt::format("What is {} * {}? Give only the number.", a, b);
      problem.messages = Json::array({std::move(message)});
      problem.answer = fmt::to_string(a * b);
      problem.data_source = "arithmetic";
      problem.extra = Json::object();
      problems.push_back(std::move(problem));
    }
  }
  return problems;
}

}  // namespace opo
