"""The page about all figures: one HTML file that needs nothing else, to be sent around."""

import base64
import datetime
import html
from dataclasses import dataclass

VERDICTS = {True: "pass", False: "miss", None: "-"}


@dataclass(frozen=True)
class Drawn:
    """A figure of one seed."""

    seed: int
    picture: bytes      # .png
    data: bytes         # .json
    file: str           # the name of the latter

    @property
    def download(self):
        """The name that the data is offered under."""
        return self.file if self.seed == 0 else f"{self.file.removesuffix('.json')}-seed{self.seed}.json"


@dataclass(frozen=True)
class Result:
    """A figure at one scale."""

    preset: str
    drawn: list         # of each seed
    claims: dict        # as style.claim makes them
    notices: list       # of networks that learned nothing
    provenance: list    # config.json of each run
    commands: list
    seconds: list       # of each run; None where nobody counted


@dataclass(frozen=True)
class Section:
    key: str
    title: str
    note: str
    results: list
    heading: str = ""   # of the group that it belongs to


def number(value):
    """Three digits; a dash for what could not be measured."""
    if value is None:
        return "-"
    if isinstance(value, float) and value != int(value):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"
    return f"{value:.0f}"


def duration(seconds):
    if seconds is None:
        return "not counted"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def uri(data, kind):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def tag(name, content="", **attributes):
    text = "".join(f' {key.rstrip("_")}="{html.escape(str(value), quote=True)}"'
                   for key, value in attributes.items())
    return f"<{name}{text}>{content}</{name}>"


def say(text):
    return html.escape(str(text))


def spread(claim):
    """The range over the seeds; empty where there is one."""
    values = [seed["ours"] for seed in claim.get("seeds", ()) if seed["ours"] is not None]
    if not values:
        return ""
    low, high = number(min(values)), number(max(values))
    return f"(each {low})" if low == high else f"({low} to {high})"


def held(claim):
    """How many seeds a claim holds for, where it does not for each."""
    seeds = claim.get("seeds", ())
    if not seeds or claim["pass"]:
        return ""
    return f"{sum(seed['pass'] is True for seed in seeds)} of {len(seeds)} seeds"


def claims_table(claims):
    rows = []
    for claim in claims.values():
        verdict = VERDICTS[claim["pass"]]
        ours, few = say(number(claim["ours"])), held(claim)
        if "seeds" in claim:
            ours = tag("span", ours + " " + tag("small", say(spread(claim))), title=", ".join(
                f"seed {seed['seed']}: {number(seed['ours'])}" for seed in claim["seeds"]))
        rows.append(tag("tr", tag("td", say(claim["paper"])) + tag("td", say(claim["criterion"]))
                        + tag("td", ours, class_="number")
                        + tag("td", say(verdict) + (tag("small", f" {few}") if few else ""),
                              class_=f"verdict {verdict.replace('-', 'none')}")))
    head = "".join(tag("th", word) for word in ("The paper", "Criterion", "Ours", ""))
    return tag("div", tag("table", tag("tr", head) + "".join(rows)), class_="wide")


def departures(result):
    """Where a run's settings leave the paper's experiment."""
    settings = [config.get("settings", {}) for config in result.provenance]
    for found in settings:
        if found.get("curriculum_iterations"):
            yield (f"With a curriculum, which the paper does not have: first "
                   f"{found['curriculum_iterations']} steps at length "
                   f"{found.get('curriculum_length')}.")
            break
    if any(found.get("initial_biases") == "zero" for found in settings):
        yield ("With biases of zero at first, where PyTorch draws them; the paper does not say how "
               "it begins.")


def made_by(config):
    """Commit, compiler and machine of a run, in a line."""
    if not config:
        return "not known"
    commit = str(config.get("commit", ""))[:12] or "unknown"
    if config.get("modified"):
        commit += ", with changes that are not committed"
    parts = [f"commit {commit}", config.get("compiler"), config.get("build"), config.get("device"),
             config.get("machine")]
    return "; ".join(str(part) for part in parts if part)


def size_of(config):
    settings = config.get("settings", {})
    names = (("length", "ℓ"), ("depth", "d"), ("channels", "h"), ("kernel_size", "k"),
             ("batch", "batch"), ("iterations", "steps"), ("seed", "seed"))
    return ", ".join(f"{symbol} = {settings[name]}" for name, symbol in names if name in settings)


def image(drawn, text):
    return tag("img", src=uri(drawn.picture, "image/png"), alt=text).removesuffix("</img>")


