#include "base/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>

#include "base/clock.h"
#include "base/error.h"

namespace opo {
namespace {

constexpr std::size_t kErrTail = 2000;
constexpr uid_t kNobody = 65534;

// A descriptor that closes itself.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

struct Pipe {
  Fd read;
  Fd write;
};

Pipe MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) {
    Fail(ErrorCode::kWork, "no pipe to a program: {}", std::strerror(errno));
  }
  return {Fd(fds[0]), Fd(fds[1])};
}

void SetNonBlocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

// All that the child needs, laid out before it exists: it may only make system calls.
struct Launch {
  const char* path;
  char* const* argv;
  char* const* environment;
  const char* directory;  // null: ours
  int* fds;               // become 0, 1, 2, ...
  int num_fds;
  const std::pair<int, std::uint64_t>* limits;
  std::size_t num_limits;
  bool drop_root;
  bool die_with_thread;
  pid_t parent;
  int failure;  // the pipe that a Failure is written to
};

struct Failure {
  int error;
  char what[28];
};

[[noreturn]] void GiveUp(const Launch& launch, const char* what) {
  Failure failure = {errno, {}};
  std::strncpy(failure.what, what, sizeof(failure.what) - 1);
  [[maybe_unused]] const auto written = write(launch.failure, &failure, sizeof(failure));
  _exit(127);
}

// The child after vfork(): it shares our memory until exec, and its descriptors are its own.
[[noreturn]] void Become(Launch& launch) {
  if (setpgid(0, 0) != 0) GiveUp(launch, "setpgid");
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  // Above all targets first, so that none is overwritten before it was copied.
  launch.failure = fcntl(launch.failure, F_DUPFD_CLOEXEC, launch.num_fds);
  for (int i = 0; i < launch.num_fds; ++i) {
    launch.fds[i] = fcntl(launch.fds[i], F_DUPFD_CLOEXEC, launch.num_fds);
    if (launch.fds[i] < 0) GiveUp(launch, "fcntl");
  }
  for (int i = 0; i < launch.num_fds; ++i) {
    if (dup2(launch.fds[i], i) < 0) GiveUp(launch, "dup2");
  }
  // All others close at exec, also those that were opened without saying so (CLOSE_RANGE_CLOEXEC).
  syscall(SYS_close_range, launch.num_fds, ~0U, 4U);
  if (launch.directory != nullptr && chdir(launch.directory) != 0) GiveUp(launch, "chdir");
  for (std::size_t i = 0; i < launch.num_limits; ++i) {
    const rlimit limit = {launch.limits[i].second, launch.limits[i].second};
    const auto resource = static_cast<__rlimit_resource>(launch.limits[i].first);
    if (setrlimit(resource, &limit) != 0) GiveUp(launch, "setrlimit");
  }
  // The system calls themselves: the C library's versions change all threads of the process.
  if (launch.drop_root && (syscall(SYS_setgroups, 0, nullptr) != 0 ||
                           syscall(SYS_setresgid, kNobody, kNobody, kNobody) != 0 ||
                           syscall(SYS_setresuid, kNobody, kNobody, kNobody) != 0)) {
    GiveUp(launch, "setresuid");
  }
  if (launch.die_with_thread) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != launch.parent) _exit(127);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execve(launch.path, launch.argv, launch.environment);
  GiveUp(launch, "exec");
}

