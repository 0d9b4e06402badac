"""Round numbers along axes, none beyond their ends."""

import math

from matplotlib.ticker import MaxNLocator


def between(least, most, count=4):
    """At most so many and one more."""
    return [float(tick) for tick in MaxNLocator(count).tick_values(least, most) if least <= tick <= most]


def decades(least, most, count=4):
    """Powers of ten, likewise."""
    first, last = math.ceil(math.log10(least)), math.floor(math.log10(most))
    return [10.0**i for i in range(first, last + 1, max(1, math.ceil((last - first) / count)))]


def labels(at):
    """Texts that tell them apart."""
    step = min((abs(b - a) for a, b in zip(at, at[1:])), default=0) or max(map(abs, at), default=1) or 1
    for digits in range(6, 18):
        texts = [f"{value:.{digits}g}" for value in at]
        if all(abs(float(text) - value) < 1e-6 * step for text, value in zip(texts, at)):
            break
    return texts if at else []


def shares(axes, top, side="y", sign=" %", count=4):
    """An axis of shares, from 0, which lies on the frame, to `top`, or to all where that is 0."""
    top = top if top > 0 else 1
    at = between(0, top, count)
    axes.set(**{f"{side}lim": (0, top), f"{side}ticks": at,
                f"{side}ticklabels": [f"{100 * tick:g}{sign}" for tick in at]})


def of_decades(least, most, count=5):
    """1, 2 and 5 of each power of ten; the powers alone, where these are more than so many."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    found = [digit * 10.0**i for i in range(first, last + 1) for digit in (1, 2, 5)
             if least <= digit * 10.0**i <= most]
    return found if len(found) <= count else decades(least, most, count)
