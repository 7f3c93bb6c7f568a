#include "rollout/answer_text.h"

#include <algorithm>

namespace opo {

bool AnswerText::Push(TokenId token) {
  const std::size_t before = text_.size();
  text_ += decoder_.Push(token);
  std::size_t first_end = std::string::npos;
  std::size_t begin = std::string::npos;
  for (const std::string& stop : *stops_) {
    if (stop.empty()) continue;
    // What was there before holds no whole stop string.
    const std::size_t from = before - std::min(before, stop.size() - 1);
    const std::size_t at = text_.find(stop, from);
    if (at == std::string::npos) continue;
    const std::size_t end = at + stop.size();
    if (end < first_end || (end == first_end && at < begin)) {
      first_end = end;
      begin = at;
    }
  }
  if (begin == std::string::npos) return false;
  text_.resize(begin);
  final_ = true;
  return true;
}

void AnswerText::End() {
  text_ += decoder_.Flush();
  final_ = true;
}

std::string_view AnswerText::Certain() {
  std::size_t held = 0;
  for (const std::string& stop : *stops_) {
    if (final_ || stop.empty()) continue;
    for (std::size_t n = std::min(stop.size() - 1, text_.size()); n > held; --n) {
      if (text_.ends_with(std::string_view(stop).substr(0, n))) held = n;
    }
  }
  const std::size_t end = text_.size() - held;
  const std::string_view out = std::string_view(text_).substr(told_, end - told_);
  told_ = end;
  return out;
}

}  // namespace opo
