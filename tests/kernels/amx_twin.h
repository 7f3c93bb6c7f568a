// The amx path on scalar tiles (src/kernels/tile_twin.h): a path for tests, on any machine.
#pragma once

#include "kernels/tables.h"

namespace opo {

OPO_DECLARE_PATH(isa_amx)
OPO_DECLARE_PATH(isa_amx_twin)

inline constexpr const char* kAmxTwin = "amx_twin";

inline Kernels AmxTwinKernels() {
  Kernels kernels{};
  kernels.name = kAmxTwin;
  OPO_FILL(isa_amx_twin)(kernels);
  return kernels;
}

// The processor's own tiles, whether this machine has them or not.
inline Kernels AmxKernels() {
  Kernels kernels{};
  kernels.name = "amx";
  OPO_FILL(isa_amx)(kernels);
  return kernels;
}

}  // namespace opo
