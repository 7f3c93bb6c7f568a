#include "reward/sandbox.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <vector>

#include "base/error.h"

namespace opo {
namespace {

#if defined(__x86_64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "the system calls of this architecture are not known here"
#endif

// Refused with EPERM. Not in the list: what the namespaces and the missing capabilities take care
// of already, unless it is a door to much of the kernel.
constexpr std::uint32_t kRefused[] = {
    // Other processes.
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_process_madvise,
    SYS_kcmp,
    SYS_pidfd_getfd,
    // Namespaces, mounts, roots.
    SYS_unshare,
    SYS_setns,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_move_mount,
    SYS_open_tree,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_mount_setattr,
    // Parts of the kernel with a history.
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_fanotify_init,
    SYS_name_to_handle_at,
    SYS_open_by_handle_at,
    SYS_seccomp,
    // The machine.
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_syslog,
    SYS_acct,
    SYS_quotactl,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_clock_adjtime,
    SYS_adjtimex,
    SYS_sethostname,
    SYS_setdomainname,
    // Sockets but for pairs of them.
    SYS_socket,
    SYS_bind,
    SYS_connect,
    // Memory that no limit of a process counts.
    SYS_memfd_create,
    SYS_shmget,
    SYS_msgget,
    SYS_semget,
    SYS_mq_open,
#if defined(__x86_64__)
    SYS_iopl,
    SYS_ioperm,
    SYS_modify_ldt,
    SYS_uselib,
    SYS_ustat,
    SYS_sysfs,
    SYS_create_module,
#endif
};

constexpr std::uint32_t kNewNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS |
                                         CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

sock_filter Load(std::size_t offset) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset));
}
sock_filter Return(std::uint32_t action) { return BPF_STMT(BPF_RET | BPF_K, action); }

// A classic BPF program over seccomp_data.
std::vector<sock_filter> Filter() {
  constexpr std::uint32_t kRefuse = SECCOMP_RET_ERRNO | EPERM;
  std::vector<sock_filter> filter;
  const auto jump = [&](std::uint16_t test, std::uint32_t value, std::uint8_t skip_if,
                        std::uint8_t skip_else) {
    filter.push_back(
        BPF_JUMP(static_cast<std::uint16_t>(BPF_JMP | test | BPF_K), value, skip_if, skip_else));
  };
  // System calls of another architecture (32 bits) have other numbers.
  filter.push_back(Load(offsetof(seccomp_data, arch)));
  jump(BPF_JEQ, kArchitecture, 1, 0);
  filter.push_back(Return(SECCOMP_RET_KILL_PROCESS));
  filter.push_back(Load(offsetof(seccomp_data, nr)));
#if defined(__x86_64__)
  constexpr std::uint32_t kX32Bit = 0x40000000;  // and so has x32
  jump(BPF_JGE, kX32Bit, 0, 1);
  filter.push_back(Return(SECCOMP_RET_KILL_PROCESS));
#endif
  for (const std::uint32_t call : kRefused) {
    jump(BPF_JEQ, call, 0, 1);
    filter.push_back(Return(kRefuse));
  }
  // Its flags lie in memory, where no filter can look; without it the C library takes clone.
  jump(BPF_JEQ, SYS_clone3, 0, 1);
  filter.push_back(Return(SECCOMP_RET_ERRNO | ENOSYS));
  jump(BPF_JEQ, SYS_clone, 0, 3);
  filter.push_back(Load(offsetof(seccomp_data, args[0])));  // the lower half: little-endian
  jump(BPF_JSET, kNewNamespaces, 0, 1);
  filter.push_back(Return(kRefuse));
  filter.push_back(Return(SECCOMP_RET_ALLOW));
  return filter;
}

