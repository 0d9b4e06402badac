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
covers everything they show nothing: layer norm over one axis is then taken not to pool, others are. A
norm that is not seen is an operation like others: it makes the field everything.

The network is copied in the mode it is in: batch norm in training is live. Dropout is switched off;
a network that is random otherwise is refused. Several samples are one set: asked are outputs of the
first, and all others lie outside. Tiled and padded, the network runs once with its own statistics and
once with those of x: apart from each other, that is the norm's doing; apart from f(x), the padding's.
"""

import argparse
import copy
import functools
import inspect
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

FUNCTIONS = {getattr(F, name): kind for name, kind in (
    ("group_norm", "group"), ("instance_norm", "instance"), ("layer_norm", "layer"), ("rms_norm", "rms"),
    ("batch_norm", "batch"), ("normalize", "normalize")) if hasattr(F, name)}
REDUCTIONS = {"mean", "sum", "var", "std", "var_mean", "std_mean", "norm", "linalg_norm", "amax", "amin",
              "linalg_vector_norm", "logsumexp", "cumsum", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
              "adaptive_avg_pool3d"}
DROPOUT = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
MOST_BYTES = 8 << 30  # of derivatives


class Report(dict):
    """The numbers, as they stand in the JSON; printed, a few lines."""

    silent = False  # whether the Jacobian is 0 everywhere

    @property
    def leaks(self):
        return self["leaks"]

    def json(self):
        return json.dumps(self, indent=1)

    def save(self, path):
        with open(path, "w") as file:
            file.write(self.json() + "\n")

    def carried_by(self, layer):
        """By it alone: of the mass that the verdict goes by; where there is none, of ||J||^2."""
        if not self.leaks:
            return layer["difference"]
        return layer["future" if "future" in self else "alone"]["l1"]

    @property
    def verdict(self):
        where = "in its future" if "future" in self else "from beyond its receptive field"
        if self.silent:
            return (f"{self['network']}: no derivative of the output reaches x (no_grad, inference_mode, "
                    "detach or rounding in the network, or a ReLU that is off everywhere?)")
        if not self.leaks:
            return f"{self['network']} hears nothing {where}"
        live, held = (self.get("future", self)[key]["l1"] for key in ("live", "frozen"))
        most = max(self["layers"], key=self.carried_by, default=None)
        through = "no norm was seen that pools positions" if not most else (
            f"most through {most['name']} ({most['kind']}): {_percent(self.carried_by(most))} alone")
        return (f"{self['network']} hears {where}: {_percent(live)} of the Jacobian's mass, "
                f"{_percent(held)} with all norms held; {through}")

    def __str__(self):
        field = self["receptive_field"]
        covers = " (attention, or a norm that was not seen?)" if field["inside"] == 1 else ""
        lines = [f"{self['network']}: {self['input']} -> {self['output']}, {self['dtype']}, "
                 f"{len(self['asked'])} output positions asked",
                 f"receptive field: {field['left']} back, {field['right']} ahead; "
                 f"{_percent(field['inside'])} of the pairs of positions{covers}",
                 f"outside: {_percent(self['live']['l1'])} of the Jacobian's mass, "
                 f"{_percent(self['live']['squared'])} squared"]
        if self["mean"]:
            lines[-1] += (f"; by the means alone {_percent(self['mean']['l1'])}, by the variances alone "
                          f"{_percent(self['variance']['l1'])}")
        lines.append(f"through statistics, wherever from: {_percent(self['difference'])} of ||J||^2")
        for layer in sorted(self["layers"], key=self.carried_by, reverse=True)[:5]:
            lines.append(f"{_percent(self.carried_by(layer)):>10} through {layer['name']} alone "
                         f"({layer['kind']})")
        for key in ("tiles", "pads"):
            if key in self:
                total, norm, padding = (_percent(self[key][of]) for of in ("total", "norm", "padding"))
                lines.append(f"{key}: off by {total}; by statistics {norm}, by padding {padding}")
        return "\n".join(lines + [self.verdict])


def measure(net, x, *args, outputs=16, causal=False, axis=-1, tile=None, halo=0, pad=None, norms=(),
            layers=True, dtype=torch.float64):
    """The report on net(x, *args), which gives a tensor [samples, C, positions...], or one first of all.

    outputs: at how many positions, evenly spaced, or the flat positions themselves. causal: what is
    heard from later on `axis` of x. tile, halo: the size of tiles and of what they see around them;
    pad: zeros added at the end; numbers, or one for each axis of positions. norms: classes of norms
    written by hand. layers: if False, nothing is attributed; "mean" and "variance" are None.
    """
    if not isinstance(net, torch.nn.Module) or isinstance(net, torch.jit.ScriptModule):
        raise TypeError("leak: net must be a torch.nn.Module (a function: call it in a module's "
                        "forward; a script: measure the module it was made of)")
    net = getattr(net, "_orig_mod", net)
    # weight_norm's weights and the like, which deepcopy refuses.
    computed = {id(value): value.detach().clone() for module in net.modules()
                for value in vars(module).values() if torch.is_tensor(value) and not value.is_leaf}
    for name, value, least in (("tile", tile, 1), ("halo", halo, 0), ("pad", pad, 1)):
        given = value if isinstance(value, (list, tuple)) else [value]
        if value is not None and not all(isinstance(size, int) and size >= least for size in given):
            raise ValueError(f"leak: {name}={value}: expected whole numbers of at least {least}")
    args = [a.detach().to(dtype) if torch.is_tensor(a) and a.is_floating_point() else a for a in args]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(performance drop|vmap|TF32)")
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False), \
                torch.inference_mode(False), torch.enable_grad():
            # Without them kernels are direct, and read no more than the taps.
            net = copy.deepcopy(net, computed).to(dtype).requires_grad_(False)
            run = _Run(net, x.detach().to(dtype).clone(), args, norms)
            return _measure(run, outputs, causal, axis, tile, halo, pad, layers)


def assert_no_leak(net, x, *args, **options):
    """AssertionError, in one line, if an output hears from beyond its receptive field. ValueError where
    this could not fail: the field is all of x, or no derivative reaches it."""
    report = measure(net, x, *args, **options, layers=False)
    if report.leaks:
        raise AssertionError(measure(net, x, *args, **options).verdict)
    if report.silent:
        raise ValueError(f"leak: {report.verdict}")
    if "future" not in report and report["receptive_field"]["inside"] == 1:
        raise ValueError(f"leak: all of x lies within the receptive field of {report['network']}: this "
                         "could not fail: a longer x, or norms=[...] for a norm that was not seen")


def assert_causal(net, x, *args, **options):
    """AssertionError, in one line, if an output hears its future."""
    assert_no_leak(net, x, *args, causal=True, **options)


# --- The network with its statistics live, held, or those of another input ------------------------


class _Run(TorchFunctionMode):
    """Runs the network at x. What it does with a statistic, in the order in which they are taken:

    live: nothing
    hold: cuts it out of the graph; `held` receives (statistic, its value in the graph, the leaf)
    replay: puts in the statistic of x
    probe: the same, and sees from the NaNs in what is pooled whether that is several positions
    """

    def __init__(self, net, x, args, norms):
        super().__init__()
        self.net, self.x, self.args, self.norms = net, x, args, tuple(norms)
        self.known, self.layers, self.largest = [], [], x.numel()
        self.with_statistics = set()  # the classes of modules, and of those around them
        for path, module in net.named_modules():
            module.register_forward_pre_hook(functools.partial(self._enter, path))
            module.register_forward_hook(self._leave)

    def __call__(self, how, x):
        self.how, self.number, self.frames, self.held = how, 0, [], []
        times = len(x) // len(self.x)
        args = [_repeated(a, times) if torch.is_tensor(a) and a.shape[:1] == self.x.shape[:1] else a
                for a in self.args]
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
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in DROPOUT:
            return args[0] if args else kwargs["input"]
        result = None
        if self.how != "live" and func in FUNCTIONS:
            bound = inspect.signature(func).bind(*args, **kwargs)
            bound.apply_defaults()
            result = self._normalize(FUNCTIONS[func], types.SimpleNamespace(**bound.arguments))
        elif self.how != "live" and name in REDUCTIONS and self.frames:
            module = self.frames[-1].module
            if "Norm" in type(module).__name__ or isinstance(module, self.norms):
                result = self._reduce(func, args, kwargs)
        return func(*args, **kwargs) if result is None else result

    def _normalize(self, kind, call):
        """A function of torch.nn.functional, put together of its statistics; None: it takes none."""
        x = h = call.input
        if kind == "batch" and not call.training or kind == "instance" and not call.use_input_stats:
            return None
        if kind == "normalize":
            layer = self.layer(kind)
            size = self.statistic(lambda v: v.norm(call.p, call.dim, True), x, layer, "variance")
            return x / size.clamp_min(call.eps)
        if kind in ("group", "instance"):
            h, dims = x.reshape(len(x), call.num_groups if kind == "group" else x.shape[1], -1), (2,)
        elif kind == "batch":
            dims = (0, *range(2, x.dim()))
        else:
            dims = tuple(range(-len(call.normalized_shape), 0))
        layer, token = self.layer(kind), dims == (-1,)
        if kind == "rms":
            square = self.statistic(lambda v: v.pow(2).mean(dims, True), h, layer, "variance", token)
            y = h * (square + (torch.finfo(x.dtype).eps if call.eps is None else call.eps)).rsqrt()
        else:
            mean = self.statistic(lambda v: v.mean(dims, True), h, layer, "mean", token)
            variance = self.statistic(lambda v: v.var(dims, unbiased=False, keepdim=True), h, layer,
                                      "variance", token)
            y = (h - mean) * (variance + call.eps).rsqrt()
        y = y.reshape(x.shape)
        for parameter, apply in ((call.weight, torch.mul), (getattr(call, "bias", None), torch.add)):
            if parameter is not None:
                shape = parameter.shape if kind in ("layer", "rms") else (-1, *[1] * (x.dim() - 2))
                y = apply(y, parameter.reshape(shape))
        return y

    def _reduce(self, func, args, kwargs):
        """A reduction within a norm that is written by hand; None: not of floating-point numbers."""
        x, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
        options = {key: value for key, value in kwargs.items() if key != "input"}
        if not x.is_floating_point():
            return None
        frame = self.frames[-1]
        if frame.layer is None:
            frame.layer = self.layer(type(frame.module).__name__)
        if torch.is_tensor(func(x, *rest, **options)):
            return self.statistic(lambda v: func(v, *rest, **options), x, frame.layer)
        return tuple(self.statistic(lambda v, i=i: func(v, *rest, **options)[i], x, frame.layer)
                     for i in range(2))

    def layer(self, kind):
        if self.number == len(self.known):  # the first run
            path = self.frames[-1].path if self.frames else ""
            self.layers.append((path or type(self.net).__name__, kind))
        return len(self.layers) - 1

    def statistic(self, function, x, layer, kind=None, token=False):
        self.with_statistics.update(type(frame.module) for frame in self.frames)
        number, self.number = self.number, self.number + 1
        live = function(x)
        if self.how == "hold":
            if number == len(self.known):
                constant = not live.requires_grad
                self.known.append(types.SimpleNamespace(
                    value=live.detach(), layer=layer, kind=kind or self._kind(live), constant=constant,
                    live=constant, seen=token, pools=False))
            if self.known[number].live:
                return live
            leaf = live.detach().requires_grad_()
            self.held.append((self.known[number], live, leaf))
            return leaf.clone()  # may be changed in place
        if number >= len(self.known):
            raise ValueError("leak: on another input this network takes other statistics than on x")
        statistic = self.known[number]
        if statistic.live:
            return live
        value = statistic.value
        if value.dim() and len(value):
            value = _repeated(value, len(live) // len(value))
        if value.shape != live.shape:
            name, kind = self.layers[statistic.layer]
            raise ValueError(f"leak: {name} ({kind}) has a statistic of shape {list(value.shape)} at x, "
                             f"but of {list(live.shape)} here, and so cannot be held")
        if self.how == "probe":
            nan = x.isnan()
            statistic.seen |= any(bool(one.any()) and not bool(one.all()) for one in nan)
            # A set that holds NaNs and numbers lies across the edge of what the slab reaches.
            mixed = live.isnan() & function(torch.zeros_like(x).masked_fill(~nan, torch.nan)).isnan()
            statistic.pools |= bool(mixed.any())
            return torch.where(live.isnan() & ~mixed, live, value)
        return value.clone()

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


# --- What is measured of it -----------------------------------------------------------------------


class _Jacobian:
    """J with any choice of statistics live, from one graph that has all of them cut out.

    Rows: the outputs asked and, below them, the statistics; columns: the input and the statistics.
    """

    def __init__(self, run, asked, layers, rows):
        def outputs(how):  # [asked * C], of the first sample
            y = run(how, leaf)
            return y[0].reshape(y.shape[1], -1)[:, asked].t()
        leaf = run.x.clone().requires_grad_()
        self.live = self.rows = rows(outputs("live"), [leaf], "outputs")
        held, self.columns = outputs("hold"), leaf.numel()
        statistics = run.held if layers else []
        self.owners = [one for one, value, _ in statistics for _ in range(value.numel())]
        size = (held.numel() + len(self.owners)) * (self.columns + len(self.owners))
        if size * leaf.element_size() > MOST_BYTES:
            raise ValueError(f"leak: {held.numel()} outputs, {self.columns} inputs, {len(self.owners)} "
                             "statistics are too many; take a smaller x, fewer outputs, "
                             "dtype=torch.float32, or layers=False")
        inputs = [leaf] + [cut for _, _, cut in statistics]
        if run.held:
            self.rows = rows(held, inputs, "outputs, held,")
        self.below = torch.cat([self.rows[:0]] + [
            rows(value, inputs, f"statistic {i} of {len(statistics)},")
            for i, (_, value, _) in enumerate(statistics)])
        self.frozen = self.rows[:, :self.columns]

    def with_live(self, which):
        """y_x + y_s (1 - s_s)^-1 s_x, over the statistics s for which `which` holds."""
        live = torch.tensor([i for i, one in enumerate(self.owners) if which(one)], dtype=torch.long,
                            device=self.frozen.device)
        chain = torch.eye(len(live)).to(self.frozen) - self.below[live][:, self.columns + live]
        weights = torch.linalg.solve_triangular(chain, self.rows[:, self.columns + live], upper=False,
                                                left=False)
        return self.frozen + weights @ self.below[live, :self.columns]

    def difference(self, jacobian):
        size = self.live.pow(2).sum()
        return float((jacobian - self.frozen).pow(2).sum() / size) if size > 0 else 0.0


def _measure(run, outputs, causal, axis, tile, halo, pad, layers):
    x, tolerance = run.x, torch.finfo(run.x.dtype).eps ** 0.5
    with torch.no_grad():
        y, again = run("live", x), run("live", x)
    if not _apart(y, again) <= tolerance or not y.isfinite().all():
        raise ValueError("leak: the output is not finite, or two runs differ: the network is random, or "
                         "changes as it runs (put it into eval mode?)")
    if not _apart(y, run("hold", x.clone().requires_grad_()).detach()) <= tolerance:
        raise RuntimeError("leak: with its norms put together by hand the output is another: one was "
                           "misunderstood")
    for norm in run.norms:
        is_there = any(isinstance(module, norm) for module in run.net.modules())
        if is_there and not any(issubclass(found, norm) for found in run.with_statistics):
            raise ValueError(f"leak: {norm.__name__} takes its statistics where they are not seen (in an "
                             "extension, not in PyTorch): measure with PyTorch's norm in its place")
    chunk = 64 if x.dtype == torch.float64 else 15  # from 16 on, NNPACK convolves by other means
    chunk, tick = max(1, min(chunk, (1 << 24) // run.largest)), _progress()
    places, out_places = _places(x.shape[2:]), _places(y.shape[2:])
    asked = _asked(outputs, y.shape[2:])
    field = _field(run, y, asked, tolerance, chunk, tick)
    for statistic in run.known:
        statistic.live |= statistic.seen and not statistic.pools
    jacobian = _Jacobian(run, asked, layers, functools.partial(_rows, chunk, tick))
    if layers and not _apart(jacobian.live, jacobian.with_live(lambda s: True)) <= 10 * tolerance:
        warnings.warn("leak: the Jacobian put together from the statistics is not the network's; what is "
                      "said of held statistics and of layers may be wrong")

    inside = torch.ones(len(asked), len(places), dtype=torch.bool)
    for heard, coordinates in zip(field, places.t()):
        inside &= heard[coordinates].t()
    outside = torch.ones(len(asked), 1, len(x), 1, len(places), dtype=torch.bool)
    outside[:, 0, 0, 0] = ~inside
    later = _later(places, out_places[asked], x, y, axis) if causal else None

    def share(of, where=outside):
        mass = of.reshape(len(asked), -1, *x.shape[:2], len(places)).abs()
        return {name: float((size * where.to(x.device)).sum() / size.sum()) if bool(size.any()) else 0.0
                for name, size in (("l1", mass), ("squared", mass ** 2))}

    def with_live(which, where=outside):
        return share(jacobian.with_live(which), where)

    report = Report(
        schema=1, network=type(run.net).__name__, input=list(x.shape), output=list(y.shape),
        dtype=f"f{torch.finfo(x.dtype).bits}", asked=asked.tolist(),
        receptive_field={**_reach(field, out_places[asked], x, y),
                         "inside": float(inside.double().mean())},
        live=share(jacobian.live), frozen=share(jacobian.frozen),
        mean=with_live(lambda s: s.kind == "mean") if layers else None,
        variance=with_live(lambda s: s.kind == "variance") if layers else None,
        difference=jacobian.difference(jacobian.live))
    if causal:
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
    for key, apply, sizes in (("tiles", _tiled, {"tile": tile, "halo": halo}),
                              ("pads", _padded, {"pad": pad})):
        if None not in sizes.values():
            own, wholes = (apply(run, how, y, *sizes.values()) for how in ("live", "replay"))
            report[key] = {**sizes, "total": _apart(y, own), "norm": _apart(wholes, own),
                           "padding": _apart(y, wholes)}
    report.silent = not bool(jacobian.live.any())
    report["leaks"] = (report["future"]["live"] if causal else report["live"])["l1"] > 0
    return report


def _rows(chunk, tick, values, inputs, what):
    """Derivatives of all elements of `values` by all of `inputs`: [values, sum of inputs]."""
    values = values.reshape(-1)
    rows = values.new_zeros(len(values), sum(one.numel() for one in inputs))
    for start in range(0, len(values) if values.requires_grad else 0, chunk):
        part = torch.arange(start, min(start + chunk, len(values)))
        seeds = F.one_hot(part, len(values)).to(values)
        options = dict(retain_graph=True, allow_unused=True)
        try:
            grads = torch.autograd.grad(values, inputs, seeds, is_grads_batched=True, **options)
        except Exception:  # an operation that has no batched derivative: one by one, or the same again
            each = [torch.autograd.grad(values, inputs, seed, **options) for seed in seeds]
            grads = [None if same[0] is None else torch.stack(same) for same in zip(*each)]
        column = 0
        for grad, one in zip(grads, inputs):
            if grad is not None:
                rows[part, column:column + one.numel()] = grad.reshape(len(part), -1)
            column += one.numel()
        tick(what, int(part[-1]) + 1, len(values))
    return rows


@torch.no_grad()
def _field(run, y, asked, tolerance, chunk, tick):
    """By axis, whether the outputs asked depend on the input at a coordinate: [coordinates, asked]."""
    x, samples = run.x, len(run.x)
    noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    noise = 1000 * (x.abs().max() + 1) * noise.to(x.device)

    def heard(axis, coordinates, how, content):
        result = torch.zeros(len(coordinates), len(asked), dtype=torch.bool)
        for start in range(0, len(coordinates), chunk):
            part = torch.arange(start, min(start + chunk, len(coordinates)))
            several = _repeated(x, len(part))
            for i, coordinate in enumerate(coordinates[part].tolist()):
                slab = (slice(None),) * (axis + 1) + (coordinate,)
                several[i * samples][slab] = content[slab]
            moved = ~((run(how, several)[::samples] - y[0]).abs() <= tolerance * y[0].abs().max())
            result[part] = moved.any(1).reshape(len(part), -1)[:, asked].cpu()
            tick(f"axis {axis}, coordinates", int(part[-1]) + 1, len(coordinates))
        return result

    field = []
    for axis, size in enumerate(x.shape[2:]):
        coordinates = torch.arange(size)
        found = heard(axis, coordinates, "probe", torch.full_like(x[0], torch.nan))
        for changed in (x[0] + noise, x[0] - noise):
            few = coordinates[size // 8::max(1, size // 4)]
            if (heard(axis, few, "replay", changed) & ~found[few]).any():  # NaNs do not get everywhere
                found |= heard(axis, coordinates, "replay", changed)
        field.append(found)
    return field


def _places(positions):
    """The coordinates of all positions: [positions, axes]."""
    return torch.tensor(list(itertools.product(*map(range, positions))), dtype=torch.long)


def _asked(outputs, positions):
    """Flat output positions: as they are given, or so many, spaced evenly along every axis."""
    if not isinstance(outputs, int):
        return torch.arange(positions.numel())[list(outputs)]
    if outputs < 1:
        raise ValueError(f"leak: outputs must be 1 or more, got {outputs}")
    each = max(1, int(outputs ** (1 / max(1, len(positions))) + 1e-9))
    flat = torch.zeros(1, dtype=torch.long)
    for size in positions:
        n = min(each, size)
        flat = (flat[:, None] * size + (2 * torch.arange(n) + 1) * size // (2 * n)).flatten()
    return flat


def _reach(field, at, x, y):
    """Largest distances, along every axis, to what the outputs at these places hear."""
    left, right = [], []
    for axis, found in enumerate(field):
        centres = [0] * len(at)
        if x.dim() == y.dim():
            centres = (at[:, axis] * x.shape[axis + 2] // y.shape[axis + 2]).tolist()
        heard = [column.nonzero().flatten() - centre for column, centre in zip(found.t(), centres)]
        left.append(max([0] + [-int(one[0]) for one in heard if len(one)]))
        right.append(max([0] + [int(one[-1]) for one in heard if len(one)]))
    return {"left": left, "right": right}


def _later(places, at, x, y, axis):
    """[asked, 1, 1, 1, positions]: whether the input position is later than the output's."""
    axis = range(x.dim())[axis]
    if axis < 2 or x.dim() != y.dim() or x.shape[axis] != y.shape[axis]:
        raise ValueError("leak: causal needs an axis of positions that the output shares, got axis "
                         f"{axis} of {list(x.shape)} -> {list(y.shape)}")
    return (places[:, axis - 2] > at[:, axis - 2, None])[:, None, None, None]


