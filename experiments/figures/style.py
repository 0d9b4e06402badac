"""What the figures share: finished runs, claims, pictures to write, and their looks."""

import contextlib
import io
import itertools
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import interrupt
import output
import program
import words
from program import STANDARD_OUTPUT, check_outputs, is_stream, write_file, write_json
from values import (
    MOST, Error, UsageError, files_read, is_count, is_number_or_null, is_object, need, number, one_of,
    read_bytes, read_json, whole)

# Figures go to files, on machines without a display too, whatever the environment asks for.
os.environ["MPLBACKEND"] = "Agg"
# Where there is no folder for its list of fonts, matplotlib makes one for the time being. That is
# no news for a user, but having no home at all is an error to it.
if os.path.expanduser("~") == "~":
    os.environ["HOME"] = os.devnull
# What a user needs to know, the scripts say themselves.
logging.getLogger("matplotlib").setLevel(logging.CRITICAL + 1)
warnings.simplefilter("ignore")

try:
    with interrupt.Delay():  # it may be writing its list of fonts
        import matplotlib
        import matplotlib.figure
        import matplotlib.font_manager
        import numpy as np
        from matplotlib.legend_handler import HandlerTuple
except Exception as error:  # a user's matplotlibrc that is no text, no room for temporary files
    output.note(f"{Path(sys.argv[0]).name}: cannot load matplotlib and numpy (Debian: "
                f"python3-matplotlib, python3-numpy): {' '.join(str(error).split())}")
    sys.exit(1)

# What needs no picture, and scripts take from here.
ArgumentParser, exit_code_of = program.ArgumentParser, program.exit_code_of
fixed, percent, wrapped = words.fixed, words.percent, words.wrapped

# --- Run folders ----------------------------------------------------------------------------------

# What figures call kinds of normalization; others go by their own name.
NORM_NAMES = {"instance": "InstanceNorm", "group": "GroupNorm", "layer": "LayerNorm",
              "group_population": "GroupNorm", "position": "LayerNorm per position",
              "rms": "RMSNorm per position", "batch": "BatchNorm"}
STATISTICS = ("minibatch", "population")
INPUTS = ("noise", "periodic", "low-rank", "constant")


@dataclass(frozen=True)
class Run:
    """A finished run of `localization run`. Index i of the sequence is the cell from i - 1 to i."""

    path: Path
    settings: dict        # as resolved, from config.json
    summary: dict         # summary.json
    mean: np.ndarray      # [l] f64, mean prediction of the output
    sample: np.ndarray    # [n, l] f32, n single predictions
    localized: np.ndarray  # [d, l] bool: row i - 1 is the probe on z^(i), the last row the output

    norm = property(lambda run: run.summary["norm"])
    statistics = property(lambda run: run.summary["eval_statistics"])
    length = property(lambda run: run.summary["length"])  # l
    depth = property(lambda run: run.summary["depth"])    # d
    reach = property(lambda run: run.summary["receptive_field"])  # R(d)

    def reach_of(self, layer):  # R(i) = floor(k / 2) i
        return self.reach // self.depth * layer

    def outside_cone(self, layer):
        """Share of the indices beyond R(layer) from both edges that the layer localizes, or None
        where there are no such indices."""
        reach = self.reach_of(layer)
        beyond = self.localized[layer - 1, reach:self.length - reach]
        return float(beyond.mean()) if self.length > 2 * reach else None

    @property
    def input(self):
        """What the network saw: noise, or a constant (Section 3.2's uninformative input)."""
        return self.settings.get("input", "noise")

    @property
    def norm_name(self):
        if self.norm == "none":
            return "without norm"
        name = NORM_NAMES.get(self.norm, self.norm)
        groups = self.norm in ("group", "group_population")
        return name + (f" (G = {self.settings.get('groups', '?')})" if groups else "")

    @property
    def conditions(self):
        """What else tells the run from others: pairs of a value and what it is a value of."""
        pairs = []
        chosen = self.norm in ("batch", "group_population")
        if chosen or (self.norm != "none" and self.statistics != "minibatch"):
            pairs.append((self.statistics, "statistics"))
        if self.input != "noise":
            pairs.append((self.input, "input"))
        return pairs

    @property
    def name(self):
        """What the network is called in a legend."""
        return ", ".join([self.norm_name, *(value for value, _ in self.conditions)])

    @property
    def phrase(self):
        """The same within a sentence."""
        norm = self.norm_name if self.norm == "none" else f"with {self.norm_name}"
        return " and ".join([norm, *(f"{value} {what}" for value, what in self.conditions)])

    @property
    def notice(self):
        """What the program said of a run that learned nothing; None where it has learned."""
        return self.summary.get("notice")


