"""One analytical form per class of device: operator table -> seconds of one execution.

A form is a module with `PARAMETERS`, the numbers that calibration may set,
`operator_time_s(ops, device, *, threads, working_set_bytes)`, and `operator_terms`, which tells
the same seconds apart. A new class of device is one file here and its name in `FORM_NAMES`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cost_models.device import Device
    from search_spaces.ops import OpTable

FORM_NAMES: tuple[str, ...] = ("cpu", "gpu", "tpu", "edge")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number of a form that a device file may state and a profile may calibrate.

    Attributes:
        name: Key below `model` in a file, without its unit.
        dimension: As in `units.Unit`.
        default: SI value used where neither device nor profile states one; an estimate.
        log_sd: Width of the prior around the default, standard deviation of the logarithm.
        doc: What it means.
        ceiling: Largest legal value (1 for an efficiency), or None.
    """

    name: str
    dimension: str
    default: float
    log_sd: float
    doc: str
    ceiling: float | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What the seconds of one execution of R operators consist of; they add up to the time.

    Arithmetic is told first. Where a form lets memory traffic run beside it, the traffic counts
    only as far as arithmetic does not hide it, shared out by bytes.
    """

    fixed: NDArray[np.float64]  # [R] start of the operator, whatever its size
    weights: NDArray[np.float64]  # [R] reading weights
    activations: NDArray[np.float64]  # [R] reading and writing activations
    arithmetic: NDArray[np.float64]  # [R] executed FLOPs at the rate of large operators
    fill: NDArray[np.float64]  # [R] what few rows, part tiles and part arrays add to it

    @property
    def total(self) -> NDArray[np.float64]:
        """Seconds [R]: `operator_time_s` up to rounding."""
        return self.fixed + self.weights + self.activations + self.arithmetic + self.fill

    def scaled(self, factor: NDArray[np.float64]) -> Terms:
        """Every term times a factor [R]."""
        return Terms(
            self.fixed * factor,
            self.weights * factor,
            self.activations * factor,
            self.arithmetic * factor,
            self.fill * factor,
        )


def roofline_terms(
    fixed: NDArray[np.float64],
    arithmetic: NDArray[np.float64],
    busy: NDArray[np.float64],
    weights: NDArray[np.float64],
    activations: NDArray[np.float64],
) -> Terms:
    """Terms of `fixed + max(busy, weights + activations)`.

    Args:
        fixed: Start [R].
        arithmetic: Part of `busy` that large operators would need, too [R].
        busy: Seconds of the arithmetic unit [R].
        weights: Seconds of memory traffic for weights [R].
        activations: The same for activations [R].
    """
    traffic = weights + activations
    seen = np.maximum(traffic - busy, 0.0) / np.where(traffic > 0, traffic, 1.0)
    return Terms(fixed, weights * seen, activations * seen, arithmetic, busy - arithmetic)


class Form(Protocol):
    """What a module of this folder offers."""

    PARAMETERS: tuple[Parameter, ...]
    SHARED_LOG_SD: float  # without a profile: error common to all operators of a device
    RESIDUAL_LOG_SD: float  # without a profile: error of one operator on top of it

    def operator_time_s(
        self,
        ops: OpTable,
        device: Device,
        *,
        threads: int = 1,
        working_set_bytes: float | NDArray[Any] | None = None,
    ) -> NDArray[np.float64]:
        """Seconds of one execution of every operator [R]."""
        ...

    def operator_terms(
        self,
        ops: OpTable,
        device: Device,
        *,
        threads: int = 1,
        working_set_bytes: float | NDArray[Any] | None = None,
    ) -> Terms:
        """The same seconds, told apart."""
        ...


def form_of(kind: str) -> Form:
    """The form of a class of device."""
    module: Any = importlib.import_module(f"cost_models.forms.{kind}")
    form: Form = module
    return form


def parameters_of(kind: str) -> dict[str, Parameter]:
    """The parameters of a form by name."""
    return {p.name: p for p in form_of(kind).PARAMETERS}


def fitted_of(kind: str) -> dict[str, Parameter]:
    """Parameters that whole networks, measured by others, can tell apart; with their priors.

    A form with more parameters than such rows can tell apart names a few in `COARSE`, for
    runtimes that it knows nothing of; of other forms it is all of them.
    """
    few: tuple[Parameter, ...] = getattr(form_of(kind), "COARSE", ())
    return {p.name: p for p in few} or parameters_of(kind)


def scales_of(device: Device) -> dict[str, float]:
    """Factors on the defaults of `fitted_of` that facts of a device ask for, by name."""
    form = form_of(device.kind)
    found = getattr(form, "prior_scales", None) or getattr(form, "default_scales", None)
    return {} if found is None else dict(found(device))


def default_of(device: Device, name: str) -> float:
    """What a form expects of a parameter that nobody stated or fitted on this device.

    A form whose defaults follow from facts of the device names those in `SCALED`, and has a
    function `default_scales` for the factors.
    """
    form = form_of(device.kind)
    default = parameters_of(device.kind)[name].default
    if name not in getattr(form, "SCALED", ()):
        return default
    scales: dict[str, float] = form.default_scales(device)  # type: ignore[attr-defined]
    return default * scales.get(name, 1.0)
