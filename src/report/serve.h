// A report over HTTP for this machine alone, made anew when its files change.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace opo {

// Listens on 127.0.0.1 while it lives. Answers GET of / and /report.json, and nothing else; a
// request whose Host is not this very address is refused, so that no page of another site can read
// it by way of a name that it points here.
class ReportServer {
 public:
  // Port 0: a free one. Throws Error(kInput) where there is nothing to report (report.h), and
  // Error(kWork) where the port cannot be had.
  ReportServer(std::vector<std::string> paths, int port);
  ReportServer(const ReportServer&) = delete;
  ReportServer& operator=(const ReportServer&) = delete;
  ~ReportServer();
  int port() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace opo
