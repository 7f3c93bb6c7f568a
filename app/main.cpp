// opo: reinforcement-learning post-training of language models, exactly on policy, on CPUs.
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>

#include "app/command.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/utf8.h"
#include "comm/comm.h"

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a quota's write fails with EFBIG, and says so
  CLI::App app{"opo: RL post-training of language models, exactly on policy, on CPUs"};
  app.name("opo");
  app.require_subcommand(1);
  app.set_version_flag("--version", "opo 0.1.0");
  app.footer(
      "Machine-readable output goes to stdout, everything for people to stderr.\n"
      "Exit codes: 0 done, 1 the work failed, 2 bad usage or config, 3 bad input file, 4 the "
      "exactness\n"
      "contract was broken, 128+n stopped by signal n after a checkpoint.\n"
      "`opo VERB --help` explains a verb; `opo train --print-config` lists every setting.");
  int exit_code = 0;
  opo::AddTrain(app, exit_code);
  opo::AddReplay(app, exit_code);
  opo::AddCompare(app, exit_code);
  opo::AddReport(app, exit_code);
  opo::AddServe(app, exit_code);
  opo::AddEval(app, exit_code);
  opo::AddGenerate(app, exit_code);
  opo::AddChat(app, exit_code);
  opo::AddTokenize(app, exit_code);
  opo::AddRender(app, exit_code);
  opo::AddLogprobs(app, exit_code);
  opo::AddData(app, exit_code);
  opo::AddInit(app, exit_code);
  opo::AddConvert(app, exit_code);
  opo::AddPlan(app, exit_code);
  opo::AddVerify(app, exit_code);
  opo::AddAlgorithms(app, exit_code);
  opo::AddExplain(app, exit_code);
  opo::AddDoctor(app, exit_code);
  opo::AddBench(app, exit_code);
  opo::AddSoak(app, exit_code);
  opo::AddVariance(app, exit_code);
  const auto fail = [](opo::ErrorCode code, const std::string& said) {
    const std::string message = opo::Printable(said);
    // Before they join, all ranks say the same.
    if (opo::Comm::Joined()) opo::Comm::World().Abort(code, message);
    if (opo::Comm::LauncherRank() == 0) std::fprintf(stderr, "opo: %s\n", message.c_str());
    return static_cast<int>(code);
  };
  // What a verb that is made for one process does when a launcher starts it many times.
  app.parse_complete_callback([&app] {
    const int ranks = opo::Comm::LauncherSize();
    if (ranks == 1 || app.get_subcommands().empty()) return;
    const std::string verb = app.get_subcommands().front()->get_name();
    for (const char* shared : {"train", "sft", "rm", "dpo", "eval", "generate", "replay"}) {
      if (verb == shared) return;
    }
    if (verb == "bench" && app.get_subcommands().front()->got_subcommand("scale")) return;
    opo::Fail(opo::ErrorCode::kUsage,
              "{}: runs as one process, and {} were started; leave out the launcher", verb, ranks);
  });
  try {
    opo::SetFaultsFromEnvironment();
    app.parse(argc, argv);
    std::fflush(stdout);
    return exit_code;
  } catch (const CLI::ParseError& e) {
    if (opo::Comm::LauncherRank() > 0) return static_cast<int>(opo::ErrorCode::kUsage);
    return app.exit(e) == 0 ? 0 : static_cast<int>(opo::ErrorCode::kUsage);
  } catch (const opo::Error& e) {
    return fail(e.code(), e.what());
  } catch (const std::bad_alloc&) {
    return fail(opo::ErrorCode::kWork,
                "out of memory: free some, raise the limit (ulimit -v, the container's), or set a "
                "smaller run.memory_mb, rollout.slots or run.threads; `opo plan` says what a run "
                "takes");
  } catch (const std::exception& e) {
    return fail(opo::ErrorCode::kWork, fmt::format("internal error: {}", e.what()));
  }
}