// The folders of programs and libraries: links into /usr, or folders of their own.
void AddSystem(std::vector<std::string>& argv) {
  namespace fs = std::filesystem;
  const auto add = [&](std::initializer_list<std::string> words) {
    argv.insert(argv.end(), words);
  };
  add({"--ro-bind", "/usr", "/usr"});
  for (const char* name : {"/bin", "/lib", "/lib64"}) {
    std::error_code error;
    if (fs::is_symlink(name, error)) {
      add({"--symlink", fs::read_symlink(name, error).string(), name});
    } else if (fs::is_directory(name, error)) {
      add({"--ro-bind", name, name});
    }
  }
  for (const char* name : {"/etc/alternatives", "/etc/ld.so.cache"}) {
    add({"--ro-bind-try", name, name});
  }
}

}  // namespace

std::unique_ptr<Process> StartPython(std::string_view script, idx memory_mb) {
  constexpr std::uint64_t kMb = 1024 * 1024;
  ProcessSpec spec;
  // One word each, as bubblewrap reads them.
  spec.argv = {"bwrap",         "--unshare-user", "--unshare-all", "--die-with-parent",
               "--new-session", "--clearenv",     "--cap-drop",    "ALL",
               "--uid",         "65534",          "--gid",         "65534",
               "--hostname",    "sandbox"};
  AddSystem(spec.argv);
  const std::string files = std::to_string(kSandboxFilesMb * static_cast<idx>(kMb));
  // Hash seeds and threads of numerical libraries are fixed, so that verdicts repeat.
  for (const char* word : {"--dev",
                           "/dev",
                           "--remount-ro",
                           "/dev",
                           "--size",
                           files.c_str(),
                           "--tmpfs",
                           "/tmp",
                           "--chdir",
                           "/tmp",
                           "--remount-ro",
                           "/",
                           "--setenv",
                           "PATH",
                           "/usr/bin:/bin",
                           "--setenv",
                           "HOME",
                           "/tmp",
                           "--setenv",
                           "LANG",
                           "C.UTF-8",
                           "--setenv",
                           "PYTHONHASHSEED",
                           "0",
                           "--setenv",
                           "PYTHONDONTWRITEBYTECODE",
                           "1",
                           "--setenv",
                           "OPENBLAS_NUM_THREADS",
                           "1",
                           "--setenv",
                           "OMP_NUM_THREADS",
                           "1",
                           "--seccomp",
                           "3",
                           "--",
                           "/usr/bin/python3",
                           "-s",
                           "-c"}) {
    spec.argv.emplace_back(word);
  }
  spec.argv.emplace_back(script);
  spec.environment = {"PATH=/usr/local/bin:/usr/bin:/bin"};
  spec.directory = "/";
  spec.drop_root = true;  // limits of processes do not bind root, by whatever name it goes inside
  spec.limits = {{RLIMIT_FSIZE, static_cast<std::uint64_t>(kSandboxFilesMb) * kMb},
                 {RLIMIT_NOFILE, 64},
                 {RLIMIT_CORE, 0},
                 {RLIMIT_MSGQUEUE, 0}};
  if (memory_mb > 0) {
    spec.limits.emplace_back(RLIMIT_AS, static_cast<std::uint64_t>(memory_mb) * kMb);
  }

  // A pipe holds the filter: bubblewrap reads it to its end, and nobody else may share its place.
  const std::vector<sock_filter> filter = Filter();
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) Fail(ErrorCode::kWork, "no pipe for the sandbox's filter");
  const std::size_t bytes = filter.size() * sizeof(filter[0]);
  const bool written = write(fds[1], filter.data(), bytes) == static_cast<ssize_t>(bytes);
  close(fds[1]);
  spec.pass = {fds[0]};
  std::unique_ptr<Process> process;
  try {
    if (!written) Fail(ErrorCode::kWork, "the sandbox's filter does not fit into a pipe");
    process = std::make_unique<Process>(spec);
  } catch (...) {
    close(fds[0]);
    throw;
  }
  close(fds[0]);
  return process;
}

}  // namespace opo
