// The files of a run's data: rows to train on, the byte 0xFF, and measured pass rates. Sets that
// keep their promises, or an Error that names a file or a key.
#include <cstdlib>

#include "data/data_set.h"
#include "fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const opo::FuzzFolder folder;
  std::string_view bytes = opo::AsText(data, size);
  opo::DataConfig config;
  config.train = folder.Write("train.jsonl", opo::TakePiece(bytes));
  config.on_bad_row = "skip";
  if (!bytes.empty()) {
    config.pass_rates = folder.Write("rates.jsonl", bytes);
    config.pass_rate_max = 0.75;
  } else {
    config.held_out = 0.5;
  }
  try {
    const opo::DataSets sets = opo::LoadDataSets(config);
    opo::idx problems = 0;
    for (const opo::idx n : sets.sizes) problems += n;
    if (sets.train.empty() || problems != static_cast<opo::idx>(sets.train.size())) std::abort();
    if (sets.weights.size() != sets.sizes.size()) std::abort();
  } catch (const opo::Error& error) {
    if (error.code() != opo::ErrorCode::kInput) std::abort();
    const std::string_view what = error.what();
    if (what.find(".jsonl") == what.npos && what.find("data.") == what.npos) std::abort();
  }
  return 0;
}
