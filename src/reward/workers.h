// Several judges in processes of their own, each with one query at hand, driven by one thread.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "base/process.h"
#include "reward/reward.h"

namespace opo {

class Worker {
 public:
  virtual ~Worker() = default;

  // Takes up a query, which stays valid until its result is there. Throws Error where the judge
  // cannot run at all.
  virtual void Begin(const RewardQuery& query) = 0;

  // Does what can be done without waiting. The result, once there is one.
  virtual std::optional<RewardResult> Advance() = 0;

  // Gives up the query at hand.
  virtual void Abandon() = 0;

  // Meanwhile: whose streams to watch, whether it has something to write, and the time (Seconds())
  // at which Advance() is due even if nothing happens.
  virtual const Process* process() const = 0;
  virtual bool is_writing() const = 0;
  virtual double due() const = 0;
};

// Reward::Score with these workers. Queries are begun in their order.
void ScoreWithWorkers(std::span<const std::unique_ptr<Worker>> workers,
                      std::span<const RewardQuery> queries, std::span<RewardResult> results,
                      const ScoredCallback& on_scored);

// config.workers; 0 stands for one a thread.
idx NumWorkers(const RewardConfig& config);

// config.cpu_s, or what its 0 stands for.
double CpuLimit(const RewardConfig& config);

// The end of what a program wrote to stderr, for a note: "; stderr: '...'", or "".
std::string ErrNote(const Process& process);

}  // namespace opo
