"""Fit of dispatch and combine to timed rows, with geometries left out.

    python -m cost_models.calibrate.exchange_fit DATA    prints parameters and errors

As `link_fit`: maximum a posteriori around the defaults on the logarithm of time, robust loss.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.adapters import links_deepep
from cost_models.calibrate.link_fit import PRIOR_WEIGHT, ROBUST, mape, say
from cost_models.calibrate.solve import fit_logs
from cost_models.exchange import LOW_LATENCY, NETWORK, PARAMETERS, THROUGHPUT, exchange_s
from cost_models.forms import Parameter
from cost_models.links import Link, link_of, load_link
from cost_models.measured import Measured, joined
from search_spaces.ops import CODES, COLLECTIVE

F64 = NDArray[np.float64]
UNITS = (4, 8, 12, 16, 20, 24)
Numbers = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Rows of one device and mode with the units that the operator table does not hold."""

    rows: Measured
    units: F64  # [N]

    def take(self, where: NDArray[Any]) -> Timed:
        """The rows at `where`."""
        rows = self.rows.take(where)
        return Timed(rows=rows, units=self.units[where])


def timed(path: Path, root: Path) -> list[Timed]:
    """Every device and mode of a file, at every number of units."""
    found: dict[tuple[str, str], list[tuple[Measured, float]]] = {}
    for units in UNITS:
        for rows in links_deepep.read(path, root, units):
            mode = rows.runtime.removeprefix("deepep-")
            if mode == "ll" and units != UNITS[0]:
                continue
            found.setdefault((rows.device, mode), []).append((rows, float(units)))
    return [
        Timed(
            rows=joined([r for r, _ in parts]),
            units=np.concatenate([np.full(len(r), u) for r, u in parts]),
        )
        for parts in found.values()
    ]


def predicted_s(link: Link, network: Link, data: Timed, numbers: Mapping[str, Any]) -> F64:
    """Seconds of every row [N]."""
    ops = data.rows.ops
    return exchange_s(
        ops.k % CODES,
        ops.m.astype(np.float64),
        ops.weight_bytes,
        ops.n,
        ops.batch,
        link=link,
        network=network,
        experts=(ops.k // CODES).astype(np.float64),
        units=data.units,
        numbers=numbers,
    )


def fit_sections(
    link: Link,
    network: Link,
    data: Timed,
    sections: Mapping[str, tuple[Parameter, ...]],
    given: Numbers,
) -> Numbers:
    """Parameters of sections of a link file fitted to rows of one operation.

    Args:
        link: What joins the ranks of a node.
        network: What joins nodes.
        data: Rows.
        sections: Sections to fit with their parameters.
        given: Sections that are fixed.
    """
    flat = [(section, p) for section, known in sections.items() for p in known]
    start = np.log([p.default for _, p in flat])
    upper = np.array([0.0 if p.ceiling else np.inf for _, p in flat])
    width = np.array([p.log_sd for _, p in flat])

    def numbers(values: F64) -> Numbers:
        found: Numbers = dict(given)
        for (section, p), value in zip(flat, values, strict=True):
            found.setdefault(section, {})[p.name] = float(value)
        return found

    def errors(x: F64) -> F64:
        return np.log(predicted_s(link, network, data, numbers(np.exp(x))) / data.rows.seconds)

    return numbers(fit_logs(errors, start, width, upper, weight=PRIOR_WEIGHT, robust=ROBUST))


def fit_operation(link: Link, network: Link, data: Timed, name: str) -> Numbers:
    """Both sections of an operation: inside a node, then between nodes where rows show it."""
    own = data.take(data.rows.ops.k % CODES == COLLECTIVE[name])
    inside = own.rows.ops.n <= link.domain
    found = fit_sections(link, network, own.take(inside), {name: PARAMETERS[name]}, {})
    if not inside.all():
        wide = {f"network_{name}": NETWORK[: 2 if name in LOW_LATENCY else 3]}
        found = fit_sections(link, network, own.take(~inside), wide, found)
    return found


def left_out(link: Link, network: Link, data: Timed, name: str) -> tuple[F64, Timed]:
    """log(predicted / measured) of each geometry when the fit did not see it, and the rows.

    Geometries are (hidden, top-k); numbers of nodes stay together with what they share.
    """
    own = data.take(data.rows.ops.k % CODES == COLLECTIVE[name])
    parts = np.array(["x".join(g.split("x")[:2]) for g in own.rows.group])
    nodes = np.array([g.split("x")[3] for g in own.rows.group])
    group = np.where(nodes.astype(float) > 1, "nodes" + nodes, parts)
    error = np.empty(len(own.rows))
    for key in np.unique(group):
        out = group == key
        numbers = fit_operation(link, network, own.take(~out), name)
        test = own.take(out)
        error[out] = np.log(predicted_s(link, network, test, numbers) / test.rows.seconds)
    return error, own


def main(arguments: list[str]) -> int:
    """Fit every device of the data and print what was found."""
    root = Path(arguments[0])
    network = load_link("infiniband-ndr")
    for data in timed(root / "gpu" / "aiconfigurator" / "deepep_raw.csv.gz", root):
        link = link_of(data.rows.device)
        if link is None:
            continue
        for name in LOW_LATENCY if data.rows.runtime == "deepep-ll" else THROUGHPUT:
            numbers = fit_operation(link, network, data, name)
            error, own = left_out(link, network, data, name)
            inside = own.rows.ops.n <= link.domain
            fitted = np.log(predicted_s(link, network, own, numbers) / own.rows.seconds)
            shipped = np.log(predicted_s(link, network, own, {}) / own.rows.seconds)
            say(f"{data.rows.device} {name}, {len(own.rows)} rows, MAPE %:")
            for where, rows in (("one node", inside), ("several nodes", ~inside)):
                if rows.any():
                    say(f"    {where}: fitted {100 * mape(fitted[rows]):.1f},", end="")
                    say(f" left out {100 * mape(error[rows]):.1f},", end="")
                    say(f" shipped {100 * mape(shipped[rows]):.1f}")
            for section, values in numbers.items():
                text = ", ".join(f"{k} = {v:.4g}" for k, v in values.items())
                say(f"    [{section}] {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
