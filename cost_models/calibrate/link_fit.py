"""Fit of the link form to timed collectives, with groups left out.

    python -m cost_models.calibrate.link_fit DATA    prints parameters and errors of every device

Maximum a posteriori on the logarithm of time around the defaults of the form, robust loss.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_models.adapters import links_nccl
from cost_models.calibrate.solve import fit_logs
from cost_models.links import KNOWN, PARAMETERS, Link, Stated, collective_s
from cost_models.measured import Measured

F64 = NDArray[np.float64]
ROBUST = 0.10  # log errors above this count linearly
PRIOR_WEIGHT = 0.10  # a prior counts as one row with this log error


def fit_link(link: Link, rows: Measured, prior: dict[str, float] | None = None) -> Link:
    """The link with parameters fitted to `rows`, drawn towards `prior` (default: the form's)."""
    names = [p.name for p in PARAMETERS if link.sums or p.name != "in_network"]
    start = np.log([(prior or {}).get(name, KNOWN[name].default) for name in names])
    upper = np.array([0.0 if KNOWN[name].ceiling else np.inf for name in names])
    width = np.array([KNOWN[name].log_sd for name in names])

    def errors(x: F64) -> F64:
        candidate = link.with_parameters(dict(zip(names, np.exp(x), strict=True)), "fit")
        return np.log(predicted_s(candidate, rows) / rows.seconds)

    fitted = fit_logs(errors, start, width, upper, weight=PRIOR_WEIGHT, robust=ROBUST)
    source = f"fit to {len(rows)} rows of {rows.source}, {rows.runtime}"
    return link.with_parameters(dict(zip(names, map(float, fitted), strict=True)), source)


def predicted_s(link: Link, rows: Measured) -> F64:
    """Seconds of every row, which is one collective [N]."""
    ops = rows.ops
    return collective_s(link, ops.k, ops.m.astype(np.float64), ops.n, ops.dtype)


def pooled(links: list[Link]) -> dict[str, float]:
    """Geometric mean of every parameter over links that state it."""
    found = {}
    for p in PARAMETERS:
        values = [link.parameters[p.name].value for link in links if p.name in link.parameters]
        if values:
            found[p.name] = float(np.exp(np.mean(np.log(values))))
    return found


def left_out(link: Link, rows: Measured, groups: NDArray[np.str_]) -> F64:
    """log(predicted / measured) [N] of each group when the fit did not see it."""
    error = np.empty(len(rows))
    for group in np.unique(groups):
        out = groups == group
        error[out] = np.log(
            predicted_s(fit_link(link, rows.take(~out)), rows.take(out)) / rows.seconds[out]
        )
    return error


def mape(log_error: F64) -> float:
    """Mean absolute percentage error, as a share."""
    return float(np.abs(np.expm1(log_error)).mean())


def bare(name: str, bandwidth: float, *, fabric: str = "switch", sums: bool = False) -> Link:
    """A link with its rate alone."""
    return Link(
        name=name,
        fabric=fabric,
        summary="",
        devices=(),
        bandwidth=Stated(value=bandwidth, source="-", grade="estimate"),
        domain=8,
        sums=sums,
    )


def say(*words: object, end: str = "\n") -> None:
    """Print."""
    sys.stdout.write(" ".join(str(word) for word in words) + end)


def main(arguments: list[str]) -> int:
    """Fit every device of the data and print what was found."""
    from cost_models.links import link_of

    root = Path(arguments[0])
    path = root / "gpu" / "aiconfigurator" / "nccl.csv.gz"
    measured = links_nccl.read(path, root)
    known = {rows.device: link_of(rows.device) for rows in measured}
    fitted = {r.device: fit_link(link, r) for r in measured if (link := known[r.device])}
    for rows in measured:
        link = known[rows.device]
        if link is None:
            say(rows.device, "no link file names it")
            continue
        own = fitted[rows.device]
        rest_of = {d: f for d, f in fitted.items() if d != rows.device}
        siblings = [f for f in rest_of.values() if f.name == link.name]
        others = pooled(siblings or list(rest_of.values()))
        size = np.array([f"{int(np.log10(b))}" for b in rows.ops.m])
        fresh = link.with_parameters(others, "pooled")
        unseen = np.log(predicted_s(fresh, rows) / rows.seconds)
        some = np.arange(len(rows))[:: len(rows) // 20][:20]
        few = fit_link(link, rows.take(some), others)
        rest = np.setdiff1d(np.arange(len(rows)), some)
        cal20 = np.log(predicted_s(few, rows.take(rest)) / rows.seconds[rest])
        say(f"{rows.device} via {link.name}, {len(rows)} rows, MAPE %:", end="")
        say(f" fitted {100 * mape(np.log(predicted_s(own, rows) / rows.seconds)):.1f}", end="")
        say(
            f", count left out {100 * mape(left_out(link, rows, rows.ops.n.astype(str))):.1f}",
            end="",
        )
        say(f", size left out {100 * mape(left_out(link, rows, size)):.1f}", end="")
        say(
            f", device left out {100 * mape(unseen):.1f}, then 20 rows {100 * mape(cal20):.1f}",
            end="",
        )
        say(f", shipped {100 * mape(np.log(predicted_s(link, rows) / rows.seconds)):.1f}")
        for name, stated in own.parameters.items():
            say(f"    {name} = {stated.value:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
