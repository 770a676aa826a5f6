"""Benches on runtimes of ONNX graphs time what an export runs, beside their own full network."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cost_models import device as device_module
from dynsearch.bench import Engine, Predictions, bench_run
from dynsearch.bench_onnx import encoder_on, onnx_engine, onnx_runner
from dynsearch.bench_select import config_of
from dynsearch.bench_timing import make_blocks
from dynsearch.export.onnx_engine import open_openvino
from dynsearch.job import load_job
from dynsearch.main_job import make_run
from dynsearch.models.dynamic import DynamicEncoder, EncoderConfig, Weights, plan_of
from dynsearch.models.experts import split_experts
from dynsearch.models.tokens import Tokens, load_tokenizer, tokenize
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.opened import Opened, open_all
from dynsearch.progress import make_progress
from dynsearch.quality.opening import open_material
from dynsearch.quality.trace import save_trace
from dynsearch.quality.training import add_heads
from dynsearch.testing import tiny_data, tiny_model, tiny_texts
from dynsearch.timing import bench_run_folder
from search_spaces.candidate import Candidate, Exits, Experts, Skim
from search_spaces.codec import candidate_hash, candidate_to_dict
from search_spaces.errors import InputError
from search_spaces.workload import Workload

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
sys.path.insert(0, str(Path(__file__).parent / "report"))
from run_folder import make_front

MAX_LEN = 20
Material = tuple[EncoderConfig, Weights, Tokens, Candidate]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tiny_model(tmp_path_factory.mktemp("tiny"))
    rows = tokenize(load_tokenizer(folder), [t for t, _ in tiny_texts(40)], MAX_LEN)
    backbone = read_backbone(folder)
    config = encoder_config(backbone, num_classes=2, norm_eps=1e-12)
    weights = add_heads(config, read_pretrained(folder), 0)
    config, weights = split_experts(config, weights, rows, (4,), 0)
    return config, weights, rows, Candidate(backbone=backbone, depth=4)


EXITS = Exits(layers=(1, 2), thresholds=(0.503, 0.505))


def engine(material: Material) -> Engine:
    config, weights, _, _ = material
    opened = SimpleNamespace(
        quality=SimpleNamespace(config=config, weights=weights),
        scene=SimpleNamespace(workload=Workload(batch=1, max_len=MAX_LEN)),
        material=SimpleNamespace(text_columns=("text",)),
    )
    return onnx_engine(opened, "onnxruntime")


def by_depth(given: list[Candidate], batch: int) -> Predictions:
    mean = np.array([1e-4 * c.depth + 1e-9 * int(config_of(c).id[:3], 16) for c in given])
    return Predictions(mean_s=mean, low_s=mean * 0.5, high_s=mean * 2)


def test_a_bench_on_onnxruntime_has_the_full_network_of_each_format_beside(
    material: Material, tmp_path: Path
) -> None:
    _, _, rows, full = material
    configs = [
        replace(full, exits=EXITS),
        replace(full, exits=EXITS, skim=(Skim(layers=(1,), keep_rate=(0.5,)),)),
        replace(full, depth=3, moe=Experts(layers=(2,), num_experts=(4,), top_k=(1,))),
    ]
    result = bench_run(
        tmp_path,
        rows=rows,
        configs=[config_of(c) for c in configs],
        full=full,
        encoder=lambda dtype: pytest.fail("torch runs nothing here"),
        predict=by_depth,
        num_rows=16,
        repeats=1,
        engine=engine(material),
    )
    assert json.loads((tmp_path / "bench-onnxruntime.json").read_text()) == result
    assert not (tmp_path / "bench.json").exists()
    assert {r["runtime"] for r in result["rows"]} == {"onnxruntime"}
    for batch in (1, 8):
        group = [r for r in result["rows"] if r["batch"] == batch]
        whole = {r["dtype"]: r for r in group if r["family"] == "full"}
        assert set(whole) == {"fp32", "int8"}
        assert {r["id"] for r in group if r["counted"]} == {config_of(c).id for c in configs}
        for r in group:
            of_format = whole[r["dtype"]]["time_per_sample_s"]
            assert r["speedup"] == pytest.approx(of_format / r["time_per_sample_s"])


@pytest.mark.parametrize("batch", [1, 8])
def test_a_sample_has_its_answer_when_the_graph_of_its_exit_has_run(
    material: Material, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, weights, rows, full = material
    candidate, seen = replace(full, exits=EXITS, exit_batching="compact"), set()
    encoder = encoder_on(config, weights, candidate, max_len=MAX_LEN, pairs=False)
    ticks = iter(range(10**6))
    monkeypatch.setattr("dynsearch.bench_onnx.time.perf_counter", lambda: float(next(ticks)))
    model = DynamicEncoder(config, weights)
    for block in make_blocks(rows, 40, batch=batch):
        for one in block:
            start = float(next(ticks))
            answered = onnx_runner(encoder)(one) - start
            left = model.run(plan_of(candidate), *one).exit_layer
            # one tick a graph; the last that runs is done at the tick that ends the run
            stage = np.array([{1: 1, 2: 2, 4: 3}[int(layer)] for layer in left])
            assert answered.tolist() == np.where(left == left.max(), stage + 1, stage).tolist()
            seen |= set(left.tolist())
    assert seen == {1, 2, 4}
    waiting = encoder_on(
        config, weights, replace(candidate, exit_batching="wait_all"), max_len=MAX_LEN, pairs=False
    )
    (one, *_), *_ = make_blocks(rows, 8, batch=8)
    assert len(set(onnx_runner(waiting)(one).tolist())) == 1


def test_an_unknown_runtime_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InputError, match="must be one of torch, onnxruntime, openvino"):
        onnx_engine(SimpleNamespace(), "tensorrt")


JOB = """
schema_version = 1
name = "tiny"
devices = ["local"]
[model]
folder = "model"
[data]
file = "data.jsonl"
[training]
epochs = 1
batch = 64
threads = 1
[space.exits]
layers = [1, 2]
[space.experts]
groups = [[1, 3]]
counts = [1, 4]
active = [0.5]
[workload]
max_len = 24
[search]
trials = 1
"""


@pytest.mark.slow
def test_a_run_is_timed_on_onnxruntime_with_that_runtimes_own_prices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNSEARCH_CACHE", str(tmp_path / "cache"))
    tiny_model(tmp_path / "model")
    tiny_data(tmp_path / "data.jsonl", 1000)
    (tmp_path / "job.toml").write_text(JOB, encoding="utf-8")
    shipped = Path(device_module.__file__).parent / "devices"
    devices = tmp_path / "cache" / "devices"
    devices.mkdir(parents=True)
    shutil.copyfile(shipped / "generic-x86-avx2.toml", devices / "local-1.toml")
    job = load_job(tmp_path / "job.toml")
    material = open_material(job)
    run = make_run(job, material, tmp_path / "out")
    opened = open_all(job, run, material, make_progress(quiet=True))
    full = material.space.full()
    path = run.path / "traces" / "0-full.npz"
    path.parent.mkdir(exist_ok=True)
    save_trace(path, opened.quality.record(full, "search"))
    monkeypatch.setattr(Opened, "settings", {0: full})
    template = make_front(dtypes=("fp32",), draws=1)
    candidate = replace(full, exits=replace(EXITS, thresholds=(0.6, 0.6)))
    point = replace(
        template.front[0],
        id=candidate_hash(candidate)[:8],
        device="generic-x86-avx2",
        family="exit",
        candidate=candidate_to_dict(candidate),
        reach=None,
    )

    def timed() -> dict:
        return bench_run_folder(
            opened,
            front=replace(template, front=(point,)),
            parts=(),
            traces={0: path},
            rows=8,
            configs=24,
            batches=(1,),
            repeats=1,
            on_progress=None,
            runtime="onnxruntime",
        )

    result = timed()
    assert any("not calibrated on this machine" in w for w in result["warnings"])
    assert {"exit", "full", "truncated"} <= {r["family"] for r in result["rows"]}
    assert any("experts" in r["family"] for r in result["rows"])
    assert {r["dtype"] for r in result["rows"] if r["family"] == "full"} == {"fp32", "int8"}
    shutil.copyfile(shipped / "raspberry-pi-5.toml", devices / "local-1-onnxruntime.toml")
    again = timed()
    assert not any("not calibrated" in w for w in again["warnings"])
    before = {(r["id"], r["dtype"]): r["predicted_s"] for r in result["rows"]}
    after = {(r["id"], r["dtype"]): r["predicted_s"] for r in again["rows"]}
    assert all(after[key] > before[key] for key in set(before) & set(after))


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_openvino_answers_as_torch_does(material: Material, dtype: str) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    config, weights, rows, full = material
    candidate = replace(
        full,
        dtype=dtype,
        exits=EXITS,
        exit_batching="compact",
        skim=(Skim(layers=(1,), keep_rate=(0.5,)),),
        moe=Experts(layers=(2, 3), num_experts=(4, 4), top_k=(1, 2)),
    )
    found = encoder_on(
        config, weights, candidate, max_len=MAX_LEN, pairs=False, opener=open_openvino
    )
    model = DynamicEncoder(config, weights).to(dtype)
    for batch in rows.batches(batch=5, sort=True):
        ids, n = rows.batch(batch)
        got, want = found.run(ids.numpy(), n), model.run(plan_of(candidate), ids, n)
        assert got.exit_layer.tolist() == want.exit_layer.tolist()
        assert np.abs(got.logits - want.logits).max() <= {"fp32": 1e-4, "int8": 2e-2}[dtype]
