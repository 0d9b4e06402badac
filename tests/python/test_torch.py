"""sidechannel.torch against PyTorch's own, on the CPU and, where the build has one, an emulated GPU."""

import copy
import unittest

from support import Case, np, sc

try:
    import torch
except ImportError:
    raise unittest.SkipTest("SKIPPED: this Python has no torch")

import torch.nn.functional as F

import sidechannel.torch as sct

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


def cases():
    """Types and devices."""
    yield torch.float32, None
    yield torch.float64, None
    if sc.build_info()["cuda"] == "emulated":
        yield torch.float32, sc.Device("cuda", precision="fp32")


class AgainstTorch(Case):
    def compare(self, ours, theirs, *inputs):
        """Values, and gradients for a random cotangent. Sizes of what is compared are near 1."""
        results = []
        for f in (ours, theirs):
            leaves = [x.clone().requires_grad_() for x in inputs]
            y = f(*leaves)
            y.backward(random(*y.shape, seed=99, dtype=y.dtype))
            results.append([y.detach(), *(leaf.grad for leaf in leaves)])
        for mine, right in zip(*results):
            self.assertEqual((mine.shape, mine.dtype), (right.shape, right.dtype))
            scale = max(1.0, right.abs().max().item())
            torch.testing.assert_close(mine, right, rtol=0, atol=scale * TOLERANCE[right.dtype])

    def test_convolutions(self):
        for dtype, device in cases():
            x, w, b = (random(*shape, seed=seed, dtype=dtype)
                       for seed, shape in enumerate(((3, 4, 19), (5, 4, 3), (5,))))
            for padding, stride in ((0, 1), (1, 1), (2, 3)):
                with self.subTest(dtype=dtype, device=device, padding=padding, stride=stride):
                    self.compare(lambda x, w, b: sct.conv1d(x, w, b, padding=padding, stride=stride,
                                                            device=device),
                                 lambda x, w, b: F.conv1d(x, w, b, stride, padding), x, w, b)
            self.compare(lambda x, w, b: sct.conv1d(x, w, b, padding=2, padding_mode="circular",
                                                    device=device),
                         lambda x, w, b: F.conv1d(F.pad(x, (2, 2), mode="circular"), w, b), x, w, b)
            self.compare(lambda x, w: sct.conv1d(x, w, padding=1, device=device),
                         lambda x, w: F.conv1d(x, w, padding=1), x, w)
            self.compare(lambda x, w, b: sct.conv1d(x, w, b, padding=1, channels_last=True,
                                                    device=device),
                         lambda x, w, b: F.conv1d(x.transpose(1, 2), w, b, 1, 1).transpose(1, 2),
                         x.transpose(1, 2).contiguous(), w, b)

    def test_norms(self):
        activations = {"none": lambda y: y, "relu": torch.relu, "mish": F.mish}
        for dtype, device in cases():
            # Away from the kink of ReLU, which the two may see on different sides.
            x, gamma = random(3, 6, 17, dtype=dtype), 1 + .1 * random(6, seed=1, dtype=dtype)
            beta = 6 + random(6, seed=2, dtype=dtype)
            for name, activation in activations.items():
                for groups in (1, 3, 6):
                    with self.subTest(dtype=dtype, device=device, activation=name, groups=groups):
                        self.compare(
                            lambda x, g, b: sct.norm_act(x, g, b, channels_per_set=6 // groups,
                                                         activation=name, device=device),
                            lambda x, g, b: activation(F.group_norm(x, groups, g, b)), x, gamma, beta)

    def test_only_what_is_asked_for(self):
        x, w, b = random(1, 2, 9), random(3, 2, 3), random(3)
        for wanted in range(3):
            inputs = [tensor.clone() for tensor in (x, w, b)]
            inputs[wanted].requires_grad_()
            sct.conv1d(*inputs).sum().backward()
            theirs = [tensor.clone() for tensor in (x, w, b)]
            theirs[wanted].requires_grad_()
            F.conv1d(*theirs).sum().backward()
            torch.testing.assert_close(inputs[wanted].grad, theirs[wanted].grad)

    def test_modules_in_a_network(self):
        nn = torch.nn
        theirs = nn.Sequential(nn.Conv1d(2, 8, 5, padding=2), nn.GroupNorm(4, 8), nn.Mish(),
                               nn.Conv1d(8, 1, 3, stride=2, padding=1)).double()
        ours = nn.Sequential(sct.Conv1d(2, 8, 5, padding=2), sct.GroupNormAct(4, 8, "mish"),
                             nn.Identity(), sct.Conv1d(8, 1, 3, stride=2, padding=1)).double()
        ours.load_state_dict(theirs.state_dict())
        x = random(4, 2, 20)
        optimizers = [torch.optim.SGD(network.parameters(), .1) for network in (ours, theirs)]
        for _ in range(5):
            for network, optimizer in zip((ours, theirs), optimizers):
                optimizer.zero_grad()
                network(x).square().mean().backward()
                optimizer.step()
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-9, atol=1e-12)
        copy.deepcopy(ours)

    def test_adam(self):
        parameters = sc.ParameterList(dtype="f64", seed=1)
        w = parameters.add_uniform("w", [7], 1)
        adam = sc.Adam(parameters, .01)
        theirs = torch.from_numpy(w.value.numpy().copy()).requires_grad_()
        optimizer, tape = torch.optim.Adam([theirs], .01), sc.Tape(dtype="f64")
        for step in range(20):
            target = random(7, seed=step)
            tape.reset()
            tape.backward(sc.mse(tape.parameter(w), target))
            adam.step()
            optimizer.zero_grad()
            F.mse_loss(theirs, target).backward()
            optimizer.step()
        np.testing.assert_allclose(w.value.numpy(), theirs.detach().numpy(), rtol=1e-12)


