"""Operators of many stages collected, priced once, and summed by stage.

Every stage has four costs that all add up in the same way: seconds, joules, the FLOPs that the
method asks for and those that run. They stand on the axis that stage tables have for devices, so
that whatever composes times composes the others as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.device import Device
from cost_models.price import error_s, network_log_sd, outside_warnings, price_ops
from search_spaces.ops import OpTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

SECONDS, JOULES, IDEAL, EXECUTED = range(4)
QUANTITIES = 4


@dataclass(slots=True)
class Ledger:
    """Stages on their way to a device."""

    tables: list[OpTable] = field(default_factory=list)
    size: int = 0

    def add(self, table: OpTable, rows: int) -> slice:
        """Stages 0..rows - 1 of a table; where they will stand."""
        here = slice(self.size, self.size + rows)
        self.tables.append(replace(table, candidate=table.candidate + self.size))
        self.size += rows
        return here

    @property
    def ops(self) -> OpTable:
        """All operators."""
        return OpTable.concat(self.tables)

    def weight_bytes(self) -> F64:
        """Weights that each stage reads, matrices that stand in a layer twice counted twice."""
        ops = self.ops
        read = ops.weight_bytes * ops.count
        return self._sums(ops, read)

    def price(self, device: Device, *, threads: int, working_set: float) -> Prices:
        """Costs of all stages.

        Args:
            device: Any.
            threads: Of the runtime.
            working_set: Bytes of weights between two uses of the same ones.
        """
        ops = self.ops
        cost = price_ops(ops, device, threads=threads, working_set_bytes=working_set)
        # whole rows of whole experts may come to a little less than all that is asked for
        run = np.maximum(ops.flops, ops.executed_flops)
        parts = (cost.time_s, cost.energy_j, ops.flops * ops.count, run * ops.count)
        values = np.stack([self._sums(ops, part) for part in parts])
        error = error_s(cost, ops, ops.candidate, self.size)
        relative = float(error.sum() / cost.time_s.sum())
        return Prices(
            values=values,
            log_sd=float(np.hypot(network_log_sd(device), relative)),
            origin=device.origin,
            warnings=outside_warnings(ops, device),
        )

    def _sums(self, ops: OpTable, values: F64) -> F64:
        """Sums over the operators of each stage."""
        sums = np.bincount(ops.candidate, weights=values, minlength=self.size)
        return sums.astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Costs of R stages."""

    values: F64  # [4, R]
    log_sd: float  # of log(true / predicted) seconds of any sum of them
    origin: str
    warnings: tuple[str, ...]

    def at(self, where: slice | NDArray[Any], *shape: int) -> F64:
        """Costs of some stages [4, *shape]."""
        found: F64 = self.values[:, where].reshape(QUANTITIES, *shape)
        return found
