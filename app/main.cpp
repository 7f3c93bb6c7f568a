// opo: reinforcement-learning post-training of language models, exactly on policy, on CPUs.
#include <cstdio>
#include <exception>

#include "app/command.h"
#include "base/error.h"
#include "base/utf8.h"

int main(int argc, char** argv) {
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
  opo::AddDoctor(app, exit_code);
  opo::AddBench(app, exit_code);
  opo::AddSoak(app, exit_code);
  try {
    app.parse(argc, argv);
    std::fflush(stdout);
    return exit_code;
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : static_cast<int>(opo::ErrorCode::kUsage);
  } catch (const opo::Error& e) {
    std::fprintf(stderr, "opo: %s\n", opo::Printable(e.what()).c_str());
    return static_cast<int>(e.code());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "opo: out of memory\n");
    return static_cast<int>(opo::ErrorCode::kWork);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "opo: internal error: %s\n", opo::Printable(e.what()).c_str());
    return static_cast<int>(opo::ErrorCode::kWork);
  }
}
