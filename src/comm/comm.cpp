#include "comm/comm.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/clock.h"
#include "comm/mpi.h"

namespace opo {
namespace {

// Tags of the collectives; those of callers are smaller. MPI promises 32767 of them.
constexpr int kSizeTag = 30000;
constexpr int kDataTag = 30001;
constexpr int kBroadcastTag = 30002;

// Large enough to use the network well, small enough that a chain of ranks is busy all at once.
constexpr idx kBroadcastBlock = idx{4} << 20;

int NumberIn(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr && *text != 0 ? std::atoi(text) : otherwise;
}

// Open MPI; MPICH and Slurm's PMI; Slurm's PMIx, which leaves the count to Slurm.
struct Launcher {
  int rank = 0, size = 1;
  Launcher() {
    if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) {
      rank = NumberIn("OMPI_COMM_WORLD_RANK", 0);
      size = NumberIn("OMPI_COMM_WORLD_SIZE", 1);
    } else if (std::getenv("PMI_RANK") != nullptr) {
      rank = NumberIn("PMI_RANK", 0);
      size = NumberIn("PMI_SIZE", 1);
    } else if (std::getenv("PMIX_RANK") != nullptr) {
      rank = NumberIn("PMIX_RANK", 0);
      size = NumberIn("SLURM_STEP_NUM_TASKS", NumberIn("SLURM_NTASKS", 1));
    }
  }
};

bool joined = false;

std::string HostName() {
  char name[256] = "";
  ::gethostname(name, sizeof(name) - 1);
  return name;
}

// The machine and, of it, the CPUs that this process may use.
std::string CpuSet() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return "";
  std::string text;
  for (int i = 0; i < CPU_SETSIZE; ++i) text += CPU_ISSET(i, &set) ? '1' : '0';
  return text;
}

}  // namespace

int Comm::LauncherRank() { return Launcher().rank; }
int Comm::LauncherSize() { return Launcher().size; }
bool Comm::Joined() { return joined; }

Comm& Comm::World() {
  static Comm world(LauncherSize());
  return world;
}

Comm& Comm::Alone() {
  static Comm alone(1);
  return alone;
}

Comm::Comm(int wanted) {
  if (wanted > 1) {
    mpi_ = Mpi::Join();
    rank_ = mpi_->rank();
    size_ = mpi_->size();
    if (size_ != wanted) {
      Fail(ErrorCode::kUsage,
           "{} processes were started, but MPI speaks of {}: this program was built with another "
           "MPI than the launcher's ({}); use the launcher that belongs to it",
           wanted, size_, Mpi::Library());
    }
    joined = true;
  }
  hosts_ = {HostName()};
  if (alone()) return;
  hosts_ = AllGather(hosts_.front());
  const std::vector<std::string> cpus = AllGather(CpuSet());
  sharing_cpus_ = sharing_memory_ = 0;
  for (int r = 0; r < size_; ++r) {
    const auto i = static_cast<std::size_t>(r);
    if (hosts_[i] != host(rank_)) continue;
    ++sharing_memory_;
    if (cpus[i] == cpus[static_cast<std::size_t>(rank_)]) ++sharing_cpus_;
  }
  mpi_->SetHosts(hosts_);
}

Comm::~Comm() = default;

Comm Comm::First(int ranks) const {
  Comm first(1);
  first.rank_ = rank_;
  first.size_ = ranks;
  first.hosts_ = hosts_;
  first.mpi_ = mpi_;
  return first;
}

void Comm::Send(int to, int tag, const void* data, idx bytes) {
  OPO_CHECK(mpi_ != nullptr && to != rank_);
  mpi_->Send(to, tag, data, bytes);
  ++traffic_.messages;
  traffic_.bytes += bytes;
}

void Comm::Recv(int from, int tag, void* data, idx bytes) {
  OPO_CHECK(mpi_ != nullptr && from != rank_);
  mpi_->Recv(from, tag, data, bytes);
}

void Comm::Poll() {
  if (mpi_ != nullptr) mpi_->Poll();
}

