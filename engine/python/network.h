#pragma once

// Networks, as those parts know them that train, measure and read them.

#include "engine/python/binding.h"
#include "models/localizer.h"
#include "models/network.h"
#include "models/temporal_unet.h"

namespace sidechannel::python {

struct PyNetwork {
  std::shared_ptr<Network> network;

  const ParameterList& list() const { return std::as_const(*network).parameters(); }
  const Device& device() const { return list().device(); }
  PyParameters parameters() const {
    return {std::shared_ptr<ParameterList>(network, &network->parameters())};
  }
};
struct PyLocalizer : PyNetwork {
  const Localizer& localizer() const { return static_cast<const Localizer&>(*network); }
};
struct PyTemporalUnet : PyNetwork {
  TemporalUnet& unet() const { return static_cast<TemporalUnet&>(*network); }
};

// As the class of Python's that it is.
nb::object python_from(std::shared_ptr<Network> network);

// The same network, values too, on a device and in a type of one's own.
std::unique_ptr<Network> copied(const Network& network, const Device& device, DType dtype);

}  // namespace sidechannel::python
