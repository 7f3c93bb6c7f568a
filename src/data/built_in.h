// Built-in sets: tasks made from a seed, whose answers can be checked, each with a part that is
// held out.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/types.h"

namespace opo {

struct Problem;

// `arithmetic` (products), `arithmetic:LEVEL` from 1 to 5 and `arithmetic:A-B` (those levels, the
// easier ones first), `base`, `countdown`, `gcd`, `sort`.
bool IsBuiltIn(const std::string& name);
std::vector<std::string> BuiltInNames();  // without levels

// Rows in verl's schema, all different: `size` of them, or fewer where a small set has no more
// (`arithmetic` has a fixed number). A tenth of all possible questions, chosen by their hash, is
// held out: with any seed and size the two parts have no question in common. The held-out part has
// a tenth of `size`, at least 1. Pure in its arguments. REQUIRES IsBuiltIn(name).
std::vector<nlohmann::ordered_json> BuiltInRows(const std::string& name, idx size,
                                                std::uint64_t seed, bool held_out);
std::vector<Problem> BuiltInProblems(const std::string& name, idx size, std::uint64_t seed,
                                     bool held_out);

// "What is A * B? Give only the number." for A from 2 to 9 and B from 2 to 12, ordered by A, then
// B. The pairs with (A + B) mod 5 = 4 are held out (18 of 88; A * B and B * A are on the same
// side): `held_out` selects those, else the rest.
std::vector<Problem> ArithmeticProblems(bool held_out);

}  // namespace opo
