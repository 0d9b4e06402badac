"""Curves of runs in one picture, and what they predict: what `runs plot` and `runs compare` draw."""

import math
import textwrap

import style
import ticks
import words
from run_folder import PREDICTIONS
from style import INK, WITH_NORM, WITHOUT_NORM, Page
from values import UsageError

import matplotlib
from matplotlib.lines import Line2D

# Okabe and Ito's, but for yellow, which a page does not show as a line.
COLOURS = (WITH_NORM, WITHOUT_NORM, "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", INK)
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
TITLES = {"loss": "Loss: mean squared error", "interior_slope": "Slope beyond the receptive field",
          "gradient_norm": "Norm of the gradient", "learning_rate": "Learning rate",
          "output_std": "Deviation between samples"}
SHORT = {"slope": "interior_slope"}
USUAL = ("loss", "interior_slope")

# --- What there is --------------------------------------------------------------------------------


def key_of(metric, run):
    """(phase, name) of a metric in a run: named with its phase, or the first of that name; None where
    it has none."""
    name = SHORT.get(metric, metric)
    keys = [key for key in run.metrics if ".".join(key) == name]
    return next(iter(keys + [key for key in run.metrics if key[1] == name]), None)


def drawable(runs, metrics):
    """Of the metrics, those that any run has; where none is asked for, the usual ones. A UsageError for
    one that no run has, although they have others."""
    there = {metric: None for metric in metrics or USUAL
             if any(key_of(metric, run) for run in runs)}
    names = dict.fromkeys(name if phase == "train" else f"{phase}.{name}"
                          for run in runs for phase, name in run.metrics)
    for metric in metrics:
        if metric not in there and names:
            raise UsageError(f"--metric {metric}: no run has it, expected one of {', '.join(names)}")
    return list(there)


def with_predictions(runs):
    return [run for run in runs if run.has(PREDICTIONS)]


# --- The picture ----------------------------------------------------------------------------------


def looks_of(count):
    """How so many lines look: told apart by colour, then by dashes; of more than there are of these by
    a scale of colours."""
    if count <= len(COLOURS) * len(DASHES):
        return [{"color": COLOURS[i % len(COLOURS)], "ls": DASHES[i // len(COLOURS)]}
                for i in range(count)]
    scale = matplotlib.colormaps["viridis"]
    return [{"color": scale(i / (count - 1))} for i in range(count)]


def place_ticks(axes):
    """Upwards, between the ends of a linear axis."""
    axes.set_ylim(ends := axes.get_ylim())
    at = ticks.between(*ends)
    axes.set_yticks(at, [f"{tick:.10g}".replace("-", "\u2212") for tick in at])


def draw_metric(axes, runs, looks, metric):
    drawn = []
    for run, look in zip(runs, looks):
        key = key_of(metric, run)
        if key is not None:
            points = [(step, math.nan if value is None else value) for step, value in run.metrics[key]]
            axes.plot([step for step, _ in points], [value for _, value in points], lw=1.1,
                      marker="o" if len(points) == 1 else None, ms=3, **look)
            drawn += points
    steps = [step for step, _ in drawn]
    values = [value for _, value in drawn if not math.isnan(value)]
    axes.set_xlim(0, max(steps) or 1)
    at = ticks.between(0, max(steps) or 1, 3)
    axes.set_xticks(at, [f"{tick:.10g}" for tick in at])
    axes.set_xlabel("step", labelpad=2)
    if metric in ("slope", "interior_slope") and values:  # 1 is perfect, and noise is to look like it
        axes.set_ylim(min(0, *values) - 0.03, max(1, *values) + 0.03)
        place_ticks(axes)
    elif values and min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
        at = ticks.of_decades(min(values), max(values))
        axes.set_yticks(at, [f"{tick:g}" for tick in at])
        axes.set_yticks([], minor=True)
    else:
        place_ticks(axes)


def draw_predictions(axes, runs, looks):
    axes.plot([-0.5, 0.5], [-0.5, 0.5], color=INK, lw=0.6, ls=(0, (1.5, 2)))
    for run, look in zip(runs, looks):
        if run.has(PREDICTIONS):
            mean = style.read_npy(run.path / PREDICTIONS, "f8", [None])
            axes.plot(style.target(len(mean)), mean, lw=1.1, **look)
    axes.set(xlim=(-0.5, 0.5), xticks=(-0.5, 0, 0.5))
    axes.set_xticklabels(["−½", "0", "½"])
    axes.set_xlabel("position; dotted: the truth", labelpad=2)
    place_ticks(axes)


def picture(runs, names, metrics, predictions=False, title=None):
    """A figure with a panel for each metric, and one for what the runs predict, where they do; of those
    that have any of these."""
    shown = [(run, name) for run, name in zip(runs, names)
             if any(key_of(metric, run) for metric in metrics) or (predictions and run.has(PREDICTIONS))]
    runs, names = zip(*shown)
    looks = looks_of(len(runs))
    panels = [(TITLES.get(SHORT.get(metric, metric), metric),
               lambda axes, metric=metric: draw_metric(axes, runs, looks, metric)) for metric in metrics]
    if predictions and with_predictions(runs):
        panels.append(("Mean prediction", lambda axes: draw_predictions(axes, runs, looks)))
    heading = textwrap.wrap(title or "", 75)
    head = 0.16 * len(heading) + (0.1 if heading else 0)
    columns = min(3, len(panels))
    width, height = (style.PAGE_WIDTH - 0.1) / columns, 1.75
    below = head + math.ceil(len(panels) / columns) * (height + 0.72)
    labels = [label if len(label) <= 90 else "…" + label[-89:] for label in map(words.printable, names)]
    beside = max(1, min(len(labels), int(6.2 / (0.45 + 0.065 * max(map(len, labels))))))  # each other
    page = Page(below + 0.147 * math.ceil(len(labels) / beside) + 0.12)
    page.text(style.PAGE_WIDTH / 2, 0.08, "\n".join(heading).replace("$", r"\$"), ha="center",
              fontsize=10)
    for i, (name, draw) in enumerate(panels):
        left, top = i % columns * width, head + i // columns * (height + 0.72)
        page.text(left + 0.1, top + 0.08, name.replace("$", r"\$"), weight="bold",
                  fontsize=8 if columns < 3 else 7)
        draw(page.axes(left + 0.5, top + 0.28, width - 0.62, height))
    page.legend(0.5, below, [Line2D([], [], lw=1.1, **look) for look in looks],
                [label.replace("$", r"\$") for label in labels], ncol=beside, columnspacing=1.2)
    return page.figure


# --- Writing it -----------------------------------------------------------------------------------


def check(options):
    """Refuses a name and a title that make no picture, before anything is read."""
    style.image_format(options.output)
    style.check_title(options.title or "")


def write(draw, path):
    with style.looks():
        style.write_figure(draw(), path)
