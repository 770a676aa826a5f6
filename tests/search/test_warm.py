"""What one run leaves to the next: passes are not run twice, prices are never carried over."""

from __future__ import annotations

import csv
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from toy_problem import BACKBONE, ToyQuality, toy_problem, toy_space

import dynsearch.search.ledger as ledger_module
from dynsearch.errors import InputError
from dynsearch.export.table import _candidate_columns, outer_of_row
from dynsearch.quality.trace import Trace
from dynsearch.search import runs
from dynsearch.search.driver import SearchOptions, SearchResult, run_search
from dynsearch.search.encoding import setting_key
from dynsearch.search.fronts import load_fronts
from dynsearch.search.study import open_storage
from dynsearch.search.warm import WarmStart, gather, still_there
from search_spaces.codec import candidate_to_dict

LOCAL = SearchOptions(trials=8, workers=0, sampler="random")
SPACE = toy_space()


class Quality(ToyQuality):
    """Traces that say, as those of a supernet do, which pass left them."""

    def record(self, outer: Any, split: str) -> Trace:
        trace = super().record(outer, split)
        whole = replace(outer, depth=BACKBONE.num_layers)
        said = {"outer": candidate_to_dict(whole), "depth": outer.depth, "split_hash": "rows"}
        return replace(trace, header=trace.header | said)


def search(run: runs.Run, device: str, marks: Path | None = None, **changes: Any) -> SearchResult:
    arguments: dict[str, Any] = {"options": LOCAL} | changes
    if marks is not None:
        marks.mkdir(exist_ok=True)
    quality = Quality(seed=arguments.pop("seed", 0), marks="" if marks is None else str(marks))
    return run_search(
        run,
        space=SPACE,
        quality=quality,
        problem=toy_problem(devices=(device,)),
        **arguments,
    )


def warm_from(*sources: Path, seed: int = 0, trials: int = 8) -> WarmStart:
    return gather(
        [str(source) for source in sources],
        space=SPACE,
        weights_hash=ToyQuality(seed=seed).weights_hash,
        split="search",
        split_hash="rows",
        trials=trials,
    )


def fronts_by_setting(run: runs.Run, state: str = "reused") -> dict[str, Any]:
    import optuna

    study = optuna.load_study(study_name=run.study_name, storage=open_storage(run, "journal"))
    return {
        setting_key(t.user_attrs["setting"]): load_fronts(
            run.fronts_file(run.path / t.user_attrs["trace"])
        ).devices[0]
        for t in study.trials
        if t.state is TrialState.COMPLETE and bool(t.user_attrs.get("reused")) == (state != "new")
    }


@pytest.fixture
def slow(tmp_path: Path) -> runs.Run:
    run = runs.create_run(tmp_path / "slow-00000000", "")
    search(run, "slow")
    return run


@pytest.fixture
def fast(tmp_path: Path) -> runs.Run:
    return runs.create_run(tmp_path / "fast-00000000", "")


def test_passes_of_the_same_network_serve_another_device_and_are_priced_for_it(
    slow: runs.Run, fast: runs.Run, tmp_path: Path
) -> None:
    options = replace(LOCAL, trials=3)
    result = search(fast, "fast", tmp_path / "marks", options=options, warm=warm_from(slow.path))
    assert len(list((tmp_path / "marks").iterdir())) == result.passes == 3
    assert result.reused == 8
    assert [step.passes for step in result.history] == [0] * 8 + [1, 2, 3]
    cold = runs.create_run(tmp_path / "cold-00000000", "")
    search(cold, "fast")  # the same seed: the same settings as on the other device
    reused, wanted = fronts_by_setting(fast), fronts_by_setting(cold, "new")
    assert reused.keys() == wanted.keys()
    for key, front in reused.items():
        assert front.device == "fast"
        assert np.array_equal(front.error_bound, wanted[key].error_bound)
        for name, cost in front.costs.items():
            assert np.array_equal(cost, wanted[key].costs[name])


def test_settings_of_another_network_run_first_and_their_passes_count(
    slow: runs.Run, fast: runs.Run, tmp_path: Path
) -> None:
    warm = warm_from(slow.path, seed=1)
    assert not warm.recorded
    table = tmp_path / "front.csv"
    wished = [SPACE.full_params() | {"keep_after_1": keep} for keep in (0.5, 0.25)]
    wished = [SPACE.normalise(setting) for setting in wished]
    rows = [_row(SPACE.decode(setting)) for setting in (wished[0], wished[1], wished[0])]
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    warm = warm_from(table, seed=1)
    assert list(warm.first) == wished  # the one with most points first
    result = search(fast, "fast", seed=1, warm=warm)
    assert (result.passes, result.reused) == (8, 0)
    order = [result.settings[number] for number in sorted(result.settings)]
    assert order[2:4] == wished  # after the full network in both number formats


