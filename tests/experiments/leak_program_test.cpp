// What the leak meter says of a network, by whose exit code a test may go, and to bad input: one
// line on stderr and exit code 1 or 2.

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "engine/io/json.h"
#include "engine/io/npy.h"
#include "engine/io/safetensors.h"
#include "models/model_file.h"
#include "models/temporal_unet.h"
#include "tests/harness/program.h"

namespace sidechannel::harness {
namespace {

// A temporal U-Net, small, on the CPU.
const char* kUnet =
    "measure --device cpu --threads 1 --dim 8 --multipliers 1,2 --kernel-size 3 --transition 2 "
    "--outputs 2 --inputs 1 --no-layers ";
const char* kAnyModel = "measure --device cpu --threads 1 --outputs 2 --inputs 1 ";

class LeakProgram : public FolderTest {
 protected:
  static ProgramResult leak(const std::string& flags, const Words& more = {}) {
    return run_program("leak", words(flags, more));
  }
  void refused(const Words& arguments, int code, const std::string& message) {
    expect_refusal(run_program("leak", arguments), "leak", code, message);
  }

  // A localizer's file.
  std::string save(const std::string& name, const LocalizerConfig& config) {
    std::string path = folder_ / name;
    save_model(path, Localizer(Device::cpu(1), DType::kF32, config, 1));
    return path;
  }
  // The same, all weights but the biases being `value`.
  std::string save_filled(const std::string& name, const LocalizerConfig& config, float value) {
    std::string path = save(name, config);
    SafetensorsFile file = read_safetensors(path);
    for (auto& [tensor, array] : file.tensors) {
      if (tensor.ends_with("weight")) std::ranges::fill(array.as<float>(), value);
    }
    write_safetensors(path, file);
    return path;
  }
  std::string save_npy(const std::string& name, const Shape& shape, float first = 1) {
    HostArray array(DType::kF32, shape);
    for (std::size_t i = 0; i < array.as<float>().size(); ++i) {
      array.as<float>()[i] = std::sin(static_cast<float>(i * i)) * first;
    }
    write_npy(folder_ / name, array);
    return folder_ / name;
  }
};

LocalizerConfig small_localizer(NormKind norm, std::int64_t kernel_size = 3) {
  return {.depth = 4, .channels = 4, .kernel_size = kernel_size, .norm = norm, .groups = 2};
}

// --- --assert -----------------------------------------------------------------------------------

TEST_F(LeakProgram, AssertsThatNothingIsHeard) {
  const std::string unet = std::string(kUnet) + "--length 96 --assert ";
  for (const char* norm : {"none", "position", "rms"}) {
    const ProgramResult result = leak(unet + "--norm " + norm);
    EXPECT_EQ(result.code, 0) << norm;
    EXPECT_EQ(result.err, "");
  }
  for (const char* norm : {"instance", "group --groups 2", "layer", "batch --samples-per-set 2"}) {
    const ProgramResult result = leak(unet + "--norm " + norm);
    EXPECT_EQ(result.code, 1) << norm;
    EXPECT_EQ(result.err,
              fmt::format("leak: temporal U-Net of 8 channels times 1, 2, {} norm hears "
                          "beyond its receptive field\n",
                          words(norm).front()));
    EXPECT_NE(result.out, "");  // what there is to say is said
    EXPECT_EQ(leak(std::string(kUnet) + "--length 96 --norm " + norm).code, 0);  // as a measure
  }
  for (const auto& [norm, code] :
       {std::pair{NormKind::kNone, 0}, {NormKind::kRms, 0}, {NormKind::kInstance, 1}}) {
    const std::string model = save("m.safetensors", small_localizer(norm));
    const ProgramResult result = leak(std::string(kAnyModel) + "--assert --model", {model});
    EXPECT_EQ(result.code, code);
    EXPECT_EQ(result.err, code == 0 ? ""
                                    : "leak: localizer of depth 4, 4 channels, instance norm hears "
                                      "beyond its receptive field\n");
  }
  // With the report in the place of words, the exit code is the same.
  const ProgramResult json = leak(unet + "--norm layer --json");
  EXPECT_EQ(json.code, 1);
  EXPECT_EQ(Json::parse(json.out)["leaks"], true);
}

// A convolution hears what comes after it, with or without a norm; one of a single tap does not.
TEST_F(LeakProgram, AssertsThatTheFutureIsNotHeard) {
  const ProgramResult unet = leak(std::string(kUnet) + "--length 96 --norm none --causal --assert");
  EXPECT_EQ(unet.code, 1);
  EXPECT_EQ(unet.err,
            "leak: temporal U-Net of 8 channels times 1, 2, none norm hears the future\n");
  const auto of = [&](NormKind norm, std::int64_t kernel_size) {
    const std::string model = save("m.safetensors", small_localizer(norm, kernel_size));
    return leak(std::string(kAnyModel) + "--length 20 --causal --assert --model", {model});
  };
  for (const NormKind norm : {NormKind::kNone, NormKind::kPosition}) {
    EXPECT_EQ(of(norm, 3).code, 1);
    const ProgramResult one_tap = of(norm, 1);
    EXPECT_EQ(one_tap.code, 0);
    EXPECT_EQ(one_tap.err, "");
  }
  const ProgramResult instance = of(NormKind::kInstance, 1);
  EXPECT_EQ(instance.code, 1);
  EXPECT_EQ(instance.err,
            "leak: localizer of depth 4, 4 channels, instance norm hears the future\n");
}

// Where everything lies within the field, a test that goes by --assert would never fail.
TEST_F(LeakProgram, AnAssertionThatCannotFailIsRefused) {
  refused(words(std::string(kUnet) + "--length 32 --norm group --groups 2 --assert"), 2,
          "--assert: of 32 positions all lie within the receptive field, nothing is beyond; give a "
          "larger --length");
  EXPECT_EQ(leak(std::string(kUnet) + "--length 32 --norm group --groups 2").code, 0);
  const std::string model = save("m.safetensors", small_localizer(NormKind::kInstance));
  refused(words(std::string("measure --device cpu --threads 1 --assert --model "),
                {model, "--input", save_npy("x.npy", {1, 4})}),
          2,
          "--assert: of 4 positions all lie within the receptive field, nothing is beyond; give "
          "longer sequences");
  EXPECT_EQ(leak(std::string(kAnyModel) + "--length 10 --assert --model", {model}).code, 1);
  refused(words(std::string(kAnyModel) + "--length 1 --causal --assert --model", {model}), 2,
          "--assert: one position has no future; give a larger --length");
}

// --- What is said -------------------------------------------------------------------------------

// An exact 0 is "nothing", or 0; what is almost 0 is a number.
TEST_F(LeakProgram, NothingIsCalledNothing) {
  EXPECT_TRUE(begins(
      leak(std::string(kUnet) + "--length 96 --norm none --tile 96 --pad 2").out,
      "temporal U-Net of 8 channels times 1, 2, none norm: hears 32 positions to the left and "
      "31 to the right; 0.578 of all pairs lie within\n"
      "from beyond, statistics live   nothing\n"
      "            held at this input nothing\n"
      "            means alone live   nothing\n"
      "            variances alone    nothing\n"
      "|J - J held|^2 / |J|^2         0\n"
      "tiles                          changed by 0: norm 0, padding 0\n"
      "pads                           changed by "));
  EXPECT_EQ(leak(std::string(kUnet) + "--length 96 --norm group --groups 2").out,
            "temporal U-Net of 8 channels times 1, 2, group norm: hears 32 positions to the left "
            "and 31 to the right; 0.578 of all pairs lie within\n"
            "from beyond, statistics live   0.134 of |J|, 0.016 of J^2\n"
            "            held at this input nothing\n"
            "            means alone live   0.080 of |J|, 0.005 of J^2\n"
            "            variances alone    0.122 of |J|, 0.013 of J^2\n"
            "|J - J held|^2 / |J|^2         0.042\n");
  EXPECT_TRUE(
      has(leak(std::string(kUnet) + "--length 32 --norm none").out, "; all pairs lie within\n"));
  const std::string model = save("m.safetensors", small_localizer(NormKind::kInstance));
  EXPECT_TRUE(has(leak(std::string(kAnyModel) + "--model", {model}).out,
                  "\nmost through                   blocks."));
  const std::string whole = leak(std::string(kAnyModel) + "--length 4 --model", {model}).out;
  EXPECT_TRUE(has(whole, "statistics live   nothing\n"));  // the field covers everything
  EXPECT_TRUE(has(whole, "\nmost through                   blocks.")) << whole;
  EXPECT_TRUE(has(whole, " of |J|^2 alone\n")) << whole;
}

TEST_F(LeakProgram, ChecksWithoutMeasuring) {
  const ProgramResult result =
      leak(std::string(kUnet) + "--length 96 --check --out", {folder_ / "none.json"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.err, "");
  EXPECT_TRUE(begins(result.out, "the settings make sense; about "));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "none.json"));
}

TEST_F(LeakProgram, FoldersOnTheWayToTheReportAreMade) {
  const std::string out = folder_ / "a/b/report.json";
  const ProgramResult result = leak(std::string(kUnet) + "--length 32 --norm none --out", {out});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(read_json(out)["schema"], 1);
}

// --- What is refused ----------------------------------------------------------------------------

TEST_F(LeakProgram, BadUsageIsOneLineAndExitCode2) {
  refused({}, 2, "expected a command: measure or completion (see --help)");
  refused({"--model", "x"}, 2,
          "expected a command before --model: expected measure or completion (see --help)");
  for (const auto& [flags, message] : std::vector<std::pair<std::string, std::string>>{
           {"--log-every 3", "there is no flag --log-every (see --help)"},
           {"--preset demo", "there is no flag --preset (see --help)"},
           {"--length", "--length: expected a value, got none (see --help)"},
           {"--length -1", "--length -1: expected a whole number from 0 to 1000000"},
           {"--out -", "--out -: expected the name of a file; for standard output, --json"},
           {"--length 97", "--length 97: expected a multiple of 2, the network's stride"},
           {"--outputs 0", "--outputs 0: expected a whole number from 1 to 1000000"},
           {"--tile 31", "--tile 31: expected a multiple of 2, the network's stride"},
           {"--tile 32 --halo 3", "--halo 3: expected a multiple of 2, the network's stride"},
           {"--halo 4", "--halo 4: has no effect without --tile"},
           {"--pad 3", "--pad 3: expected a multiple of 2, the network's stride"},
           {"--norm batch --samples-per-set 2 --tile 32",
            "--tile 32: of a network whose statistics hold one sample"},
           {"--norm batch --samples-per-set 2 --pad 32",
            "--pad 32: of a network whose statistics hold one sample"},
           {"--norm bath",
            "--norm bath: expected none, instance, group, group_population, layer, position, rms "
            "or batch"},
           {"--norm none --groups 2",
            "--groups 2: has no effect without --norm group or group_population"},
           {"--samples-per-set 2", "--samples-per-set 2: has no effect without --norm batch"},
           {"--padding circular", "--padding circular: has no effect without --model"},
           {"--groups 3", "--groups 3: expected a divisor of the 8 channels of level 0"},
           {"--dim 7", "--dim 7: expected an even number from 4 on"},
           {"--multipliers 2,4", "--multipliers 2,4: expected 1 first, and at most 16 of them"},
           {"--multipliers 1,x",
            "--multipliers 1,x: expected whole numbers from 1 to 16384 with commas between, such "
            "as 1,4,8"},
           {"--kernel-size 4", "--kernel-size 4: expected an odd number from 1 to 999"},
           {"--step 65536", "--step 65536: expected a whole number from 0 to 65535"},
           {"--dtype f16", "--dtype f16: expected auto, f32 or f64"},
           {"--precision tf32", "precision tf32: the CPU computes in fp32"},
       }) {
    refused(words(kUnet + flags), 2, message);
  }
}

TEST_F(LeakProgram, WhatContradictsAModelIsExitCode2) {
  const std::string model = save("m.safetensors", small_localizer(NormKind::kGroup));
  const auto with_model = [&](const std::string& flags, const std::string& message) {
    refused(words(kAnyModel + flags, {"--model", model}), 2, message);
  };
  with_model("--step 3", "--step 3: " + model + " holds no temporal U-Net");
  with_model("--norm instance", "--norm instance: " + model + " holds a network with --norm group");
  with_model("--groups 4", "--groups 4: " + model + " holds a network with --groups 2");
  with_model("--samples-per-set 2", "--samples-per-set 2: has no effect without --norm batch");
  with_model("--padding circular",
             "--padding circular: " + model + " holds a network with --padding zeros");
  for (const char* flag : {"--transition 2", "--dim 8", "--multipliers 1,2", "--kernel-size 3"}) {
    with_model(flag, std::string(flag) + ": the file of --model says it");
  }
  with_model("--out " + model, "--out " + model + ": is what is read, " + model);
  EXPECT_EQ(
      leak(std::string(kAnyModel) + "--norm group --groups 2 --length 9 --model", {model}).code, 0);

  const std::string unet = folder_ / "unet.safetensors";
  save_model(unet, TemporalUnet(Device::cpu(1), DType::kF32,
                                {.transition = 2,
                                 .dim = 4,
                                 .multipliers = {1, 2},
                                 .kernel_size = 3,
                                 .steps = 20,
                                 .groups = 2},
                                1));
  const auto with_unet = [&](const std::string& flags, const std::string& message) {
    refused(words(kAnyModel + flags, {"--model", unet}), 2, message);
  };
  with_unet("--step 20", "--step 20: " + unet + " is of a diffusion with steps from 0 to 19");
  with_unet("--padding zeros", "--padding zeros: " + unet + " holds no localizer");
  with_unet("--groups 4", "--groups 4: " + unet + " holds a network with --groups 2");
  with_unet("--length 9", "--length 9: expected a multiple of 2, the network's stride");
  EXPECT_EQ(leak(std::string(kAnyModel) + "--step 19 --length 8 --no-layers --model", {unet}).code,
            0);

  const std::string packed =
      save("packed.safetensors", LocalizerConfig::packed(3, 4, 3));  // l = 1 + 2 R(3) = 7
  refused(words(kAnyModel + std::string("--length 8"), {"--model", packed}), 2,
          "--length 8: expected 7");
  EXPECT_EQ(leak(std::string(kAnyModel) + "--model", {packed}).code, 0);
}

// As a user of PyTorch hands them over: nothing but weights.
TEST_F(LeakProgram, AFileThatDoesNotSayItsNormNeedsToBeTold) {
  const std::string model = test_data("golden/localizer_instance.safetensors");
  refused(words(kAnyModel, {"--model", model}), 2,
          model + ": does not say which normalization; give --norm");
  EXPECT_EQ(leak(std::string(kAnyModel) + "--norm instance --model", {model}).code, 0);
}

TEST_F(LeakProgram, BadFilesAreOneLineAndExitCode1) {
  const std::string none = folder_ / "none";
  const auto bad_model = [&](const std::string& path, const std::string& message) {
    refused(words(kAnyModel, {"--model", path}), 1, message);
  };
  bad_model(none, "cannot read " + none + ": No such file or directory");
  bad_model(folder_.path(),
            fmt::format("{0}: {0} is a folder, expected a file", folder_.path().string()));
  const std::string model = save("m.safetensors", small_localizer(NormKind::kInstance));
  const std::string half = folder_ / "half.safetensors";
  std::ofstream(half, std::ios::binary) << content_of(model).substr(0, 700);
  const ProgramResult result = leak(kAnyModel, {"--model", half});
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(begins(result.err, "leak: " + half + ": "));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  const std::string other = folder_ / "other.safetensors";
  SafetensorsFile file;
  file.tensors["w"] = HostArray(DType::kF32, {2});
  write_safetensors(other, file);
  bad_model(other, other +
                       ": has no conv_in.weight of a localizer, and no "
                       "downs.0.0.blocks.0.block.0.weight of a temporal U-Net");

  const auto bad_input = [&](const std::string& path, const std::string& message) {
    refused({"measure", "--device", "cpu", "--model", model, "--input", path}, 1, message);
  };
  bad_input(none, "cannot read " + none + ": No such file or directory");
  const std::string x = save_npy("x.npy", {2, 9, 3});
  bad_input(x, x + ": expected an array [n, l, 1] of n sequences, got shape [2, 9, 3]");
  bad_input(save_npy("x.npy", {9}),
            x + ": expected an array [n, l, 1] of n sequences, got shape [9]");
  bad_input(save_npy("x.npy", {0, 9}),
            x + ": expected an array [n, l, 1] of n sequences, got shape [0, 9]");
  bad_input(save_npy("x.npy", {2, 9}, NAN), x + ": holds nan at [0, 0]");
  refused({"measure", "--device", "cpu", "--model", model, "--input", save_npy("x.npy", {2, 20}),
           "--length", "20"},
          2, "--length 20: has no effect with --input");
  refused({"measure", "--device", "cpu", "--model", model, "--input", x, "--inputs", "4"}, 2,
          "--inputs 4: has no effect with --input");
  for (const Shape& shape : {Shape{2, 20}, Shape{2, 20, 1}}) {
    save_npy("x.npy", shape);
    EXPECT_EQ(leak("measure --device cpu --threads 1 --outputs 2 --no-layers --model",
                   {model, "--input", x})
                  .code,
              0);
  }
  const auto unet_input = [&](const Shape& shape, const std::string& norm,
                              const std::string& said) {
    save_npy("x.npy", shape);
    refused(words("measure --device cpu --dim 8 --multipliers 1,2 --transition 2 --norm " + norm,
                  {"--input", x}),
            1, x + ": " + said);
  };
  unet_input({1, 97, 2}, "none",
             "sequences of 97 positions, expected a multiple of 2, the network's stride");
  unet_input({1, 96}, "none", "expected an array [n, l, 2] of n sequences, got shape [1, 96]");
  unet_input({3, 96, 2}, "batch --samples-per-set 2",
             "3 sequences, expected a multiple of the 2 that share their statistics");
}

// The measure itself is not lost where its report cannot be written.
TEST_F(LeakProgram, AReportThatCannotBeWrittenIsOneLineAndExitCode1) {
  for (const auto& [out, message] :
       {std::pair<std::string, std::string>{"/dev/full", "No space left on device"},
        {"/proc/none.json", "No such file or directory"},
        {folder_.path().string(), "Is a directory"}}) {
    const ProgramResult result = leak(std::string(kUnet) + "--length 32 --norm none --out", {out});
    EXPECT_EQ(result.code, 1);
    EXPECT_EQ(result.err, fmt::format("leak: cannot write {}: {}\n", out, message));
    EXPECT_TRUE(begins(result.out, "temporal U-Net of 8 channels "));
  }
  const ProgramResult full =
      run_shell(fmt::format("$BIN/leak {} --length 32 --norm none >/dev/full", kUnet));
  EXPECT_EQ(full.code, 1);
  EXPECT_EQ(full.err, "leak: cannot write standard output: No space left on device\n");
}

// What is not finite would count as nothing, and a network that nobody can measure as one that does
// not leak.
TEST_F(LeakProgram, NumbersThatAreNotFiniteAreNeverAMeasure) {
  const LocalizerConfig config = small_localizer(NormKind::kNone);
  const std::string model = save("m.safetensors", config);
  SafetensorsFile file = read_safetensors(model);
  file.tensors.at("conv_out.weight").as<float>()[2] = NAN;
  write_safetensors(model, file);
  refused(words(std::string(kAnyModel) + "--assert --model", {model}), 1,
          model + ": conv_out.weight is nan at [0, 0, 2]");

  const auto fails = [&](const std::string& flags, const std::string& part) {
    const ProgramResult result = leak(kAnyModel + flags + " --assert --model", {model});
    EXPECT_EQ(result.code, 1);
    EXPECT_TRUE(begins(result.err, "leak: localizer of depth 4, 4 channels, none norm: " + part));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.out, "");
  };
  // In f32 the second convolution overflows.
  save_filled("m.safetensors", config, 1e28F);
  fails("--dtype f32", "blocks.0.conv gave ");
  EXPECT_EQ(leak(std::string(kAnyModel) + "--dtype f64 --assert --model", {model}).code, 0);
  // In f64 all is finite but the square of a derivative.
  save_filled("m.safetensors", config, 3e38F);
  fails("--dtype f64", "a derivative of output position ");
  // All derivatives are finite, what is answered is not.
  SafetensorsFile biased = read_safetensors(save_filled("m.safetensors", config, 1));
  for (auto& [name, array] : biased.tensors) {
    if (name.ends_with("bias")) std::ranges::fill(array.as<float>(), 3e38F);
  }
  write_safetensors(model, biased);
  fails("--dtype f32", "blocks.0.conv gave inf at [0, 0, 0]");
}

}  // namespace
}  // namespace sidechannel::harness
