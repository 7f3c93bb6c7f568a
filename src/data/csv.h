// CSV as RFC 4180 has it: commas, quotes where a field holds a comma, a quote ("") or a line break,
// a first line of names. Lines may end in LF alone, and a byte order mark is skipped.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace opo {

class CsvReader {
 public:
  // `text` must outlive the reader; `where` names the file.
  CsvReader(std::string_view text, std::string where);

  // The fields of the next line that is not empty; false at the end. Throws Error(kInput) naming
  // file and line where quotes do not match: what follows could not be told apart.
  bool Next(std::vector<std::string>& fields);
  // Where the last record began, from 1.
  idx line() const { return record_line_; }

 private:
  std::string QuotedField();
  std::string PlainField();

  std::string_view text_;
  std::string where_;
  std::size_t pos_ = 0;
  idx line_ = 1, record_line_ = 0;
};

}  // namespace opo