def test_a_front_file_gets_at_most_a_quarter_of_the_passes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [_row(SPACE.decode(setting)) for setting in SPACE.sample_outer(rng, 12)]
    table = tmp_path / "front.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert len(warm_from(table, trials=8).first) == 2
    assert len(warm_from(table, trials=400).first) == 12


def test_traces_of_other_rows_or_weights_or_another_space_are_passed_over(
    slow: runs.Run, caplog: pytest.LogCaptureFixture
) -> None:
    arguments: dict[str, Any] = {"split": "search", "trials": 8, "space": SPACE}
    same = {"weights_hash": ToyQuality().weights_hash, "split_hash": "rows"}
    assert len(gather([str(slow.path)], **arguments, **same).recorded) == 8
    for changed in ({"weights_hash": "0"}, {"split_hash": "others"}):
        with caplog.at_level(logging.WARNING):
            assert not gather([str(slow.path)], **arguments, **(same | changed)).recorded
        assert "nothing of" in caplog.text
    narrow = toy_space({"dtype": ["fp32"]})
    found = gather([str(slow.path)], **(arguments | {"space": narrow}), **same).recorded
    assert [r.setting for r in found.values()] == [narrow.full_params()]


def test_a_trace_without_layers_that_new_budgets_reach_is_not_enough(
    slow: runs.Run, fast: runs.Run
) -> None:
    warm = warm_from(slow.path)
    full = setting_key(SPACE.full_params())
    cut = {
        key: r if key == full else replace(r, depth=r.depth - 1)
        for key, r in warm.recorded.items()
    }
    result = search(fast, "fast", warm=WarmStart(recorded=cut))
    assert (result.passes, result.reused) == (7 + 1, 1)


def test_a_damaged_trace_means_that_the_pass_runs_again(
    slow: runs.Run, fast: runs.Run, caplog: pytest.LogCaptureFixture
) -> None:
    warm = warm_from(slow.path)
    victim = sorted(warm.recorded)[0]
    warm.recorded[victim].path.write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        result = search(fast, "fast", warm=warm)
    assert (result.passes, result.reused) == (8, 7)
    assert "runs again" in caplog.text


def test_a_driver_that_dies_among_reused_passes_counts_none_of_them_as_its_own(
    slow: runs.Run, fast: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dies(BaseException):
        """Stands for the end of the process."""

    real, calls = ledger_module.tell_complete, []

    def dies(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise Dies
        real(*args, **kwargs)

    warm, options = warm_from(slow.path), replace(LOCAL, trials=2)
    monkeypatch.setattr(ledger_module, "tell_complete", dies)
    with pytest.raises(Dies):
        search(fast, "fast", options=options, warm=warm)
    monkeypatch.setattr(ledger_module, "tell_complete", real)
    result = search(fast, "fast", tmp_path / "marks", options=options, warm=warm)
    assert (result.passes, result.reused) == (2, 8)
    assert len(list((tmp_path / "marks").iterdir())) == 2
    assert result.history[-1].passes == 2


def test_what_cannot_be_begun_with_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"search\.warm_start.*no run folder"):
        warm_from(tmp_path / "nowhere")
    (tmp_path / "front.csv").write_text("id,device\na,b\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2 is no configuration"):
        warm_from(tmp_path / "front.csv")


def test_a_run_that_has_begun_goes_on_without_sources_that_are_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert still_there([str(tmp_path), str(tmp_path / "gone")]) == (str(tmp_path),)
    assert "gone" in caplog.text


@given(st.integers(0, 2**32 - 1))
def test_a_row_of_a_front_gives_its_outer_setting_back(seed: int) -> None:
    early = toy_space(
        {
            "dtype": ["fp32", "bf16"],
            "skim": {"layers": [0, 1, 3], "keep": [1.0, 0.75, 0.5]},
            "experts": {
                "groups": [[1, 2], [4, 4]],
                "counts": [1, 2, 4],
                "active": [0.25, 0.5],
                "granularity": ["sequence", "token"],
            },
        }
    )
    (setting,) = early.sample_outer(np.random.default_rng(seed), 1)
    row = _row(early.decode(setting))
    again = outer_of_row(row, early.backbone, file=Path("front.csv"), line=2)
    assert early.encode(again) == setting


def _row(candidate: Any) -> dict[str, str]:
    """Cells as a reader of front.csv gets them."""
    cells = _candidate_columns(candidate_to_dict(candidate)) | {"dtype": candidate.dtype}
    return {name: "" if value is None else str(value) for name, value in cells.items()}
