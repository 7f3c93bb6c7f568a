// The processes of a run ("ranks"), and the messages between them. Numbers are never added on the
// way: who adds what, and in which order, is the receiver's business (train/shards.h, E4).
//
// A program that was started alone has one rank, and pays nothing for this. Under mpirun or srun it
// joins the others through MPI, where it was built with one (Open MPI or MPICH; CMake's OPO_MPI).
//
// Faults: each rank tells rank 0 that it lives, by a thread of its own, and rank 0 tells the
// others. A rank that is silent for longer than the limit, or that reports an error, ends the job:
// one message names the rank, its host and what it was doing, and every process is gone within
// seconds. What was written stays, and `opo train --resume` goes on from there.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/types.h"

namespace opo {

class Comm {
 public:
  // All ranks of this job. The first call joins them; all ranks must make it. Throws Error(kUsage)
  // where a launcher started several processes and this program cannot speak to them.
  static Comm& World();
  // This process alone, whatever started it.
  static Comm& Alone();
  // Whether World() has been called and there are several ranks.
  static bool Joined();
  // The number that a launcher gave this process, before anything is joined; 0 without one.
  static int LauncherRank();
  // How many processes the launcher started; 1 without one.
  static int LauncherSize();

  // The first `ranks` of these, for measuring: what is left of the ranks keeps out of it.
  Comm First(int ranks) const;

  Comm(Comm&&) = default;
  Comm& operator=(Comm&&) = delete;
  ~Comm();

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool root() const { return rank_ == 0; }
  bool alone() const { return size_ == 1; }
  // Ranks on this machine that may use the same CPUs, this one included; at least 1.
  int sharing_cpus() const { return sharing_cpus_; }
  int sharing_memory() const { return sharing_memory_; }  // ranks on this machine
  const std::string& host(int rank) const { return hosts_[static_cast<std::size_t>(rank)]; }

  // Begins to send or to receive `bytes` bytes. The memory is the message's until Wait() returns.
  // Between two ranks, messages of equal tag arrive in the order in which they were sent.
  void Send(int to, int tag, const void* data, idx bytes);
  void Recv(int from, int tag, void* data, idx bytes);
  // Lets what was begun move on: called now and then from long work.
  void Poll();
  // Returns when everything that was begun is done.
  void Wait();

  // Of all ranks, in order: at every rank, and at the root alone (others get nothing).
  std::vector<std::string> AllGather(std::string_view mine);
  std::vector<std::string> Gather(std::string_view mine);
  // Their values behind each other, at every rank.
  template <class T>
  std::vector<T> AllGatherValues(std::span<const T> mine) {
    static_assert(std::is_trivially_copyable_v<T>);
    std::vector<T> all;
    for (const std::string& theirs :
         AllGather({reinterpret_cast<const char*>(mine.data()), mine.size_bytes()})) {
      const std::size_t first = all.size();
      all.resize(first + theirs.size() / sizeof(T));
      if (!theirs.empty()) std::memcpy(all.data() + first, theirs.data(), theirs.size());
    }
    return all;
  }
  // The root's, at every rank.
  void Broadcast(std::span<std::byte> data);
  std::string Broadcast(std::string text);
  // The largest, of all ranks.
  int Max(int value);

  // What this rank is doing, for the messages about it. `phase` is a literal.
  void Note(const char* phase, idx step);
  // From now on a rank that is silent for `limit_s` seconds ends the job. 0: none does.
  void Watch(double limit_s);
  // Ends the job with this error, told once, by the root.
  [[noreturn]] void Abort(ErrorCode code, const std::string& message);

  struct Traffic {
    idx messages = 0, bytes = 0;  // sent
    double wait_s = 0;            // spent in Wait()
  };
  const Traffic& traffic() const { return traffic_; }

 private:
  class Mpi;  // mpi.cpp
  explicit Comm(int wanted);
  int rank_ = 0;
  int size_ = 1;
  int sharing_cpus_ = 1;
  int sharing_memory_ = 1;
  std::vector<std::string> hosts_;
  Traffic traffic_;
  std::shared_ptr<Mpi> mpi_;  // null where there is one rank
};

}  // namespace opo
