#include "reward/workers.h"

#include <poll.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/clock.h"
#include "base/parallel.h"
#include "format/quote.h"
#include "reward/kinds.h"

namespace opo {
namespace {

constexpr std::size_t kNothing = static_cast<std::size_t>(-1);

void Watch(std::vector<pollfd>& fds, int fd, short events) {
  if (fd >= 0) fds.push_back({fd, events, 0});
}

// Waits until a stream of a busy worker is ready or one is due.
void Wait(std::span<const std::unique_ptr<Worker>> workers, const std::vector<std::size_t>& query) {
  std::vector<pollfd> fds;
  double due = Seconds() + 1000;
  for (std::size_t w = 0; w < workers.size(); ++w) {
    if (query[w] == kNothing) continue;
    due = std::min(due, workers[w]->due());
    const Process* process = workers[w]->process();
    if (process == nullptr) continue;
    Watch(fds, process->out(), POLLIN);
    Watch(fds, process->err(), POLLIN);
    if (workers[w]->is_writing()) Watch(fds, process->in(), POLLOUT);
  }
  const double milliseconds = std::ceil(std::max(0.0, due - Seconds()) * 1e3);
  // A signal ends the wait: nothing is ready then, and the next round waits again.
  poll(fds.data(), fds.size(), static_cast<int>(milliseconds));
}

}  // namespace

void ScoreWithWorkers(std::span<const std::unique_ptr<Worker>> workers,
                      std::span<const RewardQuery> queries, std::span<RewardResult> results,
                      const ScoredCallback& on_scored) {
  std::vector<std::size_t> query(workers.size(), kNothing);  // of each worker
  std::size_t next = 0;
  std::size_t scored = 0;
  try {
    while (scored < queries.size()) {
      for (std::size_t w = 0; w < workers.size() && next < queries.size(); ++w) {
        if (query[w] != kNothing) continue;
        query[w] = next++;
        workers[w]->Begin(queries[query[w]]);
      }
      Wait(workers, query);
      for (std::size_t w = 0; w < workers.size(); ++w) {
        if (query[w] == kNothing) continue;
        std::optional<RewardResult> result = workers[w]->Advance();
        if (!result) continue;
        const std::size_t i = std::exchange(query[w], kNothing);
        results[i] = *std::move(result);
        ++scored;
        on_scored(i);
      }
    }
  } catch (...) {
    for (std::size_t w = 0; w < workers.size(); ++w) {
      if (query[w] != kNothing) workers[w]->Abandon();
    }
    throw;
  }
}

idx NumWorkers(const RewardConfig& config) {
  return config.workers > 0 ? config.workers : NumThreads();
}

double CpuLimit(const RewardConfig& config) {
  return config.cpu_s > 0 ? config.cpu_s : config.timeout_s;
}

std::string ErrNote(const Process& process) {
  constexpr std::size_t kShown = 200;  // as long as a quote can be
  std::string_view tail = Trim(process.err_tail());
  if (tail.empty()) return "";
  if (tail.size() > kShown) tail.remove_prefix(tail.size() - kShown);
  return "; stderr ends with " + Quote(tail);
}

}  // namespace opo
