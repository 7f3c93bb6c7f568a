// The prompts of a run: read from JSON lines, or generated.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace opo {

struct Problem {
  std::string id;                   // the row's own id ("" where it has none)
  nlohmann::ordered_json messages;  // [{"role": "user", "content": ...}, ...]
  std::string answer;               // the gold answer; "" where there is none
  std::string data_source;          // "arithmetic", or the data set's name
  nlohmann::ordered_json extra;     // the row's remaining fields, for rewards
};

// JSON lines: verl's schema (`prompt` as messages, `reward_model.ground_truth`, `data_source`,
// `extra_info`) or plain {"prompt" (text or messages), "answer"}. The id is `id`, else
// `extra_info.index`; a row without `data_source` takes the file's name without its ending. Empty
// lines are skipped. Throws Error(kInput) naming file, line and field; also where no row is left.
std::vector<Problem> LoadProblems(const std::string& path);
// The same from memory; `where` names the file.
std::vector<Problem> ParseProblems(std::string_view text, const std::string& where);

// "What is A * B? Give only the number." for A from 2 to 9 and B from 2 to 12, ordered by A, then
// B. The pairs with (A + B) mod 5 = 4 are held out (18 of 88; A * B and B * A are on the same
// side): `held_out` selects those, else the rest.
std::vector<Problem> ArithmeticProblems(bool held_out);

// `count` indices below num_problems (> 0) from `position` on, of a sequence of seeded
// permutations, one an epoch. Pure in (seed, position), so a resumed run needs no more state.
std::vector<idx> PromptOrder(idx num_problems, idx position, idx count, std::uint64_t seed);

}  // namespace opo
