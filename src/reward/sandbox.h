// Python code that nobody trusts, run by bubblewrap: without network, home, /proc and other files
// than those of /usr; as an unprivileged user without capabilities; with limits on memory,
// processes, files and CPU time; and without the system calls that attack kernels.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/process.h"
#include "base/types.h"

namespace opo {

inline constexpr idx kSandboxProcesses = 16;
inline constexpr idx kSandboxFilesMb =
    16;  // all that is written to its /tmp, the one writable folder

// Starts `script` in a sandbox of its own; killing the process ends everything inside. memory_mb is
// the address space of each process in it, of which there are at most kSandboxProcesses once the
// script has said so (RLIMIT_NPROC counts from within); 0: any. Throws Error(kWork) where
// bubblewrap cannot be started.
std::unique_ptr<Process> StartPython(std::string_view script, idx memory_mb);

}  // namespace opo
