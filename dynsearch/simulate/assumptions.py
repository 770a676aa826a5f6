"""What a simulation assumes where no trace tells: stated numbers that the result shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.errors import InputError
from dynsearch.sim.exit_model import ExitModel
from dynsearch.sim.exit_model_fit import fit_exit_model
from search_spaces.activity import Assumed
from search_spaces.records import nearest

F64 = NDArray[np.float64]

# Accuracy by exit of one published network: the means of the 8,000 rows of SNLI that
# `sim.exit_model_fit` takes the likeness of exits from (same repository).
SNLI_ACCURACY = (
    0.381,
    0.435,
    0.563,
    0.772,
    0.792,
    0.803,
    0.809,
    0.815,
    0.819,
    0.821,
    0.825,
    0.825,
)
PARAMETRIC = "parametric"
_SHARPNESS = next(float(str(f.default)) for f in fields(ExitModel) if f.name == "sharpness")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """Parameters of everything that depends on the input."""

    accuracy: tuple[float, ...] = SNLI_ACCURACY  # by exit; stretched over the layers
    sharpness: float = _SHARPNESS
    temperature: float = 1.0
    rates: tuple[float, ...] = ()  # share that leaves at each early exit, in place of thresholds
    keep: float = 0.5  # share of tokens that a skim leaves where it states no rate
    spread: float = 0.05  # of that share between texts, see `sim.skim_tokens.ShareLaw`
    concentration: float = inf  # of experts' popularity between batches; inf: always even
    acceptance: float | None = None  # of drafted tokens; None: as exit and last layer agree
    read: float = 1.0  # share of steps that a recurrent reader runs, where no jump says
    branches: tuple[float, ...] = ()  # share of words that each cell reads, by branch_widths
    width: float = 1.0  # share of the state that a step updates
    stated: tuple[str, ...] = ()  # names that somebody gave a value
    preset: tuple[str, ...] = ()  # names that the method's preset gave one

    def exit_model(self, num_exits: int) -> ExitModel:
        """Exits after every layer; accuracies are read off between those that are stated.

        Raises:
            InputError: an accuracy outside (0, 1).
        """
        here, stated = (np.linspace(0.0, 1.0, n) for n in (num_exits, len(self.accuracy)))
        values = np.interp(here, stated, self.accuracy) if num_exits > 1 else self.accuracy[-1:]
        model = fit_exit_model(values)
        return replace(model, sharpness=self.sharpness, temperature=self.temperature)


_LISTS = ("accuracy", "rates", "branches")
_RANGES = {  # closed below, open above where that is an odds or a correlation
    "accuracy": (0.0, 1.0),
    "rates": (0.0, 1.0),
    "sharpness": (0.0, 1.0),
    "temperature": (0.0, inf),
    "keep": (0.0, 1.0),
    "spread": (0.0, 1.0),
    "concentration": (0.0, inf),
    "acceptance": (0.0, 1.0),
    "read": (0.0, 1.0),
    "branches": (0.0, 1.0),
    "width": (0.0, 1.0),
}
# 0 is no value of these.
_OPEN = (
    "accuracy",
    "sharpness",
    "temperature",
    "keep",
    "concentration",
    "read",
    "width",
)


def parse_assumptions(words: Sequence[str], preset: Assumed | None = None) -> Assumptions:
    """Assumptions from words NAME=VALUE, lists with commas between.

    Shares of exits that a preset states give way to a stated model of exits.

    Args:
        words: As on the command line.
        preset: What a method's preset assumes.

    Raises:
        InputError: an unknown name (with the nearest one), or a value outside its range.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in _RANGES:
            hint = nearest(name, _RANGES) or f"; use one of {', '.join(_RANGES)}"
            raise InputError.one("command line", "--exits", word, f"is not NAME=VALUE{hint}")
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            way = "needs numbers, with commas between: accuracy=0.5,0.7,0.8"
            raise InputError.one("command line", "--exits", word, way) from None
        low, high = _RANGES[name]
        below = min(values) <= low if name in _OPEN else min(values) < low
        top = max(values) >= high if name in ("accuracy", "sharpness") else max(values) > high
        if below or top or not all(v == v for v in values):
            edge = "above" if name in _OPEN else "from"
            end = "below" if name in ("accuracy", "sharpness") else "to"
            way = f"must lie {edge} {low:g} and {end} {high:g}"
            raise InputError.one("command line", "--exits", word, way)
        if name not in _LISTS and len(values) != 1:
            raise InputError.one("command line", "--exits", word, "is one number")
        found[name] = values if name in _LISTS else values[0]
    if sum(found.get("rates", ())) > 1.0 + 1e-9:
        way = "shares that leave early add up to at most 1"
        raise InputError.one("command line", "--exits", f"rates={found['rates']}", way)
    base = {} if preset is None else _of_preset(preset)
    if any(name in found for name in ("accuracy", "sharpness", "temperature")):
        base.pop("rates", None)
    base = {name: value for name, value in base.items() if name not in found}
    return Assumptions(**base, **found, stated=tuple(found), preset=tuple(base))


def _of_preset(preset: Assumed) -> dict[str, Any]:
    names = {
        "rates": preset.exit_share or preset.answer_share,
        "acceptance": preset.acceptance,
        "read": preset.read_share,
        "branches": preset.branch_share,
        "width": preset.width_share,
    }
    plain = Assumptions()
    return {name: value for name, value in names.items() if value != getattr(plain, name)}