// vfork, because fork would copy the page tables of a process that holds a model.
pid_t Start(Launch& launch) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  // No handler of ours may run in the child.
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = vfork();
  if (pid == 0) Become(launch);
  const int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return pid;
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& s : strings) pointers.push_back(const_cast<char*>(s.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

std::string DescribeEnd(const siginfo_t& info) {
  if (info.si_code == CLD_EXITED) return fmt::format("exit code {}", info.si_status);
  return fmt::format("signal {} ({})", info.si_status, strsignal(info.si_status));
}

// From the line of /proc/PID/stat: the CPU ticks of a process and of its children that were waited
// for, if it is of the group; else 0.
std::uint64_t TicksOfGroup(std::string_view stat, pid_t group) {
  const std::size_t name_end = stat.rfind(')');  // a name may hold spaces and brackets
  if (name_end == std::string_view::npos) return 0;
  const char* at = stat.data() + name_end + 1;
  const char* const end = stat.data() + stat.size();
  std::uint64_t ticks = 0;
  for (int field = 3; field <= 17 && at < end; ++field) {  // numbered as in proc(5)
    while (at < end && *at == ' ') ++at;
    const char* const word = at;
    while (at < end && *at != ' ') ++at;
    std::int64_t value = 0;
    std::from_chars(word, at, value);
    if (field == 5 && value != group) return 0;
    if (field >= 14) ticks += static_cast<std::uint64_t>(std::max<std::int64_t>(value, 0));
  }
  return ticks;
}

}  // namespace

std::vector<std::string> CleanEnvironment() {
  std::vector<std::string> environment;
  for (const char* name : {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH"}) {
    const char* value = std::getenv(name);
    if (value != nullptr) environment.push_back(fmt::format("{}={}", name, value));
  }
  return environment;
}

std::string FindProgram(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    if (access(name.c_str(), X_OK) == 0) return name;
    Fail(ErrorCode::kWork, "{}: cannot be started: {}", name, std::strerror(errno));
  }
  const char* path = std::getenv("PATH");
  std::string_view folders = path == nullptr ? "/usr/local/bin:/usr/bin:/bin" : path;
  while (!folders.empty()) {
    const std::size_t end = std::min(folders.find(':'), folders.size());
    std::string candidate = fmt::format("{}/{}", folders.substr(0, end), name);
    if (end > 0 && access(candidate.c_str(), X_OK) == 0) return candidate;
    folders.remove_prefix(std::min(end + 1, folders.size()));
  }
  Fail(ErrorCode::kWork, "{}: no such program in PATH; install it, or give its path", name);
}

Process::Process(const ProcessSpec& spec) {
  OPO_CHECK(!spec.argv.empty());
  const std::string path = FindProgram(spec.argv[0]);
  Pipe in = MakePipe();
  Pipe out = MakePipe();
  Pipe err = MakePipe();
  Pipe failed = MakePipe();
  const std::vector<char*> argv = Pointers(spec.argv);
  const std::vector<char*> environment = Pointers(spec.environment);
  std::vector<int> fds = {in.read.get(), out.write.get(), err.write.get()};
  fds.insert(fds.end(), spec.pass.begin(), spec.pass.end());

  Launch launch = {};
  launch.path = path.c_str();
  launch.argv = argv.data();
  launch.environment = environment.data();
  launch.directory = spec.directory.empty() ? nullptr : spec.directory.c_str();
  launch.fds = fds.data();
  launch.num_fds = static_cast<int>(fds.size());
  launch.limits = spec.limits.data();
  launch.num_limits = spec.limits.size();
  launch.drop_root = spec.drop_root && geteuid() == 0;
  launch.parent = getpid();
  launch.die_with_thread = syscall(SYS_gettid) == getpid();
  launch.failure = failed.write.get();
  pid_ = Start(launch);
  if (pid_ < 0) {
    Fail(ErrorCode::kWork, "{}: cannot be started: {}", spec.argv[0], std::strerror(errno));
  }
  failed.write = Fd();
  Failure failure = {};
  ssize_t n = 0;
  do {
    n = read(failed.read.get(), &failure, sizeof(failure));
  } while (n < 0 && errno == EINTR);
  if (n > 0) {
    End(0);
    Fail(ErrorCode::kWork, "{}: cannot be started ({}): {}", spec.argv[0], failure.what,
         std::strerror(failure.error));
  }
  in_ = in.write.release();
  out_ = out.read.release();
  err_ = err.read.release();
  for (const int fd : {in_, out_, err_}) SetNonBlocking(fd);
}

Process::~Process() {
  End(0);
  Close(in_);
  Close(out_);
  Close(err_);
}

void Process::Close(int& fd) {
  if (fd >= 0) close(fd);
  fd = -1;
}

void Process::CloseIn() { Close(in_); }

bool Process::Write(std::string_view& text) {
  const SigpipeBlock block;
  while (!text.empty()) {
    if (in_ < 0) return false;
    const ssize_t n = write(in_, text.data(), text.size());
    if (n >= 0) {
      text.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno == EAGAIN) {
      return true;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

bool Process::Read(std::string& text, std::size_t most) {
  std::array<char, 65536> buffer;
  for (std::size_t total = 0; out_ >= 0 && total < most;) {
    const ssize_t n = read(out_, buffer.data(), buffer.size());
    if (n > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(n));
      total += static_cast<std::size_t>(n);
    } else if (n < 0 && errno == EAGAIN) {
      return true;
    } else if (n == 0 || errno != EINTR) {
      Close(out_);
    }
  }
  return out_ >= 0;
}

void Process::DrainErr() {
  std::array<char, 65536> buffer;
  // A bound, so that a program that never stops writing does not hold us here.
  for (int round = 0; err_ >= 0 && round < 16; ++round) {
    const ssize_t n = read(err_, buffer.data(), buffer.size());
    if (n > 0) {
      err_tail_.append(buffer.data(), static_cast<std::size_t>(n));
      if (err_tail_.size() > kErrTail) err_tail_.erase(0, err_tail_.size() - kErrTail);
    } else if (n < 0 && errno == EAGAIN) {
      return;
    } else if (n == 0 || errno != EINTR) {
      Close(err_);
    }
  }
}

double Process::CpuSeconds() const {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc"), closedir);
  std::uint64_t ticks = 0;
  while (const dirent* entry = folder ? readdir(folder.get()) : nullptr) {
    if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
    const Fd file(open(fmt::format("/proc/{}/stat", entry->d_name).c_str(), O_RDONLY | O_CLOEXEC));
    std::array<char, 1024> stat;
    const ssize_t n = file.get() < 0 ? -1 : read(file.get(), stat.data(), stat.size());
    if (n > 0) ticks += TicksOfGroup({stat.data(), static_cast<std::size_t>(n)}, pid_);
  }
  return static_cast<double>(ticks) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

bool Process::HasEnded() const {
  siginfo_t info = {};
  return waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
         info.si_pid == pid_;
}

void Process::Signal(int signal) const {
  if (pid_ >= 0) kill(-pid_, signal);
}

std::string Process::End(double grace_s) {
  if (pid_ < 0) return "";
  const double deadline = Seconds() + grace_s;
  bool ended = HasEnded();
  while (!ended && Seconds() < deadline) {
    const timespec millisecond = {0, 1'000'000};
    nanosleep(&millisecond, nullptr);
    ended = HasEnded();
  }
  // Before it is reaped, so that the number still stands for this group.
  kill(-pid_, SIGKILL);
  siginfo_t info = {};
  int status = 0;
  do {
    status = waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED);
  } while (status != 0 && errno == EINTR);
  pid_ = -1;
  if (status == 0) {
    exit_code_ = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
  }
  DrainErr();
  return ended && status == 0 ? DescribeEnd(info) : "";
}

SigpipeBlock::SigpipeBlock() {
  sigset_t pipe;
  sigset_t before;
  sigset_t pending;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  sigpending(&pending);
  was_pending_ = sigismember(&pending, SIGPIPE) == 1;
  pthread_sigmask(SIG_BLOCK, &pipe, &before);
  was_blocked_ = sigismember(&before, SIGPIPE) == 1;
}

SigpipeBlock::~SigpipeBlock() {
  const int error = errno;
  sigset_t pipe;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  const timespec now = {0, 0};
  if (!was_pending_) {
    while (sigtimedwait(&pipe, nullptr, &now) < 0 && errno == EINTR) {
    }
  }
  if (!was_blocked_) pthread_sigmask(SIG_UNBLOCK, &pipe, nullptr);
  errno = error;
}

}  // namespace opo
