"""How the figures that compare normalizations name, order and colour them."""

from style import NORM_NAMES, PER_POSITION, WITH_NORM, WITHOUT_NORM
from words import listed

# Okabe and Ito's. Those that lie on each other, at 0, have markers that show through each other.
COLOURS = {"instance": WITH_NORM, "group": WITH_NORM, "group_population": "#009E73",
           "position": PER_POSITION, "rms": "#CC79A7", "none": WITHOUT_NORM}
MARKERS = {"instance": ("o", 4.5), "group": ("o", 4.5), "group_population": ("D", 4.5),
           "position": ("s", 7.5), "rms": ("d", 5), "none": ("o", 2.5)}
# Of these an output hears nothing from beyond its receptive field, whatever the statistics.
CANNOT_LEAK = ("position", "rms", "none")


def name_of(norm):
    """In a legend."""
    if norm == "none":
        return "without norm"
    return "population GroupNorm" if norm == "group_population" else NORM_NAMES.get(norm, norm)


def marker(norm):
    """As matplotlib's plot takes it; hollow, so that nothing hides another."""
    shape, size = MARKERS[norm]
    return {"marker": shape, "ms": size, "mfc": "white" if size > 5 else COLOURS[norm],
            "mec": COLOURS[norm], "mew": 1}


def in_words(norms):
    return listed([name_of(norm) for norm in norms])