def result_block(title, result):
    made = dict.fromkeys(made_by(config) for config in result.provenance)
    runs = "".join(
        tag("li", tag("code", say(command)) + " "
            + say(f"({size_of(config)}; {duration(seconds)})"))
        for command, config, seconds in zip(result.commands, result.provenance, result.seconds))
    total = sum(seconds or 0 for seconds in result.seconds)
    first, *others = result.drawn
    of = f"Preset {result.preset}"
    if others:
        of += f", {len(result.drawn)} seeds; the picture is of seed {first.seed}"
    links = ", ".join(tag("a", say(f"seed {drawn.seed}" if others else "as JSON"),
                          download=drawn.download, href=uri(drawn.data, "application/json"))
                      for drawn in result.drawn)
    return "".join([
        tag("h3", say(of)),
        image(first, f"{title}, preset {result.preset}"),
        tag("details", tag("summary", "The other seeds' pictures") + "".join(
            image(drawn, f"{title}, preset {result.preset}, seed {drawn.seed}") for drawn in others))
        if others else "",
        *(tag("p", say(text), class_="note") for text in departures(result)),
        *(tag("p", say(text), class_="miss") for text in result.notices),
        claims_table(result.claims),
        tag("details",
            tag("summary", say(f"{duration(total)} of runs; where this comes from"))
            + tag("ul", runs) + "".join(tag("p", say(line)) for line in made)
            + tag("p", f"The numbers behind the picture{'s' if others else ''}: {links}"))])


def with_headings(sections):
    """Each section with the heading that stands above it; empty where it is the last one's, too."""
    above = ["", *(section.heading for section in sections)]
    return [(section, section.heading if section.heading != last else "")
            for section, last in zip(sections, above)]


def overview(sections, presets):
    """The claims that pass, by figure and preset."""
    head = tag("th", "") + "".join(tag("th", say(name)) for name in presets)
    rows = []
    for section, heading in with_headings(sections):
        if heading:
            rows.append(tag("tr", tag("th", say(heading), colspan=1 + len(presets))))
        cells = [tag("td", tag("a", say(section.title), href=f"#figure-{section.key}"))]
        for name in presets:
            result = next((r for r in section.results if r.preset == name), None)
            counted = [c["pass"] for c in result.claims.values() if c["pass"] is not None] \
                if result else []
            kind = "none" if not counted else "pass" if all(counted) else "miss"
            text = f"{sum(counted)} of {len(counted)}" if counted else "not run" if not result else "-"
            cells.append(tag("td", text, class_=f"verdict {kind}"))
        rows.append(tag("tr", "".join(cells)))
    return tag("div", tag("table", tag("tr", head) + "".join(rows)), class_="wide")


STYLE = """
:root { color-scheme: light dark; --soft: #767676; --line: #8884; --pass: #00694e; --miss: #a33c00; }
@media (prefers-color-scheme: dark) { :root { --pass: #4fd1a5; --miss: #ff9d5c; --soft: #a0a0a0; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-weight: 600; color: var(--soft); } h1.group { margin-top: 4rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; display: block;
      max-height: 34rem; margin: 0 auto; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: .92em; }
th, td { text-align: left; padding: .35em .6em; border-bottom: 1px solid var(--line);
         vertical-align: top; }
td small { display: block; }
.wide { overflow-x: auto; } .number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.verdict { font-weight: 600; white-space: nowrap; } .pass { color: var(--pass); }
.pass::before { content: "✓ "; } .miss::before { content: "✗ "; } .miss { color: var(--miss); }
.none, .note, details, footer { color: var(--soft); } code { overflow-wrap: anywhere; }
"""

INTRODUCTION = """Figures of “Spooky Action at a Distance: Normalization Layers Enable Side-Channel
Spatial Communication” (Pfrommer, Ma, Huang, Sojoudi), made anew with sidechannel. Under each stands
what the paper claims, the criterion that we hold it to, and what we measured. The presets “demo” and
“small” are the same experiments with smaller networks: they test what is claimed, not the paper's
numbers. Figure 2 is a drawing of the mechanism, without data. The last figures are not the paper's: they
ask of the planner that its introduction names what it says of normalization."""


def render(sections, presets):
    """The whole page; `presets` in the order of their columns."""
    blocks = []
    for section, heading in with_headings(sections):
        if heading:
            blocks.append(tag("h1", say(heading), class_="group"))
        shown = "".join(result_block(section.title, result) for result in section.results)
        note = tag("p", say(section.note), class_="note") if section.note else ""
        blocks.append(tag("section", tag("h2", say(section.title)) + note
                          + (shown or tag("p", "Not run yet.", class_="note")),
                          id=f"figure-{section.key}"))
    today = datetime.date.today().isoformat()
    title = "What normalization layers hear"
    return "\n".join([
        "<!DOCTYPE html>", '<html lang="en">', '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        tag("title", title), tag("style", STYLE),
        tag("h1", title), tag("p", say(INTRODUCTION)), overview(sections, presets), *blocks,
        tag("footer", tag("p", say(f"Made by ./run figures, {today}."))), "</html>", ""])
