"""A device from a measured relative: exact where it is one, and what else it must do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.adapters.edge_shapes import Geometry, joined_ops, network
from cost_models.calibrate.posterior import predict_rows
from cost_models.calibrate.sibling import sibling_of, signatures, transfer
from cost_models.device import load_device
from cost_models.measured import Measured
from search_spaces.errors import InputError

NAMES = ("efficiency", "bandwidth_share", "node")
BOARD = load_device("qualcomm-snapdragon-8-elite")


def rows(noise: float = 0.0, seed: int = 0) -> Measured:
    """Twelve encoders on a board that the form describes, but for what each has of its own."""
    shapes = [
        Geometry(
            layers=layers,
            hidden=h,
            ffn=4 * h,
            heads=4,
            q_len=tokens,
            kv_len=tokens,
            weights=layers * 12.0 * h * h,
        )
        for layers, h in ((2, 256), (4, 512), (12, 768))
        for tokens in (16, 64, 128, 384)
    ]
    table = Measured(
        source="synthetic",
        device=BOARD.name,
        runtime="r",
        family="end_to_end",
        ops=joined_ops([network(shape, "fp16", "fp16") for shape in shapes]),
        seconds=np.ones(len(shapes)),
        calls=np.ones(len(shapes)),
        group=np.array([shape.label for shape in shapes]),
        peer_s={},
    )
    own = np.exp(np.random.default_rng(seed).normal(0, noise, len(shapes)))
    return replace(table, seconds=predict_rows([table], BOARD) * own)


@settings(max_examples=8, deadline=None)
@given(factor=st.floats(0.1, 10.0), seed=st.integers(0, 100))
def test_a_device_that_is_its_relative_times_a_factor_is_met_from_one_point(
    factor: float, seed: int
) -> None:
    known = rows(noise=0.4, seed=seed)
    new = replace(known, seconds=known.seconds * factor)
    found = transfer(new.take(np.array([seed % 12])), [sibling_of([known], BOARD, names=NAMES)])
    assert found.predict(new) == pytest.approx(new.seconds, rel=1e-3)
    assert found.kin[0].log_factor == pytest.approx(np.log(factor), abs=1e-3)


def test_the_relative_that_fits_the_points_weighs_most() -> None:
    near, far = rows(noise=0.4, seed=1), rows(noise=0.4, seed=2)
    siblings = [sibling_of([part], BOARD, names=NAMES) for part in (far, near)]
    new = replace(near, seconds=near.seconds * 1.3)
    found = transfer(new.take(np.arange(5)), siblings)
    assert found.kin[0].sibling is siblings[1]
    assert found.kin[0].weight > 0.95
    assert sum(k.weight for k in found.kin) == pytest.approx(1)
    assert found.predict(new) == pytest.approx(new.seconds, rel=0.05)


def test_a_row_that_the_relative_never_ran_has_no_residual() -> None:
    known = rows(noise=0.4)
    relative = sibling_of([known.take(np.arange(8))], BOARD, names=NAMES)
    assert (relative.carried(known)[8:] == 0).all()
    assert (relative.carried(known)[:8] != 0).all()


def test_signatures_depend_on_what_runs_and_not_on_the_order_of_operators() -> None:
    table = rows()
    turned = replace(table, ops=table.ops.take(np.arange(len(table.ops))[::-1]))
    assert signatures(turned) == signatures(table)
    assert len(set(signatures(table))) == len(table)


def test_a_transfer_without_points_is_refused() -> None:
    known = rows()
    relative = sibling_of([known], BOARD, names=NAMES)
    with pytest.raises(InputError, match="one measured row"):
        transfer(known.take(np.arange(0)), [relative])
    with pytest.raises(InputError, match="one measured relative"):
        transfer(known, [])


def test_points_are_compared_with_a_factor_that_the_others_set() -> None:
    known = rows(noise=0.4, seed=3)
    off = np.log(np.array([1.0, 1.1, 1.3, 2.0]))
    points = known.take(np.arange(4))
    points = replace(points, seconds=points.seconds * np.exp(off))
    found = transfer(points, [sibling_of([known], BOARD, names=NAMES)]).own(0.2)
    assert found is not None
    expected = [off[i] - np.median(np.delete(off, i)) for i in range(4)]
    np.testing.assert_allclose(found.log_error, expected, atol=1e-6)
    assert found.count == 3
    assert (found.log_sd == 0.2).all()
    single = transfer(known.take(np.arange(1)), [sibling_of([known], BOARD, names=NAMES)])
    assert single.own(0.2) is None


def boards(*slow: float) -> list[Measured]:
    """Boards that differ in how much longer their long inputs (384 tokens) take."""
    known = rows(noise=0.2, seed=5)
    long = np.array(["q384" in name for name in known.group])
    return [replace(known, seconds=known.seconds * np.where(long, s, 1.0)) for s in slow]


def test_rows_that_differ_together_between_relatives_differ_together_on_a_new_board() -> None:
    *known, new = boards(0.5, 0.8, 1.25, 2.0, 3.0)
    siblings = [sibling_of([part], BOARD, names=NAMES) for part in known]
    points = np.array([0, 1, 3, 4, 6])  # one of them long: an outlier to a common factor
    rest = np.setdiff1d(np.arange(len(new)), points)
    found = transfer(new.take(points), siblings)
    assert found.lean is not None
    leaning = np.abs(np.log(found.predict(new.take(rest)) / new.take(rest).seconds))
    plain = replace(found, lean=None).predict(new.take(rest))
    assert leaning.max() < 0.5 * np.abs(np.log(plain / new.take(rest).seconds)).max()
    assert transfer(new.take(points), siblings[:2]).lean is None


def test_a_row_asked_for_alone_takes_what_it_takes_beside_others() -> None:
    *known, new = boards(0.5, 0.8, 1.25, 2.0)
    siblings = [sibling_of([part], BOARD, names=NAMES) for part in known]
    found = transfer(new.take(np.arange(5)), siblings)
    alone = [found.predict(new.take(np.array([i])))[0] for i in range(len(new))]
    assert found.predict(new) == pytest.approx(alone)


def test_what_a_point_is_off_is_what_the_others_say_of_it() -> None:
    *known, new = boards(0.5, 0.8, 1.25, 2.0)
    siblings = [sibling_of([part], BOARD, names=NAMES) for part in known]
    points = new.take(np.arange(5))
    found = transfer(points, siblings)
    own = found.own(0.2)
    assert found.lean is not None
    assert own is not None
    mean = np.sum(
        [
            k.weight * np.log(predict_rows([points], k.sibling.calibrated))
            + k.weight * k.sibling.carried(points)
            for k in found.kin
        ],
        axis=0,
    )
    ratio = np.log(points.seconds) - mean
    covariance = np.linalg.inv(found.lean.inverse)
    for i in range(5):
        rest = np.delete(np.arange(5), i)
        told = covariance[i, rest] @ np.linalg.solve(covariance[np.ix_(rest, rest)], ratio[rest])
        assert own.log_error[i] == pytest.approx(ratio[i] - told)
