#pragma once

// Command lines with awkward values in every flag and every field of a preset.

#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "experiments/diffusion/settings.h"
#include "experiments/leak/settings.h"
#include "experiments/localization/settings.h"
#include "experiments/overlap/settings.h"
#include "experiments/run/flags.h"
#include "tests/harness/program.h"

namespace sidechannel::fuzz {

struct Case {
  std::string program;
  std::vector<std::string> arguments;

  std::string str() const {
    std::string text = program;
    for (const std::string& argument : arguments) text += " '" + argument + "'";
    return text;
  }
};

class Cases {
 public:
  // Presets are written to `file`, which ends with .json.
  Cases(std::uint64_t seed, std::string file) : random_(seed), file_(std::move(file)) {}

  Case next() {
    const std::size_t program = below(5);
    Case result;
    std::vector<std::string> flags;
    if (program == 0) {
      result = {"localization",
                {pick({"run", "train", "probe", "map", "predict", "paths", "settings"})}};
      flags = names_of<experiments::LocalizationSettings>();
      flags.insert(flags.end(), {"model", "input", "output", "index", "sequences"});
    } else if (program == 1) {
      result = {"overlap", {pick({"run", "plan", "status", "collect", "settings"})}};
      flags = names_of<experiments::OverlapSettings>();
      flags.emplace_back("overlap");
    } else if (program == 2) {
      result = {"diffusion", {pick({"run", "settings"})}};
      flags = names_of<experiments::DiffusionSettings>();
    } else if (program == 3) {
      result = {"leak", {"measure"}};
      flags = names_of<experiments::LeakSettings>();
      flags.insert(flags.end(), {"model", "input", "assert", "causal", "no_layers"});
    } else {
      result = {"sweep", {pick({"plan", "run", "status", "collect"})}};
      flags = {"program", "population", "jobs", "cell", "choose", "csv", "device"};
      if (below(2) == 0) {
        result.arguments.insert(
            result.arguments.end(),
            {"--program", pick({"localization", "overlap", "diffusion", "leak"})});
      } else {
        result.arguments.insert(result.arguments.end(),
                                {"--preset", pick({"groups/demo", "crosstalk/demo", "groups/x"})});
      }
      std::vector<std::string> names = names_of<experiments::LocalizationSettings>();
      names.insert(names.end(), {"overlap", "dim", "lenght"});
      for (std::size_t i = below(4); i > 0; --i) {
        result.arguments.insert(result.arguments.end(),
                                {pick({"--over", "--set"}), pick(names) + "=" + value()});
      }
    }
    flags.insert(flags.end(), {"preset", "resume", "lenght"});
    const bool has_presets = result.program != "leak" && result.program != "sweep";
    if (below(40) == 0) result.arguments[0] = value();
    for (std::size_t i = below(4); i > 0; --i) {
      const std::string flag = experiments::flag_of(flags[below(flags.size())]);
      if (below(8) == 0) {
        result.arguments.push_back(flag + "=" + value());
      } else {
        result.arguments.insert(result.arguments.end(), {flag, value()});
      }
    }
    if (has_presets && below(2) == 0) {
      write_preset(flags);
      result.arguments.insert(result.arguments.end(), {"--preset", file_});
    }
    if (result.arguments[0] == "settings") return result;  // which is all that it takes
    if (result.arguments[0] != "predict" && result.arguments[0] != "status" &&
        result.arguments[0] != "collect") {
      result.arguments.emplace_back("--check");
    }
    result.arguments.insert(result.arguments.end(), {"--out", "/nowhere/run"});
    return result;
  }

 private:
  template <class S>
  static std::vector<std::string> names_of() {
    std::vector<std::string> names;
    for (const auto& flag : experiments::all_settings<S>()) names.emplace_back(flag.name);
    return names;
  }

  std::size_t below(std::size_t n) { return random_() % n; }
  std::string pick(const std::vector<std::string>& from) { return from[below(from.size())]; }

