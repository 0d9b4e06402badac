// The kernels of layers in a row, wherever a device has such.

#include "kernels/conv_norm_act.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/harness/conv_norm_act_check.h"

namespace sidechannel {
namespace {

using harness::BufferOn;
using harness::expect_equal_bits;
using harness::failures_of;
using harness::LayerCheck;
using harness::LayerFault;
using harness::LayerGradients;
using harness::OnCpu;
using harness::RowCase;
using harness::RowOn;
using harness::widened;
using kernels::GradOut;
using kernels::Write;
using enum harness::Normalized;

// Calls f.operator()<T>(queue) for the queues that may compute rows, f(case) for the cases there.
template <class Backend, class F>
void for_queues(const F& f) {
  if constexpr (std::is_same_v<Backend, OnCpu>) {
    for (const int threads : {1, 2}) {
      f.template operator()<float>(harness::queue(threads));
      f.template operator()<double>(harness::queue(threads));
    }
  } else {
    Backend::for_precisions(f);
  }
}
template <class Buffer>
void expect_same(const char* what, const std::vector<Buffer*>& a, const std::vector<Buffer*>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    expect_equal_bits(fmt::format("{} {}", what, i), a[i]->values(), b[i]->values());
    EXPECT_TRUE(a[i]->walls_stand()) << what;
  }
}

// Each layer from what the layer below left. A layer alone leaves the same bits, and so does a row
// that keeps nothing and shows only its end.
template <class Backend, class T>
void check_forward(auto& queue, const RowCase& c, const std::string& variant,
                   RowOn<Backend, T>& row) {
  row.forward(queue, variant, row.x, row.calls());
  RowOn<Backend, T> alone(c), brief(c);
  std::vector<double> x = widened(row.x.values());
  for (std::size_t i = 0; i < row.layers.size(); ++i) {
    SCOPED_TRACE(i);
    LayerCheck<Backend, T>(harness::products_of(queue), x, row.layers[i]).expect_forward();
    alone.forward(queue, variant, i == 0 ? row.x : row.layers[i - 1].z, alone.calls(i, 1));
    expect_same("alone", row.layers[i].results(), alone.layers[i].results());
    x = widened(row.layers[i].z.values());
  }
  std::vector<kernels::ConvNormActLayer<T>> calls = brief.calls();
  for (auto& call : calls) {
    call.y = nullptr;
    if (&call != &calls.back()) call.z = nullptr;
  }
  brief.forward(queue, variant, brief.x, calls);
  expect_equal_bits("brief", brief.layers.back().z.values(), row.layers.back().z.values());
  if (row.layers.back().normalized) {
    expect_equal_bits("brief", brief.layers.back().mean.values(), row.layers.back().mean.values());
  }
}

// What was computed before, and what gradients are added to.
template <class Backend, class T>
RowOn<Backend, T> prepared(RowOn<Backend, T>& row, std::uint64_t seed) {
  RowOn<Backend, T> copy(row.c);
  harness::Draw draw(seed);
  for (std::size_t i = 0; i < row.layers.size(); ++i) {
    const auto from = row.layers[i].results(), to = copy.layers[i].results();
    for (std::size_t j = 0; j < from.size(); ++j) {
      const auto values = from[j]->values();
      to[j]->set({values.begin(), values.end()});
    }
    for (auto* gradient : copy.layers[i].gradients()) {
      gradient->set(draw.normals<T>(static_cast<std::int64_t>(gradient->values().size())));
    }
  }
  copy.dx.set(draw.normals<T>(static_cast<std::int64_t>(copy.dx.values().size())));
  return copy;
}

// Each layer from its own dz. What that is, the rows tell that begin behind it: they compute the
// same bits, and give it as their dx.
template <class Backend, class T>
void check_backward(auto& queue, const std::string& variant, RowOn<Backend, T>& row) {
  auto added = prepared(row, 11), before = prepared(row, 11), part = prepared(row, 12);
  row.backward(queue, variant, 0, row.x, {row.dx.data()}, row.gradients(Write::kOverwrite));
  added.backward(queue, variant, 0, row.x, {added.dx.data(), Write::kAccumulate},
                 added.gradients(Write::kAccumulate));
  std::vector<double> dz = widened(row.dz.values());
  for (std::size_t i = row.layers.size(); i-- > 0;) {
    SCOPED_TRACE(i);
    const auto& x = i == 0 ? row.x : row.layers[i - 1].z;
    const LayerCheck<Backend, T> check(harness::products_of(queue), widened(x.values()),
                                       row.layers[i]);
    LayerGradients expected = check.gradients(dz);
    check.expect_params(row.layers[i], expected);
    BufferOn<Backend, T> dx(static_cast<std::int64_t>(check.x.size()));
    part.backward(queue, variant, i, x, {dx.data()}, part.gradients(Write::kOverwrite, i));
    EXPECT_TRUE(dx.walls_stand());
    check.expect_dx(dx.values(), expected);
    for (std::size_t j = i; j < row.layers.size(); ++j) {
      auto whole = row.layers[j].gradients(), of_part = part.layers[j].gradients();
      // On CUDA the sums for weights and biases are cut by how many layers there are.
      if (!std::is_same_v<Backend, OnCpu>) {
        whole.resize(whole.size() - 2);
        of_part.resize(of_part.size() - 2);
      }
      expect_same("part", of_part, whole);
    }
    const auto add = [&](harness::Reference& to, const BufferOn<Backend, T>& from) {
      to.add_all(widened(from.values()));
    };
    auto& to = before.layers[i];
    add(expected.dw, to.dw);
    add(expected.db, to.db);
    add(expected.dgamma, to.dgamma);
    add(expected.dbeta, to.dbeta);
    check.expect_params(added.layers[i], expected, 1);
    expect_same("walls", added.layers[i].gradients(), added.layers[i].gradients());
    dz = widened(dx.values());
    if (i > 0) continue;
    expect_equal_bits("dx", row.dx.values(), dx.values());
    EXPECT_TRUE(row.dx.walls_stand() && added.dx.walls_stand());
    add(expected.dx, before.dx);
    check.expect_dx(added.dx.values(), expected, 1);
  }
}

BACKEND_TEST(ConvNormAct, AgreesWithTheDefinition) {
  for_queues<Backend>([]<class T>(auto& queue) {
    harness::for_rows<Backend, T>(queue, [&](const RowCase& c, const std::string& variant) {
      SCOPED_TRACE(c.text() + " " + variant);
      RowOn<Backend, T> row(c);
      check_forward<Backend, T>(queue, c, variant, row);
      check_backward<Backend, T>(queue, variant, row);
    });
  });
}

// Each alone: the same bits, and nothing else moves.
BACKEND_TEST(ConvNormAct, ComputesWhatIsAskedFor) {
  for_queues<Backend>([]<class T>(auto& queue) {
    for (const RowCase& c :
         {RowCase{4, 40, 32, 5, 2, 2}, RowCase{2, 40, 64, 5, 2, 1, 1, 1, kNone}}) {
      RowOn<Backend, T> row(c);
      if (harness::variants(queue, row.calls()).empty()) continue;
      row.forward(queue, "", row.x, row.calls());
      row.backward(queue, "", 0, row.x, {row.dx.data()}, row.gradients(Write::kOverwrite));
      const auto all_of = [](RowOn<Backend, T>& of) {
        std::vector<BufferOn<Backend, T>*> all{&of.dx};
        for (auto& layer : of.layers) {
          for (auto* gradient : layer.gradients()) all.push_back(gradient);
        }
        return all;
      };
      const auto expected = all_of(row);
      auto only = prepared(row, 11);
      const auto actual = all_of(only);
      for (std::size_t asked = 0; asked <= actual.size(); ++asked) {  // the last time none
        SCOPED_TRACE(asked);
        for (auto* buffer : actual) buffer->set(std::vector<T>(buffer->values().size(), T(7)));
        const auto is_asked = [&](const GradOut<T>& out) {
          return asked < actual.size() && out.data == actual[asked]->data();
        };
        GradOut<T> to_x{only.dx.data()};
        auto to = only.gradients(Write::kOverwrite);
        if (!is_asked(to_x)) to_x = {};
        for (auto& [dw, db, dgamma, dbeta] : to) {
          for (auto* out : {&dw, &db, &dgamma, &dbeta}) {
            if (!is_asked(*out)) *out = {};
          }
        }
        only.backward(queue, "", 0, only.x, to_x, to);
        for (std::size_t i = 0; i < actual.size(); ++i) {
          const auto values = actual[i]->values();
          if (i == asked) {
            expect_equal_bits("alone", values, expected[i]->values());
          } else {
            EXPECT_EQ(std::ranges::count(values, T(7)), std::ssize(values)) << i;
          }
        }
      }
    }
  });
}

// A rule that is wrong in one thing is further off than the bounds allow, on both sides of the sums
// that it enters.
BACKEND_TEST(ConvNormAct, WrongRulesAreFound) {
  for_queues<Backend>([]<class T>(auto& queue) {
    const RowCase c{4, 40, 32, 5, 2};
    RowOn<Backend, T> row(c);
    if (harness::variants(queue, row.calls()).empty()) return;
    row.forward(queue, "", row.x, row.calls());
    row.backward(queue, "", 0, row.x, {row.dx.data()}, row.gradients(Write::kOverwrite));
    const LayerCheck<Backend, T> check(harness::products_of(queue), widened(row.x.values()),
                                       row.layers[0]);
    const std::vector<double> dz = widened(row.dz.values());
    using enum LayerFault;
    for (const LayerFault fault :
         {LayerFault::kNone, kNoMean, kNoSlope, kOtherGroup, kNoMask, kRounded}) {
      if (fault == kRounded && check.products != harness::Products::kSplit) continue;
      SCOPED_TRACE(static_cast<int>(fault));
      const LayerGradients expected = check.gradients(dz, fault);
      const int of_dx = failures_of([&] { check.expect_dx(row.dx.values(), expected); });
      const int of_params = failures_of([&] { check.expect_params(row.layers[0], expected); });
      EXPECT_EQ(of_dx > 0, fault != LayerFault::kNone);
      EXPECT_EQ(of_params > 0, fault != LayerFault::kNone);
    }
    LayerCheck<Backend, T> other = check;
    std::rotate(other.mean.begin(), other.mean.begin() + 32, other.mean.end());
    EXPECT_GT(failures_of([&] { other.expect_forward(); }), 0);
  });
}

BACKEND_TEST(ConvNormAct, SameBitsEveryTime) {
  for (const RowCase& c : {RowCase{4, 173, 64, 5, 2, 2}, RowCase{8, 64, 32, 5, 2, 3, 4, 2}}) {
    Backend::expect_same_bits(c.text(), [&](auto& queue) {
      RowOn<Backend, float> row(c);
      std::vector<float> all;
      // On the CPU whatever the number of threads, though only some are found to pay.
      if (!std::is_same_v<Backend, OnCpu> && harness::variants(queue, row.calls()).empty())
        return all;
      row.forward(queue, "", row.x, row.calls());
      row.backward(queue, "", 0, row.x, {row.dx.data()}, row.gradients(Write::kOverwrite));
      const auto add = [&](const auto& buffer) {
        all.insert(all.end(), buffer.values().begin(), buffer.values().end());
      };
      add(row.dx);
      for (auto& layer : row.layers) {
        for (const auto* buffer : layer.results()) add(*buffer);
        for (const auto* buffer : layer.gradients()) add(*buffer);
      }
      return all;
    });
  }
}

}  // namespace
}  // namespace sidechannel
