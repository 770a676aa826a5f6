"""How a configuration changes with one step of each of its knobs, from the recorded passes.

A neighbour in an exit policy is replayed on the same trace, one in an outer setting on the trace
of that setting, where there is one: both are exact on the search rows. Where that pass was never
run, its latency is told as if every row left where it leaves now, and nothing of its error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dynsearch.analysis.neighbours import Move, policy_moves, setting_moves
from dynsearch.analysis.recorded import RecordedRun
from dynsearch.evaluate import blank_trace, down_to
from dynsearch.export.records import FrontPoint
from dynsearch.quality.trace import Trace
from dynsearch.search.encoding import setting_key
from dynsearch.search.inner import policy_costs
from dynsearch.search.policies import PolicyMaker
from dynsearch.search.types import F64
from dynsearch.sim.pricing import QUANTITIES
from dynsearch.sim.replay import Replayer
from search_spaces.candidate import Candidate, PolicyBatch, apply_policy, policies_of
from search_spaces.codec import candidate_from_dict, candidate_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step of one knob changes on one device."""

    device: str
    knob: str
    before: str
    after: str
    error_change: float | None  # plain, as a share of rows; None: that pass was not run
    bound_change: float | None  # of what ranks
    cost_change: dict[str, float]  # by objective and budget, SI units
    cost_share: float  # of the first cost objective, relative to what it is
    within: bool  # whether all budgets still hold


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    error: float | None
    bound: float | None
    costs: dict[str, F64]  # [D]


@dataclass(slots=True, kw_only=True)
class Subject:
    """A configuration whose neighbours are looked at."""

    id: str
    trial: int  # its pass
    policy: PolicyBatch  # one
    devices: tuple[str, ...]
    base: _Figures | None = None
    found: list[tuple[Move, _Figures]] = field(default_factory=list)


def subjects_of(recorded: RecordedRun, points: Sequence[FrontPoint]) -> list[Subject]:
    """Configurations on searched devices whose pass is recorded down to their depth, each once.

    A network without exits may be deeper than that pass: its cost follows from lengths.
    """
    devices: dict[str, list[str]] = {}
    for p in points:
        if p.device in recorded.devices:
            devices.setdefault(p.id, []).append(p.device)
    subjects = []
    for p in {p.id: p for p in points if p.id in devices}.values():
        candidate = candidate_from_dict(p.candidate)
        policy, wanted = policies_of([candidate]), candidate_hash(candidate)
        for trial, outer in recorded.outers.items():
            if recorded.depths[trial] < candidate.depth:
                continue
            if candidate_hash(apply_policy(outer, policy, 0)) == wanted:
                subjects.append(
                    Subject(id=p.id, trial=trial, policy=policy, devices=tuple(devices[p.id]))
                )
                break
    return subjects


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Neighbours of all subjects, looked at trace by trace.

    Made by `plan`; `visit` is called once with every trace.
    """

    recorded: RecordedRun
    subjects: list[Subject]
    moved_to: Mapping[int, list[tuple[Subject, Move]]]  # by trial of a recorded neighbour
    missing: Mapping[int, list[tuple[Subject, Move, Candidate]]]  # by the subject's own trial

    def visit(self, trial: int, outer: Candidate, trace: Trace, replayer: Replayer) -> None:
        """Replay everything that needs a trace."""
        rows: list[tuple[Subject, Move | None, PolicyBatch]] = []
        for subject in (s for s in self.subjects if s.trial == trial):
            rows.append((subject, None, subject.policy))
            space = down_to(self.recorded.space.inner, trace.depth)
            maker = PolicyMaker.of(replayer, space)
            moves = policy_moves(subject.policy, space, maker)
            rows += [(subject, move, policy) for move, policy in moves]
        rows += [(subject, move, subject.policy) for subject, move in self.moved_to.get(trial, ())]
        self._note(rows, outer, replayer, known=True)
        for subject, move, other in self.missing.get(trial, ()):
            tokens = blank_trace(other, trace.lengths, int(trace.logits.shape[2]))
            as_if = replace(tokens, logits=trace.logits, aux=trace.aux, header=trace.header)
            again = self.recorded.replayer(other, as_if)
            self._note([(subject, move, subject.policy)], other, again, known=False)

    def _note(
        self,
        rows: Sequence[tuple[Subject, Move | None, PolicyBatch]],
        outer: Candidate,
        replayer: Replayer,
        *,
        known: bool,
    ) -> None:
        if not rows:
            return
        recorded = self.recorded
        policies = PolicyBatch.concat([policy for _, _, policy in rows])
        names = tuple(dict.fromkeys([*recorded.costs, *recorded.budgets]))
        priced = [name for name in names if name in QUANTITIES]
        replayed = replayer.run(policies, priced or QUANTITIES[:1])
        costs = policy_costs(
            replayer, policies, replayed, names, lambda p: recorded.scene.peak_bytes(outer, p)
        )
        for i, (subject, move, _) in enumerate(rows):
            figures = _Figures(
                error=float(replayed.error[i]) if known else None,
                bound=float(replayed.error_bound[i]) if known else None,
                costs={name: cost[:, i] for name, cost in costs.items()},
            )
            if move is None:
                subject.base = figures
            else:
                subject.found.append((move, figures))

    def steps(self, subject: Subject) -> list[Step]:
        """What was found of a subject, on each of its devices."""
        return [
            self._step(subject, move, figures, device)
            for device in subject.devices
            for move, figures in subject.found
        ]

    def _step(self, subject: Subject, move: Move, figures: _Figures, device: str) -> Step:
        recorded, base = self.recorded, subject.base
        assert base is not None
        d = recorded.devices.index(device)
        change = {
            name: float(cost[d] - base.costs[name][d]) for name, cost in figures.costs.items()
        }
        first, limits = recorded.costs[0], recorded.limits[device]
        return Step(
            device=device,
            knob=move.knob,
            before=move.before,
            after=move.after,
            error_change=_less(figures.error, base.error),
            bound_change=_less(figures.bound, base.bound),
            cost_change=change,
            cost_share=change[first] / float(base.costs[first][d]),
            within=all(figures.costs[name][d] <= limit for name, limit in limits.items()),
        )


def plan(recorded: RecordedRun, subjects: list[Subject]) -> Sweep:
    """Which trace answers for which neighbour of an outer setting."""
    space = recorded.space
    deep = recorded.depths
    settings = {n: space.encode(outer) for n, outer in recorded.outers.items()}
    moved_to: dict[int, list[tuple[Subject, Move]]] = {}
    missing: dict[int, list[tuple[Subject, Move, Candidate]]] = {}
    for subject in subjects:
        depth = int(subject.policy.depth[0])
        by_key = {
            setting_key(space.cut(params, depth)): n
            for n, params in settings.items()
            if deep[n] >= depth
        }
        for move, made in setting_moves(settings[subject.trial], space, depth):
            trial = by_key.get(setting_key(made))
            if trial is None:
                missing.setdefault(subject.trial, []).append((subject, move, space.decode(made)))
            else:
                moved_to.setdefault(trial, []).append((subject, move))
    return Sweep(recorded=recorded, subjects=subjects, moved_to=moved_to, missing=missing)


def _less(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base
