"""Exit policies replayed on a trace: errors and costs of many policies, exactly.

At an exit after layer l every live sample of a batch pays the check; those whose score reaches
the threshold leave with that exit's answer. The exit at `depth` takes everyone and checks
nothing; layers above it do not exist. Under `serial` a batch is one sample; under `compact` the
batch shrinks to the samples that stay, at the cost of a copy; under `wait_all` the whole batch
runs on until its last sample has left, and every sample keeps its own first answer.

Samples are bits of machine words (`layout`), decisions are intersections of words (`decide`),
costs are looked up per live set (`pricing`), so the result is exact and fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynsearch.quality.metrics import BOUND_Z, error_bound, paired_difference
from dynsearch.quality.trace import Trace
from dynsearch.sim.decide import (
    PATIENCE,
    PatienceRule,
    Rule,
    ThresholdRule,
    exit_layers,
    scores_of,
)
from dynsearch.sim.latencies import sample_latencies
from dynsearch.sim.layer_cost import REGROUP, SERIAL, WAIT_ALL, LayerCost
from dynsearch.sim.pricing import QUANTITIES, Pricer, combine, make_pricer, num_channels
from dynsearch.sim.ranking import Judge, Ranking
from dynsearch.sim.records import RecordRule, answer_key, answering_trace, named_arrays
from dynsearch.sim.stages import entering_share
from dynsearch.sim.walk import Tally, Walk
from search_spaces.candidate import CRITERIA, EXIT_BATCHING, PolicyBatch
from search_spaces.errors import InputError, Problem
from search_spaces.workload import Workload, batch_order

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]

BLOCK = 512  # policies at a time, so that their sets and look-ups stay in cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What P policies do on N rows, and what they cost on D devices."""

    num_samples: int
    exits: I64  # [P, L] samples that leave after each layer
    n_wrong: I64  # [P]
    lost: I64  # [P] rows that only the full network gets right
    gained: I64  # [P] rows that only the policy gets right
    full_wrong: int  # rows that the full network gets wrong
    costs: tuple[dict[str, F64], ...]  # by workload: quantity -> [D, P]
    row_losses: F64 | None = None  # [P, 2] sums of the row losses that rank, and of their squares
    judged: F64 | None = None  # [P, 3] error, loss, standard error by the metric that ranks
    full_judged: float = 0.0  # the full network's error by that metric
    bound_z: float = BOUND_Z  # standard errors in `error_bound`

    @property
    def error(self) -> F64:
        """Plain estimate of the error, or of what ranks in its place [P]."""
        return self.n_wrong / self.num_samples if self.judged is None else self.judged[:, 0]

    @property
    def loss(self) -> F64:
        """Paired loss against the full network [P]."""
        if self.judged is not None:
            return self.judged[:, 1]
        return paired_difference(self.lost, self.gained, self.num_samples)[0]

    @property
    def loss_se(self) -> F64:
        """Standard error of the paired loss [P]."""
        if self.judged is not None:
            return self.judged[:, 2]
        return paired_difference(self.lost, self.gained, self.num_samples)[1]

    @property
    def error_bound(self) -> F64:
        """What ranks [P]: full network's error + paired loss + `bound_z` (1.28) standard errors.

        The loss is the mean of the row losses where the replayer has them (`row_losses`), else
        the plain one.
        """
        full = self.full_wrong / self.num_samples if self.judged is None else self.full_judged
        if self.row_losses is None:
            return error_bound(full, self.loss, self.loss_se, self.bound_z)
        n = self.num_samples
        mean, square = self.row_losses.T / n
        se = np.sqrt(np.maximum(square - mean**2, 0.0) / n)
        return error_bound(full, mean, se, self.bound_z)

    @property
    def reach(self) -> F64:
        """Share of samples that enter each layer [P, L]."""
        return _reach(self.exits, self.num_samples)

    def cost(self, quantity: str, workload: int = 0) -> F64:
        """[D, P] of a quantity in QUANTITIES under one of the workloads."""
        return self.costs[workload][quantity]


