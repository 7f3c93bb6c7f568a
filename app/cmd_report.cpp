// opo report, opo serve: runs, comparisons and labs as a page.
#include <chrono>
#include <filesystem>
#include <thread>

#include "app/command.h"
#include "base/error.h"
#include "base/file.h"
#include "base/utf8.h"
#include "report/report.h"
#include "report/serve.h"
#include "train/signal_guard.h"

namespace opo {
namespace {

struct ReportArguments {
  std::vector<std::string> paths;
  std::string out = "report.html";
  int port = 0;
};

void RunReport(const ReportArguments& args) {
  const std::filesystem::path page = args.out;
  std::filesystem::path twin = page;
  twin.replace_extension(".json");
  if (twin == page) {
    Fail(ErrorCode::kUsage, "-o {}: names the page, and the twin stands beside it; give a .html",
         args.out);
  }
  const Report report = ReadReport(args.paths);
  for (const std::string& notice : report.notices) {
    fmt::print(stderr, "warning: {}\n", Printable(notice));
  }
  WriteFileAtomically(page.string(), ReportPage(report));
  WriteFileAtomically(
      twin.string(),
      ReportTwin(report).dump(-1, ' ', false, ReportJson::error_handler_t::replace) + "\n");
  PrintJsonLine({{"page", page.string()},
                 {"json", twin.string()},
                 {"runs", report.runs.size()},
                 {"notices", report.notices.size()}});
}

void RunServe(const ReportArguments& args, int& exit_code) {
  const SignalGuard signals;
  const ReportServer server(args.paths, args.port);
  fmt::print("http://127.0.0.1:{}/\n", server.port());
  std::fflush(stdout);
  fmt::print(stderr, "serving on this machine only; Ctrl-C ends it\n");
  while (signals.caught() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  // Ctrl-C is how it is meant to end.
  if (signals.caught() != SIGINT) exit_code = 128 + signals.caught();
}

}  // namespace

void AddReport(CLI::App& app, int&) {
  auto args = std::make_shared<ReportArguments>();
  CLI::App* verb = app.add_subcommand("report", "runs, comparisons and labs as one HTML file");
  verb->add_option("run", args->paths,
                   "folders of runs, or of a comparison, a variance lab or an evaluation; or their "
                   "files (metrics.jsonl, compare.json, variance.json, eval.json)")
      ->required();
  verb->add_option("-o,--out", args->out, "the page; its machine-readable twin is put beside it")
      ->capture_default_str();
  verb->footer(
      "The page needs no network and opens from disk; docs/report.md describes it and the twin.\n"
      "A run writes its own, RUN/report.html, every monitor.report_every steps.");
  verb->callback([args] { RunReport(*args); });
}

void AddServe(CLI::App& app, int& exit_code) {
  auto args = std::make_shared<ReportArguments>();
  CLI::App* verb = app.add_subcommand(
      "serve", "the report of a run that goes on, over HTTP, for this machine alone");
  verb->add_option("run", args->paths, "what `opo report` takes")->required();
  verb->add_option("--port", args->port, "on 127.0.0.1; 0: a free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  verb->footer("The URL is the line on stdout. Ctrl-C ends it with exit code 0.");
  verb->callback([args, &exit_code] { RunServe(*args, exit_code); });
}

}  // namespace opo
