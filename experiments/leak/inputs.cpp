#include "experiments/leak/inputs.h"

#include <algorithm>

#include "engine/finite.h"
#include "engine/io/npy.h"

namespace sidechannel::experiments {
namespace {

constexpr Stream kLeakNoise{6};

}  // namespace

std::int64_t samples_of_set(const Network& network) {
  std::int64_t most = 1;
  for (const Network::Norm& norm : network.norms()) {
    most = std::max(most, norm.options.samples_per_set);
  }
  return most;
}

std::string objection(const Network& network, std::int64_t length) {
  if (network.shortest() > network.stride()) {  // of one length alone
    return length == network.shortest() ? "" : fmt::format("expected {}", network.shortest());
  }
  return length % network.stride() == 0
             ? ""
             : fmt::format("expected a multiple of {}, the network's stride", network.stride());
}

std::int64_t natural_length(const Network& network) {
  if (network.shortest() > network.stride()) return network.shortest();
  const Network::Reach reach = network.reach();
  const std::int64_t stride = network.stride();
  return (2 * (reach.left + reach.right + 1) + stride - 1) / stride * stride;
}

void check_parts(const Network& network,
                 std::initializer_list<std::pair<const char*, std::int64_t>> parts) {
  for (const auto& [name, value] : parts) {
    if (value == 0) continue;
    require(samples_of_set(network) == 1,
            fmt::format("{} {}: of a network whose statistics hold one sample", name, value));
    require(value % network.stride() == 0,
            fmt::format("{} {}: expected a multiple of {}, the network's stride", name, value,
                        network.stride()));
  }
}

void take_shape(const Shape& shape, const std::string& source, LeakSize& size) {
  const bool flat = shape.rank() == 2 && size.channels == 1;  // [n, l], as `localization predict`
  SC_CHECK(shape.size() > 0 && (flat || (shape.rank() == 3 && shape[2] == size.channels)),
           "{}: expected an array [n, l, {}] of n sequences, got shape {}", source, size.channels,
           shape.str());
  SC_CHECK(shape[0] % size.samples == 0,
           "{}: {} sequences, expected a multiple of the {} that share their statistics", source,
           shape[0], size.samples);
  size.inputs = shape[0] / size.samples;
  size.length = shape[1];
}

std::vector<Tensor> noise_sets(const Device& device, DType dtype, const Shape& shape,
                               std::int64_t count, std::uint64_t seed) {
  Random random(device, seed);
  std::vector<Tensor> inputs;
  for (std::int64_t i = 0; i < count; ++i) {
    Tape tape(device, dtype);
    // Channels of a position are neighbouring samples of the generator's sequences.
    const Var noise = tape.normal({shape[0], shape[1] * shape[2]}, kLeakNoise, random);
    const Tensor kept(device, dtype, shape);
    kept.copy_from(noise.value().reshape(shape));
    inputs.push_back(kept);
    random.advance(0, static_cast<std::uint32_t>(shape[0]));
  }
  return inputs;
}

std::vector<Tensor> sets_of(const Device& device, DType dtype, const HostArray& sequences,
                            const Shape& shape, const std::string& source) {
  const HostArray array = converted(sequences, dtype);
  const std::string wrong = first_not_finite(array);
  SC_CHECK(wrong.empty(), "{}: holds {}", source, wrong);
  const Tensor all = Tensor::from(device, array);
  std::vector<Tensor> inputs;
  for (std::int64_t first = 0; first < all.size(); first += shape.size()) {
    inputs.push_back(all.slice(first, shape.size()).reshape(shape));
  }
  return inputs;
}

}  // namespace sidechannel::experiments
