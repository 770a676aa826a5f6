"""An export is measured against its promise, and refused when it is not what it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynsearch import verify as module
from dynsearch.bench_timing import time_interleaved
from dynsearch.checksums import file_sha256
from dynsearch.cli import run as command_line
from dynsearch.errors import InputError
from dynsearch.export.engines import engine_of, no_exit, worst_batch
from dynsearch.export.front import write_front_json
from dynsearch.export.manifest import CONFIG_FILE, is_inside
from dynsearch.export.opened import open_export
from dynsearch.export.promise import ROWS_FILE
from dynsearch.export.records import (
    Front,
    FrontPoint,
    Predicted,
    Reference,
    Selected,
    family_of,
)
from dynsearch.export.resident import CLEAR, measure
from dynsearch.export.torch_export import export_torch
from dynsearch.models.dynamic import DynamicEncoder, plan_of
from dynsearch.models.tokens import load_tokenizer
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality.supernet import save_supernet
from dynsearch.quality.training import add_heads
from dynsearch.testing import tiny_model, tiny_texts
from dynsearch.verify import verify
from dynsearch.verify_run import verify_run
from search_spaces.candidate import Candidate, Exits, Skim
from search_spaces.codec import candidate_hash, candidate_to_dict

MAX_LEN = 16
TEXTS = tiny_texts(40)
# what no machine takes for this model, and what every machine meets
BUDGETS = {"latency_mean_s": 60.0, "latency_worst_s": 60.0, "energy_j": 1.0}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a tiny network that was never trained, with 40 rows."""
    return export_of(tmp_path_factory, hidden=32)


def export_of(tmp_path_factory: pytest.TempPathFactory, *, hidden: int) -> Path:
    folder = tiny_model(tmp_path_factory.mktemp("tiny"), hidden=hidden)
    tokenizer = load_tokenizer(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    backbone = read_backbone(folder)
    config = encoder_config(backbone, num_classes=2, norm_eps=1e-12)
    weights = add_heads(config, read_pretrained(folder), 0)
    run = tmp_path_factory.mktemp("run")
    save_supernet(
        run / "supernet",
        config,
        weights,
        info={"labels": ("negative", "positive"), "text_columns": ["label"]},
        tokenizer=folder / "tokenizer.json",
    )
    candidate = Candidate(
        backbone=backbone,
        depth=3,
        exits=Exits(layers=(1, 2), thresholds=(0.51, 0.51)),
        skim=(Skim(layers=(1,), keep_rate=(0.5,)),),
        exit_batching="compact",
    )
    predicted = Predicted(
        latency_mean_s=1e-3,
        low_s=1e-9,
        high_s=60.0,
        latency_worst_s=2e-3,
        peak_bytes=1e6,
        flops_ideal=1.0,
        flops_executed=1.0,
    )
    point = FrontPoint(
        id=candidate_hash(candidate)[:8],
        device="here",
        family=family_of(candidate),
        objectives={"error": 0.5, "latency_mean_s": 1e-3},
        selected=Selected(error=0.5, loss=0.0, se=0.0, n=400),
        confirmed=None,
        error_bound=0.5,
        dominated=False,
        named=(0.0,),
        predicted=predicted,
        fidelity="replay",
        candidate=candidate_to_dict(candidate),
        reach=(1.0, 0.7, 0.2, 0.0),
    )
    far = replace(point, device="far", predicted=replace(predicted, high_s=2e-9))
    front = Front(
        job="tiny",
        run="tiny",
        workload={"batch": 2, "max_len": MAX_LEN, "sort": True, "threads": 1, "runtime": "torch"},
        objectives=("error", "latency_mean_s"),
        budgets={"here": BUDGETS, "far": {"latency_mean_s": 1e-9}},
        reference=Reference(
            selected_error=0.5, selected_n=400, confirmed_error=None, confirmed_n=None, costs=()
        ),
        hypervolume=(),
        front=(point, far),
    )
    write_front_json(front, run)
    out = tmp_path_factory.mktemp("out")
    (made,) = export_torch(run, (), out, rows=TEXTS)
    (out / "run").write_text(str(run), encoding="utf-8")
    return made


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "measure", lambda folder, runtime: 123.0)