class Memory(Case):
    def test_is_shared(self):
        x = random(2, 3, dtype=torch.float32)
        tensor = sc.from_dlpack(x)
        x[0, 1] = 7
        self.assertEqual(tensor.numpy()[0, 1], 7)
        back = torch.from_dlpack(tensor)
        self.assertEqual(back.data_ptr(), x.data_ptr())
        del x, tensor
        back.add_(1)
        self.assertEqual(back[0, 1], 8)

    def test_the_answer_is_the_engines_memory(self):
        x, w, b = random(2, 9, 3), random(4, 3, 3), random(4)
        y = sct.conv1d(x, w, b, padding=1, channels_last=True)
        kept = y.clone()
        for seed in range(20):
            sct.conv1d(random(2, 9, 3, seed=seed), w, b, padding=1, channels_last=True)
        self.assertTrue(torch.equal(y, kept))

    def test_a_change_in_between_is_noticed(self):
        x, w = random(1, 2, 9), random(3, 2, 3).requires_grad_()
        y = sct.conv1d(x, w)
        x.add_(1)
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            y.sum().backward()

    def test_twice_the_same_way_back(self):
        x, w = random(1, 2, 9), random(3, 2, 3).requires_grad_()
        y = sct.conv1d(x, w)
        first, = torch.autograd.grad(y.sum(), w, retain_graph=True)
        kept = first.clone()
        second, = torch.autograd.grad((2 * y).sum(), w)
        self.assertTrue(torch.equal(first, kept))
        torch.testing.assert_close(second, 2 * kept)
        with self.assertRaisesRegex(RuntimeError, "second time"):
            y.sum().backward()


class Refused(Case):
    def test_in_the_engines_words(self):
        x, w = random(1, 2, 9), random(3, 4, 3)
        self.assertSays(sc.Error, "conv1d: weight expects C_in = 4, got x of C = 2", sct.conv1d, x, w)
        self.assertSays(sc.Error, "conv1d: expected x of shape [N, C, L], got [2, 9]", sct.conv1d, x[0],
                        w)
        self.assertSays(sc.Error, "conv1d: expected f32 or f64, got f16", sct.conv1d, x.half(), w.half())
        self.assertSays(sc.Error, "conv1d: expected f64, got f32", sct.conv1d, x, w[:, :2].float())
        with self.assertRaisesRegex(sc.Error, "a tensor on meta"):
            sct.conv1d(x.to("meta"), w)

    def test_gradients_of_gradients(self):
        x = random(1, 2, 9).requires_grad_()
        y = sct.conv1d(x, random(3, 2, 3)).square().sum()
        # What follows would leave out what the first way back depends on.
        with self.assertRaisesRegex(RuntimeError, "no gradients of gradients"):
            torch.autograd.grad(y, x, create_graph=True)
        norm = sct.GroupNormAct(1, 2, activation="none", dtype=torch.float64)
        with self.assertRaisesRegex(RuntimeError, "no gradients of gradients"):
            torch.autograd.functional.hessian(lambda z: (norm(z) * x.detach()).sum(), x.detach())

    def test_arguments_are_those_of_pytorch(self):
        self.assertEqual(sct.Conv1d(2, 4, 5, 1, 2, 1, 1, False).bias, None)
        for of in ((3, 4, 5, 1, 2, 2), (4, 4, 5, 1, 2, 1, 2)):
            with self.assertRaisesRegex(sc.UsageError, "expected 1 and 1"):
                sct.Conv1d(*of)
        gamma, beta = torch.ones(2), torch.zeros(2)
        with self.assertRaisesRegex(sc.UsageError, "activation: say it in the options"):
            sct.norm_act(torch.ones(1, 2, 3), gamma, beta, sc.NormOptions(), activation="none")

    def test_a_tensor_with_a_gradient_is_not_shared(self):
        for take in (sc.from_dlpack, sc.Tape(dtype="f64").leaf):
            with self.assertRaisesRegex(TypeError, "give its detach"):
                take(random(3).requires_grad_())


if __name__ == "__main__":
    unittest.main()
