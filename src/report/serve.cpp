#include "report/serve.h"

#include <httplib.h>

#include <filesystem>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/hash.h"
#include "report/report.h"

namespace opo {

namespace fs = std::filesystem;

namespace {

// Changes when a file does that a report may be made of. Looks at names, sizes and times only.
std::string StateOf(const std::vector<std::string>& paths) {
  std::string state;
  const auto add = [&](const fs::path& path) {
    std::error_code error;
    const auto size = fs::file_size(path, error);
    if (error) return;
    const auto time = fs::last_write_time(path, error).time_since_epoch().count();
    state += fmt::format("{} {} {}\n", path.string(), size, time);
  };
  for (const std::string& path : paths) {
    std::error_code error;
    add(path);
    auto entry = fs::recursive_directory_iterator(path, error);
    for (idx left = 20000; !error && entry != fs::end(entry) && left > 0; --left) {
      const std::string name = entry->path().filename().string();
      if (entry.depth() >= 3 || name == "checkpoints") entry.disable_recursion_pending();
      for (const char* known :
           {"metrics.jsonl", "samples.jsonl", "compare.json", "variance.json", "eval.json"}) {
        if (name == known) add(entry->path());
      }
      entry.increment(error);
    }
  }
  return "\"" + HexDigest(state) + "\"";
}

}  // namespace

struct ReportServer::Parts {
  std::vector<std::string> paths;
  int port = 0;
  httplib::Server server;
  std::thread thread;
  std::mutex mutex;  // of what follows
  std::string state, page, twin;

  // A run that is being started anew may lack a file for a moment: what was there is then kept.
  void Refresh() {
    const std::string now = StateOf(paths);
    if (now == state) return;
    const Report report = ReadReport(paths);
    page = ReportPage(report, true);
    twin = ReportTwin(report).dump(-1, ' ', false, ReportJson::error_handler_t::replace) + "\n";
    state = now;
  }

  bool IsOwnHost(const std::string& host) const {
    for (const char* name : {"127.0.0.1", "localhost"}) {
      if (host == fmt::format("{}:{}", name, port) || (port == 80 && host == name)) return true;
    }
    return false;
  }

  void Answer(const httplib::Request& request, httplib::Response& response) {
    const std::lock_guard<std::mutex> lock(mutex);
    try {
      Refresh();
    } catch (const Error& error) {
      if (page.empty()) {
        response.status = 500;
        return response.set_content(error.what(), "text/plain; charset=utf-8");
      }
    }
    response.set_header("ETag", state);
    if (request.get_header_value("If-None-Match") == state) {
      response.status = 304;
      return;
    }
    const bool json = request.path == "/report.json";
    response.set_content(json ? twin : page,
                         json ? "application/json" : "text/html; charset=utf-8");
  }
};

ReportServer::ReportServer(std::vector<std::string> paths, int port)
    : parts_(std::make_unique<Parts>()) {
  Parts& parts = *parts_;
  parts.paths = std::move(paths);
  parts.Refresh();
  httplib::Server& server = parts.server;
  server.new_task_queue = [] { return new httplib::ThreadPool(4); };
  // Not the library's SO_REUSEPORT, with which two servers would share a port.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  server.set_payload_max_length(0);
  server.set_read_timeout(5);
  server.set_write_timeout(10);
  server.set_keep_alive_timeout(5);
  server.set_default_headers({{"X-Content-Type-Options", "nosniff"},
                              {"X-Frame-Options", "DENY"},
                              {"Cross-Origin-Resource-Policy", "same-origin"},
                              {"Referrer-Policy", "no-referrer"},
                              {"Cache-Control", "no-store"}});
  server.set_pre_routing_handler(
      [&parts](const httplib::Request& request, httplib::Response& response) {
        using Handled = httplib::Server::HandlerResponse;
        const auto refuse = [&](int status, const char* why) {
          response.status = status;
          response.set_content(why, "text/plain; charset=utf-8");
          return Handled::Handled;
        };
        if (request.get_header_value_count("Host") != 1 ||
            !parts.IsOwnHost(request.get_header_value("Host"))) {
          return refuse(403, "this report answers on its own address only\n");
        }
        if (request.method != "GET") return refuse(405, "only GET\n");
        if (request.path != "/" && request.path != "/report.json") {
          return refuse(404, "there are / and /report.json\n");
        }
        return Handled::Unhandled;
      });
  const auto answer = [&parts](const httplib::Request& request, httplib::Response& response) {
    parts.Answer(request, response);
  };
  server.Get("/", answer);
  server.Get("/report.json", answer);
  parts.port = port;
  if (port == 0) {
    parts.port = server.bind_to_any_port("127.0.0.1");
  } else if (!server.bind_to_port("127.0.0.1", port)) {
    parts.port = -1;
  }
  if (parts.port < 0) {
    Fail(ErrorCode::kWork,
         "--port {}: cannot be had on 127.0.0.1; give another, or 0 for a free one", port);
  }
  parts.thread = std::thread([&server] { server.listen_after_bind(); });
  while (!server.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

ReportServer::~ReportServer() {
  parts_->server.stop();
  parts_->thread.join();
}

int ReportServer::port() const { return parts_->port; }

}  // namespace opo
