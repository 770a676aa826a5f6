from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cost_models.candidates import cost_candidates
from cost_models.device import load_device
from cost_models.profile import Profile
from dynsearch import cli
from dynsearch.commands.cost import cost
from dynsearch.errors import InputError
from dynsearch.quality.trace import Trace, save_trace
from search_spaces.backbones import load_backbone
from search_spaces.candidate import Candidate, Exits, Experts, Skim, stack, tokens_per_layer
from search_spaces.codec import to_toml
from search_spaces.workload import Workload

DEVICE = "raspberry-pi-5"
KEYS = {
    "mean",
    "p50",
    "p95",
    "p99",
    "worst",
    "energy_j",
    "peak_bytes",
    "flops_ideal",
    "flops_executed",
}
CANDIDATE = Candidate(
    backbone=load_backbone("minilm-l6"),
    depth=4,
    exits=Exits(layers=(1, 2), thresholds=(0.8, 0.8)),
    skim=(Skim(layers=(2,), keep_rate=(0.5,)),),
    moe=Experts(layers=(3,), num_experts=(4,), top_k=(1,)),
)


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    path = tmp_path / "candidate.toml"
    path.write_text(to_toml(CANDIDATE))
    return path


def trace(exits: list[int], lengths: list[int], **changes: Any) -> Trace:
    """Inputs that are sure (two classes) after the given 0-based layer and not before."""
    n, layers = len(exits), CANDIDATE.backbone.num_layers
    logits = np.ones((n, layers, 2), dtype=np.float32)
    for row, layer in enumerate(exits):
        logits[row, layer:, 0] = 9.0
    into_layer, into_ffn = tokens_per_layer(np.array(lengths), stack([CANDIDATE]).keep_rate[0])
    experts = np.zeros((n, layers, 4), dtype=np.int32)
    experts[:, 2, 0] = into_ffn[:, 2]
    arrays: dict[str, Any] = {
        "logits": logits,
        "labels": np.zeros(n, dtype=np.int64),
        "lengths": np.array(lengths),
        "tokens_layer": into_layer.astype(np.int32),
        "tokens_ffn": into_ffn.astype(np.int32),
        "expert_tokens": experts,
        "header": {"dtype": "fp32"},
    }
    return Trace(**{**arrays, **changes})


def run(path: Path, activity: Path | None = None, **workload: Any) -> dict[str, Any]:
    load = Workload(**{"max_len": 32, **workload})
    return cost(path, device=DEVICE, activity=activity, workload=load)


def test_without_a_trace_only_bounds_are_known(candidate: Path) -> None:
    found = run(candidate)
    assert set(found) == KEYS | {"best", "warnings"}
    assert found["mean"]["value"] is None
    assert found["mean"]["low"] == found["best"]["low"]
    assert found["mean"]["high"] == found["worst"]["high"]
    assert found["best"]["value"] < found["worst"]["value"]
    assert found["flops_ideal"]["low"] < found["flops_ideal"]["high"]


def test_worst_and_best_equal_the_closed_form(candidate: Path) -> None:
    found = run(candidate)
    closed = cost_candidates(
        stack([CANDIDATE]),
        devices=[load_device(DEVICE)],
        workload=Workload(max_len=32),
        num_classes=2,
    )
    assert found["worst"]["value"] == pytest.approx(closed.latency_worst_s[0, 0], rel=1e-9)
    # the closed form takes the errors of layers to be the same, so it is the more careful one
    low = found["worst"]["low"]
    assert 0.9 * low < closed.worst_low_s[0, 0] <= low
    assert found["best"]["value"] == pytest.approx(closed.latency_best_s[0, 0], rel=1e-9)
    assert found["peak_bytes"]["value"] == closed.peak_bytes[0]


def mean_of(candidate: Path, folder: Path, exits: list[int], lengths: list[int]) -> float:
    file = save_trace(folder / "one.npz", trace(exits, lengths))
    return float(run(candidate, file)["mean"]["value"])


def test_inputs_that_leave_at_the_depth_cost_nearly_the_worst_case(
    candidate: Path, tmp_path: Path
) -> None:
    file = save_trace(tmp_path / "t.npz", trace([5, 5, 5], [32, 32, 32]))
    found = run(candidate, file)
    assert set(found) == KEYS | {"warnings"}
    for name in ("mean", "p50", "p95", "p99"):
        assert found[name]["value"] == pytest.approx(found["worst"]["value"], rel=1e-6)
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert found["flops_ideal"]["value"] == pytest.approx(run(candidate)["flops_ideal"]["high"])


