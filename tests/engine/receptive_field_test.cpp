#include "engine/receptive_field.h"

#include <gtest/gtest.h>

#include "models/temporal_unet.h"
#include "tests/harness/op_check.h"

// Against what gradients say: with weights of 1 everywhere an output's gradient is above 0 where it
// hears an input, and 0 elsewhere.

namespace sidechannel {
namespace {

using harness::device;
using harness::Draw;
using harness::error_of;
using harness::values_of;
using Interval = ReceptiveField::Interval;

Tensor ones(Shape shape) {
  Tensor tensor(device(), DType::kF64, shape);
  tensor.fill(1);
  return tensor;
}

// Layers that are drawn, taken by values and by fields.
struct Stack {
  enum class Kind { kConv, kRing, kTranspose, kSkip };
  struct Layer {
    Kind kind;
    std::int64_t kernel_size, padding, stride;
  };
  std::vector<Layer> layers;

  Var operator()(Var x) const {
    for (const Layer& layer : layers) {
      const Var w = x.tape().constant(ones({layer.kernel_size, 1, 1}));
      const Var b = x.tape().constant(ones({1}));
      switch (layer.kind) {
        case Kind::kConv:
        case Kind::kRing:
          x = conv1d(
              x, w, b, layer.padding,
              {.mode = layer.kind == Kind::kRing ? PaddingMode::kCircular : PaddingMode::kZeros,
               .stride = layer.stride});
          break;
        case Kind::kTranspose:
          x = conv_transpose1d(x, w, b, layer.padding, layer.stride);
          break;
        case Kind::kSkip:
          x = add(x, conv1d(x, w, b, layer.padding));
      }
    }
    return x;
  }
  ReceptiveField operator()(ReceptiveField x) const {
    for (const Layer& layer : layers) {
      const auto& [kind, k, padding, stride] = layer;
      x = kind == Kind::kTranspose ? x.conv_transpose1d(k, padding, stride)
          : kind == Kind::kSkip    ? x.united(x.conv1d(k, padding, 1, false))
                                   : x.conv1d(k, padding, stride, kind == Kind::kRing);
    }
    return x;
  }
};

Stack drawn(Draw& draw, bool ring) {
  Stack stack;
  for (std::int64_t i = draw.integer(1, 4); i > 0; --i) {
    const std::int64_t k = 2 * draw.integer(0, 2) + 1,
                       stride = draw.integer(1, std::min<std::int64_t>(k, 3));
    switch (ring ? 0 : draw.integer(0, 2)) {
      case 0:
        if (ring) {
          stack.layers.push_back({Stack::Kind::kRing, k, k / 2, 1});
        } else {
          stack.layers.push_back({Stack::Kind::kConv, k, draw.integer(0, k - 1), stride});
        }
        break;
      case 1:
        stack.layers.push_back({Stack::Kind::kTranspose, k + stride - 1,
                                draw.integer(0, (k + stride - 2) / 2), stride});
        break;
      default:
        stack.layers.push_back({Stack::Kind::kSkip, k, k / 2, 1});
    }
  }
  return stack;
}

// How many output positions of a network hear others than `field` says.
std::int64_t wrong_positions(const Stack& stack, const ReceptiveField& field) {
  std::int64_t wrong = 0;
  Tape tape(device(), DType::kF64);
  const Var x = tape.leaf(ones({1, field.input_length(), 1}));
  const Var y = stack(x);
  EXPECT_EQ(y.shape()[1], field.length());
  for (std::int64_t o = 0; o < field.length(); ++o) {
    HostArray cotangent(DType::kF64, y.shape());
    cotangent.as<double>()[static_cast<std::size_t>(o)] = 1;
    tape.backward(y, Tensor::from(device(), cotangent));
    const std::vector<double> gradient = values_of(tape.gradient(x));
    bool same = true;
    for (std::int64_t i = 0; i < field.input_length(); ++i) {
      same = same && (gradient[static_cast<std::size_t>(i)] > 0) == field.holds(o, i);
    }
    wrong += !same;
  }
  return wrong;
}

TEST(ReceptiveField, IsWhereGradientsAre) {
  Draw draw(3);
  int compared = 0;
  for (int i = 0; i < 300; ++i) {
    const Stack stack = drawn(draw, i % 5 == 0);
    const std::int64_t length = draw.integer(1, 24);
    std::string words;
    for (const auto& [kind, k, padding, stride] : stack.layers) {
      words += fmt::format(" [{} k={} padding={} stride={}]", static_cast<int>(kind), k, padding,
                           stride);
    }
    SCOPED_TRACE(fmt::format("length {}{}", length, words));
    std::optional<ReceptiveField> field;
    if (error_of([&] { field = stack(ReceptiveField(length)); }) != "no error") continue;
    EXPECT_EQ(wrong_positions(stack, *field), 0);
    ++compared;
  }
  EXPECT_GT(compared, 150);
}

TEST(ReceptiveField, AFieldThatIsTooSmallIsFound) {
  const Stack stack{{{Stack::Kind::kConv, 5, 2, 1}}};
  const Stack smaller{{{Stack::Kind::kConv, 3, 1, 1}}};
  EXPECT_EQ(wrong_positions(stack, stack(ReceptiveField(9))), 0);
  EXPECT_EQ(wrong_positions(stack, smaller(ReceptiveField(9))), 9);
}

TEST(ReceptiveField, GoesAroundARing) {
  const ReceptiveField field = ReceptiveField(6).conv1d(3, 1, 1, true);
  EXPECT_TRUE(field.holds(0, 5));
  EXPECT_TRUE(field.holds(5, 0));
  EXPECT_FALSE(field.holds(0, 4));
  const ReceptiveField all = field.conv1d(7, 3, 1, true);  // once around
  for (std::int64_t i = 0; i < 6; ++i) EXPECT_TRUE(all.holds(2, i));
}

TEST(ReceptiveField, RefusesWhatDoesNotFit) {
  EXPECT_EQ(error_of([] { ReceptiveField(3).conv1d(5, 0, 1, false); }),
            "receptive field: a kernel of 5 with padding 0 does not fit into a sequence of 3");
  EXPECT_EQ(error_of([] { ReceptiveField(3).united(ReceptiveField(4)); }),
            "receptive field: sequences of 3 and 4 do not go together");
  EXPECT_EQ(error_of([] { ReceptiveField(3).conv_transpose1d(2, 0, 3); }),
            "receptive field: a transposed kernel of 2 with stride 3 leaves gaps");
  EXPECT_EQ(
      error_of([] { ReceptiveField(3).conv_transpose1d(1, 2, 1); }),
      "receptive field: a transposed kernel of 1 with padding 2 leaves nothing of a sequence of "
      "3");
  EXPECT_EQ(error_of([] { ReceptiveField(9).conv1d(1, 0, 2, false); }),
            "receptive field: a kernel of 1 with stride 2 leaves gaps");
}

}  // namespace
}  // namespace sidechannel
