// SIGINT, SIGTERM and SIGUSR1 (which mpirun hands on, and Slurm sends before it kills) end a run
// after the step at hand and its checkpoint; a second one kills.
#pragma once

#include <csignal>

namespace opo {

// Catches them while it lives, and gives the old handlers back. One at a time.
class SignalGuard {
 public:
  SignalGuard() {
    caught_ = 0;
    old_int_ = std::signal(SIGINT, OnSignal);
    old_term_ = std::signal(SIGTERM, OnSignal);
    old_usr1_ = std::signal(SIGUSR1, OnSignal);
  }
  SignalGuard(const SignalGuard&) = delete;
  SignalGuard& operator=(const SignalGuard&) = delete;
  ~SignalGuard() {
    std::signal(SIGINT, old_int_);
    std::signal(SIGTERM, old_term_);
    std::signal(SIGUSR1, old_usr1_);
  }

  // The signal that came; 0: none.
  int caught() const { return caught_; }

 private:
  static void OnSignal(int signal) {
    caught_ = signal;
    std::signal(signal, SIG_DFL);
  }

  static inline volatile std::sig_atomic_t caught_ = 0;
  void (*old_int_)(int);
  void (*old_term_)(int);
  void (*old_usr1_)(int);
};

}  // namespace opo
