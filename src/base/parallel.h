// One pool of threads for the whole process. Tasks are independent: which thread runs one never
// changes a result, so any number of threads gives the same bits (E3).
#pragma once

#include <functional>

#include "base/types.h"

namespace opo {

// Number of threads in use, the calling one included. Set it outside of parallel work; 0 stands for
// the number of CPUs this process may use.
int NumThreads();
void SetNumThreads(int n);

// The CPUs that this process may use.
int AllowedCpus();

namespace internal {
void RunParallel(idx n, void (*task)(void*, idx), void* context);
}

// Calls task(i) once for each i in [0, n), on any thread, in any order; all are done at its return.
// Each thread has a run of consecutive tasks of its own and then helps the others with theirs, so
// that what a task leaves in a cache, or asks for behind its own end, mostly serves the next one.
// What one throws is thrown here, and some may be left out. A task's own call runs on its thread.
template <class Task>
void ParallelFor(idx n, const Task& task) {
  internal::RunParallel(
      n, [](void* context, idx i) { (*static_cast<const Task*>(context))(i); },
      const_cast<void*>(static_cast<const void*>(&task)));
}

// The same over [0, n) in chunks of `grain`: task(begin, end).
template <class Task>
void ParallelChunks(idx n, idx grain, const Task& task) {
  ParallelFor(CeilDiv(n, grain), [&](idx i) {
    const idx begin = i * grain;
    task(begin, begin + grain < n ? begin + grain : n);
  });
}

}  // namespace opo
