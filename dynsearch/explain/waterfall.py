"""From the time that a configuration's FLOPs promise to the time that is predicted: a waterfall.

All times are seconds per input (`time_per_sample_s`, batch time over batch), of the
configuration C and of the full network F in the same number format on the same device. The
waterfall starts at what C would need if time were proportional to ideal FLOPs,

    start = T_F * (flops_C / flops_F)

and each step adds what C pays for one thing *beyond its FLOPs share of what F pays for it*.
Purposes that only a dynamic network has (F pays nothing for them):

    checks, drop, router, dispatch, compaction:  T_C(purpose) - T_F * flops_C(purpose) / flops_F

each at the batches and lengths that really run. What is left of C is its core, the operators
that F has as well; with s = flops_C(core) / flops_F its steps are

    padding   P_C - s P_F   core as it runs, minus the core with every row at its own length
    batching  B_C - s B_F   that, minus the core in whole batches that never shrink nor wait
    weights, floor, activations, fill, rest:  t_C - s t_F for each term t of the operators' price
              (`cost_models.forms.Terms`) in whole batches of rows at their own lengths
    call      c_C - s c_F   fixed time of the forward pass around the operators

The order matters only for core, batching and padding: batches are first whole, then shrink, then
are padded; all other steps are sums over disjoint operators and terms, so their order changes
nothing. `rest` is arithmetic at the rate of large operators, the one term that would be zero if
every FLOP cost the same: what is left when all else is told, as its own row.

The steps telescope: the terms of F add up to T_F, so start and steps add up to T_C exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynsearch.explain.prices import TERMS, Account

# name -> what the row says, in the order in which rows are shown
LABELS: dict[str, str] = {
    "weights": "weights are read however few rows there are",
    "floor": "operators take a fixed time to start",
    "call": "fixed time of a forward pass",
    "fill": "few rows fill the device badly",
    "activations": "activations are moved",
    "batching": "batches shrink or wait for their slowest row",
    "padding": "padding inside batches",
    "checks": "exit checks: head, score, host decision",
    "drop": "token drop: explicit attention, ranking, gather",
    "router": "routers and the host's wait for them",
    "dispatch": "rows brought to experts and back",
    "compaction": "rows that stay copied into smaller batches",
    "rest": "rest: the FLOPs that stay cost more or less than the mean",
}
_EXTRA = {
    "checks": "check",
    "drop": "drop",
    "router": "router",
    "dispatch": "dispatch",
    "compaction": "compact",
}
_TERM = {
    "weights": "weights",
    "floor": "fixed",
    "activations": "activations",
    "fill": "fill",
    "rest": "arithmetic",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One row of a waterfall; seconds per input."""

    name: str  # key of LABELS
    seconds: float  # added beyond the FLOPs share; negative where it is less
    own_s: float  # what the configuration pays for it
    full_s: float  # what the full network pays for it

    @property
    def label(self) -> str:
        """The row in words."""
        return LABELS[self.name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waterfall:
    """From ideal to predicted time; seconds per input."""

    full_s: float  # the full network
    flops_share: float  # ideal FLOPs over those of the full network
    start_s: float  # full_s * flops_share
    steps: tuple[Step, ...]  # in the order of LABELS
    total_s: float  # the configuration as priced, not as summed


def waterfall(own: Account, full: Account) -> Waterfall:
    """Attribute the time of a configuration.

    Args:
        own: Its account.
        full: The full network's, on the same device, in the same format and workload.
    """
    share = own.core_flops / full.flops
    steps = {}
    for name, purpose in _EXTRA.items():
        paid = own.extra[purpose]
        promised = full.total_s * own.extra_flops[purpose] / full.flops
        steps[name] = Step(name=name, seconds=paid - promised, own_s=paid, full_s=0.0)
    mine, theirs = _core(own), _core(full)
    for name in mine:
        steps[name] = Step(
            name=name,
            seconds=mine[name] - share * theirs[name],
            own_s=mine[name],
            full_s=theirs[name],
        )
    flops_share = own.flops / full.flops
    return Waterfall(
        full_s=full.total_s,
        flops_share=flops_share,
        start_s=full.total_s * flops_share,
        steps=tuple(steps[name] for name in LABELS),
        total_s=own.total_s,
    )


def _core(account: Account) -> dict[str, float]:
    """Seconds of the core by step."""
    real, unpadded, whole = (float(account.core[v].sum()) for v in ("real", "unpadded", "full"))
    terms = {name: float(account.core["full"][TERMS.index(term)]) for name, term in _TERM.items()}
    return terms | {
        "call": account.call_s,
        "batching": unpadded - whole,
        "padding": real - unpadded,
    }
