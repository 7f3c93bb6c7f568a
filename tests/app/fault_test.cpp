// Faults of the world and a run: full disks, damaged files, a second process, numbers that are not
// finite, too little memory. Afterwards nothing is lost, and the bits are those of a run without.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <functional>
#include <map>

#include "app/program.h"

namespace opo {
namespace {

namespace fs = std::filesystem;

// Six steps with a checkpoint after every second one.
std::vector<std::string> ShortRun(const std::string& dir,
                                  const std::vector<std::string>& more = {}) {
  return WithSettings(
      WithSettings({"train", Example("tiny.toml"), "--quiet"},
                   {"run.dir=" + dir, "train.steps=6", "checkpoint.every=2", "run.threads=2",
                    "rollout.prompts=8", "rollout.samples=4", "run.memory_mb=200"}),
      more);
}

std::vector<std::string> Resumed(const std::string& dir,
                                 const std::vector<std::string>& more = {}) {
  return WithSettings({"train", "--resume", dir, "--quiet"}, more);
}

std::string DigestOf(const ProgramResult& result) {
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return result.exit_code == 0 ? result.last_line()["weights_digest"].get<std::string>() : "none";
}

// OPO_FAULT for the programs that are started while it lives.
class WithFault {
 public:
  explicit WithFault(const std::string& text) { ::setenv("OPO_FAULT", text.c_str(), 1); }
  WithFault(const WithFault&) = delete;
  WithFault& operator=(const WithFault&) = delete;
  ~WithFault() { ::unsetenv("OPO_FAULT"); }
};

// A lower soft limit for the programs that are started while it lives.
class WithLimit {
 public:
  WithLimit(__rlimit_resource resource, rlim_t value) : resource_(resource) {
    ::getrlimit(resource, &before_);
    rlimit lower = before_;
    lower.rlim_cur = value;
    ::setrlimit(resource, &lower);
  }
  WithLimit(const WithLimit&) = delete;
  WithLimit& operator=(const WithLimit&) = delete;
  ~WithLimit() { ::setrlimit(resource_, &before_); }

 private:
  __rlimit_resource resource_;
  rlimit before_{};
};

class Faults : public testing::Test {
 protected:
  ScratchFolder scratch_;

  // The run that nothing happened to.
  static const std::string& Undisturbed() {
    static const ScratchFolder folder;
    static const std::string dir = folder / "run";
    static const ProgramResult result = RunProgram(ShortRun(dir));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return dir;
  }
  static std::string Want() {
    return StepsOf(Undisturbed()).back()["exact/weights_digest"].get<std::string>();
  }

  // Goes on, or begins where there is no run yet, and compares everything with the undisturbed run.
  static std::string ExpectFinishesAlike(const std::string& dir) {
    const bool begun = fs::exists(dir + "/manifest.json");
    const ProgramResult result = RunProgram(begun ? Resumed(dir) : ShortRun(dir));
    EXPECT_EQ(DigestOf(result), Want());
    EXPECT_EQ(StepsOf(dir), StepsOf(Undisturbed()));
    EXPECT_EQ(ReadText(dir + "/samples.jsonl"), ReadText(Undisturbed() + "/samples.jsonl"));
    EXPECT_TRUE(fs::exists(dir + "/model/model.safetensors"));
    return result.err;
  }

