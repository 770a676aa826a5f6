"""One group of policies taken from exit to exit: who leaves, who was right, what it cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynsearch.sim.decide import Rule
from dynsearch.sim.pricing import Pricer
from dynsearch.sim.row_losses import LossSums
from search_spaces.candidate import PolicyBatch

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]
JudgeBlock = Callable[[U8], F64]  # layers where samples leave [R, N] -> figures [R, 3]


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over rows, filled group by group."""

    exits: I64  # [P, L]
    right: I64  # [P]
    both: I64  # [P] rows that the full network gets right as well
    sums: list[F64]  # by workload [P, channels]
    losses: F64  # [P, 2] row losses that rank, and their squares
    judged: F64  # [P, 3] badness, loss, standard error by another metric than the error

    @classmethod
    def empty(cls, num_policies: int, num_layers: int, channels: list[int]) -> Tally:
        """Zeros; `channels` by workload."""
        return cls(
            np.zeros((num_policies, num_layers), dtype=np.int64),
            np.zeros(num_policies, dtype=np.int64),
            np.zeros(num_policies, dtype=np.int64),
            [np.zeros((num_policies, c)) for c in channels],
            np.zeros((num_policies, 2)),
            np.zeros((num_policies, 3)),
        )

    def leave(self, rows: I64, layer: int, left: U8, right: U8, both: U8) -> None:
        """Policies `rows` [R] lose the samples `left` [R, bytes] at this layer."""
        self.exits[rows, layer] += _sizes(left)
        self.right[rows] += _sizes(left & right)
        self.both[rows] += _sizes(left & both)


class Walk:
    """Policies of one criterion, temperature and exit batching, block by block.

    Every workload has its own pricer and its own layout of bits; decisions are the same in all,
    so exits and errors are counted in the first.
    """

    def __init__(
        self,
        pricers: Sequence[Pricer],
        rule: Rule,
        correct: Bool,
        correct_full: Bool,
        row_losses: F64 | None = None,
        judge: JudgeBlock | None = None,
    ) -> None:
        """Put what is known of the rows into the pricers' layouts.

        Args:
            pricers: One per workload, at least one.
            rule: Decisions of the group, over the pricers' layouts in their order.
            correct: Whether each exit is right [N, L].
            correct_full: Whether the full network is right [N].
            row_losses: What each exit loses on each row [N, L], where that ranks.
            judge: Figures by another metric; None: the error alone is asked for.
        """
        self._pricers, self._rule, self._judge = pricers, rule, judge
        self._where: U8 | None = None  # [R, bits] layer where each sample of the block leaves
        first = pricers[0].layout
        self._right = first.pack(correct.T)
        self._both = first.pack((correct & correct_full[:, None]).T)
        whole = np.ones(correct_full.size, dtype=bool)
        self._losses = None if row_losses is None else LossSums.of(row_losses, first)
        self._everyone = [p.layout.pack(whole)[None] for p in pricers]

    def block(self, policies: PolicyBatch, block: I64, rows: I64, tally: Tally) -> None:
        """Replay the policies `block` [R] of the group; `rows` [P] is where they are tallied."""
        self._rule.begin(block)
        live = [np.repeat(e, block.size, axis=0) for e in self._everyone]
        on, depth = policies.exit_on[block], policies.depth[block]
        if self._judge is not None:
            self._where = np.zeros((block.size, 8 * live[0].shape[1]), dtype=np.uint8)
        for layer in range(int(depth.max())):
            for final, at in ((False, on[:, layer]), (True, depth == layer + 1)):
                here = np.flatnonzero(at)
                if here.size:
                    later = np.flatnonzero(on[here, :layer].any(axis=1))
                    self._exit(layer, final, here, later, live, rows[block[here]], tally)
        if self._judge is not None and self._where is not None:
            slots = self._pricers[0].layout.slot
            tally.judged[rows[block]] = self._judge(np.take(self._where, slots, axis=1))

    def _exit(
        self,
        layer: int,
        final: bool,
        here: I64,
        later: I64,
        live: list[U8],
        rows: I64,
        tally: Tally,
    ) -> None:
        """The policies `here` [r] of the block meet an exit; for `later` it is not the first."""
        for i, pricer in enumerate(self._pricers):
            before = live[i][here]
            cost = np.repeat(pricer.stop(layer, self._everyone[i], final=final), here.size, axis=0)
            if later.size:
                cost[later] = pricer.stop(layer, before[later], final=final)
            if final:
                left = before
            else:
                after = before & self._rule.stay(i, layer, here)
                cost += pricer.resume(layer, before, after)
                live[i][here] = after
                left = before ^ after
            tally.sums[i][rows] += cost
            if i == 0:
                tally.leave(rows, layer, left, self._right[layer], self._both[layer])
                if self._losses is not None:
                    tally.losses[rows] += self._losses.over(layer, left)
                if self._where is not None:
                    gone = np.unpackbits(left, axis=1, bitorder="little")
                    self._where[here] += gone * np.uint8(layer)


def _sizes(sets: U8) -> I64:
    """Members of each set, [R, bytes] -> [R]."""
    words = np.bitwise_count(sets.view(np.uint64)).astype(np.float64)
    return (words @ np.ones(words.shape[1])).astype(np.int64)
