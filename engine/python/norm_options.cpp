#include "engine/norm.h"

#include "engine/python/binding.h"
#include "models/norm_kind.h"

namespace sidechannel::python {
namespace {

// The sets of a kind of normalization that networks have.
NormOptions of_kind(const std::string& kind, std::int64_t channels, std::int64_t groups,
                    std::int64_t samples_per_set) {
  const NormKindInfo& info = info_of(norm_kind_from(kind));
  require(info.kind != NormKind::kNone, "norm none: has no options");
  require(!info.has_groups || (groups >= 1 && channels % groups == 0),
          fmt::format("groups {}: expected a divisor of the {} channels", groups, channels));
  NormOptions options;
  info.choose_sets({channels, groups, samples_per_set}, options);
  return options;
}

std::string words_of(const NormOptions& self) {
  return fmt::format(
      "NormOptions(channels_per_set={}, samples_per_set={}, positions_per_set={}, epsilon={}, "
      "activation=\"{}\", centred={}, through_mean={}, through_variance={})",
      self.channels_per_set, self.samples_per_set, self.positions_per_set, self.epsilon,
      name_of(self.activation), self.centred ? "True" : "False",
      self.through_mean ? "True" : "False", self.through_variance ? "True" : "False");
}

}  // namespace

void bind_norm_options(nb::module_& m) {
  nb::class_<NormOptions>(m, "NormOptions",
                          R"(Which values share a mean and a variance, and what follows.

channels_per_set and samples_per_set: how many neighbours of each share their statistics. Instance
norm has 1 and 1, a group norm C / G channels, LayerNorm over positions all channels, batch norm as
many samples as a batch has. positions_per_set: 0 for all positions; 1 is transformers' LayerNorm.
epsilon stands under the root. activation: "none", "relu" or "mish". centred: otherwise RMS.
through_mean, through_variance: otherwise constants on the way back, as by PyTorch's detach().)")
      .def(
          "__init__",
          [](NormOptions* self, std::int64_t channels_per_set, std::int64_t samples_per_set,
             std::int64_t positions_per_set, double epsilon, const std::string& activation,
             bool centred, bool through_mean, bool through_variance) {
            new (self) NormOptions{.channels_per_set = channels_per_set,
                                   .samples_per_set = samples_per_set,
                                   .epsilon = epsilon,
                                   .activation = activation_from(activation),
                                   .positions_per_set = positions_per_set,
                                   .centred = centred,
                                   .through_mean = through_mean,
                                   .through_variance = through_variance};
          },
          "channels_per_set"_a = 1, "samples_per_set"_a = 1, "positions_per_set"_a = 0,
          nb::kw_only(), "epsilon"_a = 1e-5, "activation"_a = "relu", "centred"_a = true,
          "through_mean"_a = true, "through_variance"_a = true)
      .def_static("of", &of_kind, "kind"_a, "channels"_a, "groups"_a = 1, "samples_per_set"_a = 1,
                  "The sets of a kind by its name, as networks take it: instance, group, layer, "
                  "position, rms or batch, for so many channels.")
      .def_rw("channels_per_set", &NormOptions::channels_per_set)
      .def_rw("samples_per_set", &NormOptions::samples_per_set)
      .def_rw("positions_per_set", &NormOptions::positions_per_set)
      .def_rw("epsilon", &NormOptions::epsilon)
      .def_prop_rw(
          "activation", [](const NormOptions& self) { return name_of(self.activation); },
          [](NormOptions& self, const std::string& name) {
            self.activation = activation_from(name);
          })
      .def_rw("centred", &NormOptions::centred)
      .def_rw("through_mean", &NormOptions::through_mean)
      .def_rw("through_variance", &NormOptions::through_variance)
      .def("__repr__", &words_of);
}

}  // namespace sidechannel::python
