#include "base/fault.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <type_traits>
#include <vector>

#include "base/error.h"

namespace opo {
namespace {

constexpr std::string_view kKinds[] = {"nan",   "inf",  "flip", "write", "fsync",
                                       "short", "kill", "stop", "throw"};

constexpr std::pair<std::string_view, int> kErrors[] = {
    {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EIO", EIO},    {"EROFS", EROFS},
    {"EFBIG", EFBIG},   {"EACCES", EACCES}, {"EINTR", EINTR}};

struct Armed {
  Fault fault;
  std::string text;   // as it was given
  idx occasions = 0;  // that matched so far
  idx bytes = 0;      // of writes that matched so far
};

struct State {
  std::mutex mutex;
  std::vector<Armed> faults;
  idx step = -1;
  int rank = 0;
};

State& TheState() {
  static State state;
  return state;
}

std::vector<std::string> Split(const std::string& text, char by) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (std::size_t end = 0; end != std::string::npos; begin = end + 1) {
    end = text.find(by, begin);
    parts.push_back(text.substr(begin, end - begin));
  }
  return parts;
}

idx NumberOf(const std::string& text, const std::string& in) {
  idx value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) {
    Fail(ErrorCode::kUsage, "OPO_FAULT: `{}`: \"{}\" is not a whole number", in, text);
  }
  return value;
}

Armed Parse(const std::string& text) {
  const std::vector<std::string> parts = Split(text, ':');
  Armed armed;
  armed.text = text;
  Fault& f = armed.fault;
  f.kind = parts[0];
  if (std::find(std::begin(kKinds), std::end(kKinds), f.kind) == std::end(kKinds)) {
    Fail(ErrorCode::kUsage, "OPO_FAULT: `{}`: kind \"{}\" is none of {}", text, f.kind,
         fmt::join(kKinds, ", "));
  }
  if (parts.size() < 2 || parts[1].empty()) {
    Fail(ErrorCode::kUsage, "OPO_FAULT: `{}`: names no target; write {}:TARGET", text, f.kind);
  }
  f.target = parts[1];
  if (f.kind == "write" && f.target == "short") std::swap(f.kind, f.target);
  if (f.kind == "write" || f.kind == "fsync") {
    for (const auto& [name, number] : kErrors) {
      if (f.target == name) f.error = number;
    }
    if (f.error == 0) {
      std::vector<std::string_view> names;
      for (const auto& [name, number] : kErrors) names.push_back(name);
      Fail(ErrorCode::kUsage, "OPO_FAULT: `{}`: error \"{}\" is none of {}", text, f.target,
           fmt::join(names, ", "));
    }
  }
  for (std::size_t i = 2; i < parts.size(); ++i) {
    const std::size_t equals = parts[i].find('=');
    const std::string key = parts[i].substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : parts[i].substr(equals + 1);
    if (key == "path") {
      f.path = value;
      continue;
    }
    const std::pair<const char*, idx*> numbers[] = {{"step", &f.step},
                                                    {"nth", &f.nth},
                                                    {"count", &f.count},
                                                    {"after", &f.after},
                                                    {"index", &f.index}};
    const auto* number = std::find_if(std::begin(numbers), std::end(numbers),
                                      [&](const auto& n) { return key == n.first; });
    if (number != std::end(numbers)) {
      *number->second = NumberOf(value, text);
    } else if (key == "rank") {
      f.rank = static_cast<int>(NumberOf(value, text));
    } else if (key == "bit") {
      f.bit = static_cast<int>(NumberOf(value, text));
    } else {
      Fail(ErrorCode::kUsage,
           "OPO_FAULT: `{}`: \"{}\" is none of step, rank, nth, count, after, path, index, bit",
           text, key);
    }
  }
  return armed;
}

template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 8, std::uint64_t,
                                  std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>>;

template <class T>
T Special(double value) {
  if constexpr (std::is_same_v<T, bf16>) {
    return ToBf16(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}

template <class T>
bool Corrupt(std::string_view target, std::span<T> values) {
  if (!FaultsArmed() || values.empty()) return false;
  bool struck = false;
  const auto at = [&](const Fault& fault) -> T& {
    struck = true;
    return values[static_cast<std::size_t>(fault.index) % values.size()];
  };
  if (const auto f = FaultAt("nan", target)) {
    at(*f) = Special<T>(std::numeric_limits<double>::quiet_NaN());
  }
  if (const auto f = FaultAt("inf", target)) {
    at(*f) = Special<T>(std::numeric_limits<double>::infinity());
  }
  if (const auto f = FaultAt("flip", target)) {
    using Bits = BitsOf<T>;
    T& value = at(*f);
    const auto one =
        static_cast<Bits>(Bits{1} << (static_cast<std::size_t>(f->bit) % (8 * sizeof(T))));
    value = std::bit_cast<T>(static_cast<Bits>(std::bit_cast<Bits>(value) ^ one));
  }
  return struck;
}

}  // namespace

void SetFaults(const std::string& text) {
  std::vector<Armed> faults;
  for (const std::string& part : Split(text, ';')) {
    if (!part.empty()) faults.push_back(Parse(part));
  }
  if (!faults.empty()) {
    fmt::print(stderr, "opo: OPO_FAULT is set: THIS PROCESS BREAKS ON PURPOSE ({})\n", text);
  }
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  state.faults = std::move(faults);
  internal::faults_armed = !state.faults.empty();
}

void SetFaultsFromEnvironment() {
  const char* text = std::getenv("OPO_FAULT");
  if (text != nullptr) SetFaults(text);
}

void SetFaultStep(idx step) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  state.step = step;
}

void SetFaultRank(int rank) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  state.rank = rank;
}

std::optional<Fault> FaultAt(std::string_view kind, std::string_view target, std::string_view path,
                             std::size_t bytes) {
  if (!FaultsArmed()) return std::nullopt;
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  for (Armed& armed : state.faults) {
    const Fault& f = armed.fault;
    if (f.kind != kind || (!target.empty() && f.target != target)) continue;
    if (f.step >= 0 && f.step != state.step) continue;
    if (f.rank >= 0 && f.rank != state.rank) continue;
    if (path.find(f.path) == std::string_view::npos) continue;
    const idx occasion = ++armed.occasions;
    const idx passed = armed.bytes;
    if (f.after >= 0) {
      armed.bytes = std::min(f.after, passed + static_cast<idx>(bytes));
      if (passed + static_cast<idx>(bytes) <= f.after) continue;
    } else if (occasion < f.nth || (f.count > 0 && occasion >= f.nth + f.count)) {
      continue;
    }
    fmt::print(stderr, "opo: OPO_FAULT: {} strikes{}{}\n", armed.text, path.empty() ? "" : " at ",
               path);
    Fault now = f;
    if (f.after >= 0) now.after = f.after - passed;
    return now;
  }
  return std::nullopt;
}

bool CorruptNumbers(std::string_view target, std::span<float> values) {
  return Corrupt(target, values);
}
bool CorruptNumbers(std::string_view target, std::span<bf16> values) {
  return Corrupt(target, values);
}
bool CorruptNumbers(std::string_view target, std::span<double> values) {
  return Corrupt(target, values);
}

void FaultPointReached(std::string_view point, std::string_view path) {
  if (FaultAt("kill", point, path)) std::raise(SIGKILL);
  if (FaultAt("stop", point, path)) std::raise(SIGSTOP);
  if (FaultAt("throw", point, path)) Fail(ErrorCode::kWork, "OPO_FAULT: thrown at {}", point);
}

}  // namespace opo
