// f32 into the number formats that we write, the inverse of format/dequantize.h: the same bits as
// ggml and its Python package.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/types.h"
#include "format/dequantize.h"

namespace opo {

// Nearest, ties to even, subnormals included; what is too large becomes infinite.
std::uint16_t F32ToF16(float x);

// True for F32, F16, BF16 and Q8_0.
bool CanQuantizeTo(GgmlType type);

// `out` has exactly the room of the blocks of `in`, whose size is a multiple of the block's.
// Returns the first value that the type cannot hold (too large for an f16, or not finite), or -1.
idx Quantize(GgmlType type, std::span<const float> in, std::span<std::byte> out);

// Error(kWork) for such a value of a file that is being written.
[[noreturn]] void FailToHold(const std::string& path, const std::string& tensor, idx element,
                             float value, const char* type);

}  // namespace opo