class Replayer:
    """One trace with its prices: replays any number of policies.

    Tables that do not depend on policies are made once and kept.
    """

    def __init__(
        self,
        trace: Trace,
        costs: LayerCost | Sequence[LayerCost],
        *,
        workloads: Sequence[Workload],
        correct_full: Bool,
        row_losses: F64 | None = None,
        ranking: Ranking | None = None,
        bound_z: float = BOUND_Z,
    ) -> None:
        """Check the pieces against each other.

        Args:
            trace: One pass over N rows.
            costs: Stage costs of the trace's outer setting, one for all workloads or one each.
            workloads: Each gives its own costs; errors are the same for all.
            correct_full: Whether the full network is right, on the same rows [N].
            row_losses: What ranks in place of who was right: the loss of each exit on each row
                [N, L], from `row_losses.row_losses`; None: the plain paired loss.
            ranking: Metric that takes the place of the error; None: the error itself.
            bound_z: Standard errors in what ranks; another number asks another question
                (`search.fidelity`).

        Raises:
            InputError: fewer rows, layers or batch sizes than needed; see the message.
        """
        self.trace = trace
        self.workloads = tuple(workloads)
        self.costs = (costs,) * len(workloads) if isinstance(costs, LayerCost) else tuple(costs)
        self.correct_full = np.asarray(correct_full, dtype=bool)
        self.row_losses, self.ranking, self.bound_z = row_losses, ranking, bound_z
        self._check()
        self._predicted = trace.logits.argmax(axis=-1)  # [N, L]
        self._correct = self._predicted == trace.labels[:, None]
        self._arrays = named_arrays(trace)
        self._pricers: dict[tuple[int, int, tuple[str, ...]], Pricer] = {}
        self._scores: dict[tuple[int, float], F64] = {}

    def run(self, policies: PolicyBatch, quantities: Sequence[str] | None = None) -> Replayed:
        """Replay P policies.

        Args:
            policies: Of any criteria, temperatures and exit batchings.
            quantities: Names in QUANTITIES; None: all that the devices know.

        Returns:
            Errors [P] and costs [D, P] per workload. The order of policies, and which others
            stand beside them, changes nothing.

        Raises:
            InputError: exit batching "regroup", or more layers than the trace has or was run for.
        """
        self._check_policies(policies)
        names = self.quantities if quantities is None else tuple(quantities)
        if not names or not set(names) <= set(QUANTITIES):
            text = f"name at least one of {', '.join(QUANTITIES)}"
            raise InputError.one("arguments", "quantities", ", ".join(names), text)
        P, L = len(policies), self.trace.num_layers
        tally = Tally.empty(P, L, [num_channels(c, names) for c in self.costs])
        for rows in _groups(policies):
            self._run_group(policies.take(rows), rows, names, tally)
        n = self.trace.num_samples
        full_right = int(self.correct_full.sum())
        reach = _reach(tally.exits, n)
        return Replayed(
            num_samples=n,
            exits=tally.exits,
            n_wrong=n - tally.right,
            lost=full_right - tally.both,
            gained=tally.right - tally.both,
            full_wrong=n - full_right,
            costs=tuple(
                combine(sums / n, cost, names, self._miss_shares(policies, reach, cost, load))
                for sums, cost, load in zip(tally.sums, self.costs, self.workloads, strict=True)
            ),
            row_losses=None if self.row_losses is None else tally.losses,
            judged=None if self.ranking is None else tally.judged,
            full_judged=0.0 if self.ranking is None else self.ranking.full_error,
            bound_z=self.bound_z,
        )

    @property
    def temperature_matters(self) -> bool:
        """Whether a temperature changes what ranks, besides who leaves where."""
        return self.ranking is not None and self.ranking.metric == "nll"

    @property
    def quantities(self) -> tuple[str, ...]:
        """All quantities, without energy where no device knows it."""
        known = any(np.isfinite(c.joules.layer).any() for c in self.costs)
        return QUANTITIES if known else tuple(q for q in QUANTITIES if q != "energy_j")

    def scores(self, criterion: int, temperature: float) -> F64:
        """Exit scores [N, L], kept. `criterion` is an index into CRITERIA with a score."""
        key = criterion, temperature
        if key not in self._scores:
            self._scores[key] = scores_of(self.trace.logits, criterion, temperature)
        return self._scores[key]

    def latencies(self, policies: PolicyBatch, workload: int = 0) -> F64:
        """Latency of every sample [D, P, N] in seconds: for a few policies at a time.

        Args:
            policies: P policies.
            workload: Number of the workload.
        """
        self._check_policies(policies)
        where = exit_layers(self.trace.logits, policies, self._arrays)
        distinct, index = np.unique(self.trace.lengths, return_inverse=True)
        cost = self.costs[workload].at_lengths(distinct)
        load = self.workloads[workload]
        L = self.trace.num_layers
        exits = (where[:, :, None] == np.arange(L)).sum(axis=1, dtype=np.int64)
        shares = self._miss_shares(policies, _reach(exits, self.trace.num_samples), cost, load)
        parts = []
        for p in range(len(policies)):
            mode = int(policies.exit_batching[p])
            batch = 1 if mode == SERIAL else load.batch
            order = batch_order(self.trace.lengths, batch=batch, sort=load.sort)
            padded = np.pad(order, (0, -order.size % batch), constant_values=-1)
            parts.append(
                sample_latencies(
                    cost.with_misses(shares[:, p]),
                    padded.reshape(-1, batch),
                    index,
                    where[p],
                    policies.exit_on[p],
                    wait=mode == WAIT_ALL,
                )
            )
        if not parts:
            return np.zeros((len(cost.devices), 0, self.trace.num_samples))
        return np.stack(parts, axis=1)

    def _run_group(
        self, policies: PolicyBatch, rows: I64, names: tuple[str, ...], tally: Tally
    ) -> None:
        """Policies of one criterion, temperature and exit batching; `rows` [P] in the tally."""
        mode = int(policies.exit_batching[0])
        pricers = [self._pricer(w, mode, names) for w in range(len(self.workloads))]
        layouts = [p.layout for p in pricers]
        rule: Rule
        answers, correct = self.trace, self._correct
        temperature = float(policies.temperature[0])
        if policies.records[0] is not None:
            exits = policies.records[0]
            rule = RecordRule(self.trace, self._arrays, policies, layouts)
            answers = answering_trace(self.trace, exits, int(policies.depth[0]))
            if answers is not self.trace:
                self._check_answers()
                correct = answers.logits.argmax(axis=-1) == answers.labels[:, None]
                temperature = 1.0
        elif int(policies.criterion[0]) == PATIENCE:
            rule = PatienceRule(self._predicted, policies, layouts)
        else:
            scores = self.scores(int(policies.criterion[0]), temperature)
            rule = ThresholdRule(scores, policies, layouts)
        judge = None
        if self.ranking is not None:
            judge = Judge(self.ranking, answers, temperature)
        walk = Walk(pricers, rule, correct, self.correct_full, self.row_losses, judge)
        for start in range(0, rows.size, BLOCK):
            walk.block(policies, np.arange(start, min(start + BLOCK, rows.size)), rows, tally)

    @staticmethod
    def _miss_shares(policies: PolicyBatch, reach: F64, cost: LayerCost, load: Workload) -> F64:
        """Miss shares [D, P]."""
        size = np.where(policies.exit_batching == SERIAL, 1, load.batch)[:, None]
        return cost.miss_shares(entering_share(reach, size))

    def _pricer(self, workload: int, mode: int, names: tuple[str, ...]) -> Pricer:
        key = workload, mode, names
        if key not in self._pricers:
            cost, load = self.costs[workload], self.workloads[workload]
            self._pricers[key] = make_pricer(cost, self.trace.lengths, load, mode, names)
        return self._pricers[key]

    def _check(self) -> None:
        trace, problems = self.trace, []
        if not self.workloads or len(self.costs) != len(self.workloads):
            problems.append(
                Problem(
                    "arguments",
                    "workloads",
                    str(len(self.workloads)),
                    "give at least one workload, and one layer cost for all or one for each",
                )
            )
        if self.correct_full.shape != (trace.num_samples,):
            problems.append(
                Problem(
                    "arguments",
                    "correct_full",
                    str(self.correct_full.shape),
                    f"must have one entry for each of the trace's {trace.num_samples} rows",
                )
            )
        for cost, load in zip(self.costs, self.workloads, strict=False):
            if cost.num_layers != trace.num_layers or cost.max_batch < load.batch:
                problems.append(
                    Problem(
                        "arguments",
                        "costs",
                        f"{cost.num_layers} layers, batches up to {cost.max_batch}",
                        f"the trace has {trace.num_layers} layers and the workload a batch of "
                        f"{load.batch}; build the layer cost for both",
                    )
                )
        if problems:
            raise InputError(problems)

    def _check_answers(self) -> None:
        if self.row_losses is not None:
            text = "were made for exits that answer alone: replay without them"
            raise InputError.one("arguments", "row_losses", None, text)

    def _check_policies(self, policies: PolicyBatch) -> None:
        if (policies.exit_batching == REGROUP).any():
            raise InputError.one(
                "arguments",
                "exit_batching",
                "regroup",
                "cannot be replayed exactly, its batches depend on arrivals; use serial, "
                "wait_all or compact",
            )
        L = self.trace.num_layers
        depth = policies.depth
        if policies.exit_on.shape[1] != L or (depth < 1).any() or (depth > L).any():
            raise InputError.one(
                "arguments",
                "depth",
                f"{depth.min(initial=L)}..{depth.max(initial=1)}",
                f"policies must be given for {L} layers and stop at one of 1..{L}",
            )
        if (depth > self.trace.depth).any():
            raise InputError.one(
                "arguments",
                "depth",
                int(depth.max()),
                f"exit {self.trace.depth + 1} is missing: the trace was recorded down to layer "
                f"{self.trace.depth}; record it deeper or stop earlier",
            )
        above = policies.exit_on & (np.arange(1, L + 1) >= depth[:, None])
        if above.any():
            raise InputError.one(
                "arguments",
                "exits.layers",
                int(np.flatnonzero(above.any(axis=0))[0]) + 1,
                "an early exit must lie below the depth; the exit at the depth is implied",
            )


