"""The runs that programs leave, as objects: settings, metrics, arrays, the network, a figure."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from . import _core

_ARRAYS = {  # of a localization run: what stands in a file, and its axes
    "localized": "[layer, position], bool: which positions each layer tells apart",
    "layer_mean": "[layer, position]: means of what probes and the network answer",
    "layer_variance": "[layer, position]: variances of that",
    "p_max": "[layer, position]: the largest p-value of Welch's tests",
    "predictions_mean": "[position]: the network's mean answer",
    "predictions_sample": "[sequence, position]: answers to some sequences",
}


class Run:
    """A run's folder, as `localization`, `overlap` or `diffusion` wrote it: finished, interrupted or
    still under way. Files are read when they are asked for.

        run = Run("runs/demo/instance")
        run.settings["norm"], run.metrics["train"]["loss"], run.summary["interior_slope"]
        run.figure().savefig("run.png")
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / "config.json").is_file():
            kind = "no such folder" if not self.path.is_dir() else "holds no run (no config.json)"
            raise _core.Error(f"{self.path}: {kind}")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    # --- JSON -------------------------------------------------------------------------------------

    def _json(self, name):
        try:
            value = json.loads((self.path / name).read_bytes(), parse_constant=_refuse)
        except FileNotFoundError:
            raise _core.Error(f"{self.path}: has no {name} yet") from None
        except (OSError, ValueError, RecursionError) as error:
            words = getattr(error, "strerror", None) or error
            raise _core.Error(f"{self.path / name}: {words}") from None
        if not isinstance(value, dict):
            raise _core.Error(f"{self.path / name}: not a JSON object")
        return value

    @property
    def config(self) -> dict[str, Any]:
        """Everything that config.json says: the settings, the commit, the machine."""
        return self._json("config.json")

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by name."""
        settings = self.config.get("settings")
        if not isinstance(settings, dict):
            raise _core.Error(f"{self.path / 'config.json'}: has no settings")
        return settings

    @property
    def finished(self) -> bool:
        """Whether there is a summary."""
        return (self.path / "summary.json").is_file()

    @property
    def summary(self) -> dict[str, Any]:
        """What summary.json says; an Error before it is there."""
        return self._json("summary.json")

    # --- Metrics ----------------------------------------------------------------------------------

    def _lines(self):
        """The lines of metrics.jsonl, but for one that is being written."""
        path = self.path / "metrics.jsonl"
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _core.Error(f"{path}: {error.strerror}") from None
        lines = []
        for number, line in enumerate(text.split(b"\n")[:-1], 1):
            try:
                value = json.loads(line, parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                raise _core.Error(f"{path}, line {number}: {error}") from None
            if not isinstance(value, dict):
                raise _core.Error(f"{path}, line {number}: not a JSON object")
            lines.append(value)
        return lines

    @property
    def metrics(self) -> dict[str, dict[str, np.ndarray]]:
        """By phase ("train", "probe"), by name ("step", "loss", ...): an array over the lines of
        metrics.jsonl, with a further axis where a line has a list. What is undefined is NaN."""
        phases = {}
        for line in self._lines():
            phases.setdefault(str(line.get("phase", "")), []).append(line)
        return {phase: {name: _column(lines, name) for name in _names(lines) if name != "phase"}
                for phase, lines in phases.items()}

    def frame(self, phase: str = "train") -> Any:
        """The lines of a phase as a pandas DataFrame, a row each, by step; lists become columns
        losses.0, losses.1, ..."""
        try:
            import pandas
        except ImportError:
            raise _core.Error("frame: needs pandas, which is not installed (metrics gives arrays)"
                              ) from None
        columns = {}
        for name, values in self.metrics.get(phase, {}).items():
            if values.ndim == 1:
                columns[name] = values
            else:
                columns.update({f"{name}.{i}": values[:, i] for i in range(values.shape[1])})
        frame = pandas.DataFrame(columns)
        return frame.set_index("step") if "step" in frame else frame

    # --- Arrays and networks ----------------------------------------------------------------------

    @property
    def arrays(self) -> list[str]:
        """The names of the arrays that are there: "localized", "predictions_mean", ..."""
        return sorted(path.stem for path in self.path.glob("*.npy"))

    def array(self, name: str) -> np.ndarray:
        """One of them. Of a localization run: """
        path = self.path / f"{name}.npy"
        try:
            return np.load(path, allow_pickle=False)
        except FileNotFoundError:
            there = ", ".join(self.arrays) or "none yet"
            raise _core.Error(f"{self.path}: has no {name}.npy (arrays: {there})") from None
        except (OSError, ValueError, EOFError) as error:
            raise _core.Error(f"{path}: {error}") from None

    array.__doc__ += "; ".join(f"{name} {words}" for name, words in _ARRAYS.items()) + "."

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """Those of a localization run that are there, by name; see array()."""
        return {name: self.array(name) for name in _ARRAYS if (self.path / f"{name}.npy").is_file()}

    @property
    def predictions(self) -> np.ndarray:
        """The network's mean answer by position, an array [position]."""
        return self.array("predictions_mean")

    def model(self, device: _core.Device | None = None, dtype: str = "f32") -> _core.Network:
        """The trained network, from model.safetensors."""
        path = self.path / "model.safetensors"
        if not path.is_file():
            raise _core.Error(f"{self.path}: has no model.safetensors yet")
        return _core.load_model(path, device, dtype=dtype)

    # --- A picture --------------------------------------------------------------------------------

    def figure(self) -> Any:
        """A figure of matplotlib's with what there is of a localization run: the loss, the predictions
        beside the truth, the localized positions by layer. Of other runs, the loss."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise _core.Error("figure: needs matplotlib, which is not installed") from None
        train = self.metrics.get("train", {})
        panels = []
        if "loss" in train:
            panels.append(lambda axes: _draw_loss(axes, train))
        maps = self.maps
        if "predictions_mean" in maps:
            panels.append(lambda axes: _draw_predictions(axes, maps, self.settings))
        if "localized" in maps:
            panels.append(lambda axes: _draw_map(axes, maps["localized"]))
        if not panels:
            raise _core.Error(f"{self.path}: has nothing to draw yet")
        figure = Figure(figsize=(3.4 * len(panels), 3), layout="constrained")
        for i, draw in enumerate(panels, 1):
            draw(figure.add_subplot(1, len(panels), i))
        return figure


def _refuse(text):
    raise ValueError(f"{text} is no number of JSON")


def _names(lines):
    """In the order in which they come."""
    return list(dict.fromkeys(name for line in lines for name in line))


def _number(value):
    return float(value) if isinstance(value, (int, float)) else math.nan


def _column(lines, name):
    """An array over lines: of whole numbers where all are, else of floats."""
    values = [line.get(name) for line in lines]
    if any(isinstance(value, list) for value in values):
        width = max(len(value) for value in values if isinstance(value, list))
        rows = [value if isinstance(value, list) else [] for value in values]
        return np.array([[_number(item) for item in row] + [math.nan] * (width - len(row))
                         for row in rows])
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return np.array(values, dtype=np.int64)
    if all(isinstance(value, str) for value in values):
        return np.array(values)
    return np.array([_number(value) for value in values])


def _draw_loss(axes, train):
    axes.semilogy(train["step"], train["loss"], color="#E69F00", linewidth=1)
    axes.set(title="Loss", xlabel="step", ylabel="mean squared error")


def _draw_predictions(axes, maps, settings):
    mean = maps["predictions_mean"]
    position = np.arange(1, len(mean) + 1)
    for sample in maps.get("predictions_sample", [])[:8]:
        axes.plot(position, sample, color="#E69F00", linewidth=0.4, alpha=0.5)
    axes.plot(position, _core.target_positions(len(mean)), color="#666666", linewidth=1,
              linestyle="--", label="truth")
    axes.plot(position, mean, color="#E69F00", linewidth=1.5, label="mean answer")
    axes.set(title=f"Predictions, norm {settings.get('norm', '?')}", xlabel="position")
    axes.legend(frameon=False)


def _draw_map(axes, localized):
    layers, length = localized.shape
    axes.imshow(localized, aspect="auto", cmap="Greys", vmin=0, vmax=1.4, interpolation="nearest",
                extent=(0.5, length + 0.5, layers + 0.5, 0.5))
    axes.set(title="Localized positions", xlabel="position", ylabel="layer")
