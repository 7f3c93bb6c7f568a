// Checkpoints that nobody trains: their shapes, and weights that several roles of a run share.
#include <filesystem>
#include <map>
#include <mutex>

#include "model/weights.h"

namespace opo {

ModelConfig CheckpointShape(const std::string& path) {
  if (!IsAdapterFolder(path)) return OpenModel(path)->config();
  const AdapterFile adapter(path);
  return adapter.Fit(OpenModel(adapter.BasePath())->config());
}

template <class T>
std::shared_ptr<const PackedWeights<T>> FrozenWeights(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<const PackedWeights<T>>> all;
  const std::scoped_lock lock(mutex);
  std::error_code ignored;
  const std::filesystem::path canonical = std::filesystem::weakly_canonical(path, ignored);
  std::weak_ptr<const PackedWeights<T>>& kept = all[canonical.empty() ? path : canonical.string()];
  if (auto shared = kept.lock()) return shared;
  auto packed = std::make_shared<PackedWeights<T>>(LoadWeights(path, SlabOf::kNothing), false);
  packed->Seal();
  kept = packed;
  return packed;
}

template std::shared_ptr<const PackedWeights<float>> FrozenWeights(const std::string&);
template std::shared_ptr<const PackedWeights<bf16>> FrozenWeights(const std::string&);

}  // namespace opo
