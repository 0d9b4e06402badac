// What the localization program says to bad input: one line on stderr and exit code 1 or 2.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "engine/device.h"
#include "engine/io/npy.h"
#include "engine/io/safetensors.h"
#include "experiments/localization/training.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel::harness {
namespace {

// Runs the program on the device that it takes by itself. Where it has a choice, it says first what
// it took; that line is left out here.
ProgramResult localization(const Words& arguments) {
  ProgramResult result = run_program("localization", arguments);
  if (begins(result.err, "device: ")) result.err.erase(0, result.err.find('\n') + 1);
  return result;
}

void expect_error(const Words& arguments, int code, const std::string& message) {
  expect_refusal(localization(arguments), "localization", code, message);
}

// Writes a model of depth 3.
void save_tiny(const std::string& path, NormKind norm, std::int64_t channels = 4,
               std::int64_t groups = 1) {
  const LocalizerConfig config{.depth = 3, .channels = channels, .norm = norm, .groups = groups};
  save_model(path, Localizer(Device::cpu(1), DType::kF32, config, 0));
}

using CommandLine = FolderTest;
using Predict = FolderTest;

// What scripts read instead of resolving presets themselves.
TEST_F(CommandLine, SettingsArePrintedAsTheyAreResolved) {
  const ProgramResult batch =
      run_program("localization", words("settings --preset demo --norm batch --length 40"));
  EXPECT_EQ(batch.code, 0) << batch.err;
  const Json settings = Json::parse(batch.out);
  EXPECT_EQ(settings["batch"], 32);  // of the preset, for this norm
  EXPECT_EQ(settings["samples_per_set"], 2);
  EXPECT_EQ(settings["length"], 40);
  EXPECT_EQ(settings["groups"], 1);  // where nothing else says

  const ProgramResult overlap = run_program("overlap", {"settings", "--overlap", "5"});
  EXPECT_EQ(overlap.code, 0) << overlap.err;
  EXPECT_EQ(Json::parse(overlap.out)["overlaps"], "5");
  EXPECT_EQ(run_program("localization", {"settings", "--depth", "1"}).code, 2);
}

TEST_F(CommandLine, HelpAndVersionAreNoErrors) {
  for (const char* argument : {"--help", "--version"}) {
    const ProgramResult result = run_program("localization", {argument});
    EXPECT_EQ(result.code, 0);
    EXPECT_NE(result.out, "");
    EXPECT_EQ(result.err, "");
  }
  for (const char* command : {"train", "probe", "map", "run", "predict"}) {
    const ProgramResult result = run_program("localization", {command, "--help"});
    EXPECT_EQ(result.code, 0) << command;
    EXPECT_TRUE(has(result.out, "--norm")) << command;
  }
}

TEST_F(CommandLine, BadUsageIsOneLineAndExitCode2) {
  expect_error({}, 2,
               "expected a command: train, probe, map, run, paths, predict, settings or completion "
               "(see --help)");
  expect_error({"fly"}, 2,
               "there is no command fly: expected train, probe, map, run, paths, predict, settings "
               "or completion (see --help)");
  using Cases = std::vector<std::pair<const char*, const char*>>;
  Cases cases = {
      {"--speed 9", "there is no flag --speed, did you mean --seed? (see --help)"},
      {"--length 9 --speed 9", "there is no flag --speed, did you mean --seed? (see --help)"},
      {"--length=9 --check 9 --length 9", "9: not expected here (see --help)"},
      {"--length", "--length: expected a value, got none (see --help)"},
      {"--length long", "--length long: expected a whole number from 1 to 1000000"},
      {"--preset huge", "--preset huge: expected demo, small, paper or a .json file"},
      {"--kernel-size 4", "--kernel-size 4: expected an odd number from 1 to 999"},
      {"--length 0", "--length 0: expected a whole number from 1 to 1000000"},
      {"--input silence", "--input silence: expected noise, constant, periodic or low-rank"},
      {"--norm group --groups 7", "--groups 7: expected a divisor of --channels 32"},
      {"--norm batch --samples-per-set 5",
       "--batch 32: expected a multiple of --samples-per-set 5"},
      {"--device tpu", "--device tpu: expected auto, cpu or cuda[:N]"},
      {"--device cpu --precision tf32", "precision tf32: the CPU computes in fp32"},
  };
  if (!kHasCuda) {
    cases.emplace_back("--device cuda",
                       "--device cuda: this build has no CUDA backend; use --device cpu");
  }
  for (const auto& [flags, message] : cases) {
    expect_error(with({"run", "--out", out_}, words(flags)), 2, message);
  }
  EXPECT_FALSE(std::filesystem::exists(out_));  // nothing of this leaves a trace
}

TEST_F(CommandLine, WhatIsMissingIsNamed) {
  const std::string none = folder_ / "none";
  expect_error({"run", "--preset", folder_ / "p.json"}, 1,
               "cannot read " + (folder_ / "p.json") + ": No such file or directory");
  expect_error({"probe", "--norm", "none", "--out", none}, 1,
               none +
                   " has no model.safetensors yet; run `localization train` first, or give "
                   "--model");
  expect_error(
      {"predict", "--model", none + ".safetensors", "--input", "x.npy", "--output", "y.npy"}, 1,
      "cannot read " + none + ".safetensors: No such file or directory");
}

TEST_F(CommandLine, DamagedFilesAreNamed) {
  const std::string model = folder_ / "m.safetensors";
  save_tiny(model, NormKind::kInstance);
  const std::string bytes = content_of(model);
  std::ofstream(folder_ / "short.safetensors", std::ios::binary)
      << bytes.substr(0, bytes.size() / 2);
  const ProgramResult result =
      localization({"predict", "--model", folder_ / "short.safetensors", "--input",
                    folder_ / "x.npy", "--output", folder_ / "y.npy"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_TRUE(has(result.err, "short.safetensors"));

  write_npy(folder_ / "x.npy", HostArray(DType::kF32, {2, 3, 4}));
  expect_error(
      {"predict", "--model", model, "--input", folder_ / "x.npy", "--output", folder_ / "y.npy"}, 1,
      (folder_ / "x.npy") + ": expected an array [n, l] of n sequences, got shape [2, 3, 4]");
}

// Whatever np.save makes of the same numbers, the predictions are the same.
TEST_F(CommandLine, PredictTakesNumbersOfEveryKind) {
  const std::string model = folder_ / "m.safetensors";
  save_tiny(model, NormKind::kInstance);
  const auto predict = [&](const HostArray& input) {
    write_npy(folder_ / "x.npy", input);
    const ProgramResult result = localization(
        {"predict", "--model", model, "--input", folder_ / "x.npy", "--output", folder_ / "y.npy"});
    EXPECT_EQ(result.code, 0) << result.err;
    return content_of(folder_ / "y.npy");
  };
  const std::vector<std::int32_t> values = {1, -2, 3, 0, 7, -9};
  const HostArray integers = HostArray::from<std::int32_t>(values, {2, 3});
  const std::string expected = predict(integers);
  EXPECT_EQ(predict(converted(integers, DType::kF32)), expected);
  EXPECT_EQ(predict(converted(integers, DType::kF64)), expected);
}

// Names of files and flags' values are bytes: whatever they are, a run takes them and a line shows
// them.
TEST_F(CommandLine, NamesOfAnyBytes) {
  const std::string preset = folder_ / "p\xff\n.json";
  std::ofstream(preset)
      << R"({"length": 8, "depth": 3, "channels": 2, "iterations": 2, "batch": 2})";
  const ProgramResult result =
      localization({"train", "--preset", preset, "--norm", "none", "--out", folder_ / "r\xff\n"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "trained: " + (folder_ / "r\\xff\\x0a/model.safetensors\n"));
  expect_error({"predict", "--model", folder_ / "m\n\x1b[31m", "--input", "x", "--output", "y"}, 1,
               "cannot read " + (folder_ / "m\\x0a\\x1b[31m") + ": No such file or directory");
  expect_error({"train", "--norm", "a\nb", "--out", folder_ / "none"}, 2,
               "--norm \"a\\x0ab\": expected none, instance, group, group_population, layer, "
               "position, rms or batch");
}

// What a model says of itself is compared with its tensors before anything is made of it.
TEST_F(CommandLine, ModelsThatSayWhatTheyAreNot) {
  const std::string path = folder_ / "m.safetensors";
  save_tiny(path, NormKind::kNone);
  const SafetensorsFile whole = read_safetensors(path);
  const std::string key = "sidechannel.network";
  const std::string where = path + ": metadata " + key;
  const auto refused = [&](const SafetensorsFile& file) {
    write_safetensors(path, file);
    return harness::error_of([&] { load_model(path, Device::cpu(1)); });
  };
  const auto says = [&](const char* name, const Json& value) {
    SafetensorsFile file = whole;
    Json json = parse_json(file.metadata.at(key), key);
    json[name] = value;
    file.metadata[key] = json_text(json);
    return refused(file);
  };
  const struct {
    const char* name;
    Json value;
    std::string message;
  } cases[] = {
      {"depth", 1'000'000'000'000, " says depth 1000000000000, its tensors are of 3"},
      {"depth", 3.7, ": \"depth\" is 3.7, expected a whole number of at least 2"},
      {"depth", nullptr, ": \"depth\" is null, expected a whole number of at least 2"},
      {"channels", 5, " says channels 5, its tensors are of 4"},
      {"kernel_size", 4, ": kernel size 4: expected an odd number"},
      {"norm", "norm\n",
       ": norm \"norm\\x0a\": expected none, instance, group, group_population, layer, position, "
       "rms or batch"},
      {"groups", -1, ": \"groups\" is -1, expected a whole number of at least 1"},
      {"padding", "ones", ": padding ones: expected zeros or circular"},
      {"padding", "none", ": padding none: expected zeros or circular"},
      {"padding", 2, ": \"padding\" is 2, expected a text"},
  };
  for (const auto& [name, value, message] : cases) EXPECT_EQ(says(name, value), where + message);
  EXPECT_EQ(says("norm", "instance"), path + ": has no tensor blocks.0.norm.weight");

  SafetensorsFile file = whole;
  file.metadata[key] = "{\"depth\": 3, \"depth\": 3}";
  EXPECT_EQ(refused(file), where + ": expected one \"depth\", got two");
  file.metadata[key] = std::string(200'000, '[');
  EXPECT_EQ(refused(file), where + ": expected at most 64 levels of lists and objects, got more");
  file = whole;
  file.tensors["conv_in.weight"] = HostArray(DType::kF32, {1'000'000, 1, 5});
  EXPECT_EQ(refused(file), where + " says channels 4, its tensors are of 1000000");
  file.metadata
      .clear();  // 10^12 weights of the first block: refused before there is memory for them
  EXPECT_EQ(refused(file), path + ": conv_in.bias is f32 [4], expected f32 [1000000]");
  file = whole;
  file.metadata["sidechannel.packed_network"] = "{}";
  EXPECT_EQ(refused(file),
            path + ": a network of the program overlap (norm pack), not of localization");
}

TEST_F(CommandLine, AFolderThatCannotBeWrittenIsNamed) {
  if (geteuid() != 0) {
    const TemporaryFolder folder;
    std::filesystem::permissions(
        folder.path(), std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
    expect_error({"train", "--out", folder / "run"}, 1,
                 "cannot create folder " + (folder / "run") + ": Permission denied");
  }
  expect_error({"train", "--out", "/proc/run"}, 1,
               "cannot create folder /proc/run: No such file or directory");
  const TemporaryFolder folder;
  std::ofstream(folder / "file") << "x";
  const ProgramResult result = localization({"train", "--out", folder / "file"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

// A full disk, by the limit on the size of a file: the write in the middle of a run fails.
TEST_F(CommandLine, AFullDiskStopsTheRunAndLeavesTheLastState) {
  const Words arguments = words(
      "train --length 16 --depth 3 --channels 4 --batch 2 --iterations 2000 --log-every 1 "
      "--checkpoint-every 50 --out",
      {out_});
  struct rlimit before {};
  getrlimit(RLIMIT_FSIZE, &before);
  struct rlimit small = before;
  small.rlim_cur = 20'000;  // enough for the states, not for all lines of metrics.jsonl
  setrlimit(RLIMIT_FSIZE, &small);
  signal(SIGXFSZ, SIG_IGN);
  const ProgramResult full = run_program("localization", arguments);
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(full.code, 1);
  EXPECT_TRUE(
      has(full.err, "localization: cannot write " + out_ + "/metrics.jsonl: File too large\n"));
  const ProgramResult resumed = run_program("localization", arguments);
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_TRUE(has(resumed.err, "train: resumed at step "));
  const std::string lines = content_of(out_ + "/metrics.jsonl");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 2000);
}

TEST_F(CommandLine, NumbersThatAreNotFiniteStopTheRunBeforeTheUpdate) {
  const ProgramResult result = run_program(
      "localization", words("train --norm none --length 16 --depth 6 --channels 8 --batch 2 "
                            "--iterations 500 --schedule constant --learning-rate 1e30 --out",
                            {out_}));
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(has(result.err, "stopped before the update, the state is kept in " + out_ +
                                  "/failure.safetensors"));
  // The kept state is from before the step: its weights are finite, and it can be loaded.
  const SafetensorsFile state = read_safetensors(out_ + "/failure.safetensors");
  for (const float w : state.tensors.at("adam.m").as<float>()) EXPECT_TRUE(std::isfinite(w));
}

// The summary of a small run that learns what there is to learn.
Json summary_of_a_run(const std::string& flags, const std::string& out) {
  const ProgramResult result = run_program(
      "localization",
      words("run --length 24 --depth 4 --channels 8 --kernel-size 3 --batch 4 --iterations 300 "
            "--probe-width 16 --probe-batch 4 --device cpu " +
                flags,
            {"--out", out}));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_FALSE(has(result.err, "learned nothing")) << result.err;
  auto summary = Json::parse(content_of(out + "/summary.json"));
  EXPECT_EQ(summary["notice"], nullptr);
  return summary;
}

// Section 3.2's uninformative input: with a norm that hears everything, but nothing to hear, no
// index beyond its layer's receptive field is localized. Every prediction is the same each time, so
// this also is the test without variance.
TEST_F(CommandLine, AConstantInputLocalizesNothingBeyondTheReceptiveField) {
  for (const char* norm : {"instance", "group --groups 4", "batch --samples-per-set 2"}) {
    SCOPED_TRACE(norm);
    const TemporaryFolder folder;
    const std::string out = folder / "run";
    const Json summary = summary_of_a_run(
        "--probe-iterations 200 --map-samples 100 --input constant --norm " + std::string(norm),
        out);
    EXPECT_EQ(summary["input"], "constant");
    for (const auto& share : summary["outside_cone_localized_fraction"]) EXPECT_EQ(share, 0.0);
    for (const auto& share : summary["interior_localized_fraction"]) EXPECT_EQ(share, 0.0);
    EXPECT_GT(summary["localized_fraction"].back(), 0.0);  // the edges still show
    const HostArray variance = read_npy(out + "/layer_variance.npy");
    for (const double v : variance.as<double>()) EXPECT_EQ(v, 0);
  }
}

// What was trained on noise does not hear a constant: with another input, a model's probes and map
// are those of that input.
TEST_F(CommandLine, AModelThatWasTrainedOnNoiseIsFedSomethingElse) {
  const auto of = [&](const Words& flags, const std::string& out) {
    const ProgramResult result = localization(
        with(words("run --length 24 --depth 4 --channels 8 --kernel-size 3 --batch 4 --iterations "
                   "50 --probe-iterations 30 --probe-width 16 --map-samples 50 --out",
                   {folder_ / out}),
             flags));
    EXPECT_EQ(result.code, 0) << result.err;
    return Json::parse(content_of(folder_ / out + "/summary.json"));
  };
  const auto spread = [&](const std::string& out) {
    const HostArray variance = read_npy(folder_ / out + "/layer_variance.npy");
    return std::ranges::max(variance.as<double>());
  };
  EXPECT_EQ(of({}, "noise")["input"], "noise");
  const std::string model = folder_ / "noise/model.safetensors";
  const Json constant = of({"--model", model, "--input", "constant"}, "constant");
  EXPECT_EQ(constant["input"], "constant");
  EXPECT_EQ(constant["notice"], nullptr);
  for (const auto& share : constant["interior_localized_fraction"]) EXPECT_EQ(share, 0.0);
  EXPECT_GT(spread("noise"), 0);
  EXPECT_EQ(spread("constant"), 0);
  EXPECT_EQ(content_of(model), content_of(folder_ / "constant/model.safetensors"));
  EXPECT_EQ(of({"--model", model, "--input", "periodic", "--period", "3"}, "periodic")["input"],
            "periodic");
  EXPECT_EQ(of({"--input", "low-rank", "--rank", "4"}, "trained")["input"], "low-rank");
  EXPECT_GT(spread("periodic"), 0);
}

// Norms without a kernel of their own train and are evaluated, and their files say what they are.
TEST_F(CommandLine, EveryNormComesBackFromItsFile) {
  for (const std::string norm : {"rms", "group_population"}) {
    SCOPED_TRACE(norm);
    const bool groups = norm == "group_population";
    const TemporaryFolder folder;
    const std::string model = folder / "run/model.safetensors";
    const ProgramResult run = run_program(
        "localization",
        with(words("run --length 24 --depth 4 --channels 8 --kernel-size 3 --batch 4 --iterations "
                   "100 --probe-width 16 --probe-batch 4 --probe-iterations 50 --map-samples 500 "
                   "--device cpu"),
             with({"--norm", norm, "--out", folder / "run"},
                  words(groups ? "--groups 4 --eval-statistics population" : ""))));
    EXPECT_EQ(run.code, 0) << run.err;
    const Json summary = Json::parse(content_of(folder / "run/summary.json"));
    EXPECT_EQ(summary["norm"], norm);
    EXPECT_EQ(summary["eval_statistics"], groups ? "population" : "minibatch");
    const Localizer network = load_model(model, Device::cpu(1));
    EXPECT_EQ(name_of(network.config().norm), norm);
    EXPECT_EQ(network.config().groups, groups ? 4 : 1);
    write_npy(folder / "x.npy", HostArray(DType::kF32, {2, 24}));
    const auto predict = [&](const std::string& flags) {
      const std::string file = folder / "y.npy";
      const ProgramResult result = run_program(
          "localization", with(words("predict --device cpu " + flags),
                               {"--model", model, "--input", folder / "x.npy", "--output", file}));
      EXPECT_EQ(result.code, 0) << result.err;
      return content_of(file);
    };
    const std::string own = predict("--norm " + norm);
    EXPECT_EQ(predict(groups ? "--groups 4" : ""), own);
    if (groups) {
      EXPECT_NE(predict("--eval-statistics population"), own);
    }
  }
}

// A ring has no edges: a network that was trained on one localizes nothing, with any norm, though
// one with statistics over positions hears everything. At the output every index then answers
// alike.
TEST_F(CommandLine, ARingLocalizesNothing) {
  for (const char* norm : {"none", "instance", "position"}) {
    SCOPED_TRACE(norm);
    const TemporaryFolder folder;
    const std::string out = folder / "run";
    const Json summary = summary_of_a_run(
        "--probe-iterations 100 --map-samples 2000 --padding circular --norm " + std::string(norm),
        out);
    EXPECT_EQ(summary["padding"], "circular");
    for (const auto& share : summary["localized_fraction"]) EXPECT_EQ(share, 0.0);
    // Its file says what it is: those who load it need not.
    EXPECT_EQ(load_model(out + "/model.safetensors", Device::cpu(1)).config().padding,
              Padding::kCircular);
    const auto with_it = [&](const std::string& flags) {
      return run_program("localization",
                         with(words("run --length 24 --depth 4 --channels 8 --kernel-size 3 "
                                    "--check --device cpu " +
                                    flags),
                              {"--norm", norm, "--model", out + "/model.safetensors"}));
    };
    EXPECT_EQ(with_it("--padding circular").code, 0);
    const ProgramResult other = with_it("");
    EXPECT_EQ(other.code, 2);
    EXPECT_EQ(other.err,
              fmt::format("localization: {}/model.safetensors: a network with --padding circular, "
                          "where the run has --padding zeros\n",
                          out));
  }
}

// Flags describe the network or say nothing; a network of another program is no network.
TEST_F(Predict, RefusesFlagsThatContradictTheModel) {
  const std::string model = folder_ / "m.safetensors";
  const auto error_of = [&](const std::string& flags) {
    const Words arguments = {"predict",         "--model",         model,
                             "--input",         folder_ / "x.npy", "--output",
                             folder_ / "y.npy", "--device",        "cpu"};
    const ProgramResult result = run_program("localization", with(arguments, words(flags)));
    EXPECT_EQ(result.code, result.err.empty() ? 0 : 2) << result.err;
    EXPECT_EQ(std::filesystem::exists(folder_ / "y.npy"), result.err.empty());
    std::filesystem::remove(folder_ / "y.npy");
    return result.err;
  };
  write_npy(folder_ / "x.npy", HostArray(DType::kF32, {4, 16}));
  save_tiny(model, NormKind::kInstance, 8);
  for (const std::string norm : {"none", "layer", "batch", "group"}) {
    EXPECT_EQ(error_of("--norm " + norm),
              fmt::format("localization: --norm {}: {} holds a network with --norm instance\n",
                          norm, model));
  }
  EXPECT_EQ(error_of("--norm instance"), "");
  EXPECT_EQ(error_of("--groups 4"),
            "localization: --groups 4: has no effect without --norm group or group_population\n");
  EXPECT_EQ(error_of("--norm instance --groups -1"),
            "localization: --groups -1: expected a whole number from 1 to 16384\n");
  save_tiny(model, NormKind::kGroup, 8, 4);
  EXPECT_EQ(error_of("--groups 4"), "");
  EXPECT_EQ(error_of("--groups 2"),
            "localization: --groups 2: " + model + " holds a network with --groups 4\n");
  EXPECT_EQ(error_of("--samples-per-set 2"),
            "localization: --samples-per-set 2: has no effect without --norm batch\n");

  const ProgramResult overlap = run_program(
      "overlap", words("run --depth 3 --channels 4 --iterations 1 --batch 1 --test-pairs 2 "
                       "--overlaps 2 --device cpu --out",
                       {folder_ / "overlap"}));
  ASSERT_EQ(overlap.code, 0) << overlap.err;
  std::filesystem::copy_file(folder_ / "overlap/overlap-002/model.safetensors", model,
                             std::filesystem::copy_options::overwrite_existing);
  for (const char* flags : {"", "--norm instance"}) {
    EXPECT_EQ(error_of(flags), "localization: " + model +
                                   ": a network of the program overlap (norm pack), not of "
                                   "localization\n");
  }
}

// What is no localizer is refused by its header: this one of 6 GiB at once.
TEST_F(CommandLine, ModelsAreKnownByTheirHeaders) {
  const std::string model = folder_ / "huge.safetensors";
  const std::string header = R"({"w":{"dtype":"F32","shape":[1610612736],)"
                             R"("data_offsets":[0,6442450944]}})";
  const std::uint64_t length = header.size();
  std::ofstream(model, std::ios::binary)
      .write(reinterpret_cast<const char*>(&length), sizeof length)
      .write(header.data(), static_cast<std::streamsize>(length));
  std::filesystem::resize_file(model, sizeof length + length + 6442450944);  // takes no room
  expect_refusal(run_program("localization", {"predict", "--model", model, "--input", "x",
                                              "--output", "y", "--device", "cpu"}),
                 "localization", 1,
                 model + ": has no conv_in.weight of shape [h, 1, k], so it is no localizer");
}

// Nothing of another program's folder is touched.
TEST_F(CommandLine, FoldersOfOtherProgramsAreRefused) {
  const std::string network = " --batch 2 --iterations 2 --depth 3 --channels 4";
  const std::string localization_flags = network + " --length 16 --probes none --map-samples 32";
  const std::map<std::string, std::string> flags = {
      {"localization", localization_flags},
      {"overlap", network + " --overlaps 3 --test-pairs 2"},
      {"sweep",
       " --preset groups/demo --over groups=1 --set batch=2 --set iterations=2 --set depth=3 "
       "--set channels=4 --set length=16 --set map_samples=32"},
      {"diffusion",
       " --batch 2 --iterations 2 --corridors 3 --steps-per-corridor 3 --walks 4 --walk-corridors "
       "6 --dim 4 --groups 1 "
       "--steps 2 --pairs 1 --plans 1 --leak-outputs 1 --leak-inputs 1"}};
  const auto run = [&](const std::string& program, const std::string& out) {
    return run_program(program,
                       words("run --device cpu" + flags.at(program), {"--out", folder_ / out}));
  };
  const auto files_in = [&](const std::string& name) {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_ / name)) {
      if (entry.is_regular_file()) files[entry.path().string()] = content_of(entry.path());
    }
    return files;
  };
  const Words programs = {"localization", "overlap", "sweep", "diffusion"};
  for (const std::string& program : programs) EXPECT_EQ(run(program, program).code, 0) << program;
  for (const std::string& owner : programs) {
    const auto before = files_in(owner);
    for (const std::string& other : programs) {
      if (other == owner) continue;
      const ProgramResult result = run(other, owner);
      EXPECT_EQ(result.code, 2);
      EXPECT_TRUE(begins(result.err, other + ": " + (folder_ / owner) + " holds a "));
      EXPECT_TRUE(ends(result.err, "; choose another --out\n"));
    }
    EXPECT_EQ(files_in(owner), before);
  }
}

TEST_F(Predict, RunsASavedNetworkOnAnyonesInput) {
  for (const NormKind norm : {NormKind::kNone, NormKind::kInstance, NormKind::kBatch}) {
    const LocalizerConfig config{.depth = 4, .channels = 8, .norm = norm, .samples_per_set = 2};
    const Device device = Device::cpu(1);
    const Localizer network(device, DType::kF32, config, 3);
    save_model(folder_ / "m.safetensors", network);
    HostArray x(DType::kF32, {6, 21});
    for (std::size_t i = 0; i < 126; ++i) x.as<float>()[i] = std::sin(static_cast<float>(i * i));
    write_npy(folder_ / "x.npy", x);
    const ProgramResult result =
        run_program("localization", {"predict", "--model", folder_ / "m.safetensors", "--input",
                                     folder_ / "x.npy", "--output", folder_ / "y.npy"});
    ASSERT_EQ(result.code, 0) << result.err;
    const HostArray y = read_npy(folder_ / "y.npy");
    EXPECT_EQ(y.shape, (Shape{6, 21}));
    HostArray channels_last = x;
    channels_last.shape = Shape{6, 21, 1};
    Tape tape(device);
    const Var expected =
        network(tape.constant(Tensor::from(device, channels_last)), Statistics::kMinibatch);
    EXPECT_EQ(y.bytes, expected.value().to_host().bytes);
  }
}

}  // namespace
}  // namespace sidechannel::harness
