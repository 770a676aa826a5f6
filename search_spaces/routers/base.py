"""What every router declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """A reference decision: scores [..., E], k -> expert numbers [..., k]."""

    kind: str
    select: Callable[[NDArray[Any], int], NDArray[np.int64]]
