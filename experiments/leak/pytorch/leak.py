#!/usr/bin/env python3
"""How much a network hears, through its normalization, from beyond its receptive field.

A norm whose statistics pool positions (instance, group, batch in training, layer norm over an image)
hands every position something of every other. This file measures it, for any module in memory:

    from leak import measure, assert_no_leak, assert_causal
    report = measure(net, x)        # x [samples, C, L], [.., C, H, W] or [.., C, D, H, W]
    print(report)                   # report["live"]["l1"], report.leaks, report.save("leak.json")
    report = measure(net, x, t)     # net(x, t); what follows x is held fixed
    report = measure(net, x, tile=64, halo=20, pad=32, causal=True)
    assert_no_leak(net, x)          # in a test: an AssertionError that names the layer that carries most
    assert_causal(net, x)           # no output hears its future; axis=2 where time is D or H

`python leak.py --demo` is a first look. Nothing but torch (1.13 or later) is needed.

What is measured, at the input x, in f64: J, the derivatives of the output, at `outputs` positions and
all their channels, with respect to all of the input. "Live" is the network as it is; with a statistic
"held", J is what it is with `.detach()` on that statistic. Outside is what lies outside the nominal
receptive field: what dependence reaches through every operation, zero weights included, with all
norms held. With all of them held, a convolutional network's J is exactly 0 there; what is left of it
while they are live went through the statistics. Where the field covers everything (attention, causal
attention too: 0 times a score is an operation), "difference" says how much of J goes through them.

The field comes from NaNs that are put on a slab of the input while the statistics stay those of x, and
from large changes, for operations that a NaN does not pass; by axis, so it is a box. J with any choice
of live statistics comes from one graph that has all of them cut out, by the chain rule: derivatives of
outputs and statistics by the input and the statistics before them.

Norms are seen where they call torch.nn.functional (group_norm, instance_norm, layer_norm, rms_norm,
batch_norm, normalize), and where a module whose class name holds "Norm", or that is one of
`norms=[...]`, reduces something itself (mean, sum, var, norm, cumsum ...). What is linear in that
module's input counts as a mean, all else as a variance. A statistic that pools no positions (layer
norm of a token) carries nothing and stays live; that, too, is seen from the NaNs. Where the field
covers everything they show nothing: layer norm over one axis is then taken not to pool, others are.

The network is copied in the mode it is in: batch norm in training is live. Dropout is switched off;
a network that is random otherwise is refused. Several samples are one set: asked are outputs of the
first, and all others lie outside. Tiles and pads are cut where inputs are, so the statistics that are
held are those of the whole.
"""

import argparse
import copy
import functools
import itertools
import json
import sys
import time
import types
import warnings
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["Report", "assert_causal", "assert_no_leak", "measure"]

REDUCTIONS = {"mean", "sum", "var", "std", "var_mean", "std_mean", "norm", "linalg_norm", "amax", "amin",
              "linalg_vector_norm", "logsumexp", "cumsum", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
              "adaptive_avg_pool3d"}
DROPOUT = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
MOST_BYTES = 8 << 30  # of derivatives at once


