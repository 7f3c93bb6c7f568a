#include "base/parallel.h"

#include <fmt/format.h>
#include <sched.h>

#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace opo {
namespace {

// How often a waiting thread looks before it sleeps (about 30 us): kernels follow each other more
// closely than a futex call takes, yet nobody spins while the process is idle.
constexpr int kSpins = 2000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

thread_local bool in_parallel = false;

// Marks this thread as one that runs tasks.
class Inside {
 public:
  Inside() : outer_(std::exchange(in_parallel, true)) {}
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
  ~Inside() { in_parallel = outer_; }

 private:
  bool outer_;
};

// A thread's run of tasks, on a cache line of its own.
struct alignas(64) Share {
  std::atomic<idx> next{0};
  idx end = 0;
};

class Pool {
 public:
  ~Pool() { Stop(); }

  int size() const { return size_; }

  void Resize(int n) {
    if (n <= 0) n = AllowedCpus();
    if (n == size_) return;
    Stop();
    size_ = n;
  }

  void Run(idx n, void (*task)(void*, idx), void* context) {
    if (n <= 0) return;
    if (n == 1 || size_ <= 1 || in_parallel) {
      const Inside inside;
      for (idx i = 0; i < n; ++i) task(context, i);
      return;
    }
    Start();
    task_ = task;
    context_ = context;
    for (int i = 0; i < size_; ++i) {
      shares_[static_cast<std::size_t>(i)].next.store(n * i / size_, std::memory_order_relaxed);
      shares_[static_cast<std::size_t>(i)].end = n * (i + 1) / size_;
    }
    busy_.store(size_ - 1, std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    Work(0);
    for (int spin = 0; busy_.load(std::memory_order_acquire) != 0; ++spin) {
      if (spin < kSpins) {
        Pause();
      } else {
        std::this_thread::yield();
      }
    }
    if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
  }

 private:
  void Start() {
    if (!workers_.empty()) return;
    stop_ = false;
    shares_ = std::vector<Share>(static_cast<std::size_t>(size_));
    const unsigned epoch = epoch_.load();
    try {
      for (int i = 1; i < size_; ++i) {
        workers_.emplace_back([this, i, epoch] { Loop(i, epoch); });
      }
    } catch (const std::system_error& error) {
      // A limit on processes or memory. Fewer threads give the same bits.
      const int wanted = std::exchange(size_, static_cast<int>(workers_.size()) + 1);
      fmt::print(stderr, "warning: {} threads instead of {}: {}\n", size_, wanted, error.what());
    }
  }

  void Stop() {
    stop_ = true;
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
  }

  // Its own share first, then what others have left of theirs.
  void Work(int thread) {
    const Inside inside;
    try {
      for (int turn = 0; turn < size_; ++turn) {
        Share& share = shares_[static_cast<std::size_t>((thread + turn) % size_)];
        while (share.next.load(std::memory_order_relaxed) < share.end) {
          const idx i = share.next.fetch_add(1, std::memory_order_relaxed);
          if (i < share.end) task_(context_, i);
        }
      }
    } catch (...) {
      for (Share& share : shares_) {  // nobody begins another
        share.next.store(share.end, std::memory_order_relaxed);
      }
      const std::lock_guard lock(thrown_mutex_);
      if (!thrown_) thrown_ = std::current_exception();
    }
  }

  void Loop(int thread, unsigned seen) {
    for (;;) {
      for (int spin = 0; spin < kSpins && epoch_.load(std::memory_order_acquire) == seen; ++spin) {
        Pause();
      }
      epoch_.wait(seen, std::memory_order_acquire);
      seen = epoch_.load(std::memory_order_acquire);
      if (stop_) return;
      Work(thread);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex thrown_mutex_;
  std::exception_ptr thrown_;  // of the first task that threw
  int size_ = 1;
  std::vector<std::thread> workers_;
  void (*task_)(void*, idx) = nullptr;
  void* context_ = nullptr;
  std::vector<Share> shares_;
  std::atomic<int> busy_{0};
  std::atomic<unsigned> epoch_{0};
  std::atomic<bool> stop_{false};
};

Pool& ThePool() {
  static auto pool = [] {
    auto p = std::make_unique<Pool>();
    p->Resize(0);
    return p;
  }();
  return *pool;
}

}  // namespace

int AllowedCpus() {
  cpu_set_t set;
  return ::sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

int NumThreads() { return ThePool().size(); }
void SetNumThreads(int n) { ThePool().Resize(n); }

namespace internal {
void RunParallel(idx n, void (*task)(void*, idx), void* context) {
  ThePool().Run(n, task, context);
}
}  // namespace internal

}  // namespace opo
