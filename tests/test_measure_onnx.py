"""What calibrates onnxruntime times the networks that its operator tables say it times."""

from __future__ import annotations

import json
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cost_models.calibrate import measure
from cost_models.calibrate.plan import make_plan, ops_of
from dynsearch.bench_onnx import UNCALIBRATED, profile_of
from search_spaces.candidate import Backbone
from search_spaces.errors import InputError
from search_spaces.ops import KIND

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
import onnxruntime

from dynsearch import measure_onnx
from dynsearch.export.onnx_engine import OPENERS

TINY = Backbone(
    name="tiny", num_layers=6, hidden_size=32, num_heads=4, ffn_size=64, vocab_size=99, max_len=512
)
PLAN = measure_onnx.onnx_plan(TINY)
CHAINS = [
    i for i in PLAN if i["op"] == "chain" and (i["batch"], i["tokens"]) in ((8, 24), (8, 128))
]


def test_the_plan_holds_formats_and_operators_that_graphs_have_and_whole_networks() -> None:
    assert {i["op"] for i in PLAN} == {"matmul", "chain", "copy"}
    assert {i["dtype"] for i in PLAN} == {"fp32", "int8"}
    assert all(i["ends"] for i in PLAN if i["op"] == "chain")
    assert [i["id"] for i in PLAN] == list(range(len(PLAN)))
    theirs = [i for i in make_plan(TINY) if i["op"] == "chain" and i["dtype"] == "fp32"]
    assert len(theirs) == sum(i["op"] == "chain" and i["dtype"] == "fp32" for i in PLAN)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_networks_have_the_matrices_and_rows_that_their_operator_table_has(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_onnx, "VOCABULARY", 99)
    seen: list[list[tuple[str, int]]] = []
    for item in (i for i in CHAINS if i["dtype"] == dtype):
        network = measure_onnx._network(item, 0, 1)
        lengths = measure._lengths(item["batch"], item["tokens"])
        ids = np.zeros((item["batch"], item["tokens"]), dtype=np.int64)
        found = network.run(ids, lengths)
        assert (found.exit_layer == item["depth"]).all()
        checks, ops = item.get("checks", 0), ops_of(item, TINY)
        assert len(network.stages) == checks + 1
        hosts = int(ops.count[ops.kind == KIND["host_sync"]].sum())
        routed = item["depth"] if item.get("experts", 1) > 1 else 0
        assert hosts >= checks
        drops = sum(len(stage.keep_rate) for stage in network.stages)
        assert drops == int((ops.kind == KIND["attention_importance"]).sum())
        seen.append([("drops", drops), ("routed", routed), ("checks", checks)])
    assert len({str(s) for s in seen}) > 3


@pytest.mark.parametrize("tokens", [24, 64])
def test_no_two_calls_of_a_network_in_a_row_have_one_shape(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As texts do; a runtime plans for a new shape. On average nothing is added to the length."""
    monkeypatch.setattr(measure_onnx, "VOCABULARY", 99)
    item = next(i for i in PLAN if i["op"] == "chain" and (i["batch"], i["tokens"]) == (1, tokens))
    calls = measure_onnx._chain(item, {}, 1, OPENERS["onnxruntime"])
    lengths = [call.args[0].shape[1] for call in calls]
    assert all(int(call.args[1].max()) == n for call, n in zip(calls, lengths, strict=True))
    assert max(lengths) <= measure_onnx.SHORT
    if tokens < measure_onnx.SHORT:
        one = lengths[: len(measure_onnx.OTHER_LENGTHS)]
        assert np.mean(one) == tokens
        assert len(set(one)) == len(one)


def test_every_length_runs_once_before_any_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a runtime builds for a shape that it never saw is in no figure."""
    monkeypatch.setattr(measure_onnx, "VOCABULARY", 99)
    seen: list[tuple[int, ...]] = []
    run = measure_onnx.OnnxEncoder.run

    def spy(self: Any, ids: Any, n: Any) -> Any:
        seen.append(ids.shape)
        return run(self, ids, n)

    monkeypatch.setattr(measure_onnx.OnnxEncoder, "run", spy)
    item = next(i for i in PLAN if i["op"] == "chain" and (i["batch"], i["tokens"]) == (2, 24))
    call = measure_onnx.builder(1, OPENERS["onnxruntime"])(item, {})
    before = list(seen)
    for _ in before:
        call()
    assert len(set(before)) == len(measure_onnx.OTHER_LENGTHS)
    assert seen[len(before) :] == before


@pytest.mark.parametrize("runtime", OPENERS)
def test_a_round_times_every_kind_of_item_and_calls_are_taken_off_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    monkeypatch.setattr(measure_onnx, "VOCABULARY", 99)
    few = [i for i in PLAN if i["op"] == "matmul" and i["m"] == 8][::5]
    items = [*few, *CHAINS[::7]]
    rows = tmp_path / "rows.jsonl"
    build = measure_onnx.builder(1, OPENERS[runtime])
    measure.run_plan(items, rows, seconds=0.0, threads=1, builder=build)
    before = {r["id"]: r["seconds"] for r in map(json.loads, rows.read_text().splitlines())}
    assert set(before) == {i["id"] for i in items}
    monkeypatch.setattr(measure_onnx, "idle_seconds", lambda threads, opener: 1e-6)
    measure_onnx.net_of_calls(items, rows, 1)
    after = {r["id"]: r["seconds"] for r in map(json.loads, rows.read_text().splitlines())}
    for item in items:
        off = 1e-6 if item["op"] == "matmul" else 0.0
        want = max(before[item["id"]] - off, before[item["id"]] / 2 if off else 0.0)
        assert after[item["id"]] == pytest.approx(want)


def test_the_work_of_one_thread_is_timed_wherever_the_runtime_does_it() -> None:
    """A runtime may answer on a thread of its own, whose time a thread's clock does not see."""
    clock = measure_onnx.clock_of(1)
    worker = threading.Thread(target=lambda: sum(range(300_000)))
    start, own = clock(), time.thread_time()
    worker.start()
    worker.join()
    assert clock() - start > 10 * (time.thread_time() - own)


def test_the_runtime_names_its_version_and_others_are_refused() -> None:
    found = measure_onnx.runtime_of("onnxruntime")
    assert found.driver == f"onnxruntime {onnxruntime.__version__}"
    assert found.program[-2:] == ("--runtime", "onnxruntime")
    with pytest.raises(InputError, match="must be one of torch, onnxruntime, openvino"):
        measure_onnx.runtime_of("tflite")


def test_a_machine_that_was_not_calibrated_on_a_runtime_has_no_profile_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNSEARCH_CACHE", str(tmp_path))
    assert profile_of(1, "onnxruntime") is None
    assert "calibrate --runtime" in UNCALIBRATED


def test_openvino_is_named_as_itself_or_with_what_installs_it() -> None:
    try:
        installed = version("openvino")
    except ModuleNotFoundError:
        with pytest.raises(InputError, match=r"pip install 'dynsearch\[openvino\]'"):
            measure_onnx.runtime_of("openvino")
        return
    found = measure_onnx.runtime_of("openvino")
    assert (found.name, found.driver) == ("openvino", f"openvino {installed}")
    assert found.program[-2:] == ("--runtime", "openvino")
