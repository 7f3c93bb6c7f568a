// What a report reads: the files of a run and of a comparison, between bytes 0xFF. A page whose
// data block is ASCII JSON that nothing in it ends, or an Error(kInput).
#include <cstdlib>

#include "fuzz/fuzz_folder.h"
#include "report/report.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const opo::FuzzFolder folder;
  std::string_view bytes = opo::AsText(data, size);
  for (const char* name : {"metrics.jsonl", "samples.jsonl", "config.toml", "manifest.json",
                           "compare.json", "variance.json", "eval.json"}) {
    folder.WriteOrRemove(name, opo::TakePiece(bytes));
  }
  try {
    const opo::Report report = opo::ReadReport({folder.path});
    opo::ReportTwin(report);
    const std::string page = opo::ReportPage(report);
    const std::string_view mark = "id=\"data\">";
    const std::size_t begin = page.find(mark) + mark.size();
    const std::string block = page.substr(begin, page.find('<', begin) - begin);
    for (const char c : block) {
      if (c < 0x20 || c > 0x7E || c == '>' || c == '&') std::abort();
    }
    if (!opo::ReportJson::parse(block).is_object()) std::abort();
  } catch (const opo::Error& error) {
    if (error.code() != opo::ErrorCode::kInput) std::abort();
  }
  return 0;
}
