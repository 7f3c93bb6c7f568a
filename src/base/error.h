// Errors: exceptions at the edges, CHECK for bugs, values for expected outcomes.
//
// - The world's fault (a file, a config, memory): throw `Error` through Fail(); the message says
//   what, where (file, field, offset) and what to try. `app/main.cpp` has the one catch.
// - Our fault: CHECK aborts with file and line. No user input may ever trip one.
// - An expected outcome (an answer that does not parse) is a value, never an exception.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace opo {

// The process exit codes; 128+n stands for "stopped by signal n after its checkpoint".
enum class ErrorCode : int {
  kWork = 1,       // the work itself failed, non-finite numbers too
  kUsage = 2,      // bad command line or config
  kInput = 3,      // a bad input file
  kExactness = 4,  // the exactness contract was broken, and nothing else
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

template <class... Args>
[[noreturn]] void Fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

// Prints `file:line: CHECK failed: what` to stderr and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const char* what);

}  // namespace opo

#define OPO_CHECK(condition) \
  ((condition) ? (void)0 : ::opo::CheckFailed(__FILE__, __LINE__, #condition))
