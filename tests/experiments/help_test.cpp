// What programs say of themselves, to people, to shells and to other programs: --help, completion,
// --json and --quiet.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "engine/io/json.h"
#include "engine/io/npy.h"
#include "tests/harness/program.h"

namespace sidechannel::harness {
namespace {

const std::map<std::string, Words> kCommands = {
    {"localization", {"train", "probe", "map", "run", "paths", "predict", "settings"}},
    {"overlap", {"run", "settings", "plan", "status", "collect"}},
    {"sweep", {"plan", "run", "status", "collect"}},
    {"leak", {"measure"}},
    {"diffusion", {"run", "settings"}}};

Words lines_of(const std::string& text) {
  Words lines;
  std::istringstream rest(text);
  for (std::string line; std::getline(rest, line);) lines.push_back(line);
  return lines;
}

// --- --help -------------------------------------------------------------------------------------

TEST(Help, SaysWhatASettingMayBeAndWhatItIsInEachPreset) {
  const std::string help = run_program("localization", {"run", "--help"}).out;
  EXPECT_TRUE(begins(help, "train, probe and map in turn\nUsage: localization run [OPTIONS]\n"));
  std::size_t at = 0;
  for (const char* section :
       {"Run", "Network", "Data", "Training", "Probes", "Map", "How it is carried out", "Output"}) {
    const std::size_t next = help.find(fmt::format("\n{}:\n", section), at);
    ASSERT_NE(next, help.npos) << section << " does not follow in:\n" << help;
    at = next;
  }
  for (const char* part :
       {"  --depth, --layers N         convolutions d in all, first and last included: a whole "
        "number from 2\n                              to 1000 [demo 8, small 12, paper 32]\n",
        "  --learning-rate, --lr NUMBER\n                              Adam's base learning rate: "
        "a "
        "number of at least 1e-30 and at most\n                              1e+30 [demo 0.002, "
        "small 0.002, paper 0.0001]\n",
        "  --kernel-size N             kernel size k: an odd number from 1 to 999 [5]\n",
        "  --input noise|constant|periodic|low-rank\n",
        "  --out FOLDER                where the run is kept [runs/PRESET-NORM-seedN]\n",
        "\nExamples:\n  localization run --norm instance --check\n"}) {
    EXPECT_TRUE(has(help, part));
  }
  EXPECT_TRUE(has(run_program("sweep", {"plan", "--help"}).out,
                  "\nCells:\n  --over NAME=VALUES          a setting and its values: "));
  EXPECT_TRUE(has(run_program("leak", {"measure", "--help"}).out,
                  "  --inputs N                  inputs of noise, over which sums run: a whole "
                  "number from 1 to 1000000\n                              [4]\n"));
}

TEST(Help, StaysWithinTheWidthAndHasExamples) {
  for (const auto& [program, commands] : kCommands) {
    for (const std::string& command : with(commands, {"completion"})) {
      const ProgramResult result = run_program(program, {command, "--help"});
      EXPECT_EQ(result.code, 0) << program << " " << command;
      const std::string examples = "\nExamples:\n  ";
      EXPECT_TRUE(has(result.out, examples)) << program << " " << command;
      for (const std::string& line : lines_of(result.out.substr(0, result.out.find(examples)))) {
        EXPECT_LE(line.size(), 100u) << program << " " << command << ": " << line;
      }
    }
    EXPECT_TRUE(has(run_program(program, {"--help"}).out, "\nExamples:\n  " + program + " "));
  }
}

// Every line may be copied: what it is refused for, if anything, is a file that is not there.
TEST_F(FolderTest, ExamplesAreCallsThatMakeSense) {
  const Words checked = {"train", "probe", "map", "run", "paths", "plan", "measure"};
  for (const auto& [program, commands] : kCommands) {
    int examples = 0;
    for (const std::string& command : commands) {
      const std::string help = run_program(program, {command, "--help"}).out;
      for (std::string line : lines_of(help.substr(help.find("\nExamples:\n")))) {
        const std::string begin = fmt::format("  {} {}", program, command);
        if (!line.starts_with(begin)) continue;
        if (std::ranges::count(checked, command) > 0) line.insert(begin.size(), " --check");
        const ProgramResult result =
            run_shell(fmt::format("cd '{}'; PATH=$BIN:$PATH; {}", folder_.path().string(), line));
        EXPECT_NE(result.code, 2) << line << ": " << result.err;
        EXPECT_GE(result.code, 0) << line;
        ++examples;
      }
    }
    EXPECT_GE(examples, static_cast<int>(2 * commands.size())) << program;
  }
}

// --- Names of flags -----------------------------------------------------------------------------

TEST(Aliases, AreTheSameSetting) {
  const auto settings = [](const std::string& program, const std::string& flags) {
    const ProgramResult result = run_program(program, words("settings " + flags));
    EXPECT_EQ(result.code, 0) << result.err;
    return Json::parse(result.out);
  };
  EXPECT_EQ(settings("localization",
                     "--lr 0.5 --batch-size 4 --steps 7 --seq-len 40 --layers 6 "
                     "--num-threads 1 --probe-lr 0.25 --probe-steps 3"),
            settings("localization",
                     "--learning-rate 0.5 --batch 4 --iterations 7 --length 40 --depth 6 "
                     "--threads 1 --probe-learning-rate 0.25 --probe-iterations 3"));
  // The diffusion has steps of its own.
  EXPECT_EQ(settings("diffusion", "--steps 9 --train-steps 7"),
            settings("diffusion", "--timesteps 9 --iterations 7"));
  // The last one counts, whichever name it has.
  EXPECT_EQ(settings("localization", "--lr 1 --learning-rate 2")["learning_rate"], 2);
  EXPECT_EQ(settings("localization", "--learning-rate 2 --lr=1")["learning_rate"], 1);
  expect_refusal(run_program("overlap", words("settings --batch-size 0")), "overlap", 2,
                 "--batch 0: expected a whole number from 1 to 1000000");
  expect_refusal(run_program("overlap", words("settings --batch-size")), "overlap", 2,
                 "--batch-size: expected a value, got none (see --help)");
}

TEST(Suggestions, NameWhatComesNearest) {
  for (const auto& [line, message] : std::vector<std::pair<const char*, const char*>>{
           {"run --bacth-size 4", "there is no flag --bacth-size, did you mean --batch-size?"},
           {"run --sede 4", "there is no flag --sede, did you mean --seed?"},
           {"run --epochs 4", "there is no flag --epochs"},
           {"trian", "there is no command trian, did you mean train?"},
           {"predct --model x", "there is no command predct, did you mean predict?"},
           {"completion bash zsh", "zsh: not expected here"}}) {
    expect_refusal(run_program("localization", words(line)), "localization", 2,
                   std::string(message) + " (see --help)");
  }
  expect_refusal(run_program("localization", words("completion fish")), "localization", 2,
                 "completion fish: expected bash or zsh");
}

// --- Completion ---------------------------------------------------------------------------------

// What bash offers for these words, the last of which is not yet whole. It parts --flag=value.
Words offered(const std::string& program, const std::string& folder, const std::string& words) {
  const std::string line = fmt::format(
      "cd '{1}'; source <($BIN/{0} completion bash); complete -p {0} >/dev/null || exit 9; "
      "COMP_WORDS=({0} {2}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
      "_sidechannel_{0} {0} && printf '%s\\n' \"${{COMPREPLY[@]}}\"",
      program, folder, words);
  const ProgramResult result = run_shell(line);
  EXPECT_EQ(result.code, 0) << line;
  EXPECT_EQ(result.err, "") << line;
  Words lines = lines_of(result.out);
  std::erase(lines, "");
  std::ranges::sort(lines);
  return lines;
}

using Completion = FolderTest;

TEST_F(Completion, OffersCommandsFlagsAndValues) {
  std::filesystem::create_directory(folder_.path() / "a run");
  std::ofstream(folder_ / "mine.json") << "{}";
  std::ofstream(folder_ / "x 1.npy") << "x";
  const auto offers = [&](const std::string& line, const Words& expected) {
    EXPECT_EQ(offered("localization", folder_.path(), line), expected) << line;
  };
  offers("p", {"paths", "predict", "probe"});
  offers("--v", {"--version"});
  offers("run --learn", {"--learning-rate"});
  offers("run --lr", {"--lr", "--lr-schedule"});
  offers("run --norm po", {"position"});
  offers("run --norm = in", {"instance"});
  offers("run --norm =",
         {"batch", "group", "group_population", "instance", "layer", "none", "position", "rms"});
  offers("run --lr-schedule ''", {"constant", "tail"});
  offers("run --device c", {"cpu", "cuda"});
  offers("run --length ''", {});
  offers("run --preset ''", {"a run", "demo", "mine.json", "paper", "small", "x 1.npy"});
  offers("run --out ''", {"a run"});
  offers("run --input ''", {"constant", "low-rank", "noise", "periodic"});
  offers("predict --input x", {"x 1.npy"});
  offers("predict --len", {});
  offers("completion ''", {"--help", "-h", "bash", "zsh"});
  offers("fly --n", {});
}

TEST_F(Completion, IsThatOfEveryProgram) {
  for (const auto& [program, commands] : kCommands) {
    Words names = with(commands, {"completion", "--help", "-h", "--version"});
    std::ranges::sort(names);
    EXPECT_EQ(offered(program, folder_.path(), "''"), names);
    for (const std::string& command : commands) {
      EXPECT_EQ(offered(program, folder_.path(), command + " --js"), Words{"--json"}) << command;
    }
  }
}

// An interactive zsh of its own, whose Tab is pressed.
TEST_F(Completion, WorksInZsh) {
  if (run_shell("command -v zsh").code != 0) GTEST_SKIP() << "SKIPPED: no zsh";
  const std::string script = test_data("experiments/zsh_completion.zsh").string();
  const ProgramResult result =
      run_shell(fmt::format("cd '{}' && zsh -f '{}' $BIN", folder_.path().string(), script));
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_EQ(result.out,
            "localization pre: localization predict \n"
            "localization run --learn: localization run --learning-rate=\n"
            "localization run --norm po: localization run --norm position \n"
            "localization run --norm=po: localization run --norm=position \n"
            "localization run --preset pap: localization run --preset paper \n");
}

// --- --json and --quiet -------------------------------------------------------------------------

using Answers = FolderTest;

// The object that a command answers with, and nothing beside it.
Json answer_to(const std::string& program, const std::string& line, const Words& more = {}) {
  const ProgramResult result = run_program(program, with(words(line + " --json --quiet"), more));
  EXPECT_EQ(result.code, 0) << program << " " << line << ": " << result.err;
  EXPECT_EQ(result.err, "") << program << " " << line;
  Json json = parse_json_object(result.out, line);
  EXPECT_EQ(result.out, json.dump(2, ' ', true) + "\n");
  return json;
}

TEST_F(Answers, OfLocalization) {
  const std::string tiny =
      "--length 16 --depth 3 --channels 4 --batch 2 --iterations 2 --probe-width 8 "
      "--probe-iterations 2 --map-samples 20 --device cpu --threads 1";
  const auto ask = [&](const std::string& command, const Words& more = {}) {
    return answer_to("localization", command + " " + tiny, with({"--out", out_}, more));
  };
  const Json checked = ask("run --check");
  EXPECT_EQ(checked["folder"], out_);
  EXPECT_GT(checked["memory"]["host"].get<double>(), 1e6);
  EXPECT_FALSE(std::filesystem::exists(out_));
  const std::string model = out_ + "/model.safetensors";
  EXPECT_EQ(ask("train"), (Json{{"folder", out_}, {"model", model}}));
  EXPECT_EQ(ask("probe"), (Json{{"folder", out_}, {"probes", out_ + "/probes.safetensors"}}));
  const Json run = ask("run");
  EXPECT_EQ(run["summary"], read_json(out_ + "/summary.json"));
  EXPECT_EQ(ask("run"), run);  // which is done already
  const Json paths =
      answer_to("localization",
                "paths --length 16 --depth 3 --channels 4 --sequences 2 --device cpu --threads 1",
                {"--model", model, "--out", folder_ / "paths"});
  EXPECT_EQ(paths["summary"], read_json(folder_ / "paths/summary.json"));
  EXPECT_EQ(answer_to("localization", "settings --length 16")["length"], 16);

  write_npy(folder_ / "x.npy", HostArray(DType::kF32, {3, 16}));
  const Words predict = {"--model", model, "--input", folder_ / "x.npy", "--output"};
  EXPECT_EQ(answer_to("localization", "predict --device cpu", with(predict, {folder_ / "y.npy"})),
            (Json{{"output", folder_ / "y.npy"}, {"shape", {3, 16}}}));
  expect_refusal(
      run_program("localization", with(words("predict --device cpu --json"), with(predict, {"-"}))),
      "localization", 2, "--json: standard output is that of --output -");
  const Json report =
      answer_to("leak", "measure --length 16 --outputs 2 --device cpu", {"--model", model});
  EXPECT_EQ(report["schema"], 1);
  const Json leak =
      answer_to("leak", "measure --check --length 16 --device cpu", {"--model", model});
  EXPECT_GT(leak["memory"]["host"].get<double>(), 1e6);
}

TEST_F(Answers, OfSweeps) {
  const std::string overlap =
      "--depth 3 --channels 4 --batch 2 --iterations 2 --test-pairs 2 --overlaps 1,3 --device cpu";
  EXPECT_EQ(answer_to("overlap",
                      "plan --depth 3 --channels 4 --batch 2 --iterations 2 --test-pairs "
                      "2 --overlaps 1,3",
                      {"--out", out_}),
            (Json{{"folder", out_}, {"cells", 2}}));
  const Json cell = answer_to("overlap", "run --cell 1 --device cpu", {"--out", out_});
  EXPECT_EQ(cell["cell"], "overlap-003");
  EXPECT_EQ(cell["result"], read_json(out_ + "/overlap-003/result.json"));
  EXPECT_EQ(answer_to("overlap", "run --cell 1 --device cpu", {"--out", out_}), cell);
  const Json status = answer_to("overlap", "status", {"--out", out_});
  EXPECT_EQ(status["finished"], Json::array({1}));
  EXPECT_EQ(status["waiting"], Json::array({0}));
  EXPECT_EQ(answer_to("overlap", "status --unfinished", {"--out", out_})["unfinished"],
            Json::array({0}));
  const Json run = answer_to("overlap", "run " + overlap, {"--out", out_});
  EXPECT_EQ(run["summary"], read_json(out_ + "/summary.json"));
  EXPECT_EQ(answer_to("overlap", "run " + overlap, {"--out", out_}), run);
  EXPECT_EQ(answer_to("overlap", "collect", {"--out", out_}), run);

  const std::string sweep = folder_ / "sweep";
  const std::string tiny =
      "--program localization --over groups=1,2 --set norm=group --set length=16 --set depth=3 "
      "--set channels=4 --set batch-size=2 --set steps=2 --set probes=none --set map_samples=20";
  EXPECT_EQ(answer_to("sweep", "plan --check " + tiny, {"--out", sweep})["cells"], 2);
  const Json one = answer_to("sweep", "run --cell 1 --device cpu " + tiny, {"--out", sweep});
  EXPECT_EQ(one["cell"], "groups=2");
  EXPECT_EQ(one["result"], read_json(sweep + "/cells/groups=2/summary.json"));
  EXPECT_EQ(answer_to("sweep", "run --jobs 1 --device cpu " + tiny, {"--out", sweep}),
            (Json{{"folder", sweep}, {"cells", 2}}));
  const Json results = answer_to("sweep", "collect", {"--out", sweep});
  EXPECT_EQ(results["results"], read_json(sweep + "/results.json"));
  expect_refusal(run_program("sweep", {"collect", "--out", sweep, "--json", "--csv", "-"}), "sweep",
                 2, "--json: standard output is that of --csv -");
}

TEST_F(Answers, OfAPlanner) {
  const std::string tiny =
      "run --corridors 3 --steps-per-corridor 3 --walks 4 --walk-corridors 6 --dim 4 --groups 1 "
      "--steps 2 --batch 2 --iterations 2 --pairs 1 --plans 1 --leak-outputs 1 --leak-inputs 1 "
      "--device cpu";
  const Json run = answer_to("diffusion", tiny, {"--out", out_});
  EXPECT_EQ(run["summary"], read_json(out_ + "/summary.json"));
  EXPECT_EQ(answer_to("diffusion", tiny, {"--out", out_}), run);
}

// Names of any bytes come out as JSON that can be read and a terminal that stays as it is.
TEST_F(Answers, AreAscii) {
  const std::string out = folder_ / "r\xff\x1b\xe2\x80\xae\xc3\xa4";
  const Json run =
      answer_to("localization", "run --check --length 16 --device cpu", {"--out", out});
  EXPECT_TRUE(ends(run["folder"].get<std::string>(), "r\xef\xbf\xbd\x1b\xe2\x80\xae\xc3\xa4"));
}

TEST_F(Answers, QuietIsSilentButForErrors) {
  const std::string tiny =
      "train --length 16 --depth 3 --channels 4 --batch 2 --iterations 50 --device cpu --quiet";
  const ProgramResult stopped =
      run_program("localization", words(tiny + " --stop-after 1", {"--out", out_}));
  EXPECT_EQ(stopped.code, 75);
  EXPECT_EQ(stopped.err + stopped.out, "");
  const ProgramResult done = run_program("localization", words(tiny, {"--out", out_}));
  EXPECT_EQ(done.err, "");
  EXPECT_EQ(done.out, "trained: " + out_ + "/model.safetensors\n");
  expect_refusal(run_program("localization", words(tiny + " --seed 1", {"--out", out_})),
                 "localization", 2,
                 out_ +
                     " holds a run with other settings (seed is 0 there, 1 here); choose another "
                     "--out");
}

}  // namespace
}  // namespace sidechannel::harness
