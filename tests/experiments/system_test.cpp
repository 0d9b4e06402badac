// The programs on systems that refuse them things: streams that cannot be written to, threads, file
// systems without links, locks and synced folders, folders that may only be read.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "engine/io/json.h"
#include "tests/harness/program.h"

namespace sidechannel::harness {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTiny =
    " --length 16 --depth 3 --channels 4 --iterations 20 --probe-iterations 5 --map-samples 64 "
    "--batch 2 --probe-width 4 --log-every 10 --device cpu ";

class OnABadSystem : public testing::Test {
 protected:
  // One run of localization in a shell line: RUN stands for it.
  ProgramResult shell(const std::string& line) const {
    return run_shell(fmt::format("cd {}; RUN='{}'; {}", folder_.path().string(),
                                 std::string("run --out run") + kTiny, line));
  }
  // Whether the library is here that refuses a program things; not among programs that were carried
  // to another machine.
  static bool has_limits() { return run_shell("[ -e $LIMITS ]").code == 0; }
  bool finished(const std::string& name = "run") const {
    return fs::exists(folder_.path() / name / "summary.json");
  }
  std::string content(const std::string& name) const { return content_of(folder_.path() / name); }

  TemporaryFolder folder_;
};

TEST_F(OnABadSystem, ARunOutlivesAStderrThatTakesNothing) {
  for (const char* stderr_of : {"2>/dev/full", "2>&-", "<&- >/dev/null 2>&-", "2> >(exec true)"}) {
    fs::remove_all(folder_.path() / "run");
    const ProgramResult result = shell(fmt::format("$BIN/localization $RUN {}", stderr_of));
    EXPECT_EQ(result.code, 0) << stderr_of;
    EXPECT_TRUE(finished()) << stderr_of;
  }
}

TEST_F(OnABadSystem, LinesThatStdoutDoesNotTakeAreAFailureOfAFinishedRun) {
  for (const auto& [stdout_of, reason] :
       {std::pair{">/dev/full", "No space left on device"}, {">&-", "Bad file descriptor"}}) {
    fs::remove_all(folder_.path() / "run");
    const ProgramResult result = shell(fmt::format("$BIN/localization $RUN {}", stdout_of));
    EXPECT_EQ(result.code, 1) << stdout_of;
    EXPECT_TRUE(
        ends(result.err, fmt::format("localization: cannot write standard output: {}\n", reason)));
    EXPECT_TRUE(finished()) << stdout_of;
  }
  for (const char* command : {"--help", "--version", "run --help"}) {
    EXPECT_EQ(shell(fmt::format("$BIN/localization {} >/dev/full", command)).code, 1) << command;
    EXPECT_EQ(shell(fmt::format("$BIN/localization {} >/dev/null", command)).code, 0) << command;
  }
}

TEST_F(OnABadSystem, NoFileTakesTheNumberOfAClosedStream) {
  EXPECT_EQ(shell("$BIN/localization $RUN <&- >&- 2>&-").code, 1);
  ASSERT_TRUE(finished());
  ASSERT_EQ(shell("$BIN/localization ${RUN/out run/out other}").code, 0);
  expect_same_files(folder_ / "run", folder_ / "other",
                    {"config.json", "metrics.jsonl", "model.safetensors"});
}

TEST_F(OnABadSystem, AReaderThatHasGoneIsOneLine) {
  // The reader has ended before the program begins.
  const ProgramResult result = shell(
      "mkfifo gone; (exec 3>gone; sleep 0.3; exec $BIN/localization $RUN >&3 3>&-) & exec 4<gone; "
      "exec 4<&-; wait $!");
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(ends(result.err, "localization: cannot write standard output: Broken pipe\n"));
  EXPECT_TRUE(finished());
}

TEST_F(OnABadSystem, PredictionsGoWhereTheUserSays) {
  ASSERT_EQ(shell("$BIN/localization $RUN").code, 0);
  const std::string predict = fmt::format(
      "PREDICT='$BIN/localization predict --device cpu --model run/model.safetensors --input "
      "{} --output'; ",
      (folder_.path() / "x.npy").string());
  // [1, 16] of f32.
  std::string x = "\x93NUMPY\x01";
  x += std::string("\0v\0", 3) + "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 16), }";
  x.resize(127, ' ');
  x += '\n' + std::string(64, '\0');
  FILE* const file = std::fopen((folder_.path() / "x.npy").c_str(), "wb");
  std::fwrite(x.data(), 1, x.size(), file);
  std::fclose(file);

  ASSERT_EQ(shell(predict + "eval $PREDICT y.npy").code, 0);
  const std::string y = content("y.npy");
  ASSERT_EQ(y.size(), x.size());
  for (const char* name : {"-", "/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"}) {
    EXPECT_EQ(shell(predict + "eval $PREDICT " + name).out, y) << name;
    EXPECT_EQ(shell(predict + "eval $PREDICT " + name + " | cat").out, y) << name;
    EXPECT_EQ(shell(predict + "eval $PREDICT " + name + " >/dev/full").code, 1) << name;
  }
  EXPECT_FALSE(fs::exists(folder_.path() / "-"));
  EXPECT_EQ(shell(predict + "eval $PREDICT /dev/full").err,
            "localization: cannot write /dev/full: No space left on device\n");
  EXPECT_EQ(shell(predict + "for i in 1 2 3 4 5 6 7 8; do eval $PREDICT at-once.npy & all+=($!); "
                            "done; for one in ${all[@]}; do wait $one || exit; done")
                .code,
            0);
  EXPECT_EQ(content("at-once.npy"), y);
}

TEST_F(OnABadSystem, FewerThreadsThanAskedForAreALine) {
  if (!has_limits()) GTEST_SKIP() << "no libsidechannel_limits.so beside the programs";
  ASSERT_EQ(shell("$BIN/localization $RUN").code, 0);
  const ProgramResult result = shell(
      "LD_PRELOAD=$LIMITS MOST_THREADS=3 $BIN/localization ${RUN/out run/out few} "
      "--threads 16");
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(begins(result.err, "cpu: 4 of 16 threads, since the system makes no more\n"));
  expect_same_files(folder_ / "few", folder_ / "run", {"model.safetensors"});
}

TEST_F(OnABadSystem, FewerProcessesThanAskedForDoTheSameCells) {
  if (!has_limits()) GTEST_SKIP() << "no libsidechannel_limits.so beside the programs";
  const auto overlap = [&](const std::string& most) {
    return shell(
        fmt::format("LD_PRELOAD=$LIMITS MOST_CHILDREN={0} $BIN/overlap run --out {0} "
                    "--overlaps 1,2,3,4 --depth 3 --channels 4 --iterations 5 --batch 2 "
                    "--jobs 4 --threads 4 --device cpu",
                    most));
  };
  for (const std::string most : {"1", "2", "5"}) {
    const ProgramResult result = overlap(most);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(content(most + "/overlap.npy"), content("1/overlap.npy"));
  }
  harness::expect_refusal(overlap("0"), "overlap", 1,
                          "cannot start a process: Resource temporarily unavailable; `overlap run "
                          "--cell 0` and so on need none");
}

TEST_F(OnABadSystem, ASweepRunsWhereItsChildrenAreIgnoredAndUnderAnyName) {
  const std::string run =
      "trap '' CHLD; timeout 60 $BIN/overlap run --depth 3 --channels 4 --iterations 5 --batch 2 "
      "--device cpu --out=--x --overlaps ";
  EXPECT_EQ(shell(run + "1,2").code, 0);
  // A cell that takes nothing, not even why it failed, fails alone.
  EXPECT_EQ(shell("rm -r ./--x/overlap-001 && touch ./--x/overlap-001").code, 0);
  const ProgramResult failed = shell(run + "1,2,3");
  EXPECT_EQ(failed.code, 1);
  EXPECT_TRUE(has(failed.err, "1 of 3 cells failed (overlap-001: cannot create folder"));
  EXPECT_TRUE(has(failed.err, "overlap-003: finished"));
}

// Everything that a run writes is there, and the same, on a file system that lacks things.
TEST_F(OnABadSystem, FileSystemsWithoutLinksLocksAndSyncedFolders) {
  if (!has_limits()) GTEST_SKIP() << "no libsidechannel_limits.so beside the programs";
  ASSERT_EQ(shell("$BIN/localization $RUN --stop-after 7 --checkpoint-every 3").code, 75);
  ASSERT_EQ(shell("$BIN/localization $RUN").code, 0);
  for (const auto& [name, errors, words] :
       {std::tuple{"NO_LINK", "1 95 38 31", "this file system makes no hard links ("},
        {"NO_FOLDER_FSYNC", "1 9 22 38 95", "this file system does not sync folders ("},
        {"NO_FLOCK", "37 38 95", "this file system has no locks ("}}) {
    const ProgramResult result = shell(fmt::format(
        "for error in {}; do rm -rf lacking; export LD_PRELOAD=$LIMITS {}=$error; "
        "$BIN/localization ${{RUN/out run/out lacking}} --stop-after 7 --checkpoint-every 3; "
        "[ $? = 75 ] || exit 7; $BIN/localization ${{RUN/out run/out lacking}} || exit; "
        "[ -s lacking/checkpoint.safetensors.previous ] && cmp {{lacking,run}}/metrics.jsonl && "
        "cmp {{lacking,run}}/model.safetensors || exit 8; done",
        errors, name));
    EXPECT_EQ(result.code, 0) << name << result.err;
    EXPECT_TRUE(has(result.err, words));
    EXPECT_FALSE(fs::exists(folder_.path() / "lacking/.lock.owner"));
  }
}

TEST_F(OnABadSystem, WithoutLocksOneProcessStillHasAFolderForItself) {
  if (!has_limits()) GTEST_SKIP() << "no libsidechannel_limits.so beside the programs";
  const ProgramResult result = shell(
      "export LD_PRELOAD=$LIMITS NO_FLOCK=37; $BIN/localization ${RUN/iterations 20/iterations "
      "100000000} 2>/dev/null & "
      "until [ -s run/.lock.owner ]; do sleep 0.01; done; "
      "$BIN/localization ${RUN/iterations 20/iterations 100000000}; echo $?; "
      "kill -9 $!; wait $! 2>/dev/null; [ -e run/.lock.owner ] || echo gone; "
      "$BIN/localization ${RUN/iterations 20/iterations 100000000} --stop-after 1 2>/dev/null; "
      "echo $?; cat run/.lock.owner 2>/dev/null");
  EXPECT_EQ(result.out, "1\n75\n");
  EXPECT_NE(result.err.find("localization: run: another process is working in this folder\n"),
            std::string::npos)
      << result.err;

  const ProgramResult elsewhere = shell(
      "echo 'other-host 0-0 pid:[1] 12 345' >run/.lock.owner; "
      "$BIN/localization ${RUN/iterations 20/iterations 100000000} --stop-after 1");
  EXPECT_EQ(elsewhere.code, 1);
  EXPECT_EQ(
      elsewhere.err,
      "localization: run: process \"12\" on \"other-host\" is working in this folder; if it is "
      "gone, remove run/.lock.owner\n");
}

TEST_F(OnABadSystem, StatusAndCollectOfASweepNeedNoMoreThanToReadIt) {
  const char* const sweep =
      "run --out sweep --preset groups/demo --over groups=1,2 --set length=16 --set depth=3 "
      "--set channels=4 --set iterations=5 --set map_samples=64 --set batch=2 --device cpu";
  ASSERT_EQ(shell(fmt::format("$BIN/sweep {} && $BIN/sweep collect --out sweep && $BIN/overlap "
                              "run --out pairs --overlaps 3 --iterations 1 --test-pairs 64 "
                              "--device cpu && rm pairs/summary.json",
                              sweep))
                .code,
            0);
  const std::string results = content("sweep/results.json"), table = content("sweep/cells.csv");
  // A copy, since the programs may lie where only root may look.
  const std::string as_reader =
      "nobody=; [ $(id -u) != 0 ] || nobody='setpriv --reuid=65534 --regid=65534 "
      "--clear-groups'; "
      "$nobody ./";
  ASSERT_EQ(shell("cp $BIN/sweep sweeper && cp $BIN/overlap . && chmod a+rx . sweeper overlap && "
                  "rm sweep/results.json sweep/cells.csv && chmod -R a-w,a+rX sweep pairs")
                .code,
            0);
  const ProgramResult status = shell(as_reader + "sweeper status --out sweep");
  EXPECT_EQ(status.code, 0) << status.err;
  EXPECT_TRUE(has(status.out, "finished    2  (0-1)"));
  const ProgramResult collect = shell(as_reader + "sweeper collect --out sweep");
  EXPECT_EQ(collect.code, 0) << collect.err;
  EXPECT_EQ(collect.err,
            "sweep: sweep/results.json: not written (Permission denied); --output FILE and --csv "
            "FILE write elsewhere\n");
  EXPECT_TRUE(has(collect.out, "sweep: 2 of 2 cells\n"));
  const ProgramResult json = shell(as_reader + "sweeper collect --out sweep --json --quiet");
  EXPECT_EQ(json.err, collect.err);  // no mere notice
  EXPECT_EQ(Json::parse(json.out)["results"], Json::parse(results));
  EXPECT_EQ(shell("$BIN/sweep collect --out sweep --output results.json --csv - >t.csv").code, 0);
  EXPECT_EQ(content("results.json"), results);
  EXPECT_EQ(content("t.csv"), table);
  EXPECT_EQ(shell(as_reader + "overlap status --out pairs").code, 0);
  const ProgramResult pairs = shell(as_reader + "overlap collect --out pairs");
  EXPECT_EQ(pairs.code, 0) << pairs.err;
  EXPECT_EQ(pairs.err, "overlap: pairs/summary.json: not written (Permission denied)\n");
  EXPECT_TRUE(has(pairs.out, "mean squared error"));
  ASSERT_EQ(shell("chmod -R u+w sweep pairs").code, 0);
}

}  // namespace
}  // namespace sidechannel::harness
