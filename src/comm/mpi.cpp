#include "comm/mpi.h"

#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <list>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/error.h"

namespace opo {
namespace {

constexpr idx kMaxCount = idx{1} << 30;  // bytes of one MPI message: its count is an int

// A waiting rank looks this often before it sleeps, then sleeps this long between looks: other
// ranks of the machine may need the CPU.
constexpr int kSpins = 2000;
constexpr std::chrono::microseconds kNap(40);

// How long the root gets to end a job whose error it was told.
constexpr double kGraceSeconds = 5;

void Check(int result, const char* what) {
  if (result == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(result, text, &length);
  Fail(ErrorCode::kWork, "MPI could not {}: {}", what, text);
}

// What travels between the ranks' watching threads.
enum class Word : int { kAlive = 1, kError = 2 };
struct Notice {
  Word word = Word::kAlive;
  int code = 0;
  idx step = 0;
  char phase[24] = "";
  char text[1500] = "";
};

}  // namespace

struct Comm::Mpi::State {
  MPI_Comm work = MPI_COMM_NULL;   // the messages of the run
  MPI_Comm watch = MPI_COMM_NULL;  // those of the watching threads
  int rank = 0, size = 1;
  bool threads = false;  // may several threads of a process call MPI?
  std::vector<std::string> hosts;
  std::vector<MPI_Request> open;

  // Shared with the watching thread.
  std::atomic<const char*> phase{"starting"};
  std::atomic<idx> step{0};
  std::atomic<idx> limit_ms{0};
  std::atomic<bool> leaving{false};
  std::atomic<bool> failed{false};
  std::mutex error_mutex;
  Notice error;  // to be told, once `failed`
  std::thread thread;

  // Of the watching thread alone.
  struct Peer {
    double heard = 0;
    Notice last;
  };
  std::vector<Peer> peers;
  struct Letter {
    Notice notice;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  std::list<Letter> letters;

