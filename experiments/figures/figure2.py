#!/usr/bin/env python3
"""Figure 2 of the paper, measured: which norms carry to an index what its receptive field does not
hold."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import textwrap  # noqa: E402
from pathlib import Path  # noqa: E402

import style  # noqa: E402
from style import INK, WITH_NORM, WITHOUT_NORM, Page, UsageError, fixed, percent  # noqa: E402
from values import is_number_or_null, need, number, results_in, whole  # noqa: E402

import numpy as np  # noqa: E402
from matplotlib.colors import LinearSegmentedColormap  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

# --- What was measured ----------------------------------------------------------------------------


class Paths:
    """A folder of `localization paths`."""

    def __init__(self, folder):
        self.path = Path(folder)
        file = results_in(folder, "summary.json", "; `localization paths` makes it")
        self.summary = style.read_json(file)
        for key in ("length", "depth", "receptive_field", "index", "sequences"):
            need(file, self.summary, key, *whole())
        for key in ("rms_change", "largest_change_all_fixed"):
            need(file, self.summary, key, *number(0))
        need(file, self.summary, "norm", lambda name: isinstance(name, str), "a text")
        for key in ("layers", "carried"):
            need(file, self.summary, key,
                 lambda values: isinstance(values, list)
                 and len(values) == len(self.summary["layers"])
                 and all(is_number_or_null(value) for value in values),
                 "a list with a number for each norm")
        self.length, self.layers = self.summary["length"], self.summary["layers"]
        if not self.layers:
            raise UsageError(f"{folder}: a network without norms, which carry nothing")
        read = style.read_npy
        self.change = read(self.path / "change.npy", "f8", [self.length])
        self.carried = read(self.path / "carried.npy", "f8", [len(self.layers), self.length])

    @property
    def shares(self):
        """By norm, of all that gets there; None where nothing does."""
        return np.array(self.summary["carried"]) if self.summary["rms_change"] > 0 else None


def check_belongs(run, paths):
    for key in ("norm", "length", "depth", "receptive_field"):
        if run.summary[key] != paths.summary[key]:
            raise UsageError(f"{run.path} and {paths.path} differ in {key.replace('_', ' ')}: "
                             f"{run.summary[key]} and {paths.summary[key]}")


# --- The paper's claims ---------------------------------------------------------------------------


def claims(paths):
    change, held = (paths.summary[key] for key in ("rms_change", "largest_change_all_fixed"))
    return {
        "carried": style.claim(
            "positional information is communicated through the normalization layers (Section 3.2, "
            "Figure 2)", "what changes outside of the receptive field changes the output by more "
            "than 0 (rms)", change, lambda v: v > 0),
        "nothing-else": style.claim(
            "and through nothing else: without normalization nothing is (Proposition C.1)",
            "with all statistics fixed it changes the output by 0", held, lambda v: v == 0)}


# --- What is to be seen, in words -----------------------------------------------------------------


def reading(paths):
    if paths.shares is None:
        return "nothing outside of the receptive field changes the output."
    most = int(np.argmax(paths.shares))
    return (f"what lies outside of the receptive field of index {paths.summary['index']} changes its "
            f"answer by {fixed(paths.summary['rms_change'])} (rms); the norm of layer "
            f"{paths.layers[most]} carried the largest share ({percent(paths.shares[most])}).")


# --- The picture ----------------------------------------------------------------------------------


def draw_layers(axes, paths):
    """Depth upwards: what each norm carried of it all."""
    shares = np.zeros(len(paths.layers)) if paths.shares is None else 100 * paths.shares
    axes.barh(paths.layers, shares, height=0.75, color=WITH_NORM, zorder=2)
    axes.axvline(0, color=INK, lw=0.6, zorder=3)
    axes.set_xlim(1.12 * min(0, shares.min()), 1.12 * max(1, shares.max()))
    axes.set_xlabel("of the change at the output, %", labelpad=2)


def draw_sources(axes, paths):
    """What each norm carried from where, of what each position changes."""
    shares = np.divide(paths.carried, paths.change, out=np.zeros_like(paths.carried),
                       where=paths.change > 0)
    cmap = LinearSegmentedColormap.from_list("carried", ["#4477aa", "white", WITH_NORM])
    edges = np.append(paths.layers, paths.layers[-1] + 1) - 0.5
    axes.pcolormesh(np.arange(paths.length + 1), edges, shares, cmap=cmap, vmin=-1, vmax=1,
                    rasterized=True)
    axes.set_xlabel("sequence index that changes", labelpad=2)


def mark_field(axes, paths):
    """The receptive field, within which nothing was changed, and the index that listens."""
    index, reach = paths.summary["index"] - 0.5, paths.summary["receptive_field"]
    axes.axvspan(index - reach - 0.5, index + reach + 0.5, color="#e6e6e6", lw=0, zorder=2)
    axes.axvline(index, color=INK, lw=0.8, zorder=5)


def draw(paths, name, title=None):
    words = textwrap.wrap("Reading: " + reading(paths), 126)
    heading = textwrap.wrap(title or "", 75)
    head = 0.16 * len(heading) + (0.1 if heading else 0)
    left, width, height, strip = 0.55, 1.9, 2.0, 0.5
    map_left = left + width + 0.75
    map_width = style.PAGE_WIDTH - map_left - 0.15
    top = head + 0.42
    bottom = top + strip + 0.14 + height
    page = Page(bottom + 0.74 + 0.14 * len(words))
    page.text(style.PAGE_WIDTH / 2, 0.08, "\n".join(heading).replace("$", r"\$"), ha="center",
              fontsize=10)
    page.text(0.08, head + 0.07, "(a) By which norm", weight="bold", fontsize=8.5)
    page.text(map_left - 0.42, head + 0.07, f"(b) From where, {name}", weight="bold",
              fontsize=8.5)

    layers = page.axes(left, top + strip + 0.14, width, height)
    draw_layers(layers, paths)
    sources = page.axes(map_left, top + strip + 0.14, map_width, height)
    draw_sources(sources, paths)
    change = page.axes(map_left, top, map_width, strip)
    change.fill_between(np.arange(paths.length) + 0.5, np.sqrt(paths.change), color=WITHOUT_NORM,
                        lw=0, step="mid")
    change.set_ylim(0, 1.1 * max(np.sqrt(paths.change).max(), 1e-12))
    change.set_yticks([])
    change.set_ylabel("change", labelpad=2)
    change.set_xticks(style.index_ticks(paths.length), [])
    sources.set_xticks(style.index_ticks(paths.length))
    for axes in (change, sources):
        axes.set_xlim(0, paths.length)
        mark_field(axes, paths)
    for axes in (layers, sources):
        axes.set_ylim(paths.layers[0] - 0.5, paths.layers[-1] + 0.5)
        axes.set_yticks([layer for layer in style.layer_ticks(paths.summary["depth"])
                         if layer in paths.layers])
        axes.tick_params(axis="y", length=0)
    layers.set_ylabel("layer (input → output)", labelpad=2)
    page.legend(left, top, [Patch(color=WITH_NORM), Patch(color="#e6e6e6")],
                ["carried by the norm", "receptive field"], ncol=1)
    page.legend(map_left, bottom + 0.42, [(Patch(color=WITH_NORM), Patch(color="#4477aa"))],
                ["share of the change: carried, carried against it"], ncol=1)
    page.text(style.PAGE_WIDTH / 2, bottom + 0.62, "\n".join(words), ha="center", linespacing=1.25,
              fontsize=7.2)
    return page.figure


# --- The program ----------------------------------------------------------------------------------


def main(arguments):
    options = style.figure_options(
        "figure2.py", "Draws which norms carry what lies outside of a receptive field.",
        [("run", "RUN", "folder of the run that trained the network"),
         ("paths", "PATHS", "folder of its `localization paths`")], arguments)
    run, paths = style.load_run(options.run), Paths(options.paths)
    check_belongs(run, paths)
    style.finish(options, lambda: draw(paths, run.phrase, options.title),
                 {"claims": claims(paths), **paths.summary}, [f"paths: {reading(paths)}"],
                 (run.path, paths.path))


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure2.py", main, sys.argv[1:]))
