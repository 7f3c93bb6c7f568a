// A run's config: TOML, then, after the byte 0xFF, overrides as of --set, a line each. Settings
// that print as what gives the same settings again, or an Error(kUsage).
#include <cstdlib>
#include <vector>

#include "fuzz/fuzz_folder.h"
#include "train/config.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const opo::FuzzFolder folder;
  std::string_view bytes = opo::AsText(data, size);
  const std::string path = folder.Write("fuzz.toml", opo::TakePiece(bytes));
  std::vector<std::string> overrides;
  while (!bytes.empty() && overrides.size() < 20) {
    const std::size_t end = std::min(bytes.find('\n'), bytes.size());
    overrides.emplace_back(bytes.substr(0, end));
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
  }
  try {
    const opo::TrainConfig config = opo::LoadTrainConfig(path, overrides);
    const std::string print = opo::PrintTrainConfig(config);
    folder.Write("again.toml", print);
    if (opo::PrintTrainConfig(opo::LoadTrainConfig(folder / "again.toml", {})) != print)
      std::abort();
  } catch (const opo::Error& error) {
    if (error.code() != opo::ErrorCode::kUsage) std::abort();
  }
  return 0;
}