  bool root() const { return rank == 0; }
  double limit_s() const { return static_cast<double>(limit_ms.load()) / 1000; }
  std::string NameOf(int r, const Notice& notice) const {
    const auto i = static_cast<std::size_t>(r);
    std::string name = fmt::format("rank {} ({})", r, i < hosts.size() ? hosts[i] : "?");
    if (notice.step > 0) name += fmt::format(", step {}", notice.step);
    if (notice.phase[0] != 0) name += fmt::format(", {}", notice.phase);
    return name;
  }
  Notice Now(Word word) const {
    Notice n;
    n.word = word;
    n.step = step;
    std::strncpy(n.phase, phase.load(), sizeof(n.phase) - 1);
    return n;
  }
  void Tell(int to, const Notice& notice) {
    Letter& letter = letters.emplace_back();
    letter.notice = notice;
    MPI_Isend(&letter.notice, sizeof(Notice), MPI_BYTE, to, 0, watch, &letter.request);
  }
  void TellAll(const Notice& notice) {
    if (!root()) return Tell(0, notice);
    for (int r = 1; r < size; ++r) Tell(r, notice);
  }
  void DropLetters() {
    letters.remove_if([](Letter& letter) {
      int done = 0;
      MPI_Test(&letter.request, &done, MPI_STATUS_IGNORE);
      return done != 0;
    });
  }
  [[noreturn]] void End(int code, const std::string& message) {
    std::fprintf(stderr, "opo: %s\n", message.c_str());
    std::fflush(stderr);
    // The launcher forwards what was printed; a moment later it kills.
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    MPI_Abort(MPI_COMM_WORLD, code);
    ::_exit(code);
  }
  void WatchLoop();
  void Hear(double now);
  void LookForSilence(double now);
};

void Comm::Mpi::State::Hear(double now) {
  for (;;) {
    int there = 0;
    MPI_Status status;
    MPI_Iprobe(MPI_ANY_SOURCE, 0, watch, &there, &status);
    if (there == 0) return;
    Notice notice;
    MPI_Recv(&notice, sizeof(notice), MPI_BYTE, status.MPI_SOURCE, 0, watch, MPI_STATUS_IGNORE);
    Peer& peer = peers[static_cast<std::size_t>(status.MPI_SOURCE)];
    peer.heard = now;
    peer.last = notice;
    if (notice.word == Word::kError) {
      End(notice.code, NameOf(status.MPI_SOURCE, notice) + ": " + notice.text);
    }
  }
}

void Comm::Mpi::State::LookForSilence(double now) {
  const double most = limit_s();
  if (most <= 0) return;
  for (int r = 0; r < size; ++r) {
    if (r == rank || (!root() && r != 0)) continue;
    const Peer& peer = peers[static_cast<std::size_t>(r)];
    if (now - peer.heard <= most) continue;
    End(static_cast<int>(ErrorCode::kWork),
        fmt::format("{}: not heard of for {:.0f} s (run.heartbeat_s = {:g}): it died, was stopped, "
                    "or lost its network. The job ends; `opo train --resume` continues it",
                    NameOf(r, peer.last), now - peer.heard, most));
  }
}

void Comm::Mpi::State::WatchLoop() {
  double sent = -1e9;
  double before = Seconds();
  for (;;) {
    const double most = limit_s();
    const double pause = most > 0 ? std::clamp(most / 20, 0.02, 0.5) : 0.2;
    std::this_thread::sleep_for(std::chrono::duration<double>(pause));
    const double now = Seconds();
    // If this process itself was stopped, others could not be heard.
    if (now - before > pause + most / 4) {
      for (Peer& peer : peers) peer.heard = now;
    }
    before = now;
    Hear(now);
    if (failed) {
      std::unique_lock lock(error_mutex);
      const Notice told = error;
      lock.unlock();
      if (root()) End(told.code, NameOf(0, told) + ": " + told.text);
      Tell(0, told);
      const double end = Seconds() + kGraceSeconds;
      while (Seconds() < end) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        DropLetters();
      }
      End(told.code, NameOf(rank, told) + ": " + told.text);  // the root did not
    }
    if (leaving) return;
    if (now - sent > std::max(most / 5, 0.1)) {
      TellAll(Now(Word::kAlive));
      sent = now;
    }
    DropLetters();
    LookForSilence(now);
  }
}

std::unique_ptr<Comm::Mpi> Comm::Mpi::Join() { return std::make_unique<Mpi>(); }

std::string Comm::Mpi::Library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string name(text, static_cast<std::size_t>(length));
  return name.substr(0, name.find_first_of(",\n"));
}

Comm::Mpi::Mpi() : state_(std::make_unique<State>()) {
  State& s = *state_;
  int provided = MPI_THREAD_SINGLE;
  Check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "begin");
  s.threads = provided == MPI_THREAD_MULTIPLE;
  Check(MPI_Comm_dup(MPI_COMM_WORLD, &s.work), "make a communicator");
  Check(MPI_Comm_dup(MPI_COMM_WORLD, &s.watch), "make a communicator");
  MPI_Comm_set_errhandler(s.work, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(s.watch, MPI_ERRORS_RETURN);
  MPI_Comm_rank(s.work, &s.rank);
  MPI_Comm_size(s.work, &s.size);
  s.peers.resize(static_cast<std::size_t>(s.size));
  for (State::Peer& peer : s.peers) peer.heard = Seconds();
  if (s.threads) {
    s.thread = std::thread([this] { state_->WatchLoop(); });
  } else if (s.root()) {
    std::fprintf(stderr,
                 "warning: this MPI has no MPI_THREAD_MULTIPLE, so a rank that dies is noticed by "
                 "the launcher only\n");
  }
}

Comm::Mpi::~Mpi() {
  State& s = *state_;
  // Until all are here, a rank that is late may be one that died: the thread goes on watching.
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ibarrier(s.work, &request);
  s.open.push_back(request);
  try {
    Wait();
  } catch (const Error&) {
    ::_exit(static_cast<int>(ErrorCode::kWork));
  }
  s.leaving = true;
  if (s.thread.joinable()) s.thread.join();
  s.DropLetters();
  for (State::Letter& letter : s.letters) MPI_Request_free(&letter.request);
  MPI_Finalize();
}

int Comm::Mpi::rank() const { return state_->rank; }
int Comm::Mpi::size() const { return state_->size; }
void Comm::Mpi::SetHosts(std::vector<std::string> hosts) { state_->hosts = std::move(hosts); }

void Comm::Mpi::Send(int to, int tag, const void* data, idx bytes) {
  for (idx at = 0; at < bytes; at += kMaxCount) {
    const int count = static_cast<int>(std::min(kMaxCount, bytes - at));
    Check(MPI_Isend(static_cast<const char*>(data) + at, count, MPI_BYTE, to, tag, state_->work,
                    &state_->open.emplace_back()),
          "send");
  }
}

void Comm::Mpi::Recv(int from, int tag, void* data, idx bytes) {
  for (idx at = 0; at < bytes; at += kMaxCount) {
    const int count = static_cast<int>(std::min(kMaxCount, bytes - at));
    Check(MPI_Irecv(static_cast<char*>(data) + at, count, MPI_BYTE, from, tag, state_->work,
                    &state_->open.emplace_back()),
          "receive");
  }
}

void Comm::Mpi::Poll() {
  if (state_->open.empty()) return;
  int done = 0;
  Check(MPI_Testall(static_cast<int>(state_->open.size()), state_->open.data(), &done,
                    MPI_STATUSES_IGNORE),
        "move a message");
  if (done != 0) state_->open.clear();
}

void Comm::Mpi::Wait() {
  for (int spin = 0; !state_->open.empty(); ++spin) {
    Poll();
    if (spin > kSpins) std::this_thread::sleep_for(kNap);
  }
}

void Comm::Mpi::Note(const char* phase, idx step) {
  state_->phase = phase;
  state_->step = step;
}

void Comm::Mpi::Watch(double limit_s) { state_->limit_ms = static_cast<idx>(limit_s * 1000); }

void Comm::Mpi::Abort(int code, const std::string& message) {
  State& s = *state_;
  Notice notice = s.Now(Word::kError);
  notice.code = code;
  std::strncpy(notice.text, message.c_str(), sizeof(notice.text) - 1);
  if (!s.threads) s.End(code, s.NameOf(s.rank, notice) + ": " + notice.text);
  {
    const std::lock_guard lock(s.error_mutex);
    s.error = notice;
  }
  s.failed = true;
  s.thread.join();  // it does not come back
  std::abort();
}

}  // namespace opo
