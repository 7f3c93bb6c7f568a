// Any bytes are rows of UTF-8 texts under the same names, or an Error(kInput) that names the file.
#include <cstdlib>
#include <string_view>

#include "data/rows.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  opo::RowVisitor visitor;
  std::size_t columns = 0;
  visitor.row = [&](nlohmann::ordered_json&& row, const std::string&) {
    if (row.empty() || (columns != 0 && columns != row.size())) std::abort();
    columns = row.size();
    row.dump();
  };
  try {
    opo::VisitRows(text, opo::DataFormat::kCsv, "fuzz.csv", visitor);
  } catch (const opo::Error& error) {
    if (error.code() != opo::ErrorCode::kInput) std::abort();
    if (!std::string_view(error.what()).starts_with("fuzz.csv")) std::abort();
  }
  return 0;
}
