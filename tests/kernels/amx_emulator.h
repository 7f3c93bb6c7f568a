// Lets the amx path's compiled code run on a machine without AMX: each tile instruction is an
// illegal one there, and the handler of SIGILL decodes it and does what the manual says. Slow, and
// says nothing of a processor's tiles; but a wrong operand, stride or tile number shows.
#pragma once

#include <immintrin.h>
#include <signal.h>
#include <ucontext.h>

#include <array>
#include <cstring>

#include "base/types.h"

namespace opo {

struct EmulatedTile {
  idx rows = 0, row_bytes = 0;
  unsigned char data[16][64] = {};
  float word(idx r, idx i) const {
    float x;
    std::memcpy(&x, data[r] + 4 * i, 4);
    return x;
  }
  // The even (0) or odd (1) bf16 of pair i.
  float half(idx r, idx i, int odd) const {
    std::uint16_t bits;
    std::memcpy(&bits, data[r] + 4 * i + 2 * odd, 2);
    return ToF32(bf16{bits});
  }
};

class AmxEmulator {
 public:
  // The path's other kernels need this much of the machine.
  static bool RowKernelsRun() {
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  }

  // From now on, for all threads. Other illegal instructions end the program as ever.
  static void Install() {
    struct sigaction action = {};
    action.sa_sigaction = Handle;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, nullptr);
  }

  static idx count() { return count_; }  // instructions done by this thread

 private:
  using Tile = EmulatedTile;

  static void Handle(int, siginfo_t*, void* context) {
    auto* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    if (!Step(registers)) signal(SIGILL, SIG_DFL);  // and once more
  }

  static std::uint64_t Register(const greg_t* registers, int number) {
    static constexpr std::array<int, 16> kOrder = {
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
        REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return static_cast<std::uint64_t>(registers[kOrder[static_cast<std::size_t>(number)]]);
  }

  // The instruction at RIP; false if it is none of the tiles'.
  static bool Step(greg_t* registers) {
    const auto* at = reinterpret_cast<const unsigned char*>(registers[REG_RIP]);
    if (at[0] != 0xc4 || (at[1] & 0x1f) != 2 || (at[2] & 0x84) != 0) return false;  // VEX 128 0F38
    const int prefix = at[2] & 3;  // 0: none, 1: 66, 2: F3, 3: F2
    const int third = ~(at[2] >> 3) & 15;
    const int opcode = at[3];
    const int mod = at[4] >> 6;
    const int reg = at[4] >> 3 & 7;
    const int rm = at[4] & 7;
    const unsigned char* end = at + 5;
    std::uint64_t address = 0;
    std::uint64_t stride = 0;
    if (mod != 3) {
      const int base_high = (at[1] & 0x20) != 0 ? 0 : 8;
      const int index_high = (at[1] & 0x40) != 0 ? 0 : 8;
      int base = rm;
      if (rm == 4) {
        const int sib = *end++;
        base = sib & 7;
        const int index = (sib >> 3 & 7) + index_high;
        if (index != 4) stride = Register(registers, index) << (sib >> 6);
      }
      if (mod == 0 && base == 5) return false;  // no base register: not in this code
      address = Register(registers, base + base_high);
      if (mod == 1) {
        address +=
            static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<signed char>(*end)));
        end += 1;
      } else if (mod == 2) {
        std::int32_t offset;
        std::memcpy(&offset, end, 4);
        address += static_cast<std::uint64_t>(static_cast<std::int64_t>(offset));
        end += 4;
      }
    }
    auto* memory = reinterpret_cast<unsigned char*>(address);
    bool done = false;
    if (opcode == 0x49 && prefix == 0 && mod != 3) {
      done = Configure(memory);
    } else if (opcode == 0x49 && prefix == 0) {  // TILERELEASE
      tiles_ = {};
      done = true;
    } else if (opcode == 0x49 && prefix == 3 && mod == 3) {  // TILEZERO
      done = Load(tile(reg), nullptr, 0);
    } else if (opcode == 0x4b && prefix == 3 && mod != 3) {  // TILELOADD
      done = Load(tile(reg), memory, stride);
    } else if (opcode == 0x4b && prefix == 2 && mod != 3) {  // TILESTORED
      done = Save(tile(reg), memory, stride);
    } else if (opcode == 0x5c && prefix == 2 && mod == 3 && third < 8) {  // TDPBF16PS
      done = MultiplyAdd(tile(reg), tile(rm), tile(third));
    }
    if (!done) return false;
    ++count_;
    registers[REG_RIP] = reinterpret_cast<greg_t>(end);
    return true;
  }

  static Tile& tile(int number) { return tiles_[static_cast<std::size_t>(number)]; }

  static bool Configure(const unsigned char* config) {
    tiles_ = {};
    if (config[0] != 1 || config[1] != 0) return false;
    for (int t = 0; t < 16; ++t) {
      const idx row_bytes = config[16 + 2 * t] + 256 * config[17 + 2 * t];
      const idx rows = config[48 + t];
      if (rows > 16 || row_bytes > 64 || (rows == 0) != (row_bytes == 0)) return false;
      if (t >= 8 && rows != 0) return false;
      if (t < 8) tile(t).rows = rows;
      if (t < 8) tile(t).row_bytes = row_bytes;
    }
    return true;
  }

  static bool Load(Tile& t, const unsigned char* memory, std::uint64_t stride) {
    std::memset(t.data, 0, sizeof(t.data));
    for (idx r = 0; memory != nullptr && r < t.rows; ++r, memory += stride) {
      std::memcpy(t.data[r], memory, static_cast<std::size_t>(t.row_bytes));
    }
    return t.rows > 0;
  }

  static bool Save(const Tile& t, unsigned char* memory, std::uint64_t stride) {
    for (idx r = 0; r < t.rows; ++r, memory += stride) {
      std::memcpy(memory, t.data[r], static_cast<std::size_t>(t.row_bytes));
    }
    return t.rows > 0;
  }

  __attribute__((target("fma"))) static bool MultiplyAdd(Tile& sum, const Tile& left,
                                                         const Tile& right) {
    if (sum.rows == 0 || sum.rows != left.rows || sum.row_bytes != right.row_bytes ||
        left.row_bytes != 4 * right.rows) {
      return false;
    }
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(0x1f80 | 0x8040);  // all exceptions masked, nearest even; FTZ, DAZ
    for (idx m = 0; m < sum.rows; ++m) {
      for (idx n = 0; n < sum.row_bytes / 4; ++n) {
        __m128 even = _mm_setzero_ps();
        __m128 odd = _mm_setzero_ps();
        for (idx k = 0; k < right.rows; ++k) {
          even =
              _mm_fmadd_ss(_mm_set_ss(left.half(m, k, 0)), _mm_set_ss(right.half(k, n, 0)), even);
          odd = _mm_fmadd_ss(_mm_set_ss(left.half(m, k, 1)), _mm_set_ss(right.half(k, n, 1)), odd);
        }
        const float total =
            _mm_cvtss_f32(_mm_add_ss(_mm_set_ss(sum.word(m, n)), _mm_add_ss(even, odd)));
        std::memcpy(sum.data[m] + 4 * n, &total, 4);
      }
    }
    _mm_setcsr(mode);
    return true;
  }

  static inline thread_local std::array<Tile, 8> tiles_;
  static inline thread_local idx count_ = 0;
};

}  // namespace opo
