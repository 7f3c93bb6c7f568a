#include "data/csv.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace opo {

CsvReader::CsvReader(std::string_view text, std::string where)
    : text_(text), where_(std::move(where)) {
  constexpr std::string_view kBom = "\xef\xbb\xbf";
  if (text_.starts_with(kBom)) pos_ = kBom.size();
}

std::string CsvReader::QuotedField() {
  const idx start = line_;
  std::string field;
  for (++pos_; pos_ < text_.size(); ++pos_) {
    const char c = text_[pos_];
    if (c == '\n') ++line_;
    if (c != '"') {
      field += c;
    } else if (pos_ + 1 < text_.size() && text_[pos_ + 1] == '"') {
      field += '"';
      ++pos_;
    } else {
      ++pos_;
      if (pos_ == text_.size() ||
          std::string_view(",\r\n").find(text_[pos_]) != std::string::npos) {
        return field;
      }
      Fail(ErrorCode::kInput,
           "{}:{}: text behind the closing quote of a field; a quote within one is written \"\"",
           where_, line_);
    }
  }
  Fail(ErrorCode::kInput, "{}:{}: a field's closing quote is missing", where_, start);
}

std::string CsvReader::PlainField() {
  const std::size_t end = std::min(text_.find_first_of(",\n", pos_), text_.size());
  std::string_view field = text_.substr(pos_, end - pos_);
  pos_ = end;
  if ((end == text_.size() || text_[end] == '\n') && field.ends_with('\r')) field.remove_suffix(1);
  if (field.find('"') != std::string_view::npos) {
    Fail(ErrorCode::kInput,
         "{}:{}: a quote within a field that has none around it; write \"...\"\"...\"", where_,
         line_);
  }
  return std::string(field);
}

bool CsvReader::Next(std::vector<std::string>& fields) {
  while (pos_ < text_.size() && (text_[pos_] == '\n' || text_.substr(pos_, 2) == "\r\n")) {
    pos_ += text_[pos_] == '\n' ? 1 : 2;
    ++line_;
  }
  if (pos_ == text_.size()) return false;
  record_line_ = line_;
  fields.clear();
  for (;;) {
    const bool quoted = pos_ < text_.size() && text_[pos_] == '"';
    fields.push_back(quoted ? QuotedField() : PlainField());
    if (pos_ == text_.size() || text_[pos_] != ',') break;
    ++pos_;
  }
  if (text_.substr(pos_, 1) == "\r") ++pos_;  // behind a quoted field
  if (pos_ < text_.size()) {
    if (text_[pos_] != '\n') {
      Fail(ErrorCode::kInput, "{}:{}: a carriage return within a line", where_, line_);
    }
    ++pos_;
    ++line_;
  }
  return true;
}

}  // namespace opo
