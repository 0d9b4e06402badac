"""What ./run figures has made, read from its files: for the page, and for the terminal."""

import contextlib
import re
import shlex
from pathlib import Path

import page
import style
from style import Error

SECONDS = "seconds.json"  # in a preset's folder

# --- Where it lies --------------------------------------------------------------------------------


def place_of(seed):
    """Where the runs and figures of a seed lie, in a preset's folder."""
    return f"seed-{seed}/" if seed else ""


def seeds_in(folder):
    return sorted([0, *(int(path.name[5:]) for path in folder.glob("seed-*")
                        if re.fullmatch("seed-[1-9][0-9]{0,8}", path.name))])


def seeds_of(figure, folder):
    """At which a figure is drawn."""
    return [seed for seed in seeds_in(folder)
            if all(file.exists() for file in figure.files(folder, seed))]


def seconds_in(folder):
    """Seconds spent on each of a preset's runs, by its name."""
    file = folder / SECONDS
    seconds = style.read_json(file) if file.exists() else {}
    for run in seconds:
        style.need(file, seconds, run, *style.number(0))
    return seconds


def seconds_of(folder):
    """Of a run that was made before, by its own account; None where it has none."""
    summary = folder / "summary.json"
    if not summary.exists():
        return None
    return style.need(summary, {"seconds": None, **style.read_json(summary)}, "seconds",
                      *style.number(0, null=True))


def provenance(folder):
    """Who made a run: its config.json, or, of a sweep, that of a cell; of a report, that of the run
    beside it."""
    folder = folder if folder.suffix != ".json" else folder.parent
    for config in [folder / "config.json", *sorted(folder.glob("cells/*/config.json"))]:
        if config.exists():
            made = style.read_json(config)
            style.need(config, {"settings": {}, **made}, "settings", style.is_object, "an object")
            return made
    return {}


def notices(value):
    """What the programs said of networks that learned nothing, anywhere in a figure's data but in what
    it does not draw (of a sweep's cells it draws the best)."""
    if isinstance(value, list):
        return [notice for item in value for notice in notices(item)]
    if not isinstance(value, dict):
        return []
    own = [value["notice"]] if isinstance(value.get("notice"), str) else []
    return own + [notice for key, item in value.items() if key != "cells" for notice in notices(item)]


def claims_of(figure, folder, seeds):
    """Of all seeds together: those that every one of them has."""
    by_seed = {}
    for seed in seeds:
        _, data = figure.files(folder, seed)
        by_seed[seed] = style.read_claims(data, style.read_json(data))
    return style.claims_over_seeds(by_seed)


def result(figure, preset, folder, seeds):
    times = seconds_in(folder)
    drawn, said = [], []
    for seed in seeds:
        picture, data = figure.files(folder, seed)
        drawn.append(page.Drawn(seed, style.read_bytes(picture), style.read_bytes(data), data.name))
        said += [f"Seed {seed}: {notice}" if len(seeds) > 1 else notice
                 for notice in notices(style.read_json(data))]
    runs = [run for run in figure.runs(preset, seeds_in(folder) if figure.together else seeds)
            if run.seed in seeds or (folder / run.name).exists()]
    return page.Result(
        preset=preset, drawn=drawn, claims=claims_of(figure, folder, seeds), notices=said,
        provenance=[provenance(folder / run.name) for run in runs],
        commands=[shlex.join([run.program, *run.before, *run.words(folder),
                              *run.preset_words(preset)]) for run in runs],
        seconds=[times.get(run.name, seconds_of(folder / run.name)) for run in runs])


# --- The page, and the terminal -------------------------------------------------------------------


def presets_in(out, known):
    """The presets with a figure, the largest scale first."""
    names = {path.parent.name for path in Path(out).glob("*/figure_*.json")}
    return [name for name in reversed(known) if name in names] + sorted(names - set(known))


def write_page(out, figures, presets, headings):
    """Returns what is not on it, for files that make no sense, in words. Of `presets` the first is the
    smallest; of each group of figures `headings` has the heading."""
    out = Path(out)
    presets = presets_in(out, presets)
    sections, left_out = [], {}
    for figure in figures.values():
        shown = []
        for name in presets:
            try:
                seeds = seeds_of(figure, out / name)
                if 0 in seeds:
                    shown.append(result(figure, name, out / name, seeds))
            except Error as error:  # of a file that several figures may share
                left_out[f"not on the page: {error}"] = None
        sections.append(page.Section(figure.key, figure.title, figure.note, shown,
                                     headings[figure.group]))
    text = page.render(sections, presets)
    style.write_file(out / "index.html", text.encode(errors="backslashreplace"))
    return list(left_out)


def verdicts(out, folder, figures):
    """A line for each claim of a preset's figures that were drawn, and the count."""
    lines, counts = [], {True: 0, False: 0, None: 0}
    for figure in figures:
        claims = {}
        with contextlib.suppress(Error):  # the page was without it then
            claims = claims_of(figure, folder, seeds_of(figure, folder))
        for claim in claims.values():
            counts[claim["pass"]] += 1
            ours = " ".join(filter(None, (page.number(claim["ours"]), page.spread(claim))))
            lines.append(f"  figure {figure.key:10}{page.VERDICTS[claim['pass']]:6}{ours:>8}"
                         f"  {claim['criterion']}")
    if not lines:
        return []
    summary = f"{counts[True]} of {counts[True] + counts[False]} claims pass"
    if counts[None]:
        summary += f", {counts[None]} have nothing to measure at this scale"
    return [*lines, f"{summary}; page: {out}/index.html"]