class Report(dict):
    """The numbers, as they stand in the JSON; printed, a few lines."""

    @property
    def leaks(self):
        return self["leaks"]

    def json(self):
        return json.dumps(self, indent=1)

    def save(self, path):
        with open(path, "w") as file:
            file.write(self.json() + "\n")

    def __str__(self):
        field = self["receptive_field"]
        lines = [f"{self['network']}: {self['input']} -> {self['output']}, {self['dtype']}, "
                 f"{len(self['asked'])} output positions asked",
                 f"receptive field: {field['left']} back, {field['right']} ahead; "
                 f"{_percent(field['inside'])} of the pairs of positions" + (
                     " (attention, or a norm that was not seen?)" if field["inside"] == 1 else "")]
        for key, where in (("live", "outside it"), ("future", "in the future")):
            if key in self:
                live, held = (self["future"]["live"], self["future"]["frozen"]) if key == "future" else (
                    self["live"], self["frozen"])
                lines.append(f"{where}: {_percent(live['l1'])} of the Jacobian's mass "
                             f"({_percent(live['squared'])} squared); with statistics held "
                             f"{_percent(held['l1'])}")
        if self["mean"]:
            lines.append(f"    outside by means alone {_percent(self['mean']['l1'])}, "
                         f"by variances alone {_percent(self['variance']['l1'])}")
        lines.append(f"through statistics, wherever: {_percent(self['difference'])} of ||J||^2")
        for layer in sorted(self["layers"], key=lambda one: -_carried(self, one))[:5]:
            lines.append(f"    {_percent(_carried(self, layer)):>8} through {layer['name']} alone "
                         f"({layer['kind']})")
        for key, words in (("tiles", "tiled"), ("pads", "padded")):
            if key in self:
                lines.append(f"{words}: off by {_percent(self[key]['total'])}; norm's share "
                             f"{_percent(self[key]['norm'])}, padding's {_percent(self[key]['padding'])}")
        return "\n".join(lines + [_verdict(self)])


def measure(net, x, *args, outputs=16, causal=False, axis=-1, tile=None, halo=0, pad=None, norms=(),
            layers=True, dtype=torch.float64):
    """The report on net(x, *args), which gives a tensor [samples, C, positions...] or one first of all.

    outputs: at how many positions, evenly spaced, or the flat positions themselves. causal: what is
    heard from later on `axis` of x. tile, halo: size of tiles and of what they see around them, and
    pad: positions added at the end; numbers, or one for each axis. norms: classes of norms written by
    hand. layers: without them (False) nothing is attributed, and "mean" and "variance" are None.
    """
    if not isinstance(net, torch.nn.Module) or isinstance(net, torch.jit.ScriptModule):
        raise TypeError("leak: net must be a torch.nn.Module (a function: call it in a module's "
                        "forward; a script: measure the module it was made of)")
    net = copy.deepcopy(getattr(net, "_orig_mod", net)).to(dtype).requires_grad_(False)
    x = x.detach().to(dtype)
    args = [a.detach().to(dtype) if torch.is_tensor(a) and a.is_floating_point() else a for a in args]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(performance drop|vmap|TF32)")
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False), \
                torch.enable_grad():  # direct kernels, which read no more than the taps
            return _measure(_Run(net, x, args, norms), outputs, causal, axis, tile, halo, pad, layers)


def assert_no_leak(net, x, *args, **options):
    """AssertionError, in one line, if an output hears from beyond its receptive field."""
    if measure(net, x, *args, **options, layers=False).leaks:
        raise AssertionError(_verdict(measure(net, x, *args, **options)))


def assert_causal(net, x, *args, **options):
    """AssertionError, in one line, if an output hears its future."""
    assert_no_leak(net, x, *args, causal=True, **options)


# --- The network with its statistics live, held, or those of another input ------------------------


