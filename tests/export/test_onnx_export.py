"""An ONNX folder answers as the network that was searched, with onnxruntime and numpy alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import run_folder
import torch
from torch import Tensor

from dynsearch import load
from dynsearch.cli import run as dynsearch
from dynsearch.export.folder import RUNTIME
from dynsearch.export.front import read_front, write_front_json
from dynsearch.export.onnx_plan import graphs
from dynsearch.export.records import family_of
from dynsearch.export.vendor import closure
from dynsearch.models import packed
from dynsearch.models.dynamic import DynamicEncoder, EncoderConfig, Weights, plan_of
from dynsearch.models.experts import split_experts
from dynsearch.models.int8 import needs_reduced_range
from dynsearch.models.packed import Matrix
from dynsearch.models.tokens import Tokens, load_tokenizer, ragged, tokenize
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality.lesson import add_scorer
from dynsearch.quality.supernet import save_supernet
from dynsearch.quality.training import add_heads
from dynsearch.testing import tiny_model, tiny_texts
from search_spaces.candidate import Candidate, Cascade, Exits, Experts, Skim
from search_spaces.codec import candidate_hash, candidate_to_dict
from search_spaces.errors import InputError
from search_spaces.tokens import SCORER_WIDTH

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
from dynsearch.export.onnx_engine import OnnxEncoder  # noqa: E402
from dynsearch.export.onnx_export import RUNTIME as ONNX_RUNTIME  # noqa: E402
from dynsearch.export.onnx_export import export_onnx  # noqa: E402

TEXTS = [t for t, _ in tiny_texts(48)]
MAX_LEN, LONG = 16, 96
LABELS = ("negative", "positive")
TOLERANCE = {"fp32": 1e-4, "int8": 2e-2}
Material = tuple[EncoderConfig, Weights, Candidate]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tokenizer.json."""
    folder = tiny_model(tmp_path_factory.mktemp("tiny"))
    load_tokenizer(folder).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def material(home: Path) -> Material:
    """Geometry, weights (positions for long texts, too) and the full network."""
    backbone = replace(read_backbone(home), max_len=LONG)
    config = encoder_config(backbone, num_classes=2, norm_eps=1e-12)
    weights = add_heads(config, read_pretrained(home), 0)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(LONG, config.hidden_size, generator=generator)
    weights["embeddings.position"] = noise * 0.3 * config.hidden_size**-0.5
    tokens = tokenize(load_tokenizer(home), TEXTS, MAX_LEN)
    config, weights = split_experts(config, weights, tokens, (4,), 0)
    weights = add_scorer(config.hidden_size, weights, 0)
    weights["scorer.out.weight"] = torch.randn(1, SCORER_WIDTH, generator=generator)
    return config, weights, Candidate(backbone=backbone, depth=4)


EXITS = Exits(layers=(1, 2), thresholds=(0.503, 0.505))
SKIM = (Skim(layers=(1, 2, 4), keep_rate=(0.75, 0.5, 0.4)),)
INPUT_SKIM = Skim(
    layers=(1,),
    keep_rate=(0.6,),
    score="learned",
    point="before_layer",
    gate_width=SCORER_WIDTH,
)
EXPERTS = Experts(layers=(2, 3), num_experts=(4, 4), top_k=(1, 2))
POLICIES = {
    "full": {},
    "depth": {"depth": 2},
    "exits": {"exits": EXITS},
    "patience": {"exits": Exits(layers=(1, 2, 3), criterion="patience", patience=1)},
    "entropy": {"exits": replace(EXITS, criterion="entropy", thresholds=(-0.69311, -0.6931))},
    "skim": {"skim": SKIM},
    "input": {"skim": (INPUT_SKIM,)},
    "input, exits": {"skim": (INPUT_SKIM, Skim(layers=(2,), keep_rate=(0.4,))), "exits": EXITS},
    "experts": {"moe": EXPERTS},
    "all": {"exits": EXITS, "skim": SKIM, "moe": EXPERTS},
    "waiting": {"exits": EXITS, "skim": SKIM, "exit_batching": "wait_all"},
    "by token": {"exits": EXITS, "skim": SKIM, "moe": replace(EXPERTS, granularity="token")},
}


def short_texts(home: Path) -> Tokens:
    return tokenize(load_tokenizer(home), TEXTS, MAX_LEN)


def long_texts() -> Tokens:
    rng = np.random.default_rng(3)
    lengths = [*rng.integers(60, LONG, 10), 3, 20, 64, 65, LONG]
    return ragged([rng.integers(5, 33, n).astype(np.int32) for n in lengths])


