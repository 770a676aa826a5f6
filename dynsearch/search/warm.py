"""What earlier runs leave to a new one: traces that need no pass, and settings to try first.

A trace says which answers a network gives at each layer; no price is in it. So what a run of the
same supernet recorded is replayed for the devices, budgets and policies of the new run, exactly
as if its pass had been run again, whatever device the earlier run was made for. Of a run of
another supernet, and of a file of a front, only the settings on the front are taken: their passes
run first.
"""

from __future__ import annotations

import csv
import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dynsearch.errors import InputError
from dynsearch.export.front import FRONT_FILE, read_front
from dynsearch.export.table import outer_of_row
from dynsearch.quality.trace import Trace, load_trace, trace_header
from dynsearch.search.encoding import setting_key
from dynsearch.search.runs import open_run
from dynsearch.search.sampler import Gate
from dynsearch.search.types import Params
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_from_dict
from search_spaces.space import SearchSpace

_LOG = logging.getLogger(__name__)
MOST = 0.25  # share of a search's passes that go to settings of fronts before the sampler is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A pass that an earlier run made with the same weights on the same rows."""

    setting: Params  # normalised
    path: Path  # of its trace
    depth: int  # layers that were run


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """What a new run may begin with."""

    recorded: Mapping[str, Recorded] = field(default_factory=dict)  # by key of the setting
    first: tuple[Params, ...] = ()  # settings whose passes run first, best known first


class Offers:
    """Settings that an earlier run recorded and a new one has not tried yet.

    Args:
        warm: What is there.
        gate: What the new run may try.
        full_key: Key of the full network's setting, whose trace must hold every layer.
    """

    def __init__(self, warm: WarmStart, gate: Gate, full_key: str) -> None:
        self._warm = warm
        self._gate = gate
        self._full_key = full_key
        self._left = deque(r.setting for r in warm.recorded.values())

    def __bool__(self) -> bool:
        self._skip()
        return bool(self._left)

    def take(self) -> Params | None:
        """The next one; None when there is none left."""
        self._skip()
        return self._left.popleft() if self._left else None

    def cover(self, setting: Params) -> bool:
        """Whether a trace holds all layers that policies within the new budgets may reach."""
        found = self._warm.recorded.get(setting_key(setting))
        if found is None:
            return False
        outer, deepest = self._gate.codec.space.decode(setting), self._gate.deepest
        if deepest is None or setting_key(setting) == self._full_key:
            return bool(found.depth >= outer.backbone.num_layers)
        return bool(found.depth >= deepest([outer])[0])

    def trace(self, setting: Params, weights_hash: str) -> Trace | None:
        """The trace of a setting; None where there is none that serves, so that its pass runs."""
        if not self.cover(setting):
            return None
        try:
            return load_trace(self._warm.recorded[setting_key(setting)].path, weights_hash)
        except InputError as error:
            _LOG.warning("its pass runs again: %s", error)
            return None

    def _skip(self) -> None:
        """Pass over what was tried, breaks a budget, or has too shallow a trace."""
        while self._left:
            setting = self._left[0]
            if self._gate.refuse(setting) is None and self.cover(setting):
                return
            self._left.popleft()


def gather(
    sources: Iterable[str],
    *,
    space: SearchSpace,
    weights_hash: str,
    split: str,
    split_hash: str,
    trials: int,
) -> WarmStart:
    """What run folders and files of fronts (front.json, front.csv) hold for a new run.

    Args:
        sources: Their paths.
        space: Of the new run; what it does not hold is passed over.
        weights_hash: Of the new run's supernet.
        split: Rows that passes run over.
        split_hash: Content of these rows.
        trials: Passes of the new run; at most `MOST` of them go to settings of fronts.

    Raises:
        InputError: a source is neither, or cannot be read.
    """
    recorded: dict[str, Recorded] = {}
    wished: Counter[str] = Counter()
    settings: dict[str, Params] = {}
    same = {"weights_hash": weights_hash, "split": split, "split_hash": split_hash}
    for source in sources:
        path = Path(source)
        before = len(recorded) + len(settings)
        if path.is_dir():
            recorded |= {setting_key(r.setting): r for r in _recorded(path, space, same)}
        for candidate in _on_front(path, space):
            setting = _setting(space, candidate)
            if setting is not None:
                settings[setting_key(setting)] = setting
                wished[setting_key(setting)] += 1
        if len(recorded) + len(settings) == before:
            _LOG.warning("warm start: nothing of %s is new and in this space", source)
    ranked = [settings[key] for key, _ in wished.most_common() if key not in recorded]
    return WarmStart(recorded=recorded, first=tuple(ranked[: int(MOST * trials)]))


def still_there(sources: Sequence[str]) -> tuple[str, ...]:
    """Those sources that exist; a run that has begun goes on without the others."""
    for source in sources:
        if not Path(source).exists():
            _LOG.warning("warm start: %s is gone; going on without it", source)
    return tuple(source for source in sources if Path(source).exists())


def _recorded(folder: Path, space: SearchSpace, same: Mapping[str, str]) -> Iterator[Recorded]:
    """Traces of a run that are of the new run's network, rows and space."""
    run = open_run(folder)
    for path in sorted((run.path / "traces").glob("*.npz")):
        try:
            header = trace_header(path)
            if any(header.get(key) != value for key, value in same.items()):
                continue
            setting = _setting(space, candidate_from_dict(header["outer"], file=str(path)))
        except InputError as error:
            _LOG.warning("warm start: passing over %s", error)
            continue
        if setting is not None:
            yield Recorded(setting=setting, path=path, depth=int(header["depth"]))


def _on_front(path: Path, space: SearchSpace) -> list[Candidate]:
    """Configurations of a front; none of a run that has not left one yet.

    Raises:
        InputError: not a run folder, a front.json or a front.csv.
    """
    if path.suffix == ".csv" and path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found = [
            outer_of_row(row, space.backbone, file=path, line=i + 2) for i, row in enumerate(rows)
        ]
        return [replace(one, pooling=space.table.pooling[0]) for one in found]  # not in the table
    folder = path.parent if path.name == FRONT_FILE else path
    if not folder.is_dir():
        text = f"is no run folder, {FRONT_FILE} or front.csv; check the path"
        raise InputError.one("job", "search.warm_start", f'"{path}"', text)
    if not (folder / FRONT_FILE).exists():
        return []
    front = read_front(folder)
    return [candidate_from_dict(point.candidate, file=str(path)) for point in front.front]


def _setting(space: SearchSpace, candidate: Candidate) -> Params | None:
    """The outer setting of a candidate; None where the space does not hold it."""
    try:
        return space.encode(candidate)
    except InputError:
        return None
