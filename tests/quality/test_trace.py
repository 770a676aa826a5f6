from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dynsearch.errors import InputError
from dynsearch.quality.trace import Trace, load_trace, save_trace


def a_trace(n: int = 5, layers: int = 3) -> Trace:
    rng = np.random.default_rng(0)
    return Trace(
        logits=rng.normal(size=(n, layers, 2)).astype(np.float32),
        labels=rng.integers(2, size=n),
        lengths=rng.integers(2, 9, size=n),
        tokens_layer=np.full((n, layers), 4, dtype=np.int32),
        tokens_ffn=np.full((n, layers), 3, dtype=np.int32),
        expert_tokens=np.zeros((n, layers, 4), dtype=np.int32),
        aux={"skim_gap": np.full((n, layers), np.inf, dtype=np.float32)},
        header={"weights_hash": "ab", "split": "search"},
    )


def test_a_trace_survives_its_file_bit_by_bit(tmp_path: Path) -> None:
    trace = a_trace()
    found = load_trace(save_trace(tmp_path / "traces" / "0.npz", trace), "ab")
    for name in ("logits", "labels", "lengths", "tokens_layer", "tokens_ffn", "expert_tokens"):
        assert getattr(found, name).dtype == getattr(trace, name).dtype
        assert np.array_equal(getattr(found, name), getattr(trace, name))
    assert np.array_equal(found.aux["skim_gap"], trace.aux["skim_gap"])
    assert found.header == trace.header | {"schema_version": 1}


def test_nothing_but_the_trace_stays_in_its_folder(tmp_path: Path) -> None:
    save_trace(tmp_path / "0.npz", a_trace())
    assert [p.name for p in tmp_path.iterdir()] == ["0.npz"]


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_a_cut_off_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = save_trace(tmp_path / "0.npz", a_trace())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="damaged or no trace"):
        load_trace(path)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    path = tmp_path / "0.npz"
    np.savez(path, header=np.array({"schema_version": 1}, dtype=object))
    with pytest.raises(InputError, match="damaged or no trace"):
        load_trace(path)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    path = save_trace(tmp_path / "0.npz", a_trace())
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "lengths"}
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="incomplete") as caught:
        load_trace(path)
    assert caught.value.problems[0].key == "lengths"


def test_a_missing_file_and_other_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such trace"):
        load_trace(tmp_path / "none.npz")
    path = save_trace(tmp_path / "0.npz", a_trace())
    with pytest.raises(InputError, match="other weights"):
        load_trace(path, "cd")


def saved(tmp_path: Path, **changes: object) -> Path:
    return save_trace(tmp_path / "0.npz", replace(a_trace(), **changes))


def logits_with(value: float, *, exit: int) -> np.ndarray:
    logits = a_trace().logits.copy()
    logits[:, exit - 1] = value
    return logits


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"logits": logits_with(0.0, exit=2)}, "logits.exit 2", "is missing"),
        ({"logits": logits_with(np.nan, exit=3)}, "logits.exit 3", "NaN or infinite"),
        ({"logits": np.zeros((5, 3), dtype=np.float32)}, "logits", "samples, layers, classes"),
        ({"labels": np.full(5, 2)}, "labels", "classes of the logits"),
        ({"labels": np.zeros(4, dtype=np.int64)}, "labels", r"integers \[5\]"),
        ({"lengths": np.ones(5)}, "lengths", "must be integers"),
        ({"logits": a_trace().logits[:, :2]}, "logits", "as tokens_layer says"),
        ({"tokens_layer": np.ones(5, dtype=np.int32)}, "tokens_layer", r"\[5, 3\]"),
        ({"tokens_ffn": np.ones((5, 2), dtype=np.int32)}, "tokens_ffn", r"\[5, 3\]"),
        ({"expert_tokens": np.ones((5, 3), dtype=np.int32)}, "expert_tokens", r"\[5, 3, any\]"),
        ({"aux": {"gap": np.full((5, 3), np.nan)}}, "aux.gap", "15 values are NaN"),
        ({"aux": {"gap": np.zeros((5, 2))}}, "aux.gap", "as the logits say"),
        ({"header": {"depth": 4}}, "depth", "must lie in 1..3"),
    ],
)
def test_what_is_no_trace_is_refused_by_the_name_of_its_array(
    tmp_path: Path, changes: dict[str, object], key: str, message: str
) -> None:
    path = saved(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_trace(path)
    assert [p.key for p in caught.value.problems] == [key]
    assert caught.value.problems[0].file == str(path)


def test_exits_above_the_depth_need_not_be_there(tmp_path: Path) -> None:
    path = saved(tmp_path, logits=logits_with(0.0, exit=3), header={"depth": 2})
    assert load_trace(path).depth == 2


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = saved(tmp_path, logits=logits_with(0.0, exit=1), lengths=np.ones(4, dtype=np.int64))
    with pytest.raises(InputError) as caught:
        load_trace(path)
    assert {p.key for p in caught.value.problems} == {"lengths", "logits.exit 1"}