@pytest.mark.skipif(not CLEAR.exists(), reason="the system has no high-water mark to put back")
def test_memory_is_that_of_the_weights_and_little_more(tmp_path_factory) -> None:
    """What the libraries take is not counted, nor the file that the weights come from."""
    folder = export_of(tmp_path_factory, hidden=512)
    weights = sum(w.numel() * w.element_size() for w in _weights(folder).values())
    assert weights > 20e6
    assert 0.8 * weights < measure(folder, "torch") < 1.3 * weights


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    target = tmp_path / "export"
    shutil.copytree(exported, target)
    return target


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture(scope="module")
def told(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(module, "measure", lambda folder, runtime: 123.0)
        return verify(exported, device="here", repeats=2)


def test_every_budget_is_met_missed_or_not_measured(told) -> None:
    assert {r["budget"]: r["passed"] for r in told["rows"]} == {
        "latency_mean_s": True,
        "latency_worst_s": True,
        "energy_j": None,
    }
    assert told["passed"] is True
    assert told["status"] == "done"
    assert "budget energy_j cannot be measured here" in told["warnings"]
    for r in told["rows"]:
        assert set(r) == {"budget", "limit", "predicted", "measured", "passed"}


def test_costs_stand_beside_their_predictions(told) -> None:
    figures = {f["quantity"]: f for f in told["figures"]}
    mean = figures["latency_mean_s"]
    assert (mean["predicted"], mean["low"], mean["high"]) == (1e-3, 1e-9, 60.0)
    assert mean["inside"] is True
    measured = {name: f["measured"] for name, f in figures.items()}
    assert 0 < measured["latency_mean_s"] <= measured["latency_p99_s"]
    assert measured["latency_p95_s"] <= measured["latency_p99_s"]
    assert measured["time_per_sample_s"] > 0
    assert measured["peak_bytes"] == 123.0
    assert figures["peak_bytes"]["predicted"] == 1e6


def test_exits_and_errors_are_those_of_real_execution(exported, told) -> None:
    """The same network, one text at a time: batches change no answer."""
    export = open_export(exported)
    encoder = DynamicEncoder(export.network, dict(_weights(exported)))
    texts = module.read_texts(export, None, "label", 400)
    plan = plan_of(export.candidate)
    order = range(len(texts.tokens))
    answers = [encoder.run(plan, *texts.tokens.batch(np.array([i]))) for i in order]
    left = np.array([a.exit_layer[0] for a in answers])
    said = np.array([a.prediction[0] for a in answers])
    assert len(set(left)) > 1, "texts leave at different layers"
    assert [e["layer"] for e in told["exits"]] == [1, 2, 3]
    for e in told["exits"]:
        assert e["measured"] == pytest.approx((left == e["layer"]).mean())
    assert [e["predicted"] for e in told["exits"]] == pytest.approx([0.3, 0.5, 0.2])
    truth = np.array([["negative", "positive"].index(label) for _, label in TEXTS])
    error = next(f for f in told["figures"] if f["quantity"] == "error")
    assert error["measured"] == pytest.approx((said != truth).mean())
    spread = 1.96 * np.sqrt(0.25 * (1 / 400 + 1 / 40))
    assert (error["low"], error["high"]) == pytest.approx((0.5 - spread, 0.5 + spread))


def _weights(folder: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(str(folder / "model.safetensors"))


def test_the_worst_case_pays_every_check_and_takes_no_exit(exported) -> None:
    export = open_export(exported)
    ids, lengths, types = worst_batch(export)
    assert types is None
    assert ids.shape == (2, MAX_LEN)
    assert engine_of(export).worst((ids, lengths, types)).exit_layer.tolist() == [3, 3]
    assert lengths.tolist() == [MAX_LEN] * 2
    plan = plan_of(no_exit(export.candidate))
    assert plan.exit_on == plan_of(export.candidate).exit_on
    assert export.encoder().run(plan, ids, lengths, types).exit_layer.tolist() == [3, 3]
    patient = Exits(layers=(1, 2), criterion="patience", patience=1)
    steady = plan_of(no_exit(replace(export.candidate, exits=patient)))
    assert export.encoder().run(steady, ids, lengths, types).exit_layer.tolist() == [3, 3]


@pytest.fixture
def run_dir(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run that the export is from; its data, which it has none of, are the texts."""
    monkeypatch.setattr("dynsearch.main_job._report_texts", lambda run, rows: TEXTS[:rows])
    return Path((exported.parent / "run").read_text(encoding="utf-8"))


def test_a_finished_run_is_exported_and_measured_by_one_command(run_dir, told, capsys) -> None:
    words = ["verify", str(run_dir), "--repeats", "1", "--rows", "40", "-q"]
    assert command_line([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (one,) = result["verified"]
    assert (one["device"], one["timed_rows"], one["runtime"]) == ("here", 40, "torch")
    assert one["exits"] == told["exits"]
    assert result["passed"] is True
    assert [r["budget"] for r in result["rows"]] == list(BUDGETS)
    assert {r["id"] for r in result["rows"]} == {one["id"]}
    assert open_export(run_dir / "exports" / "torch" / one["id"]).runtime == "torch"
    assert command_line([*words, "--id", one["id"], "--device", "far"]) == 1
    assert "MISSED" in capsys.readouterr().out
    assert command_line([*words, "--id", "nope"]) == 2
    assert "no such configuration" in capsys.readouterr().err


def test_a_run_is_measured_on_other_texts_and_on_graphs(run_dir, told, tmp_path) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    file = tmp_path / "texts.jsonl"
    rows = [{"label": text, "kind": label} for text, label in TEXTS]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = verify_run(run_dir, data=file, label="kind", repeats=1, runtime="onnxruntime")
    (one,) = result["verified"]
    assert (one["runtime"], one["exits"]) == ("onnxruntime", told["exits"])
    assert not (Path(one["export"]) / ROWS_FILE).exists()


def test_what_a_run_has_not_is_told(run_dir, exported, tmp_path, capsys) -> None:
    with pytest.raises(InputError, match="give ids with --id"):
        verify_run(run_dir, device="moon")
    assert command_line(["verify", str(exported), "--id", "abcd", "-q"]) == 2
    assert "only a run has several" in capsys.readouterr().err


@pytest.fixture(scope="module")
def graphs(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network, texts and promise as ONNX."""
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from dynsearch.export.onnx_export import export_onnx

    run = Path((exported.parent / "run").read_text(encoding="utf-8"))
    (made,) = export_onnx(run, (), tmp_path_factory.mktemp("graphs"), rows=TEXTS)
    return made


def test_onnx_exports_are_measured_on_their_own_runtime(graphs, told) -> None:
    result = verify(graphs, device="here", repeats=1)
    assert result["runtime"] == "onnxruntime"
    assert result["exits"] == told["exits"]
    errors = [f for f in (*told["figures"], *result["figures"]) if f["quantity"] == "error"]
    assert errors[0] == errors[1]
    assert all(f["measured"] > 0 for f in result["figures"] if f["quantity"] != "error")
    said = "costs were predicted for torch, this export runs on onnxruntime"
    assert said in result["warnings"]
    assert said not in told["warnings"]


def test_openvino_measures_the_same_graphs(graphs, told) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    result = verify(graphs, device="here", repeats=1, runtime="openvino")
    assert result["runtime"] == "openvino"
    assert result["exits"] == told["exits"]
    assert "costs were predicted for torch, this export runs on openvino" in result["warnings"]


def test_a_runtime_that_does_not_run_an_export_is_refused(exported, graphs) -> None:
    with pytest.raises(InputError, match="this is a torch model: export it with --format onnx"):
        verify(exported, runtime="openvino")
    with pytest.raises(InputError, match="run on onnxruntime or openvino"):
        verify(graphs, runtime="torch")


@pytest.mark.parametrize("criterion", ["max_prob", "patience"])
def test_the_worst_case_of_graphs_takes_no_exit(graphs, criterion) -> None:
    export = open_export(graphs)
    manifest = json.loads(json.dumps(export.config["onnx"]))
    manifest["rule"] |= {"criterion": criterion, "patience": 0}
    for part in manifest["segments"][:-1]:
        part["threshold"] = 0.0 if criterion == "max_prob" else None
    lax = engine_of(replace(export, config=export.config | {"onnx": manifest}))
    batch = worst_batch(export)
    assert lax.answer(batch).exit_layer.tolist() == [1, 1]
    assert lax.worst(batch).exit_layer.tolist() == [3, 3]


def test_batches_are_formed_as_the_workload_forms_them(exported, monkeypatch) -> None:
    """A prediction for batches as they come is not compared with batches of like length."""
    export = open_export(exported)
    tokens = module.read_texts(export, None, "label", 8).tokens
    seen: list[list[int]] = []

    def record(runners: Any, blocks: Any, **options: Any) -> Any:
        seen.append([int(n) for block in blocks for _, lengths, _ in block for n in lengths])
        return time_interleaved(runners, blocks, **options)

    monkeypatch.setattr(module, "time_interleaved", record)
    for sort in (False, True):
        loaded = replace(export, workload=replace(export.workload, sort=sort))
        module.time_export(loaded, engine_of(loaded), tokens, 1)
    lengths = tokens.lengths.tolist()
    assert lengths != sorted(lengths)
    assert seen[0] == lengths
    assert seen[2] != lengths
    assert sorted(seen[2]) == sorted(lengths)


def test_a_missed_budget_is_status_1_and_said_so(exported, capsys) -> None:
    assert command_line(["verify", str(exported), "--device", "far", "--json", "-q"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["status"] == "failed"
    assert result["passed"] is False
    (row,) = result["rows"]
    assert (row["budget"], row["limit"], row["passed"]) == ("latency_mean_s", 1e-9, False)
    assert next(f for f in result["figures"] if f["low"] is not None)["inside"] is False


def test_text_output_names_budgets_exits_and_what_is_missed(exported, capsys) -> None:
    words = ["verify", str(exported), "--device", "far", "--rows", "8", "--repeats", "1", "-q"]
    assert command_line(words) == 1
    out = capsys.readouterr().out
    assert "MISSED" in out
    assert "outside" in out
    assert "search rows" in out
    assert "on 8 texts" in out


def test_a_prediction_for_another_machine_is_called_one(exported) -> None:
    result = verify(exported, rows=4, repeats=1)
    assert result["device"] == "here"
    assert any("nothing was predicted for this machine" in w for w in result["warnings"])
    with pytest.raises(InputError, match="no prediction for it in the export; it has: here, far"):
        verify(exported, device="moon")


def test_other_texts_may_have_other_labels_and_lengths(exported, tmp_path) -> None:
    file = tmp_path / "other.jsonl"
    rows = [{"label": " ".join(["good"] * 40), "kind": k} for k in ("positive", "unheard", None)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = verify(exported, data=file, label="kind", device="here", repeats=1)
    assert result["timed_rows"] == 3
    assert "3 texts are longer than 16 tokens and were cut" in result["warnings"]
    error = next(f for f in result["figures"] if f["quantity"] == "error")
    assert error["measured"] in (0.0, 1.0)  # of the one text whose label is known


def test_an_export_without_texts_asks_for_some(copy) -> None:
    (copy / ROWS_FILE).unlink()
    rewrite(copy, lambda config: config["files"].pop(ROWS_FILE))
    with pytest.raises(InputError, match="give --data FILE, or export with --rows 400"):
        verify(copy)


def test_lower_thresholds_void_what_was_promised_and_are_told(copy) -> None:
    def lower(config: dict[str, Any]) -> None:
        config["candidate"]["exits"]["thresholds"] = [0.1, 0.1]

    rewrite(copy, lower)
    result = verify(copy, device="here", rows=4, repeats=1)
    assert any("is not the one exported as" in w for w in result["warnings"])
    assert result["exits"][0]["measured"] == 1.0


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "tokenizer.json",
        "rows.jsonl",
        "runner.py",
        "lib/search_spaces/codec.py",
    ],
)
def test_a_changed_or_missing_file_is_named(copy, name) -> None:
    flip(copy / name)
    with pytest.raises(InputError, match=r"not the file that config\.json describes") as e:
        open_export(copy)
    assert [p.file for p in e.value.problems] == [str(copy / name)]
    (copy / name).unlink()
    with pytest.raises(InputError, match="missing; copy the whole folder") as e:
        open_export(copy)
    assert [p.file for p in e.value.problems] == [str(copy / name)]


def test_all_files_that_are_wrong_are_named_at_once(copy) -> None:
    flip(copy / "model.safetensors")
    (copy / "tokenizer.json").unlink()
    with pytest.raises(InputError) as e:
        open_export(copy)
    assert {Path(p.file).name for p in e.value.problems} == {"model.safetensors", "tokenizer.json"}


@pytest.mark.parametrize(
    "name", ["../secret.txt", "/etc/passwd", "lib/../../x", "a\\..\\b", "", "a\0b", "x\n"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused_unread(copy, name) -> None:
    rewrite(copy, lambda config: config["files"].update({name: "0" * 64}))
    with pytest.raises(InputError, match="leads out of the export folder") as e:
        open_export(copy)
    assert [(p.key, p.value) for p in e.value.problems] == [("files", name)]


def test_a_link_out_of_the_folder_is_refused(copy, tmp_path) -> None:
    outside = tmp_path / "weights"
    (copy / "model.safetensors").rename(outside)
    (copy / "model.safetensors").symlink_to(outside)
    assert not is_inside(copy, "model.safetensors")
    with pytest.raises(InputError, match="leads out of the export folder"):
        open_export(copy)


def test_weights_and_checksums_changed_together_do_not_pass(copy) -> None:
    flip(copy / "model.safetensors")
    digest = file_sha256(copy / "model.safetensors")
    rewrite(copy, lambda config: config["files"].update({"model.safetensors": digest}))
    with pytest.raises(InputError, match="is not the checksum of the model"):
        open_export(copy)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("files"), "an earlier dynsearch wrote it"),
        (lambda c: c.pop("expected"), "is missing; `dynsearch export"),
        (lambda c: c.update(schema_version=99), "upgrade it"),
        (lambda c: c["expected"].update(devices={}), "no device with its prediction"),
        (lambda c: c["encoder"].pop("hidden_size"), "does not fit the schema"),
        (lambda c: c["expected"].pop("reach"), "does not fit the schema"),
        (lambda c: c["candidate"].update(dpeth=3), "dpeth"),
        (lambda c: c["files"].pop("tokenizer.json"), "has no checksum"),
    ],
)
def test_a_config_that_is_none_says_what_is_wrong_with_it(copy, change, says) -> None:
    rewrite(copy, change)
    with pytest.raises(InputError, match=says):
        open_export(copy)


@pytest.mark.parametrize("raw", [b"{", b"\xff\xfe", b"[]"])
def test_a_damaged_config_is_status_2(copy, raw, capsys) -> None:
    (copy / CONFIG_FILE).write_bytes(raw)
    assert command_line(["verify", str(copy), "--json"]) == 2
    result = json.loads(capsys.readouterr().out)
    assert result["status"] == "bad_input"
    assert len(result["errors"]) == 1
    (copy / CONFIG_FILE).unlink()
    assert command_line(["verify", str(copy), "-q"]) == 2
    assert command_line(["verify", str(copy / "nowhere"), "-q"]) == 2


def test_what_warms_up_is_no_latency() -> None:
    """One batch of warm-up, then two repeats of two batches."""
    sizes = iter((9, 2, 1, 2, 1))
    recorder = module._Recorder(lambda batch: np.full(next(sizes), np.inf))
    for _ in range(5):
        recorder.run(None)
    assert recorder.of_repeats(1, 2).shape == (2, 3)
