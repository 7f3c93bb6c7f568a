#include "data/problem.h"

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

// Deeper nesting is refused: copies of a value recurse.
constexpr int kMaxDepth = 64;

// One row; `where` is "file:line".
class RowReader {
 public:
  RowReader(Json row, std::string where) : row_(std::move(row)), where_(std::move(where)) {}

  Problem Read(const std::string& default_source) {
    if (!row_.is_object()) Fail(ErrorCode::kInput, "{}: must be a JSON object", where_);
    Problem problem;
    problem.messages = TakeMessages();
    problem.answer = TakeAnswer();
    problem.id = TakeId();
    problem.data_source = Text(Take("data_source"), "data_source");
    if (problem.data_source.empty()) problem.data_source = default_source;
    problem.extra = std::move(row_);
    return problem;
  }

 private:
  // Moves a field out of the row; null where there is none.
  Json Take(const char* name) {
    const auto it = row_.find(name);
    if (it == row_.end()) return nullptr;
    Json value = std::move(*it);
    row_.erase(it);
    return value;
  }

  // The field as text: numbers as they would be written; "" for null.
  std::string Text(const Json& value, const char* field) const {
    if (value.is_null()) return "";
    if (value.is_string()) return value.get<std::string>();
    if (value.is_number()) return value.dump();
    Fail(ErrorCode::kInput, "{}: '{}' must be text or a number", where_, field);
  }

  Json TakeMessages() {
    Json prompt = Take("prompt");
    if (prompt.is_string()) {
      Json message;
      message["role"] = "user";
      message["content"] = std::move(prompt);
      return Json::array({std::move(message)});
    }
    if (!prompt.is_array() || prompt.empty()) {
      Fail(ErrorCode::kInput, "{}: 'prompt' must be text or a list of messages", where_);
    }
    for (std::size_t i = 0; i < prompt.size(); ++i) {
      for (const char* name : {"role", "content"}) {
        if (!prompt[i].is_object() || !prompt[i].contains(name) || !prompt[i][name].is_string()) {
          Fail(ErrorCode::kInput, "{}: 'prompt[{}].{}' must be text", where_, i, name);
        }
      }
    }
    return prompt;
  }

  // verl's reward_model.ground_truth, else the plain `answer`.
  std::string TakeAnswer() {
    const auto model = row_.find("reward_model");
    if (model != row_.end() && model->is_object() && model->contains("ground_truth")) {
      return Text((*model)["ground_truth"], "reward_model.ground_truth");
    }
    return Text(Take("answer"), "answer");
  }

  // `id`, else verl's extra_info.index.
  std::string TakeId() {
    if (row_.contains("id")) return Text(Take("id"), "id");
    const auto info = row_.find("extra_info");
    if (info != row_.end() && info->is_object() && info->contains("index")) {
      return Text((*info)["index"], "extra_info.index");
    }
    return "";
  }

  Json row_;
  std::string where_;
};

Json ParseRow(std::string_view line, const std::string& where) {
  const auto limit_depth = [&](int depth, Json::parse_event_t, const Json&) {
    if (depth > kMaxDepth) {
      Fail(ErrorCode::kInput, "{}: nested deeper than {} levels", where, kMaxDepth);
    }
    return true;
  };
  try {
    return Json::parse(line, limit_depth);
  } catch (const Json::parse_error& error) {
    Fail(ErrorCode::kInput, "{}: not valid JSON at byte {} of the line", where, error.byte);
  } catch (const Json::exception&) {
    Fail(ErrorCode::kInput, "{}: a number is out of range", where);
  }
}

// The permutation of one epoch: Fisher-Yates, each draw a pure function of (seed, epoch, position).
std::vector<idx> EpochOrder(idx num_problems, idx epoch, std::uint64_t seed) {
  constexpr std::uint64_t kPromptOrder = 0x6f72646572;  // keeps these draws apart from others
  const std::uint64_t key = MixBits(seed, kPromptOrder);
  const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
  const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
  std::vector<idx> order(static_cast<std::size_t>(num_problems));
  std::iota(order.begin(), order.end(), idx{0});
  for (std::uint64_t i = order.size(); i-- > 1;) {
    const auto e = static_cast<std::uint64_t>(epoch);
    const auto bits = Philox4x32({low(i), high(i), low(e), high(e)}, {low(key), high(key)});
    const std::uint64_t word = (std::uint64_t{bits[0]} << 32) | bits[1];
    // The upper half of word * (i + 1): from 0 to i, uneven by less than one part in 2^64 / i.
    const auto j =
        static_cast<std::uint64_t>((static_cast<unsigned __int128>(word) * (i + 1)) >> 64);
    std::swap(order[i], order[j]);
  }
  return order;
}

}  // namespace

std::vector<Problem> ParseProblems(std::string_view text, const std::string& where) {
  constexpr std::string_view kBom = "\xef\xbb\xbf";
  if (text.starts_with(kBom)) text.remove_prefix(kBom.size());
  const std::string source = std::filesystem::path(where).stem().string();
  std::vector<Problem> problems;
  for (idx line_number = 1; !text.empty(); ++line_number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string at = fmt::format("{}:{}", where, line_number);
    problems.push_back(RowReader(ParseRow(line, at), at).Read(source));
  }
  if (problems.empty()) Fail(ErrorCode::kInput, "{}: has no rows; one JSON object a line", where);
  return problems;
}

std::vector<Problem> LoadProblems(const std::string& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return ParseProblems({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
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

std::vector<idx> PromptOrder(idx num_problems, idx position, idx count, std::uint64_t seed) {
  OPO_CHECK(num_problems > 0 && count >= 0 && position >= 0);
  std::vector<idx> chosen;
  std::vector<idx> order;
  for (const idx end = position + count; position < end; ++position) {
    const idx within = position % num_problems;
    if (order.empty() || within == 0)
      order = EpochOrder(num_problems, position / num_problems, seed);
    chosen.push_back(order[static_cast<std::size_t>(within)]);
  }
  return chosen;
}

}  // namespace opo