  void ExpectStopsAndGoesOn(const std::string& dir, const std::string& fault,
                            const std::string& reason) {
    ProgramResult result;
    {
      const WithFault with(fault);
      result = RunProgram(ShortRun(dir));
    }
    EXPECT_EQ(result.exit_code, 1) << fault << "\n" << result.err;
    EXPECT_NE(result.err.find(reason), std::string::npos) << result.err;
    EXPECT_NE(result.err.find(dir, result.err.rfind("\nopo: ")), std::string::npos)
        << "the file is to be named: " << result.err;
    ExpectFinishesAlike(dir);
  }
};

TEST_F(Faults, AFullDiskAnywhereStopsTheRunAndLosesNothing) {
  // A run writes about 4.4 MB: config, manifest, lines, and three checkpoints of 1.4 MB.
  for (const int after : {0, 11400, 12000, 400000, 1300000, 1500000, 4100000}) {
    ExpectStopsAndGoesOn(scratch_ / std::to_string(after),
                         "write:ENOSPC:after=" + std::to_string(after), "No space left on device");
  }
}

TEST_F(Faults, AQuotaIsAsAFullDisk) {
  ExpectStopsAndGoesOn(scratch_ / "quota", "write:EDQUOT:after=2100000", "Disk quota exceeded");
  // The largest file a process may write, in the system's hands: EFBIG, and a signal.
  const std::string dir = scratch_ / "limit";
  ProgramResult result;
  {
    const WithLimit limit(RLIMIT_FSIZE, 300000);
    result = RunProgram(ShortRun(dir));
  }
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_NE(result.err.find("model.safetensors: cannot be written: File too large"),
            std::string::npos)
      << result.err;
  ExpectFinishesAlike(dir);
}

TEST_F(Faults, AFailingSyncStopsTheRun) {
  for (const int nth : {1, 3, 6, 11, 24}) {
    ExpectStopsAndGoesOn(scratch_ / std::to_string(nth), "fsync:EIO:nth=" + std::to_string(nth),
                         "cannot be synced: Input/output error");
  }
}

TEST_F(Faults, LinesAreOnTheDiskBeforeTheCheckpointOfTheirStep) {
  for (const char* file : {"metrics.jsonl", "samples.jsonl", "rewards.jsonl", "tfevents"}) {
    const std::string dir = scratch_ / ("run of " + std::string(file).substr(0, 4));
    // The first sync of the lines is that of the file itself, when it is made.
    const bool events = std::string(file) == "tfevents";
    ExpectStopsAndGoesOn(dir, std::string("fsync:EIO:path=") + file + (events ? "" : ":nth=2"),
                         "cannot be synced");
  }
  const WithFault with("fsync:EIO:path=metrics.jsonl:nth=2");
  EXPECT_EQ(RunProgram(ShortRun(scratch_ / "again")).exit_code, 1);
  EXPECT_TRUE(fs::is_empty(scratch_ / "again/checkpoints"));
}

TEST_F(Faults, ShortAndInterruptedWritesChangeNothing) {
  const std::string dir = scratch_ / "short";
  {
    const WithFault with("short:write:count=0;write:EINTR:nth=5:count=3");
    EXPECT_EQ(DigestOf(RunProgram(ShortRun(dir))), Want());
  }
  ExpectFinishesAlike(dir);
}

// What was not synced is gone, to the byte or in part: the folder as it is after a power cut.
TEST_F(Faults, APowerCutLosesNoLineOfACheckpoint) {
  const std::string dir = scratch_ / "cut";
  std::map<std::string, std::uintmax_t> synced;
  {
    const WithFault with("kill:checkpoint-renamed:nth=2");
    EXPECT_EQ(RunProgram(ShortRun(dir)).exit_code, 128 + SIGKILL);
  }
  const std::vector<std::string> files = {"metrics.jsonl", "samples.jsonl", "rewards.jsonl"};
  for (const std::string& name : files) synced[name] = fs::file_size(dir + "/" + name);
  for (const std::uintmax_t torn : {0, 1, 100, 2000}) {
    {
      const WithFault with("kill:before-rename:path=step_000006.partial/model");
      EXPECT_EQ(RunProgram(Resumed(dir)).exit_code, 128 + SIGKILL);
    }
    for (const std::string& name : files) {
      EXPECT_GT(fs::file_size(dir + "/" + name), synced[name]);
      const auto left = std::min(synced[name] + torn, fs::file_size(dir + "/" + name));
      fs::resize_file(dir + "/" + name, left);
      fs::resize_file(dir + "/" + name, left + torn);  // blocks that were never written
    }
  }
  ExpectFinishesAlike(dir);
}

// All steps were taken and saved; the resume has nothing to do but that.
TEST_F(Faults, AReportThatAKillInterruptedIsWritten) {
  const std::string dir = scratch_ / "report";
  {
    const WithFault with("kill:before-rename:path=report.html");
    EXPECT_EQ(RunProgram(ShortRun(dir, {"monitor.report_every=100"})).exit_code, 128 + SIGKILL);
  }
  EXPECT_FALSE(fs::exists(dir + "/report.html"));
  EXPECT_TRUE(fs::exists(dir + "/report.html.partial"));
  EXPECT_NE(DigestOf(RunProgram(Resumed(dir))), "none");
  EXPECT_TRUE(fs::exists(dir + "/report.html"));
  EXPECT_FALSE(fs::exists(dir + "/report.html.partial"));
}

// A file system of this size for one test; only root may mount one.
class TinyDisk {
 public:
  TinyDisk(const std::string& dir, const std::string& size) : dir_(dir) {
    fs::create_directories(dir);
    ok_ = ::mount("tmpfs", dir.c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
  }
  TinyDisk(const TinyDisk&) = delete;
  TinyDisk& operator=(const TinyDisk&) = delete;
  ~TinyDisk() {
    if (ok_) ::umount2(dir_.c_str(), MNT_DETACH);
  }
  bool ok() const { return ok_; }
  bool Remount(unsigned long flags, const std::string& size) const {
    return ::mount("tmpfs", dir_.c_str(), "tmpfs", MS_REMOUNT | flags, ("size=" + size).c_str()) ==
           0;
  }

 private:
  std::string dir_;
  bool ok_ = false;
};

TEST_F(Faults, ADiskThatIsReallyFull) {
  const TinyDisk disk(scratch_ / "disk", "3m");
  if (!disk.ok()) GTEST_SKIP() << "only root can mount a tmpfs to fill";
  const std::string dir = scratch_ / "disk/run";
  const ProgramResult full = RunProgram(ShortRun(dir));
  EXPECT_EQ(full.exit_code, 1);
  EXPECT_NE(full.err.find("No space left on device"), std::string::npos) << full.err;
  EXPECT_TRUE(fs::exists(dir + "/checkpoints/step_000002/manifest.json"));
  // Still full: the resume says so too, and loses nothing.
  const ProgramResult still = RunProgram(Resumed(dir));
  EXPECT_EQ(still.exit_code, 1);
  EXPECT_NE(still.err.find("No space left on device"), std::string::npos) << still.err;
  ASSERT_TRUE(disk.Remount(0, "64m"));
  ExpectFinishesAlike(dir);
}

TEST_F(Faults, AFolderThatCannotBeWritten) {
  const TinyDisk disk(scratch_ / "disk", "64m");
  if (!disk.ok()) GTEST_SKIP() << "only root can mount a tmpfs to make read-only";
  const std::string dir = scratch_ / "disk/run";
  ASSERT_TRUE(disk.Remount(MS_RDONLY, "64m"));
  const ProgramResult fresh = RunProgram(ShortRun(dir));
  EXPECT_EQ(fresh.exit_code, 1);
  EXPECT_NE(fresh.err.find("Read-only file system"), std::string::npos) << fresh.err;
  ASSERT_TRUE(disk.Remount(0, "64m"));
  {
    const WithFault with("kill:checkpoint-renamed:nth=2");
    EXPECT_EQ(RunProgram(ShortRun(dir)).exit_code, 128 + SIGKILL);
  }
  ASSERT_TRUE(disk.Remount(MS_RDONLY, "64m"));
  const ProgramResult resumed = RunProgram(Resumed(dir));
  EXPECT_EQ(resumed.exit_code, 1);
  EXPECT_NE(resumed.err.find("Read-only file system"), std::string::npos) << resumed.err;
  ASSERT_TRUE(disk.Remount(0, "64m"));
  ExpectFinishesAlike(dir);
}

TEST_F(Faults, ADamagedCheckpointIsSaidAndTheOneBeforeIsUsed) {
  const std::string dir = scratch_ / "run";
  const auto begin = [&] {
    fs::remove_all(dir);
    fs::copy(Undisturbed(), dir, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  };
  const std::string newest = "/checkpoints/step_000006";
  const std::string before = "/checkpoints/step_000004";
  const std::map<std::string, std::function<void()>> damages = {
      {"model.safetensors",
       [&] { fs::resize_file(dir + newest + "/model/model.safetensors", 5000); }},
      {"optimizer.safetensors",
       [&] {
         fs::copy_file(dir + before + "/optimizer.safetensors",
                       dir + newest + "/optimizer.safetensors",
                       fs::copy_options::overwrite_existing);
       }},
      {"tokenizer_config.json", [&] { fs::remove(dir + newest + "/model/tokenizer_config.json"); }},
      {"model/model.safetensors.index.json",
       [&] { std::ofstream(dir + newest + "/model/model.safetensors.index.json") << "{}"; }},
      {"is of step 4", [&] {
         fs::remove_all(dir + newest);
         fs::copy(dir + before, dir + newest, fs::copy_options::recursive);
       }}};
  for (const auto& [named, damage] : damages) {
    begin();
    damage();
    const std::string err = ExpectFinishesAlike(dir);
    EXPECT_NE(err.find("step_000006 is not used: "), std::string::npos) << err;
    EXPECT_NE(err.find(named), std::string::npos) << err;
  }
  begin();
  for (const auto& entry : fs::directory_iterator(dir + "/checkpoints")) {
    fs::resize_file(entry.path() / "state.json", 10);
  }
  const ProgramResult none = RunProgram(Resumed(dir));
  EXPECT_EQ(none.exit_code, 3) << none.err;
  EXPECT_NE(none.err.find("all are damaged"), std::string::npos) << none.err;
  EXPECT_EQ(StepsOf(dir).size(), 6U) << "nothing was taken away";
}

TEST_F(Faults, TheLastGoodCheckpointIsNotRotatedAway) {
  const std::string dir = scratch_ / "run";
  {
    const WithFault with("stop:checkpoint-renamed:nth=3");
    RunningProgram run(ShortRun(dir, {"checkpoint.keep_last=2"}));
    ASSERT_TRUE(run.WaitUntilStopped()) << run.Wait().err;
    // The one of step 6 is there, and nothing was removed for it yet.
    fs::resize_file(dir + "/checkpoints/step_000004/optimizer.safetensors", 100);
    run.Signal(SIGCONT);
    const ProgramResult result = run.Wait();
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_NE(result.err.find("step_000004 is not used"), std::string::npos) << result.err;
  }
  EXPECT_TRUE(fs::exists(dir + "/checkpoints/step_000002/manifest.json"));
  fs::resize_file(dir + "/checkpoints/step_000006/state.json", 1);
  const std::string err = ExpectFinishesAlike(dir);
  EXPECT_NE(err.find("step_000006 is not used"), std::string::npos) << err;
}

TEST_F(Faults, ADamagedLineOfATakenStepIsNamed) {
  const std::string dir = scratch_ / "run";
  fs::copy(Undisturbed(), dir, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  std::string text = ReadText(dir + "/metrics.jsonl");
  text[text.find('\n') + 1] = '#';
  std::ofstream(dir + "/metrics.jsonl") << text;
  const ProgramResult result = RunProgram(Resumed(dir));
  EXPECT_EQ(result.exit_code, 3) << result.err;
  EXPECT_NE(result.err.find("metrics.jsonl: line 2 is damaged"), std::string::npos) << result.err;
  EXPECT_EQ(ReadText(dir + "/metrics.jsonl"), text) << "nothing was taken away";
}

TEST_F(Faults, ASecondProcessIsKeptOutOfTheFolder) {
  const std::string dir = scratch_ / "run";
  const WithFault with("stop:checkpoint-renamed:nth=2");
  RunningProgram first(ShortRun(dir));
  ASSERT_TRUE(first.WaitUntilStopped()) << first.Wait().err;
  ::unsetenv("OPO_FAULT");
  for (const auto& args : {Resumed(dir), ShortRun(dir)}) {
    const ProgramResult second = RunProgram(args);
    EXPECT_EQ(second.exit_code, 2) << second.err;
    EXPECT_NE(second.err.find("in use by process " + std::to_string(first.pid()) + " on "),
              std::string::npos)
        << second.err;
  }
  // Reading it is nobody's harm.
  const ProgramResult reader =
      RunProgram(ShortRun(scratch_ / "other", {"model.path=" + dir + "/model", "train.steps=1"}));
  EXPECT_EQ(reader.exit_code, 0) << reader.err;
  first.Signal(SIGKILL);
  EXPECT_EQ(first.Wait().exit_code, 128 + SIGKILL);
  ExpectFinishesAlike(dir);
}

TEST_F(Faults, NonFiniteNumbersStopTheStepBeforeTheWeightsChange) {
  const std::map<std::string, std::string> found = {
      {"nan:reward:step=3:nth=2", "reward"},         {"inf:reward:step=3", "reward"},
      {"nan:advantage:step=3", "advantage"},         {"nan:gradient:step=3:index=7", "gradient"},
      {"inf:gradient:step=3:index=999", "gradient"}, {"nan:moment:step=3:index=70", "moment"},
      {"inf:weight:step=3:index=20000", "log-prob"}, {"nan:weight:step=3:index=30000", "log-prob"}};
  int number = 0;
  for (const auto& [fault, what] : found) {
    const std::string dir = scratch_ / std::to_string(number++);
    ExpectStopsAndGoesOn(dir, fault, "the " + what + " is not finite");
  }
}

TEST_F(Faults, TheBatchOfANonFiniteNumberIsWritten) {
  const std::string dir = scratch_ / "run";
  ProgramResult result;
  {
    const WithFault with("nan:reward:step=4:nth=6");
    result = RunProgram(ShortRun(dir));
  }
  EXPECT_NE(result.err.find("prompt 1, answer 1"), std::string::npos) << result.err;
  const auto batch = nlohmann::json::parse(ReadText(dir + "/nonfinite/step_000004.json"));
  EXPECT_EQ(batch["training/global_step"], 4);
  EXPECT_EQ(batch["what"], "reward");
  ASSERT_EQ(batch["groups"].size(), 8U);
  const auto& answers = batch["groups"][1]["answers"];
  ASSERT_EQ(answers.size(), 4U);
  EXPECT_EQ(answers[1]["reward"], "nan");
  EXPECT_TRUE(answers[0]["reward"].is_number());
  EXPECT_EQ(answers[0]["tokens"].size(), answers[0]["logprobs"].size());
  EXPECT_FALSE(batch["groups"][1]["prompt"].get<std::string>().empty());
  EXPECT_EQ(StepsOf(dir).size(), 3U);
}

TEST_F(Faults, ANonFiniteUpdateCanBeLeftOut) {
  for (const char* fault : {"nan:reward:step=3", "nan:advantage:step=3", "inf:gradient:step=3"}) {
    const std::string dir = scratch_ / fault;
    {
      const WithFault with(fault);
      const ProgramResult result =
          RunProgram(ShortRun(dir, {"train.on_nonfinite=skip", "train.steps=4"}));
      EXPECT_EQ(result.exit_code, 0) << result.err;
      EXPECT_NE(result.err.find("The update is left out"), std::string::npos) << result.err;
    }
    const auto steps = StepsOf(dir);
    ASSERT_EQ(steps.size(), 4U);
    EXPECT_EQ(steps[1]["training/nonfinite_skipped"], 0);
    EXPECT_EQ(steps[2]["training/nonfinite_skipped"], 1);
    EXPECT_EQ(steps[2]["exact/weights_digest"], steps[1]["exact/weights_digest"]);
    EXPECT_NE(steps[3]["exact/weights_digest"], steps[2]["exact/weights_digest"]);
    EXPECT_EQ(steps[2]["exact/mismatched_tokens"], 0);
    EXPECT_GT(steps[2]["exact/compared_tokens"].get<int>(), 0);
    EXPECT_TRUE(fs::exists(dir + "/nonfinite/step_000003.json"));
    // The count outlives the process.
    EXPECT_EQ(RunProgram(Resumed(dir, {"train.steps=5"})).exit_code, 0);
    EXPECT_EQ(StepsOf(dir).back()["training/nonfinite_skipped"], 1);
  }
  // A weight or a moment is in the next batch too.
  const WithFault with("nan:moment:step=3");
  EXPECT_EQ(RunProgram(ShortRun(scratch_ / "m", {"train.on_nonfinite=skip"})).exit_code, 1);
}

TEST_F(Faults, TooLittleMemoryIsAMessageAndNoCrash) {
  const ProgramResult refused =
      RunProgram(ShortRun(scratch_ / "plan", {"run.memory_mb=1000000000"}));
  EXPECT_EQ(refused.exit_code, 0) << "a budget that the run does not take: " << refused.err;
  const ProgramResult large = RunProgram(ShortRun(
      scratch_ / "large", {"run.memory_mb=1000000000", "model.init.hidden_size=8192",
                           "model.init.intermediate_size=65536", "model.init.num_layers=60"}));
  EXPECT_EQ(large.exit_code, 2) << large.err;
  EXPECT_NE(large.err.find("can be had here"), std::string::npos) << large.err;
  EXPECT_FALSE(fs::exists(scratch_ / "large")) << "refused before anything is written";

  int worked = 0;
  int failed = 0;
  for (int mb = 50; mb <= 170; mb += 15) {
    const std::string dir = scratch_ / std::to_string(mb);
    ProgramResult result;
    {
      const WithLimit limit(RLIMIT_AS, static_cast<rlim_t>(mb) << 20);
      result = RunProgram(ShortRun(dir, {"run.memory_mb=0", "train.steps=2"}));
    }
    (result.exit_code == 0 ? worked : failed) += 1;
    if (result.exit_code == 0) continue;
    EXPECT_TRUE(result.exit_code == 1 || result.exit_code == 2)
        << mb << " MB: " << result.exit_code << " " << result.err;
    EXPECT_NE(result.err.find("memory"), std::string::npos) << mb << " MB: " << result.err;
  }
  EXPECT_GT(worked, 0);
  EXPECT_GT(failed, 0);
}

}  // namespace
}  // namespace opo