def read_npy(path, dtype, shape):
    """The array of a .npy file; None in `shape` stands for any extent."""
    data = io.BytesIO(read_bytes(path))
    try:
        array = np.lib.format.read_array(data, allow_pickle=False)
        if data.read(1):
            raise ValueError("more follows the array")
    except Exception as error:  # numpy's parser raises nearly anything on a damaged header
        raise Error(f"{path}: not a .npy file, or truncated ({error})") from None
    fits = len(shape) == array.ndim and all(
        wanted in (None, got) for wanted, got in zip(shape, array.shape))
    if not fits or array.dtype != np.dtype(dtype):
        wanted = ", ".join("n" if extent is None else str(extent) for extent in shape)
        raise Error(f"{path}: expected {np.dtype(dtype)} [{wanted}], "
                    f"got {array.dtype} {list(array.shape)}")
    if array.dtype == bool:
        if (array.view("u1") > 1).any():
            raise Error(f"{path}: holds values that are neither true nor false")
    elif not (np.abs(array) <= MOST).all():
        raise Error(f"{path}: holds values that are not finite, or too large to be measured")
    return array


def _check_summary(path, summary):
    for key, *of in (
            ("norm", lambda name: isinstance(name, str), "a text"),
            ("eval_statistics", *one_of(STATISTICS)),
            *((key, *whole()) for key in ("length", "depth", "receptive_field")),
            ("receptive_field", lambda reach: reach % summary["depth"] == 0,
             "a multiple of the depth"),
            ("final_loss", *number()),  # null where the predictions were not finite
            ("interior_slope", *number(null=True))):
        need(path, summary, key, *of)
    need(path, {"notice": None, **summary}, "notice",
         lambda value: value is None or isinstance(value, str), "a text or null")
    for key in ("localized_fraction", "interior_localized_fraction"):
        need(path, summary, key, lambda values: isinstance(values, list)
             and len(values) == summary["depth"]
             and all(is_number_or_null(value, 0, 1) for value in values),
             "a list with a share for each layer")


def load_run(folder):
    """Reads a run folder; an Error names the file that is missing or makes no sense."""
    path = Path(folder)
    if not path.is_dir():
        raise Error(f"{path}: no such folder")
    file = path / "config.json"
    settings = need(file, read_json(file), "settings", is_object, "an object")
    need(file, {"input": "noise", **settings}, "input", *one_of(INPUTS))
    need(file, {"groups": 1, **settings}, "groups", *whole())
    if not (path / "summary.json").exists():
        raise Error(f"{path}: no summary.json, so this run is not finished; "
                    "`localization run` with the same settings continues it")
    summary = read_json(path / "summary.json")
    _check_summary(path / "summary.json", summary)
    length, depth = summary["length"], summary["depth"]
    for name in ("layer_mean.npy", "layer_variance.npy"):  # what "localized" was computed from
        read_npy(path / name, "f8", [depth, length])
    return Run(path, settings, summary,
               mean=read_npy(path / "predictions_mean.npy", "f8", [length]),
               sample=read_npy(path / "predictions_sample.npy", "f4", [None, length]),
               localized=read_npy(path / "localized.npy", "?", [depth, length]))


def target(length):
    """y of Problem 2.1."""
    return np.linspace(-0.5, 0.5, length) if length > 1 else np.zeros(length)