def replay(
    trace: Trace,
    policies: PolicyBatch,
    cost: LayerCost,
    *,
    workload: Workload,
    correct_full: Bool,
) -> Replayed:
    """Replay policies once under one workload; see `Replayer`."""
    return Replayer(trace, cost, workloads=[workload], correct_full=correct_full).run(policies)


def _reach(exits: I64, n: int) -> F64:
    gone = np.cumsum(exits, axis=1) - exits
    return 1.0 - gone / n


def _groups(policies: PolicyBatch) -> list[I64]:
    """Row numbers by equal (criterion, temperature, exit batching) and equal answers."""
    temperature = np.unique(policies.temperature, return_inverse=True)[1]
    key = (temperature * len(CRITERIA) + policies.criterion) * len(EXIT_BATCHING)
    key = key + policies.exit_batching
    records = policies.records
    if any(record is not None for record in records):
        pairs = zip(records, policies.depth, strict=True)
        answers = [answer_key(record, int(depth)) for record, depth in pairs]
        number = {answer: i for i, answer in enumerate(dict.fromkeys(answers))}
        key = key * len(number) + np.array([number[answer] for answer in answers])
    group = np.unique(key, return_inverse=True)[1]
    return [np.flatnonzero(group == g) for g in range(int(group.max(initial=-1)) + 1)]
