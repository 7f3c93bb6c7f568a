// The kinds of reward behind the table in reward.cpp, and what they share.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "reward/reward.h"

namespace opo {

// `where` names the term in messages: "reward.0".
using MakeRewardKind = std::unique_ptr<Reward>(const RewardConfig& config,
                                               const std::string& where);
MakeRewardKind MakeNumberReward, MakeExactReward, MakeChoiceReward, MakeRegexReward,
    MakeFormatReward, MakeMathReward, MakeCountdownReward, MakeLengthReward, MakeOverlongReward,
    MakeRepetitionReward, MakeProgramReward, MakeHttpReward, MakeCodeReward, MakeModelReward;

// Why answers of the kind "code" cannot be run here; "" where they can.
std::string SandboxFault();

// The last decimal number of a text in its normal form: no plus sign, no thousands separators, no
// needless zeros, no "-0"; so equal numbers are equal strings, whatever their size. A comma groups
// only as in 1,234,567; exponents and fractions are no part of a number. Linear in the text.
std::optional<std::string> LastNumber(std::string_view text);

// The letter, a capital, that a completion chooses; 0: none.
char ChosenLetter(std::string_view text);

// The inside of the last <tag>...</tag>; nothing where there is none.
std::optional<std::string_view> LastTag(std::string_view text, std::string_view tag);

// Without ASCII white space at both ends.
std::string_view Trim(std::string_view text);

// `text` for a note: quoted and shortened, never cut inside a UTF-8 character.
std::string Excerpt(std::string_view text);

inline RewardResult Scored(double value, std::string note) {
  return {Verdict::kScored, value, std::move(note), {}, {}};
}
inline RewardResult RewardError(std::string reason, std::string note) {
  return {Verdict::kError, 0, std::move(note), std::move(reason), {}};
}
inline RewardResult NoGoldAnswer() {
  return {Verdict::kSkipped, 0, "the problem has no answer", {}, {}};
}

}  // namespace opo
