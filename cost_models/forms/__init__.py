"""One analytical form per class of device: operator table -> seconds of one execution.

A form is a module with `PARAMETERS`, the numbers that calibration may set, and
`operator_time_s(ops, device, *, threads, working_set_bytes)`. A new class of device is one file
here and its name in `FORM_NAMES`.
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


def form_of(kind: str) -> Form:
    """The form of a class of device."""
    module: Any = importlib.import_module(f"cost_models.forms.{kind}")
    form: Form = module
    return form


def parameters_of(kind: str) -> dict[str, Parameter]:
    """The parameters of a form by name."""
    return {p.name: p for p in form_of(kind).PARAMETERS}
