// TensorBoard event files, scalars only: TFRecord frames around hand-encoded protobuf.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/types.h"

namespace opo {

using ScalarList = std::vector<std::pair<std::string, double>>;  // tag, value (kept as f32)

class EventWriter {
 public:
  // Opens `folder`/events.out.tfevents.<wall_time in seconds>.opo, behind what it holds already,
  // and writes the version record. TensorBoard merges the files of a folder, and where steps repeat
  // after a resume it shows the newer file's. Throws Error(kWork) naming the file.
  EventWriter(const std::string& folder, double wall_time);

  // One record, handed to the system: readers see whole steps. Throws Error(kWork), as on a full
  // disk.
  void Write(idx step, double wall_time, const ScalarList& scalars);
  void Sync() { file_.Sync(); }

 private:
  AppendFile file_;
};

// What the writer is made of. CRC32C is the Castagnoli polynomial's, reflected, as in iSCSI.
std::uint32_t Crc32c(std::string_view bytes);
std::string VersionEvent(double wall_time);
std::string ScalarEvent(idx step, double wall_time, const ScalarList& scalars);
// length u64, its masked CRC, the payload, its masked CRC; little-endian.
std::string RecordFrame(std::string_view payload);

}  // namespace opo
