#include "base/error.h"
#include "comm/mpi.h"

namespace opo {

struct Comm::Mpi::State {};

std::unique_ptr<Comm::Mpi> Comm::Mpi::Join() {
  Fail(ErrorCode::kUsage,
       "a launcher started {} processes, but this program was built without MPI: install "
       "libopenmpi-dev (or libmpich-dev) and build it again",
       LauncherSize());
}

std::string Comm::Mpi::Library() { return "none"; }

// Nobody gets here: Join() is the only way to one.
Comm::Mpi::Mpi() = default;
Comm::Mpi::~Mpi() = default;
int Comm::Mpi::rank() const { return 0; }
int Comm::Mpi::size() const { return 1; }
void Comm::Mpi::SetHosts(std::vector<std::string>) {}
void Comm::Mpi::Send(int, int, const void*, idx) {}
void Comm::Mpi::Recv(int, int, void*, idx) {}
void Comm::Mpi::Poll() {}
void Comm::Mpi::Wait() {}
void Comm::Mpi::Note(const char*, idx) {}
void Comm::Mpi::Watch(double) {}
void Comm::Mpi::Abort(int code, const std::string&) { std::exit(code); }

}  // namespace opo