# --- Claims ---------------------------------------------------------------------------------------


def claim(paper, criterion, ours, holds, measured=None):
    """A claim of the paper: in its own terms and where it stands, the criterion that it is held to
    here, what was measured, and whether that passes; None where the run has nothing to measure. Where
    it was `measured` and nothing came out, it does not pass."""
    measured = ours is not None if measured is None else measured
    return {"paper": paper, "criterion": criterion, "ours": ours if measured else None,
            "pass": None if not measured else ours is not None and bool(holds(ours))}


def over_seeds(claims):
    """One claim of those of several seeds, by seed: the mean, and each. It passes where each does, and
    fails where one does; where one had nothing to measure, neither."""
    if len(claims) == 1:
        return next(iter(claims.values()))
    measured = [c["ours"] for c in claims.values() if c["ours"] is not None]
    passes = [c["pass"] for c in claims.values()]
    return {**next(iter(claims.values())), "ours": sum(measured) / len(measured) if measured else None,
            "pass": False if False in passes else None if None in passes else True,
            "seeds": [{"seed": seed, "ours": c["ours"], "pass": c["pass"]}
                      for seed, c in claims.items()]}


def claims_over_seeds(by_seed):
    """Those that every seed has, over all of them."""
    first = next(iter(by_seed.values()), {})
    return {key: over_seeds({seed: claims[key] for seed, claims in by_seed.items()})
            for key in first if all(key in claims for claims in by_seed.values())}


def read_claims(path, data):
    """The claims of a figure's data, as finish() wrote them to a file."""
    def is_verdict(claim):
        if not is_object(claim):
            return False
        passes, ours = claim.get("pass"), claim.get("ours")
        return is_number_or_null(ours) and (passes is None or isinstance(passes, bool)) \
            and not (passes and ours is None)

    def makes_sense(claim):
        if not is_verdict(claim) or not all(isinstance(claim.get(key), str)
                                            for key in ("paper", "criterion")):
            return False
        if "seeds" not in claim:
            return claim["pass"] is not None or claim["ours"] is None
        seeds = claim["seeds"]
        return isinstance(seeds, list) and len(seeds) > 1 and all(
            is_verdict(seed) and is_count(seed.get("seed"), 0) for seed in seeds)

    claims = need(path, data, "claims", is_object, "an object")
    for key in claims:
        need(path, claims, key, makes_sense, "a claim and what was measured")
    return claims


# --- Writing --------------------------------------------------------------------------------------

IMAGE_FORMATS = ("png", "pdf", "svg")


def image_format(path):
    """The format that a file's name asks for; of standard output, pipes and devices PNG where it asks
    for none."""
    suffix = Path(path).suffix.lower().lstrip(".")
    if suffix not in IMAGE_FORMATS:
        if str(path) in STANDARD_OUTPUT or is_stream(path):
            return "png"
        raise UsageError(f"{path}: a figure is a .png, .pdf or .svg file")
    return suffix


def write_figure(figure, path):
    data = io.BytesIO()
    figure.savefig(data, format=image_format(path), dpi=300)
    write_file(path, data.getvalue())


# --- Programs -------------------------------------------------------------------------------------


def figure_options(program, description, folders, arguments, flags=()):
    """The options of a program that draws a figure from folders: `folders` holds for each the name of
    its option, of its place in the usage, a help text, and how many there may be where not one; `flags`
    those that the program has beside, each with what argparse is told of it."""
    stem = Path(program).stem
    required = "".join(f"{flag} {how['metavar']} " for flag, how in flags if how.get("required"))
    parser = ArgumentParser(prog=program, description=description, epilog=f"Example: python3 "
                            f"experiments/figures/{program} {' '.join(of[1] for of in folders)} "
                            f"{required}--out {stem}.png --summary {stem}.json")
    for name, metavar, text, *nargs in folders:
        parser.add_argument(name, metavar=metavar, help=text, **({"nargs": nargs[0]} if nargs else {}))
    for flag, how in flags:
        parser.add_argument(flag, **how)
    parser.add_argument("--out", required=True, help="the figure, .png, .pdf or .svg")
    parser.add_argument("--summary", help="what is drawn, and what becomes of the paper's claims, "
                        ".json")
    parser.add_argument("--title", help="above the figure")
    files_read.clear()
    options = parser.parse_args(arguments)
    image_format(options.out)
    check_title(options.title or "")
    return options