void Comm::Wait() {
  if (mpi_ == nullptr) return;
  const double start = Seconds();
  mpi_->Wait();
  traffic_.wait_s += Seconds() - start;
}

std::vector<std::string> Comm::Gather(std::string_view mine) {
  if (alone()) return {std::string(mine)};
  auto bytes = static_cast<idx>(mine.size());
  if (!root()) {
    Send(0, kSizeTag, &bytes, sizeof(bytes));
    if (bytes > 0) Send(0, kDataTag, mine.data(), bytes);
    Wait();
    return {};
  }
  std::vector<idx> sizes(static_cast<std::size_t>(size_), bytes);
  for (int r = 1; r < size_; ++r) {
    Recv(r, kSizeTag, &sizes[static_cast<std::size_t>(r)], sizeof(idx));
  }
  Wait();
  std::vector<std::string> all(static_cast<std::size_t>(size_));
  all.front() = mine;
  for (int r = 1; r < size_; ++r) {
    const auto i = static_cast<std::size_t>(r);
    all[i].resize(static_cast<std::size_t>(sizes[i]));
    if (sizes[i] > 0) Recv(r, kDataTag, all[i].data(), sizes[i]);
  }
  Wait();
  return all;
}

std::vector<std::string> Comm::AllGather(std::string_view mine) {
  std::vector<std::string> all = Gather(mine);
  if (alone()) return all;
  std::vector<idx> sizes(static_cast<std::size_t>(size_));
  std::string joined_text;
  for (std::size_t i = 0; i < all.size(); ++i) {
    sizes[i] = static_cast<idx>(all[i].size());
    joined_text += all[i];
  }
  Broadcast(std::as_writable_bytes(std::span(sizes)));
  idx total = 0;
  for (const idx s : sizes) total += s;
  joined_text.resize(static_cast<std::size_t>(total));
  Broadcast(std::as_writable_bytes(std::span(joined_text)));
  all.clear();
  std::size_t at = 0;
  for (const idx s : sizes) {
    all.push_back(joined_text.substr(at, static_cast<std::size_t>(s)));
    at += static_cast<std::size_t>(s);
  }
  return all;
}

// Along a binomial tree: rank r hears from r without its highest bit.
void Comm::Broadcast(std::span<std::byte> data) {
  if (alone()) return;
  int highest = 1;
  while (highest <= rank_) highest *= 2;  // the first bit above the rank's own
  for (idx at = 0; at < static_cast<idx>(data.size()); at += kBroadcastBlock) {
    std::byte* block = data.data() + at;
    const idx bytes = std::min(kBroadcastBlock, static_cast<idx>(data.size()) - at);
    if (!root()) {
      Recv(rank_ - highest / 2, kBroadcastTag, block, bytes);
      Wait();
    }
    for (int bit = highest; rank_ + bit < size_; bit *= 2) {
      Send(rank_ + bit, kBroadcastTag, block, bytes);
    }
  }
  Wait();
}

std::string Comm::Broadcast(std::string text) {
  if (alone()) return text;
  auto bytes = static_cast<idx>(text.size());
  Broadcast(std::as_writable_bytes(std::span(&bytes, 1)));
  text.resize(static_cast<std::size_t>(bytes));
  Broadcast(std::as_writable_bytes(std::span(text)));
  return text;
}

int Comm::Max(int value) {
  if (alone()) return value;
  const std::vector<int> all = AllGatherValues(std::span<const int>(&value, 1));
  return *std::max_element(all.begin(), all.end());
}

void Comm::Note(const char* phase, idx step) {
  if (mpi_ != nullptr) mpi_->Note(phase, step);
}

void Comm::Watch(double limit_s) {
  if (mpi_ != nullptr) mpi_->Watch(limit_s);
}

void Comm::Abort(ErrorCode code, const std::string& message) {
  if (mpi_ != nullptr) mpi_->Abort(static_cast<int>(code), message);
  std::fprintf(stderr, "opo: %s\n", message.c_str());
  std::exit(static_cast<int>(code));
}

}  // namespace opo
