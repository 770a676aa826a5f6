"""What is believed of a form's parameters before a device is measured, and afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cost_models.calibrate.solve import SIGMA_START
from cost_models.device import Device, with_parameters
from cost_models.forms import fitted_of, parameters_of, scales_of
from cost_models.learned import Learned
from search_spaces.errors import InputError

F64 = NDArray[np.float64]

OWN_WEIGHT = 1.0  # the form's own prior counts as this many siblings


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is believed of parameters before a device is measured."""

    value: Mapping[str, float]  # SI
    log_sd: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """What is believed of P parameters of one device afterwards."""

    kind: str  # form
    names: tuple[str, ...]  # P
    expected: F64  # [P] SI, what was believed before: the mean of the prior
    values: F64  # [P] SI
    covariance: F64  # [P, P] of the logarithms
    n: int  # rows that were used
    sigma: float  # log noise of the median row
    design_effect: float  # rows that tell as much as one independent row, mean over rows
    learned: tuple[Learned, ...] = ()  # what the form leaves over, see `calibrate/learn.py`

    @property
    def model(self) -> dict[str, float]:
        """Values by name."""
        return {n: float(v) for n, v in zip(self.names, self.values, strict=True)}

    @property
    def moved(self) -> dict[str, float]:
        """Logarithms of the values over what was expected of them, by name."""
        return dict(zip(self.names, np.log(self.values / self.expected).tolist(), strict=True))

    @property
    def log_sd(self) -> dict[str, float]:
        """Standard deviations of the logarithms by name."""
        spread = np.sqrt(np.diag(self.covariance))
        return {n: float(v) for n, v in zip(self.names, spread, strict=True)}

    def on(self, device: Device) -> Device:
        """The device with these parameters, and what was learned beside them."""
        return replace(with_parameters(device, self.model), learned=self.learned)


def default_prior(device: Device, names: Iterable[str] | None = None) -> Prior:
    """What the form, or the device's own file, says before anything was measured.

    Args:
        device: Parameters that it states are the mean in place of the form's default.
        names: Parameters; None: those that the form says rows of others can tell apart
            (`forms.fitted_of`), with the prior that it gives them for that.

    Raises:
        InputError: a name that is no parameter of the form.
    """
    if names is None:
        fitted = fitted_of(device.kind)
        stated = {n: f"model.{n}" in device.quantities for n in fitted}
        scale = scales_of(device)
        return Prior(
            value={
                n: device.parameter(n) if stated[n] else p.default * scale.get(n, 1.0)
                for n, p in fitted.items()
            },
            log_sd={n: p.log_sd for n, p in fitted.items()},
        )
    known = parameters_of(device.kind)
    wanted = tuple(names)
    for name in wanted:
        if name not in known:
            raise InputError.one(
                "arguments", "names", name, f"no parameter of this form; use {', '.join(known)}"
            )
    return Prior(
        value={n: device.parameter(n) for n in wanted},
        log_sd={n: known[n].log_sd for n in wanted},
    )


def sibling_prior(own: Prior, siblings: Sequence[Posterior]) -> Prior:
    """The prior of a new device from devices measured before.

    How far a parameter's logarithm lies from what the form expects of a device is normal over
    devices around an unknown mean. The form's own prior counts as OWN_WEIGHT siblings, both for
    the mean and for the spread (a scaled inverse chi square; Gelman et al., "Bayesian Data
    Analysis", 3rd ed., section 3.3), so that one sibling shifts the mean half-way and does not
    yet make anyone sure. A sibling counts by the share of the prior's variance that its rows took
    away: one that was told nothing of a parameter says nothing of it.

    Args:
        own: Of the form, see `default_prior`; names that no sibling has keep it.
        siblings: Posteriors of the same form.
    """
    value, log_sd = dict(own.value), dict(own.log_sd)
    for name in own.value:
        those = [s for s in siblings if name in s.names]
        if not those:
            continue
        moved = np.array([s.moved[name] for s in those])
        unsure = np.array([s.log_sd[name] ** 2 for s in those])
        own_variance = own.log_sd[name] ** 2
        weight = np.maximum(1 - unsure / own_variance, 0.0)
        total = OWN_WEIGHT + float(weight.sum())
        mean = float(weight @ moved) / total
        squares = OWN_WEIGHT * own_variance + float(weight @ ((moved - mean) ** 2))
        value[name] = own.value[name] * math.exp(mean)
        log_sd[name] = math.sqrt(squares / total * (1 + 1 / total))
    return Prior(value=value, log_sd=log_sd)


def prior_only(device: Device, prior: Prior | None = None) -> Posterior:
    """What is believed of a device that nobody measured."""
    prior = prior or default_prior(device)
    names = tuple(prior.value)
    values = np.array([prior.value[n] for n in names])
    return Posterior(
        kind=device.kind,
        names=names,
        expected=values,
        values=values,
        covariance=np.diag([prior.log_sd[n] ** 2 for n in names]),
        n=0,
        sigma=SIGMA_START,
        design_effect=1.0,
    )