MOST_TITLE = 500  # characters: ten lines


def check_title(title):
    """Refuses what the font has no glyph for: control characters, bytes that are not UTF-8, and
    some of the world's scripts. Blanks break lines."""
    if len(title) > MOST_TITLE:
        raise UsageError(f"--title: has {len(title)} characters, expected at most {MOST_TITLE}")
    with looks():
        name = matplotlib.rcParams["font.family"][0]
        font = matplotlib.font_manager.get_font(matplotlib.font_manager.findfont(name))
    for character in title:
        if character not in " \t\n\r" and font.get_char_index(ord(character)) == 0:
            raise UsageError(f"--title: {name}, in which figures are written, has no "
                             f"{ascii(character)}")


def finish(options, draw, summary, lines, sources):
    """Writes the figure that draw() makes and the summary, and prints the lines and a last one, with
    the names of the files."""
    check_outputs((("--out", options.out), ("--summary", options.summary)))
    with looks():
        write_figure(draw(), options.out)
    if options.summary:
        write_json(options.summary, summary)
    files = [file for file in (options.out, options.summary) if file]
    program.tell([*lines, f"figure: {', '.join(map(str, files))} (data: {', '.join(map(str, sources))})"],
                 files)


# --- Looks ----------------------------------------------------------------------------------------

PAGE_WIDTH = 6.8  # inches: both columns of a paper, and with a height near 3.8 a slide

# Orange is Okabe and Ito's. The two differ in lightness as much as in hue, so that they survive a
# greyscale print.
WITH_NORM = "#E69F00"
WITHOUT_NORM = "#666666"
PER_POSITION = "#0072B2"  # theirs, too
INK = "#000000"

_LOOKS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 7.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "mathtext.fontset": "dejavusans",
    "svg.hashsalt": "sidechannel",
}


@contextlib.contextmanager
def looks():
    """A context in which to draw and save a figure; a user's matplotlibrc has no say in it."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_LOOKS)
        yield


class Page:
    """A figure on which axes are placed in inches, from the left and from the top: panels align,
    and text below them has its room, whatever the labels."""

    def __init__(self, height, width=PAGE_WIDTH):
        self.width, self.height = width, height
        self.figure = matplotlib.figure.Figure(figsize=(width, height))

    def at(self, left, top):
        return left / self.width, 1 - top / self.height

    def axes(self, left, top, width, height):
        x, y = self.at(left, top + height)
        return self.figure.add_axes([x, y, width / self.width, height / self.height])

    def text(self, left, top, text, **how):
        return self.figure.text(*self.at(left, top), text, **{"va": "top", **how})

    def legend(self, left, top, handles, labels, **how):
        return self.figure.legend(
            handles, labels, loc="upper left", bbox_to_anchor=self.at(left, top), borderpad=0,
            borderaxespad=0, handler_map={tuple: HandlerTuple(ndivide=None, pad=0)}, handlelength=1.8,
            labelspacing=0.35, **how)


def index_ticks(length):
    """A few round indices, with both ends of the sequence among them where that can be."""
    for parts in (4, 5, 3, 2):
        if length % parts == 0:
            return [length * part // parts for part in range(parts + 1)]
    return [0, length // 2, length] if length > 2 else [0, length]


def layer_ticks(depth):
    """The first layer, the last, and round ones in between."""
    if depth <= 8:
        return list(range(1, depth + 1))
    step = next(2**n for n in itertools.count(1) if depth <= 5 * 2**n)
    return [1, *(layer for layer in range(step, depth, step) if depth - layer > step / 2), depth]