def test_leaving_earlier_and_shorter_inputs_cost_less(candidate: Path, tmp_path: Path) -> None:
    first = mean_of(candidate, tmp_path, [0], [32])
    second = mean_of(candidate, tmp_path, [1], [32])
    short = mean_of(candidate, tmp_path, [0], [8])
    assert short < first < second


def test_percentiles_ascend_and_the_mean_lies_between(candidate: Path, tmp_path: Path) -> None:
    file = save_trace(tmp_path / "t.npz", trace([0, 0, 1, 5], [8, 32, 32, 32]))
    found = run(candidate, file)
    values = [found[name]["value"] for name in ("p50", "p95", "p99", "worst")]
    assert values == sorted(values)
    assert found["p50"]["value"] < found["mean"]["value"] < found["p95"]["value"]


def test_in_batches_padding_is_not_counted_as_known(tmp_path: Path) -> None:
    path = tmp_path / "compact.toml"
    path.write_text(to_toml(replace(CANDIDATE, exit_batching="compact")))
    file = save_trace(tmp_path / "t.npz", trace([0, 0, 1, 5] * 4, [8, 32, 32, 32] * 4))
    found = run(path, file, batch=8)
    assert set(found) == KEYS | {"warnings"}
    assert 0 < found["mean"]["value"] < found["p95"]["value"] < found["worst"]["value"]
    assert found["flops_executed"]["value"] is None
    assert found["flops_ideal"]["value"] > 0


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"header": {"dtype": "bf16"}}, "dtype"),
        ({"tokens_ffn": np.full((2, 6), 3, dtype=np.int32)}, "tokens_ffn"),
        ({"expert_tokens": np.zeros((2, 6, 4), dtype=np.int32)}, "expert_tokens"),
        ({"logits": np.zeros((2, 5, 2), dtype=np.float32)}, "logits"),
    ],
)
def test_a_trace_of_another_setting_is_refused(
    candidate: Path, tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    file = save_trace(tmp_path / "t.npz", trace([0, 1], [32, 32], **changes))
    with pytest.raises(InputError) as caught:
        run(candidate, file, max_len=64)
    assert [p.key for p in caught.value.problems] == [key]


def test_inputs_beyond_the_workloads_length_name_the_option(
    candidate: Path, tmp_path: Path
) -> None:
    file = save_trace(tmp_path / "t.npz", trace([0, 1], [32, 40]))
    with pytest.raises(InputError, match="--max-len 40"):
        run(candidate, file)


def test_a_meaningless_candidate_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(to_toml(CANDIDATE).replace("depth = 4", "depth = 9"))
    with pytest.raises(InputError) as caught:
        run(path)
    assert "depth" in {p.key for p in caught.value.problems}


def test_the_command_prints_a_line_a_quantity(
    candidate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["cost", str(candidate), "--device", DEVICE, "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:]} == KEYS | {"best"}
    assert cli.run(["cost", str(candidate), "--device", DEVICE, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= KEYS


def test_operators_beyond_the_measured_shapes_are_warned_of(
    candidate: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = Profile(
        name="p",
        base=DEVICE,
        date="",
        tool="",
        driver="",
        runtime="",
        machine="",
        shared_log_sd=0.1,
        mape=0.1,
        threads=1,
        n=20,
        residual_log_sd={},
        model={},
        covered={"m": (1.0, 2.0)},
    )
    device = replace(load_device(DEVICE), profile=narrow)
    monkeypatch.setattr("dynsearch.commands.cost.find_device", lambda *_, **__: device)
    assert cli.run(["cost", str(candidate), "--device", DEVICE]) == 0
    assert "matmul operators lie outside the measured shapes" in capsys.readouterr().err
    assert run(candidate)["worst"]["value"] > 0


def test_devices_are_listed_and_one_shows_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["devices", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["devices"]
    assert DEVICE in {entry["name"] for entry in listed}
    assert cli.run(["devices", DEVICE, "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["devices"]
    assert all(row["source"] and row["grade"] for row in one["numbers"])
    assert cli.run(["devices"]) == 0
    assert DEVICE in capsys.readouterr().out
    assert cli.run(["devices", DEVICE]) == 0
    assert "memory.bandwidth" in capsys.readouterr().out


def test_local_asks_for_a_calibration_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DYNSEARCH_CACHE", str(tmp_path))
    assert cli.run(["devices", "local"]) == 2
    assert "dynsearch calibrate" in capsys.readouterr().err