  // As text.
  std::string value() {
    static const std::vector<std::string> kWords = harness::words(
        "0 1 -1 2 3 8 16 33 64 1000 1000001 2147483647 2147483648 -2147483648 4294967295 "
        "4294967296 9223372036854775807 9223372036854775808 -9223372036854775808 "
        "18446744073709551615 18446744073709551616 010 0x10 +5 1e3 1e-3 1e400 -1e400 1e-400 0.5 .5 "
        "5. inf -inf nan true null none instance group layer batch noise constant tail all last "
        "minibatch population cpu cuda cuda:0 cuda:00 cuda:-1 cuda:9999999999 auto fp32 tf32 demo "
        "small paper 0:32:4,33 0..4 2..9:3 0..20000 1:4:9223372036854775807 0:9223372036854775807 "
        ", : :: 1,2,4 1,1 "
        "1e-3,2e-3 1,4,8 2,4 1,16384 {} {cell} %s%n --help -- - -x \x1b[31m \xff\xfe é ../.. "
        "/dev/zero / [1,2] \" '",
        {"", " ", " 5", "5 ", "\n", "a\nb", harness::test_data("golden/localizer_none.safetensors"),
         harness::test_data("golden/welch.npy")});
    switch (below(8)) {
      case 0:
        return std::to_string(static_cast<std::int64_t>(random_()));
      case 1:
        return std::to_string(below(100));
      case 2: {
        std::string text(1 + below(below(20) == 0 ? 5000 : 400), '0');
        for (char& c : text) c = static_cast<char>('0' + below(10));
        return text;
      }
      case 3: {
        std::string text = pick(kWords);
        if (!text.empty()) text[below(text.size())] = static_cast<char>(1 + below(255));
        return text;
      }
      default:
        return pick(kWords);
    }
  }

  // As JSON, most of the time.
  std::string json_value(int depth) {
    switch (below(12)) {
      case 0:
        return "\"" + pick({"none", "instance", "group", "tail", "all", "", "\\u0000", "x"}) + "\"";
      case 1:
        return "[" + (depth > 3 ? "" : json_value(depth + 1) + "," + json_value(depth + 1)) + "]";
      case 2:
        return depth > 3 ? "{}" : json_object({"length", "norm", "x"}, depth + 1);
      case 3:
        return std::string(1 + below(200'000 / (below(50) == 0 ? 1 : 1000)), '[');
      case 4:
        return pick({"true", "false", "null", "1.5", "-0", "1e3", "1E400", "-1e400", "2.0"});
      case 5:
        return value();
      default:
        return pick({"0", "1", "-1", "2", "4", "8", "2147483648", "9223372036854775807",
                     "9223372036854775808", "18446744073709551615", "18446744073709551616", "1e-3",
                     "0.5", "1000000", "65536"});
    }
  }

  std::string json_object(const std::vector<std::string>& names, int depth) {
    std::string text = "{";
    for (std::size_t i = below(5); i > 0; --i) {
      const std::string name = below(30) == 0 ? value() : pick(names);
      text += "\"" + name + "\": " + json_value(depth) + (i > 1 ? ", " : "");
    }
    return text + "}";
  }

  void write_preset(const std::vector<std::string>& names) {
    std::string text = json_object(names, 0);
    if (below(4) == 0 && text.size() > 2) {
      text.back() = ',';
      text += "\"for_norm\": {\"" +
              pick({"none", "instance", "group", "group_population", "rms", "batch", "bath", ""}) +
              "\": " + json_object(names, 1) + "}}";
    }
    if (below(20) == 0) text.resize(below(text.size() + 1));
    if (below(20) == 0 && !text.empty()) text[below(text.size())] = static_cast<char>(below(256));
    std::ofstream(file_, std::ios::binary | std::ios::trunc) << text;
  }

  std::mt19937_64 random_;
  std::string file_;
};

}  // namespace sidechannel::fuzz