@torch.no_grad()
def _tiled(run, how, y, tile, halo):
    positions = run.x.shape[2:]
    tile, halo = ([size] * len(positions) if isinstance(size, int) else size for size in (tile, halo))
    result = torch.full_like(y, torch.nan)
    for starts in itertools.product(*(range(0, size, t) for size, t in zip(positions, tile))):
        cut, sizes, target, source = [], [], [], []
        for start, t, h, size, out in zip(starts, tile, halo, positions, y.shape[2:]):
            marks = [max(0, start - h), start, min(start + t, size), min(start + t + h, size)]
            cut.append(slice(marks[0], marks[3]))
            if any(mark * out % size for mark in marks):
                raise ValueError("leak: tiles and halos do not fall on whole positions of the output")
            low, first, last, high = (mark * out // size for mark in marks)
            sizes.append(high - low)
            target.append(slice(first, last))
            source.append(slice(first - low, last - low))
        part = run(how, run.x[(..., *cut)])
        if list(part.shape[2:]) != sizes:
            raise ValueError(f"leak: a tile gave outputs {list(part.shape[2:])}, expected {sizes}: tile "
                             "and halo must fit the strides")
        result[(..., *target)] = part[(..., *source)]
    return result


@torch.no_grad()
def _padded(run, how, y, pad):
    pad = [pad] * (run.x.dim() - 2) if isinstance(pad, int) else pad
    longer = F.pad(run.x, [n for size in reversed(pad) for n in (0, size)])
    return run(how, longer)[(..., *(slice(size) for size in y.shape[2:]))]


def _repeated(value, times):
    return value.repeat(times, *[1] * (value.dim() - 1))


def _apart(a, b):
    distance, spread = float((a - b).norm()), float((a - a.mean()).norm())
    return distance / spread if spread else distance


def _percent(share):
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.3g} %"


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
