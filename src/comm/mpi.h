// MPI behind Comm (comm.h): mpi.cpp where the program is built with one, no_mpi.cpp elsewhere.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/comm.h"

namespace opo {

class Comm::Mpi {
 public:
  // Throws Error(kUsage) where there is no MPI.
  static std::unique_ptr<Mpi> Join();
  static std::string Library();  // its name and version
  Mpi();
  Mpi(const Mpi&) = delete;
  Mpi& operator=(const Mpi&) = delete;
  ~Mpi();

  int rank() const;
  int size() const;
  void SetHosts(std::vector<std::string> hosts);
  void Send(int to, int tag, const void* data, idx bytes);
  void Recv(int from, int tag, void* data, idx bytes);
  void Poll();
  void Wait();
  void Note(const char* phase, idx step);
  void Watch(double limit_s);
  [[noreturn]] void Abort(int code, const std::string& message);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace opo
