"""front.json says what was found, survives being read back, and bad ones are refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import run_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from dynsearch.export.front import (
    CSV_COLUMNS,
    LOSS_LEVELS,
    Front,
    FrontPoint,
    family_of,
    mark_named,
    read_front,
    with_measurements,
    write_front_csv,
    write_front_json,
    write_front_toml,
)
from dynsearch.export.table import csv_row
from search_spaces.candidate import Exits, Experts, Skim
from search_spaces.codec import candidate_from_dict, load_candidate
from search_spaces.errors import InputError


@pytest.fixture(scope="module")
def front() -> Front:
    return run_folder.make_front(draws=60)


def with_point(front: Front, **changes: object) -> Front:
    return replace(front, front=(replace(front.front[0], **changes), *front.front[1:]))


def test_a_front_reads_back_equal(front: Front, tmp_path: Path):
    write_front_json(front, tmp_path)
    assert read_front(tmp_path) == front


@settings(max_examples=20)
@given(st.floats(1e-300, 1e300), st.floats(-1, 1))
def test_every_finite_figure_reads_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, time: float, loss: float
):
    front = run_folder.make_front(dtypes=("fp32",), draws=1)
    p = front.front[0]
    changed = with_point(
        front,
        predicted=replace(p.predicted, latency_mean_s=time),
        selected=replace(p.selected, loss=loss),
    )
    folder = tmp_path_factory.mktemp("run")
    write_front_json(changed, folder)
    assert read_front(folder) == changed


def test_a_figure_that_is_no_number_is_not_written(front: Front, tmp_path: Path):
    write_front_json(front, tmp_path)
    before = (tmp_path / "front.json").read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_front_json(with_point(front, error_bound=float("nan")), tmp_path)
    assert (tmp_path / "front.json").read_bytes() == before


def test_a_missing_folder_and_a_missing_file_are_told_apart(tmp_path: Path):
    with pytest.raises(InputError, match="no such run folder"):
        read_front(tmp_path / "absent")
    with pytest.raises(InputError, match="no front yet"):
        read_front(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_half_written_front_is_bad_input(front: Front, tmp_path: Path, share: float):
    path = write_front_json(front, tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(InputError, match="not complete JSON"):
        read_front(tmp_path)


def test_a_figure_that_is_no_number_is_bad_input(front: Front, tmp_path: Path):
    path = write_front_json(front, tmp_path)
    path.write_text(
        path.read_text().replace('"error_bound": 0.', '"error_bound": NaN, "x": 0.', 1)
    )
    with pytest.raises(InputError, match="NaN is no JSON number"):
        read_front(tmp_path)


@pytest.mark.parametrize(("version", "says"), [(2, "newer dynsearch"), (None, "must be 1")])
def test_another_schema_version_is_bad_input(
    front: Front, tmp_path: Path, version: int | None, says: str
):
    path = write_front_json(front, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": version}))
    with pytest.raises(InputError, match=says):
        read_front(tmp_path)


def test_all_misfits_of_a_front_are_reported_at_once(front: Front, tmp_path: Path):
    path = write_front_json(front, tmp_path)
    data = json.loads(path.read_text())
    del data["job"]
    data["front"][1]["selected"]["error"] = "a lot"
    data["front"][2]["predicted"]["peak_bytes"] = None
    path.write_text(json.dumps(data))
    with pytest.raises(InputError) as caught:
        read_front(tmp_path)
    keys = {p.key for p in caught.value.problems}
    assert keys == {"job", "front.1.selected.error", "front.2.predicted.peak_bytes"}


@pytest.mark.parametrize(
    "changes", [{"id": "../../etc"}, {"fidelity": "guessed"}, {"id": "a/b"}, {"id": ""}]
)
def test_ids_that_leave_their_folder_and_unknown_fidelities_are_refused(
    front: Front, tmp_path: Path, changes: dict[str, str]
):
    write_front_json(with_point(front, **changes), tmp_path)
    with pytest.raises(InputError):
        read_front(tmp_path)


def test_a_point_may_stand_only_once_per_device(front: Front, tmp_path: Path):
    write_front_json(replace(front, front=(*front.front, front.front[0])), tmp_path)
    with pytest.raises(InputError, match="appears twice"):
        read_front(tmp_path)


TEMPLATE = run_folder.make_front(dtypes=("fp32",), draws=1).front[0]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.sampled_from(["fp32", "bf16"]),
            st.integers(1, 6),
            st.integers(0, 8),
        ),
        max_size=9,
    )
)
def test_the_named_point_is_the_fastest_that_its_bound_allows(rows: list[tuple]):
    full = 0.125
    points = [
        replace(
            TEMPLATE,
            id=f"id{i}",
            device=device,
            candidate=TEMPLATE.candidate | {"dtype": dtype},
            error_bound=full + bound * 0.005,
            predicted=replace(TEMPLATE.predicted, latency_mean_s=time * 1e-3),
        )
        for i, (device, dtype, time, bound) in enumerate(rows)
    ]
    named = mark_named(points, full)
    assert [replace(p, named=TEMPLATE.named) for p in named] == [
        replace(p, named=TEMPLATE.named) for p in points
    ]
    for device in "ab":
        for dtype in ("fp32", "bf16"):
            for level in LOSS_LEVELS:
                mine = [p for p in named if (p.device, p.dtype) == (device, dtype)]
                allowed = [
                    p for p in mine if round((p.error_bound - full) / 0.005) * 5 <= level * 1000
                ]
                chosen = [p for p in mine if level in p.named]
                assert len(chosen) == min(1, len(allowed))
                if chosen:
                    assert chosen[0] in allowed
                    fastest = min(p.predicted.latency_mean_s for p in allowed)
                    assert chosen[0].predicted.latency_mean_s == fastest


def test_a_family_is_what_the_candidate_really_does():
    full = run_folder.full_candidate()
    exits = Exits(layers=(2,), thresholds=(0.9,))
    skim = (Skim(layers=(1,), keep_rate=(0.5,)),)
    experts = Experts(layers=(3,), num_experts=(4,), top_k=(1,))
    assert family_of(full) == "full"
    assert family_of(full.with_policy(depth=3)) == "truncated"
    assert family_of(full.with_policy(depth=3, exits=exits)) == "exit"
    assert family_of(full.with_policy(exits=exits, skim=skim, moe=experts)) == "exit+skim+experts"
    idle = Skim(layers=(1,), keep_rate=(1.0,))
    assert family_of(full.with_policy(skim=(idle,))) == "full"
    assert family_of(full.with_policy(moe=replace(experts, top_k=(4,)))) == "full"


def test_measurements_reach_only_the_measured_device_batch_and_dtype(front: Front):
    measured = with_measurements(front, run_folder.make_bench(front, device="local")).front
    assert {p.device for p in measured if p.measured} == {"local"}
    for p in measured:
        assert (p.fidelity == "measured") == (p.measured is not None) == (p.device == "local")
        assert p.measured is None or p.measured.batch == 1
    elsewhere = with_measurements(front, run_folder.make_bench(front) | {"device": "other"})
    assert elsewhere == front
    batched = replace(front, workload=front.workload | {"batch": 4})
    assert with_measurements(batched, run_folder.make_bench(front)) == batched


def test_reading_a_run_lays_its_bench_over_its_front(front: Front, tmp_path: Path):
    write_front_json(front, tmp_path)
    (tmp_path / "bench.json").write_text(json.dumps(run_folder.make_bench(front)))
    assert any(p.measured for p in read_front(tmp_path).front)


def test_the_table_has_exactly_the_documented_columns(front: Front, tmp_path: Path):
    path = write_front_csv(front, tmp_path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(CSV_COLUMNS)
    assert len(rows) == len(front.front)
    for row, p in zip(rows, front.front, strict=True):
        assert row["id"] == p.id
        assert float(row["predicted_latency_mean_s"]) == p.predicted.latency_mean_s
        assert float(row["confirmed_loss_high"]) == p.confirmed.high


def test_predicted_and_measured_figures_never_share_a_column(front: Front):
    plain = front.front[0]
    measured = with_measurements(front, run_folder.make_bench(front)).front[0]
    before, after = csv_row(plain), csv_row(measured)
    changed = {name for name in CSV_COLUMNS if before[name] != after[name]}
    assert changed == {n for n in CSV_COLUMNS if n.startswith("measured_")} | {"fidelity"}
    assert not any(before[n] for n in changed - {"fidelity"})


def test_each_configuration_has_one_toml_that_gives_the_candidate_back(
    front: Front, tmp_path: Path
):
    hostile = replace(front, job='x\ndepth = 99 # """')
    paths = write_front_toml(hostile, tmp_path)
    by_id: dict[str, FrontPoint] = {p.id: p for p in front.front}
    assert {p.stem for p in paths} == set(by_id)
    for path in paths:
        assert load_candidate(path) == candidate_from_dict(by_id[path.stem].candidate)
        assert path.read_text().startswith("# configuration ")
