"""What every skim score declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SkimScore:
    """A reference decision.

    Attributes:
        kind: Name in files.
        importance: Attention [B, heads, n, n] and lengths [B] -> importance [B, n].
        keep: Importance [B, n], lengths [B], counts [B], protected -> kept positions [B, n].
    """

    kind: str
    importance: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]
    keep: Callable[[NDArray[Any], NDArray[Any], NDArray[Any], int], NDArray[np.bool_]]