def eight_bits(
    weights: Weights, name: str, rows: slice, columns: slice, bias: Tensor | None
) -> Matrix:
    """`int8_matrix` by hand: what enters has 8 bits, also where torch's kernels take 7."""
    stem = name.removesuffix("weight")
    added = (weights[stem + "bias"][rows] if bias is None else bias).double()
    held, row_scale = weights[name][rows, columns].double(), weights[stem + "scale"][rows].double()

    def matrix(x: Tensor) -> Tensor:
        x = x.double()
        scale = (x.max().clamp_min(0.0) - x.min().clamp_max(0.0)) / 255
        zero = (-x.min().clamp_max(0.0) / scale).round()
        entered = ((x / scale).round() + zero).clamp(0, 255) - zero
        return (entered @ held.T * scale * row_scale + added).float()

    return matrix


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_every_sample_gets_the_logits_and_the_exit_of_the_searched_network(
    home: Path,
    material: Material,
    policy: str,
    long: bool,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if needs_reduced_range():
        monkeypatch.setattr(packed, "int8_matrix", eight_bits)
    config, weights, full = material
    candidate = replace(full, **POLICIES[policy], dtype=dtype)
    tokens, max_len = (long_texts(), LONG) if long else (short_texts(home), MAX_LEN)
    manifest, files = graphs(config, weights, candidate, max_len=max_len, pairs=False)
    ours = OnnxEncoder(manifest, files.__getitem__)
    theirs = DynamicEncoder(config, weights).to(dtype)
    plan, exits = plan_of(candidate), set()
    for size in (1, 5):
        for rows in tokens.batches(batch=size, sort=size > 1):
            ids, n = tokens.batch(rows)
            found, want = ours.run(ids.numpy(), n), theirs.run(plan, ids, n)
            assert found.exit_layer.tolist() == want.exit_layer.tolist()
            assert np.abs(found.logits - want.logits).max() <= TOLERANCE[dtype]
            exits |= set(want.exit_layer.tolist())
    # thresholds are narrow: in short texts each of the exits is taken by somebody
    if "exits" in POLICIES[policy] and not long and dtype == "fp32":
        assert len(exits) > 1


def test_newer_operators_say_the_same(home: Path, material: Material) -> None:
    config, weights, full = material
    candidate = replace(full, **POLICIES["all"])
    tokens = short_texts(home)
    ids, n = tokens.batch(np.arange(6))
    found = []
    for opset in (17, 18, 20, 21):
        parts = graphs(config, weights, candidate, max_len=MAX_LEN, pairs=False, opset=opset)
        model = onnx.load_from_string(parts[1]["segment-0.onnx"])
        assert model.opset_import[0].version == opset
        assert ("Gelu" in {node.op_type for node in model.graph.node}) == (opset >= 20)
        found.append(OnnxEncoder(parts[0], parts[1].__getitem__).run(ids.numpy(), n).logits)
    for logits in found[1:]:
        assert np.allclose(logits, found[0], atol=1e-5)


def test_samples_that_left_are_not_computed_and_the_last_graphs_may_never_run(
    home: Path, material: Material
) -> None:
    config, weights, full = material
    candidate = replace(full, exits=replace(EXITS, thresholds=(0.503, 0.0)))
    manifest, files = graphs(config, weights, candidate, max_len=MAX_LEN, pairs=False)
    encoder = OnnxEncoder(manifest, files.__getitem__)
    sizes: list[int] = []

    class Spy:
        def __init__(self, session: object) -> None:
            self.session = session

        def run(self, names: None, feed: dict) -> list:
            sizes.append(len(feed["n"]))
            return self.session.run(names, feed)

    encoder.stages = [replace(stage, session=Spy(stage.session)) for stage in encoder.stages]
    ids, n = short_texts(home).batch(np.arange(12))
    left = encoder.run(ids.numpy(), n).exit_layer
    assert sizes == [12, int((left > 1).sum())]
    assert 0 < sizes[1] < 12


@pytest.fixture(scope="module")
def run(home: Path, material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose front holds the policies."""
    config, weights, full = material
    folder = tmp_path_factory.mktemp("run")
    info = {"labels": LABELS, "max_len": MAX_LEN}
    tokenizer = home / "tokenizer.json"
    save_supernet(folder / "supernet", config, weights, info=info, tokenizer=tokenizer)
    template = run_folder.make_front(dtypes=("fp32",), draws=1)
    chosen = [replace(full, **POLICIES[name]) for name in ("exits", "all")]
    chosen += [replace(chosen[1], dtype="int8"), replace(full, dtype="bf16")]
    points = tuple(
        replace(
            template.front[0],
            id=candidate_hash(c)[:8],
            family=family_of(c),
            candidate=candidate_to_dict(c),
            reach=None,
        )
        for c in chosen
    )
    workload = template.workload | {"max_len": MAX_LEN}
    write_front_json(replace(template, front=points, workload=workload), folder)
    return folder


@pytest.fixture(scope="module")
def ids(run: Path) -> list[str]:
    return [p["id"] for p in json.loads((run / "front.json").read_text())["front"]]


@pytest.fixture(scope="module")
def exported(run: Path, ids: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    assert [p.name for p in export_onnx(run, ids[:3], out)] == ids[:3]
    return out


ALONE = """
import importlib.abc, json, sys
from pathlib import Path

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "tokenizers", "safetensors", "transformers", "scipy"}:
            raise ImportError("refused: " + name)

sys.meta_path.insert(0, Refuse())
import runner
model = runner.load()
texts = json.loads(sys.stdin.read())
print(json.dumps([[(a.label, a.exit_layer, a.probability, a.tokens)
                   for a in model.classify(texts, batch)] for batch in (1, 8)]))
"""


def alone(folder: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess:
    """Python in an exported folder with installed packages, without this project."""
    found = {str(Path(m.__file__).parents[1]) for m in (np, onnx)}
    environment = {"PYTHONPATH": os.pathsep.join(found), "PATH": os.environ["PATH"]}
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )


def test_onnxruntime_and_numpy_are_enough_to_answer_as_the_network_did(
    exported: Path, home: Path, ids: list[str], material: Material
) -> None:
    config, weights, full = material
    folder = exported / ids[1]
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{ALONE}"
    done = alone(folder, "-c", code, given=json.dumps(TEXTS))
    assert done.returncode == 0, done.stderr
    model, tokens = DynamicEncoder(config, weights), short_texts(home)
    plan = plan_of(replace(full, **POLICIES["all"]))
    for size, answers in zip((1, 8), json.loads(done.stdout), strict=True):
        for rows in tokens.batches(batch=size, sort=size > 1):
            want = model.run(plan, *tokens.batch(rows))
            shares = torch.softmax(torch.from_numpy(want.logits).double(), -1).numpy()
            for i, row in enumerate(rows):
                label, layer, share, length = answers[row]
                assert label == LABELS[want.prediction[i]]
                assert (layer, length) == (want.exit_layer[i], tokens.lengths[row])
                assert abs(share - shares[i].max()) <= 1e-4


def test_the_scripts_of_a_folder_answer_and_time(exported: Path, ids: list[str]) -> None:
    folder = exported / ids[0]
    (folder / "texts.txt").write_text("\n".join(TEXTS[:6]) + "\n", encoding="utf-8")
    done = alone(folder, "runner.py", "--json", "good great film")
    assert json.loads(done.stdout)["label"] in LABELS
    done = alone(folder, "benchmark.py", "--file", "texts.txt", "--repeats", "1", "--json")
    told = json.loads(done.stdout)
    assert [row["batch"] for row in told["rows"]] == [1, 8]
    for row in told["rows"]:
        assert row["texts"] == 6
        assert sum(row["exits"].values()) == pytest.approx(1.0)
        assert 0 < row["p50_s"] <= row["p95_s"] <= row["p99_s"]
    assert told["predicted"][0]["latency_mean_s"] > 0
    done = alone(folder, "benchmark.py", "--file", "texts.txt", "--repeats", "1")
    assert "ms a text; answers: layer" in done.stdout


@pytest.mark.parametrize(
    ("raw", "says"),
    [(b"caf\xe9 film\n", "can't decode byte"), (b"\n \n", "give texts"), (None, "No such file")],
)
def test_the_scripts_of_a_folder_refuse_texts_that_cannot_be_read(
    exported: Path, ids: list[str], tmp_path: Path, raw: bytes | None, says: str
) -> None:
    data = tmp_path / "texts.txt"
    if raw is not None:
        data.write_bytes(raw)
    done = alone(exported / ids[0], "runner.py", "--file", str(data))
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_exports_and_runs(
    run: Path, ids: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(run), "--format", "onnx", "--out", str(tmp_path), "--id", ids[0]]
    assert dynsearch([*words, "--json"]) == 0
    folder = json.loads(capsys.readouterr().out)["files"][0]
    rows = [json.dumps({"text": t, "label": k}) for t, k in tiny_texts(20)]
    data, out = tmp_path / "data.jsonl", tmp_path / "answers.jsonl"
    data.write_text("\n".join([*rows, json.dumps({"text": "good " * 40})]), encoding="utf-8")
    assert dynsearch(["run", folder, "--input", str(data), "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert answers == [
        {name: getattr(a, name) for name in answers[0]}
        for a in load(folder).classify([*(t for t, _ in tiny_texts(20)), "good " * 40])
    ]
    right = [a["label"] == k for a, (_, k) in zip(answers, tiny_texts(20), strict=False)]
    assert result["accuracy"] == pytest.approx(np.mean(right))
    full = sum(a["tokens"] == MAX_LEN for a in answers)
    assert result["warnings"] == [
        f"{full} texts fill the longest input of {MAX_LEN} tokens; the rest is not read"
    ]
    assert dynsearch(["run", folder, "--input", str(data)]) == 0
    assert "21 texts; answered by layer" in capsys.readouterr().out


def changed(exported: Path, ids: list[str], tmp_path: Path) -> tuple[Path, dict]:
    folder = tmp_path / "copy"
    shutil.copytree(exported / ids[0], folder)
    return folder, json.loads((folder / "config.json").read_text())


def test_a_file_that_is_missing_changed_or_of_another_export_is_named(
    exported: Path, ids: list[str], tmp_path: Path
) -> None:
    folder, _ = changed(exported, ids, tmp_path)
    (folder / "segment-0.onnx").unlink()
    raw = bytearray((folder / "segment-1.onnx").read_bytes())
    raw[-1] ^= 1
    (folder / "segment-1.onnx").write_bytes(raw)
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(InputError) as caught:
        load(folder)
    told = {Path(p.file).name: p.message for p in caught.value.problems}
    assert "missing" in told["segment-0.onnx"]
    for name in ("segment-1.onnx", "tokenizer.json"):
        assert "not the file that config.json describes" in told[name]
    done = alone(folder, "runner.py", "good film")
    assert done.returncode == 2
    assert "segment-0.onnx: missing" in done.stderr


@pytest.mark.parametrize("name", ["../segment-0.onnx", "/etc/passwd", "a\\b", "..", "", "x\n"])
def test_names_that_leave_the_folder_are_refused(
    exported: Path, ids: list[str], tmp_path: Path, name: str
) -> None:
    folder, config = changed(exported, ids, tmp_path)
    config["files"][name] = config["files"]["segment-0.onnx"]
    config["onnx"]["segments"][0]["file"] = name
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="leads out of the export folder"):
        load(folder)
    del config["files"][name]
    for other, says in (
        ("other.onnx", "has no checksum"),
        ("runner.py", "not the checksum of"),
    ):
        config["onnx"]["segments"][0]["file"] = other
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=says):
            load(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is this a folder that dynsearch export wrote"),
        ("{", "no config.json of an export"),
        ("[]", "no config.json of an export"),
        ('{"schema_version": 9, "format": "onnx", "files": {}}', "newer dynsearch"),
        ('{"schema_version": 1, "format": "onnx", "files": {}}', "expected: is missing"),
        ('{"schema_version": 1, "format": "other", "files": {}}', "must be torch or onnx"),
    ],
)
def test_a_folder_that_is_no_export_is_refused(
    tmp_path: Path, content: str | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=says):
        load(tmp_path)


def test_what_the_format_cannot_express_is_named_with_the_way_out(
    run: Path, ids: list[str], material: Material, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"dtype = bf16: .*fp32 and int8.*--format torch"):
        export_onnx(run, ids, out)
    assert not out.exists()
    with pytest.raises(InputError, match=r"--opset = 12: too old"):
        export_onnx(run, ids[:1], out, opset=12)
    with pytest.raises(InputError, match=r"--opset = 999: the installed onnx knows up to"):
        export_onnx(run, ids[:1], out, opset=999)
    config, weights, full = material
    odd = replace(
        full,
        dtype="bf16",
        cascade=Cascade(stages=("a", "b"), thresholds=(0.5,)),
        moe=replace(EXPERTS, origin="upcycled"),
    )
    with pytest.raises(InputError) as caught:
        graphs(config, weights, odd, max_len=MAX_LEN, pairs=False)
    assert {p.key for p in caught.value.problems} == {"dtype", "cascade", "moe.origin"}


def test_without_ids_named_points_that_the_format_does_not_hold_are_left_out_and_told(
    run: Path, ids: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    front = read_front(copy)

    def name(*wanted: str) -> None:
        points = (replace(p, named=(0.01,) if p.id in wanted else ()) for p in front.front)
        write_front_json(replace(front, front=tuple(points)), copy)

    name(ids[0], ids[-1])
    assert [p.name for p in export_onnx(copy, (), tmp_path / "out")] == ids[:1]
    assert f"left out, in number formats that these files do not hold: {ids[-1]};" in caplog.text
    name(ids[-1])
    with pytest.raises(InputError, match="dtype = bf16"):
        export_onnx(copy, (), tmp_path / "none")


def test_the_runner_of_an_onnx_folder_needs_no_heavy_module() -> None:
    modules = closure([*RUNTIME, *ONNX_RUNTIME])
    ours = {m for m in modules if m.startswith("dynsearch")}
    export = {f"dynsearch.export.{m}" for m in ("manifest", "onnx_engine", "plain_tokens")}
    assert ours == {"dynsearch.checksums", "dynsearch.risk.certificate", *export}
    assert not any(m.startswith("cost_models") for m in modules)


def test_openvino_answers_an_export_as_onnxruntime_does(exported: Path, ids: list[str]) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    for name in ids[:2]:
        want = load(exported / name).classify(TEXTS, 4)
        found = load(exported / name, runtime="openvino").classify(TEXTS, 4)
        assert [a.exit_layer for a in found] == [a.exit_layer for a in want]
        apart = [abs(a.probability - b.probability) for a, b in zip(found, want, strict=True)]
        assert max(apart) <= 1e-4


def test_a_runtime_that_runs_no_graphs_is_refused(exported: Path, ids: list[str]) -> None:
    with pytest.raises(InputError, match="run on onnxruntime or openvino"):
        load(exported / ids[0], runtime="tensorrt")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_fresh_environment_with_a_runtime_and_numpy_runs_an_export(
    exported: Path, ids: list[str], tmp_path: Path, runtime: str
) -> None:
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    wanted = [f"{runtime}=={version(runtime)}", f"numpy=={np.__version__}"]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, *wanted], check=True)
    done = subprocess.run(
        [str(python), "runner.py", "--json", "--runtime", runtime, *TEXTS[:3]],
        cwd=exported / ids[2],
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    want = load(exported / ids[2], runtime=runtime).classify(TEXTS[:3])
    assert [a["exit_layer"] for a in answers] == [a.exit_layer for a in want]
    assert [a["probability"] for a in answers] == pytest.approx(
        [a.probability for a in want], abs=1e-6
    )


def test_pairs_and_embeddings_of_another_width_give_the_same_logits(
    home: Path, material: Material
) -> None:
    config, weights, full = material
    h = config.hidden_size
    generator = torch.Generator().manual_seed(2)
    narrow = {k: v[..., :16] for k, v in weights.items() if k.startswith("embeddings.")}
    projection = {
        "embeddings.project.weight": torch.randn(h, 16, generator=generator) / 4,
        "embeddings.project.bias": torch.randn(h, generator=generator),
    }
    pairs = list(zip(TEXTS[:20], TEXTS[20:40], strict=True))
    tokens = tokenize(load_tokenizer(home), pairs, MAX_LEN)
    candidate = replace(full, **POLICIES["all"])
    for held in (weights, weights | narrow | projection):
        manifest, files = graphs(config, held, candidate, max_len=MAX_LEN, pairs=True)
        ours, theirs = OnnxEncoder(manifest, files.__getitem__), DynamicEncoder(config, held)
        for rows in tokens.batches(batch=4, sort=True):
            (ids, n), types = tokens.batch(rows), tokens.batch_types(rows)
            assert types is not None
            found = ours.run(ids.numpy(), n, types.numpy())
            want = theirs.run(plan_of(candidate), ids, n, types)
            assert found.exit_layer.tolist() == want.exit_layer.tolist()
            assert np.abs(found.logits - want.logits).max() <= 1e-4


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_a_library_that_is_not_installed_is_named_with_the_line_that_installs_it(
    name: str,
    run: Path,
    ids: list[str],
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    calls = {
        "onnx": lambda: export_onnx(run, ids[:1], tmp_path),
        "onnxruntime": lambda: load(exported / ids[0]),
    }
    with pytest.raises(InputError, match=f"needs {name}; run: pip install"):
        calls[name]()


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"text": "caf\xe9"}', "not UTF-8 text"),
        (b'{"text": "  "}', "no text in this row"),
        (b'{"other": "good"}', "column missing"),
        (b"", "no rows"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(
    exported: Path,
    ids: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    raw: bytes,
    says: str,
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_bytes(raw)
    assert dynsearch(["run", str(exported / ids[0]), "--input", str(data)]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert str(data) in told