class _Run(TorchFunctionMode):
    """Runs the network at x. What it does with a statistic, in the order in which they are taken:

    live: nothing
    hold: cuts it out of the graph; `held` receives (statistic, its value in the graph, the leaf)
    replay: puts in the statistic of x
    probe: the same, and sees from the NaNs in what is pooled whether it pools positions
    """

    def __init__(self, net, x, args, norms):
        super().__init__()
        self.net, self.x, self.args, self.norms = net, x, args, tuple(norms)
        self.known, self.layers, self.largest = [], [], x.numel()
        for path, module in net.named_modules():
            module.register_forward_pre_hook(functools.partial(self._enter, path))
            module.register_forward_hook(self._leave)

    def __call__(self, how, x):
        self.how, self.number, self.frames, self.held = how, 0, [], []
        times = len(x) // len(self.x)
        args = [a.repeat(times, *[1] * (a.dim() - 1)) if times > 1 and torch.is_tensor(a) and a.dim()
                and len(a) == len(self.x) else a for a in self.args]
        with self:
            y = self.net(x.clone(), *args)
        while not torch.is_tensor(y):
            y = next(iter(y.values() if isinstance(y, Mapping) else y))
        return y

    def _enter(self, path, module, inputs):
        first = next((a for a in inputs if torch.is_tensor(a)), None)
        self.frames.append(types.SimpleNamespace(path=path, module=module, input=first, layer=None))

    def _leave(self, module, inputs, output):
        self.frames.pop()
        if torch.is_tensor(output):
            self.largest = max(self.largest, output.numel())

    def __torch_function__(self, func, _, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in DROPOUT:
            return args[0] if args else kwargs["input"]
        if self.how == "live":
            return func(*args, **kwargs)
        if func in _FUNCTIONS:
            result = _FUNCTIONS[func](self, *args, **kwargs)
            return func(*args, **kwargs) if result is None else result
        if name in REDUCTIONS and self.frames:
            module = self.frames[-1].module
            if "Norm" in type(module).__name__ or isinstance(module, self.norms):
                return self._reduce(func, args, kwargs)
        return func(*args, **kwargs)

    def _reduce(self, func, args, kwargs):
        x, rest = (args[0], args[1:]) if args else (kwargs.pop("input"), ())
        result = func(x, *rest, **kwargs)
        if not x.is_floating_point():
            return result
        frame = self.frames[-1]
        if frame.layer is None:
            frame.layer = self.layer(type(frame.module).__name__)
        if torch.is_tensor(result):
            return self.statistic(lambda v: func(v, *rest, **kwargs), x, frame.layer)
        return tuple(self.statistic(lambda v, i=i: func(v, *rest, **kwargs)[i], x, frame.layer)
                     for i in range(len(result)))

    def layer(self, kind):
        if self.number == len(self.known):  # the first run
            path = self.frames[-1].path if self.frames else ""
            self.layers.append((path or type(self.net).__name__, kind))
        return len(self.layers) - 1

    def statistic(self, function, x, layer, kind=None, one_axis=False):
        number, self.number = self.number, self.number + 1
        live = function(x)
        if self.how == "hold":
            if number == len(self.known):
                constant = not live.requires_grad
                self.known.append(types.SimpleNamespace(
                    value=live.detach(), layer=layer, kind=kind or self._kind(live), constant=constant,
                    live=constant, seen=one_axis, pools=False))
            statistic = self.known[number]
            if statistic.live:
                return live
            leaf = live.detach().requires_grad_()
            self.held.append((statistic, live, leaf))
            return leaf.clone()  # may be changed in place
        if number >= len(self.known):
            raise ValueError("leak: on another input this network takes other statistics than on x")
        statistic = self.known[number]
        if statistic.live:
            return live
        value = self._like(statistic, live)
        if self.how == "probe":
            nan = x.isnan()
            share = nan.flatten(1).to(x.dtype).mean(1) if x.dim() > 1 else nan.to(x.dtype)
            statistic.seen |= bool(((share > 0) & (share < 1)).any())
            # A set with NaNs and others is one across the edge of what the slab reaches.
            mixed = live.isnan() & function(torch.zeros_like(x).masked_fill(~nan, torch.nan)).isnan()
            statistic.pools |= bool(mixed.any())
            return torch.where(live.isnan() & ~mixed, live, value)
        return value

    def _kind(self, live):
        """Linear in what the module normalizes, or not."""
        try:
            h = self.frames[-1].input
            slope, = torch.autograd.grad(live.sum(), h, create_graph=True, allow_unused=True)
            if slope is None or not slope.requires_grad:
                return "mean"
            bend, = torch.autograd.grad(slope.pow(2).sum(), h, retain_graph=True, allow_unused=True)
            return "variance" if bend is not None and bool((bend != 0).any()) else "mean"
        except (RuntimeError, TypeError):  # not of that input
            return "variance"

    def _like(self, statistic, live):
        """That of x, for as many copies of x."""
        value = statistic.value
        if value.dim() and value.shape[1:] == live.shape[1:] and len(live) % max(len(value), 1) == 0:
            value = value.repeat(len(live) // len(value), *[1] * (value.dim() - 1))
        if value.shape != live.shape:
            name, kind = self.layers[statistic.layer]
            raise ValueError(f"leak: {name} ({kind}) has a statistic of shape {list(value.shape)} at x, but of "
                             f"{list(live.shape)} here, and so cannot be held")
        return value.clone()


def _normalized(run, h, dims, eps, kind, centred=True, one_axis=False):
    def second(v):
        return v.var(dims, unbiased=False, keepdim=True) if centred else v.pow(2).mean(dims, True)
    layer = run.layer(kind)
    if centred:
        mean = run.statistic(lambda v: v.mean(dims, True), h, layer, "mean", one_axis)
    variance = run.statistic(second, h, layer, "variance", one_axis)
    return (h - mean if centred else h) * (variance + eps).rsqrt()


def _affine(y, weight, bias, by_channel=True):
    for parameter, apply in ((weight, torch.mul), (bias, torch.add)):
        if parameter is not None:
            y = apply(y, parameter.reshape(-1, *[1] * (y.dim() - 2)) if by_channel else parameter)
    return y


def _group_norm(run, input, num_groups, weight=None, bias=None, eps=1e-5, *_, kind="group"):
    h = input.reshape(len(input), num_groups, -1)
    return _affine(_normalized(run, h, (2,), eps, kind).reshape(input.shape), weight, bias)


def _instance_norm(run, input, running_mean=None, running_var=None, weight=None, bias=None,
                   use_input_stats=True, momentum=0.1, eps=1e-5):
    if use_input_stats:
        return _group_norm(run, input, input.shape[1], weight, bias, eps, kind="instance")


def _batch_norm(run, input, running_mean, running_var, weight=None, bias=None, training=False,
                momentum=0.1, eps=1e-5):
    if training:
        dims = (0, *range(2, input.dim()))
        return _affine(_normalized(run, input, dims, eps, "batch"), weight, bias)


def _layer_norm(run, input, normalized_shape, weight=None, bias=None, eps=1e-5, *_):
    dims = tuple(range(-len(normalized_shape), 0))
    y = _normalized(run, input, dims, eps, "layer", one_axis=len(dims) == 1)
    return _affine(y, weight, bias, by_channel=False)


def _rms_norm(run, input, normalized_shape, weight=None, eps=None):
    dims = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    y = _normalized(run, input, dims, eps, "rms", centred=False, one_axis=len(dims) == 1)
    return _affine(y, weight, None, by_channel=False)


def _normalize(run, input, p=2.0, dim=1, eps=1e-12, out=None):
    size = run.statistic(lambda v: v.norm(p, dim, True), input, run.layer("normalize"), "variance")
    return input / size.clamp_min(eps)


_FUNCTIONS = {F.group_norm: _group_norm, torch.group_norm: _group_norm, F.layer_norm: _layer_norm,
              torch.layer_norm: _layer_norm, F.instance_norm: _instance_norm, F.batch_norm: _batch_norm,
              F.normalize: _normalize}
if hasattr(F, "rms_norm"):
    _FUNCTIONS.update({F.rms_norm: _rms_norm, torch.rms_norm: _rms_norm})


# --- What is measured of it -----------------------------------------------------------------------


class _Jacobian:
    """J with any choice of statistics live, from one graph that has all of them cut out.

    Rows: the outputs asked and, below them, the statistics; columns: the input and the statistics.
    """

    def __init__(self, run, asked, layers, chunk, tick):
        leaf = run.x.clone().requires_grad_()
        self.live = _rows(_at(run("live", leaf), asked), [leaf], chunk, tick, "outputs")
        outputs = _at(run("hold", leaf), asked)
        self.statistics = run.held if layers else []
        self.sizes = [value.numel() for _, value, _ in self.statistics]
        self.columns, sides = leaf.numel(), (len(outputs) + sum(self.sizes), leaf.numel() + sum(self.sizes))
        if sides[0] * sides[1] * leaf.element_size() > MOST_BYTES:
            raise ValueError(f"leak: {sides[0]} x {sides[1]} derivatives are too many; take a smaller x, fewer "
                             "outputs, dtype=torch.float32, or layers=False")
        inputs = [leaf] + [cut for _, _, cut in self.statistics]
        self.outputs = _rows(outputs, inputs, chunk, tick, "outputs, held,") if run.held else self.live
        self.below = torch.cat([self.outputs[:0]] + [
            _rows(value, inputs, chunk, tick, f"statistic {i} of {len(self.sizes)},")
            for i, (_, value, _) in enumerate(self.statistics)])
        self.frozen = self.outputs[:, :self.columns]

    def with_live(self, which):
        """y_x + y_s (1 - s_s)^-1 s_x, over the statistics s for which `which` holds."""
        live = [bool(which(one)) for (one, _, _), size in zip(self.statistics, self.sizes) for _ in range(size)]
        live = torch.tensor(live, dtype=torch.bool, device=self.frozen.device).nonzero().flatten()
        if not len(live):
            return self.frozen
        chain = torch.eye(len(live)).to(self.frozen) - self.below[live][:, self.columns + live]
        weights = torch.linalg.solve_triangular(chain, self.outputs[:, self.columns + live], upper=False,
                                                left=False)
        return self.frozen + weights @ self.below[live, :self.columns]

    def difference(self, jacobian):
        size = self.live.pow(2).sum()
        return float((jacobian - self.frozen).pow(2).sum() / size) if size > 0 else 0.0


def _measure(run, outputs, causal, axis, tile, halo, pad, layers):
    x, tick, tolerance = run.x, _progress(), torch.finfo(run.x.dtype).eps ** 0.5
    with torch.no_grad():
        y, again = run("live", x), run("live", x)
    if not _apart(y, again) <= tolerance or not y.isfinite().all():
        raise ValueError("leak: the output is not finite, or two runs differ: the network is random, or "
                         "changes as it runs (put it into eval mode?)")
    if not _apart(y, run("hold", x.clone().requires_grad_()).detach()) <= tolerance:
        raise RuntimeError("leak: with its norms put together by hand the output is another: one was "
                           "misunderstood")
    asked = _asked(outputs, y.shape[2:])
    chunk = 64 if x.dtype == torch.float64 else 15  # from 16 on, NNPACK convolves by other means
    chunk = max(1, min(chunk, (1 << 24) // run.largest))
    field = _field(run, y, asked, tolerance, chunk, tick)
    for statistic in run.known:
        statistic.live |= statistic.seen and not statistic.pools
    jacobian = _Jacobian(run, asked, layers, chunk, tick)
    if layers and not _apart(jacobian.live, jacobian.with_live(lambda s: True)) <= 10 * tolerance:
        warnings.warn("leak: the Jacobian put together from the statistics is not the network's; what is said "
                      "of held statistics and of layers may be wrong")

    inside = _boxes(field, x.shape[2:])
    outside = torch.ones(len(asked), 1, len(x), 1, inside.shape[1], dtype=torch.bool, device=x.device)
    outside[:, 0, 0, 0] = ~inside

    def share(of, where=outside):
        mass = of.reshape(len(asked), -1, *x.shape[:2], inside.shape[1]).abs()
        return {name: float((size * where).sum() / size.sum()) if bool(size.any()) else 0.0
                for name, size in (("l1", mass), ("squared", mass ** 2))}

    def with_live(which, where=outside):
        return share(jacobian.with_live(which), where)

    report = Report(
        schema=1, network=type(run.net).__name__, input=list(x.shape), output=list(y.shape),
        dtype={torch.float64: "f64", torch.float32: "f32"}.get(x.dtype, str(x.dtype)), asked=asked.tolist(),
        receptive_field=_reach(field, asked, x.shape[2:], y.shape[2:], inside),
        live=share(jacobian.live), frozen=share(jacobian.frozen),
        mean=with_live(lambda s: s.kind == "mean") if layers else None,
        variance=with_live(lambda s: s.kind == "variance") if layers else None,
        difference=jacobian.difference(jacobian.live))
    if causal:
        later = _later(asked, x.shape, y.shape, axis).to(x.device)
        report["future"] = {"live": share(jacobian.live, later), "frozen": share(jacobian.frozen, later)}
    report["layers"], names = [], []
    for n, (name, kind) in enumerate(run.layers if layers else ()):
        if all(s.constant for s in run.known if s.layer == n):
            continue  # it normalizes weights, or what does not come from x
        names.append(name)
        report["layers"].append({
            "name": name if names.count(name) == 1 else f"{name} ({names.count(name)})", "kind": kind,
            "without": with_live(lambda s: s.layer != n), "alone": with_live(lambda s: s.layer == n),
            "mean": with_live(lambda s: s.layer == n and s.kind == "mean"),
            "variance": with_live(lambda s: s.layer == n and s.kind == "variance"),
            "difference": jacobian.difference(jacobian.with_live(lambda s: s.layer == n))})
        if causal:
            report["layers"][-1]["future"] = with_live(lambda s: s.layer == n, later)
    with torch.no_grad():
        for key, apply, sizes in (("tiles", _tiled, {"tile": tile, "halo": halo}),
                                  ("pads", _padded, {"pad": pad})):
            if None not in sizes.values():
                own, wholes = (apply(run, how, y, *sizes.values()) for how in ("live", "replay"))
                report[key] = {**sizes, "total": _apart(y, own), "norm": _apart(wholes, own),
                               "padding": _apart(y, wholes)}
    report["leaks"] = (report["future"]["live"] if causal else report["live"])["l1"] > 0
    return report


def _asked(outputs, positions):
    """Flat output positions: as they are given, or so many, spaced evenly along every axis."""
    count = positions.numel()
    if not isinstance(outputs, int):
        return torch.tensor([range(count)[i] for i in outputs])
    if outputs < 1:
        raise ValueError(f"leak: outputs must be 1 or more, got {outputs}")
    each = max(1, int(outputs ** (1 / max(1, len(positions))) + 1e-9))
    flat = torch.zeros(1, dtype=torch.long)
    for size in positions:
        n = min(each, size)
        flat = (flat[:, None] * size + (2 * torch.arange(n) + 1) * size // (2 * n)).flatten()
    return flat


def _at(y, asked):
    """[asked * C] of the first sample."""
    return y[0].reshape(y.shape[1], -1)[:, asked.to(y.device)].t().reshape(-1)


def _rows(values, inputs, chunk, tick, what):
    """Derivatives of all elements of `values` by all of `inputs`: [values, sum of inputs]."""
    values = values.reshape(-1)
    rows = values.new_zeros(len(values), sum(one.numel() for one in inputs))
    for start in range(0, len(values) if values.requires_grad else 0, chunk):
        seeds = torch.zeros_like(rows[start:start + chunk, :1]).expand(-1, len(values)).clone()
        seeds[range(len(seeds)), range(start, start + len(seeds))] = 1
        column = 0
        for grad, one in zip(_pullback(values, inputs, seeds), inputs):
            if grad is not None:
                rows[start:start + chunk, column:column + one.numel()] = grad.reshape(len(seeds), -1)
            column += one.numel()
        tick(what, start, len(values))
    return rows


def _pullback(values, inputs, seeds):
    options = dict(retain_graph=True, allow_unused=True)
    try:
        return torch.autograd.grad(values, inputs, seeds, is_grads_batched=True, **options)
    except RuntimeError:  # an operation that has no batched derivative
        each = [torch.autograd.grad(values, inputs, seed, **options) for seed in seeds]
        return [None if grads[0] is None else torch.stack(grads) for grads in zip(*each)]


@torch.no_grad()
def _field(run, y, asked, tolerance, chunk, tick):
    """By axis, whether the outputs asked depend on the input at a coordinate: [coordinates, asked]."""
    x, samples = run.x, len(run.x)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape[1:], generator=generator, dtype=x.dtype).to(x.device)
    changed = x[0] + 1000 * (x.abs().max() + 1) * noise

    def heard(axis, coordinates, how, content):
        result = torch.zeros(len(coordinates), len(asked), dtype=torch.bool, device=x.device)
        for start in range(0, len(coordinates), chunk):
            some = coordinates[start:start + chunk]
            several = x.repeat(len(some), *[1] * (x.dim() - 1))
            for i, coordinate in enumerate(some):
                slab = (slice(None),) * (axis + 1) + (coordinate,)
                several[i * samples][slab] = content[slab]
            out = run(how, several)[::samples]
            moved = ~((out - y[0]).abs() <= tolerance * y[0].abs().max())
            result[start:start + chunk] = moved.any(1).reshape(len(some), -1)[:, asked.to(x.device)]
            tick(f"axis {axis}, coordinates", start, len(coordinates))
        return result

    field = []
    for axis, size in enumerate(x.shape[2:]):
        coordinates = list(range(size))
        found = heard(axis, coordinates, "probe", torch.full_like(x[0], torch.nan))
        few = sorted({(2 * i + 1) * size // 8 for i in range(4)})
        if (heard(axis, few, "replay", changed) & ~found[few]).any():  # NaNs do not get everywhere
            found |= heard(axis, coordinates, "replay", changed)
        field.append(found)
    return field


def _boxes(field, positions):
    """[asked, positions], flat: inside along every axis."""
    inside = torch.ones(field[0].shape[1] if field else 1, *[1] * len(positions), dtype=torch.bool,
                        device=field[0].device if field else None)
    for axis, found in enumerate(field):
        shape = [1] * len(positions)
        shape[axis] = positions[axis]
        inside = inside & found.t().reshape(-1, *shape)
    return inside.flatten(1)


def _coordinates(asked, positions, axis):
    return asked // positions[axis + 1:].numel() % positions[axis]


def _reach(field, asked, positions, out_positions, inside):
    left, right = [], []
    for axis, found in enumerate(field):
        centres = asked * 0
        if len(out_positions) == len(positions):
            centres = _coordinates(asked, out_positions, axis) * positions[axis] // out_positions[axis]
        pairs = [(c, found[:, i].nonzero().flatten().tolist()) for i, c in enumerate(centres.tolist())]
        left.append(max([c - heard[0] for c, heard in pairs if heard] + [0]))
        right.append(max([heard[-1] - c for c, heard in pairs if heard] + [0]))
    return {"left": left, "right": right, "inside": float(inside.double().mean())}


def _later(asked, shape, out_shape, axis):
    """[asked, 1, 1, 1, positions]: whether the input position is later than the output's."""
    axis = range(len(shape))[axis]
    if axis < 2 or len(shape) != len(out_shape) or shape[axis] != out_shape[axis]:
        raise ValueError("leak: causal needs an axis of positions that the output shares, got axis "
                         f"{axis} of {list(shape)} -> {list(out_shape)}")
    now = _coordinates(asked, out_shape[2:], axis - 2)
    then = _coordinates(torch.arange(shape[2:].numel()), shape[2:], axis - 2)
    return (then > now[:, None]).reshape(len(asked), 1, 1, 1, -1)


def _tiled(run, how, y, tile, halo):
    x = run.x
    positions = x.shape[2:]
    tile, halo = ([size] * len(positions) if isinstance(size, int) else size for size in (tile, halo))
    result = torch.full_like(y, torch.nan)
    for starts in itertools.product(*(range(0, size, t) for size, t in zip(positions, tile))):
        ends = [min(s + t, size) for s, t, size in zip(starts, tile, positions)]
        low = [max(0, s - h) for s, h in zip(starts, halo)]
        high = [min(size, e + h) for e, h, size in zip(ends, halo, positions)]
        part = run(how, x[(..., *map(slice, low, high))])

        def scaled(numbers):  # from positions of the input to those of the output
            pairs = [(n * out, size) for n, out, size in zip(numbers, y.shape[2:], positions)]
            if any(n % size for n, size in pairs) or len(y.shape) != len(x.shape):
                raise ValueError("leak: tiles and halos do not fall on whole positions of the output")
            return [n // size for n, size in pairs]
        low, high, first, last = map(scaled, (low, high, starts, ends))
        if list(part.shape[2:]) != [b - a for a, b in zip(low, high)]:
            raise ValueError(f"leak: a tile gave outputs {list(part.shape[2:])}, expected "
                             f"{[b - a for a, b in zip(low, high)]}: tile and halo must fit the strides")
        result[(..., *map(slice, first, last))] = part[
            (..., *(slice(f - a, e - a) for f, e, a in zip(first, last, low)))]
    return result


def _padded(run, how, y, pad):
    pad = [pad] * (run.x.dim() - 2) if isinstance(pad, int) else pad
    longer = F.pad(run.x, [n for size in reversed(pad) for n in (0, size)])
    return run(how, longer)[(..., *(slice(size) for size in y.shape[2:]))]


def _apart(a, b):
    distance, spread = float((a - b).norm()), float((a - a.mean()).norm())
    return distance / spread if spread else distance


def _carried(report, layer):
    """By this layer alone: of what the verdict goes by, or, where that is nothing, of J."""
    if not report["leaks"]:
        return layer["difference"]
    return layer["future" if "future" in report else "alone"]["l1"]


def _percent(share):
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.3g} %"


def _verdict(report):
    future = "future" in report
    live, held = report["future"].values() if future else (report["live"], report["frozen"])
    where = "in its future" if future else "from beyond its receptive field"
    if not report["leaks"]:
        return f"{report['network']} hears nothing {where}"
    words = (f"{report['network']} hears {where}: {_percent(live['l1'])} of the Jacobian's mass, "
             f"{_percent(held['l1'])} with all norms held")
    most = max(report["layers"], key=lambda layer: _carried(report, layer), default=None)
    if most is None or live["l1"] <= held["l1"]:
        return words + ("" if most else "; no norm was seen that pools positions")
    return (f"{words}; most through {most['name']} ({most['kind']}): "
            f"{_percent(_carried(report, most))} alone")


def _progress(every=5):
    """Says on stderr how far it is, where it takes long."""
    said = [time.monotonic()]

    def tick(what, done, of):
        if time.monotonic() - said[0] > every:
            said[0] = time.monotonic()
            print(f"leak: {what} {done} of {of}", file=sys.stderr)
    return tick


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="a small network, with and without norms")
    if not parser.parse_args().demo:
        parser.print_help()
        return
    torch.manual_seed(0)
    for norm in (lambda: torch.nn.GroupNorm(2, 16), torch.nn.Identity):
        net = torch.nn.Sequential(*[layer for c_in in (3, 16, 16) for layer in (
            torch.nn.Conv1d(c_in, 16, 5, padding=2), norm(), torch.nn.ReLU())], torch.nn.Conv1d(16, 3, 1))
        print(measure(net, torch.randn(1, 3, 64), tile=32, halo=8), end="\n\n")


if __name__ == "__main__":
    main()
