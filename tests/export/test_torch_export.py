"""An exported folder runs away from the checkout and answers exactly as the search's own model."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import run_folder
import torch
from away import away_from_checkout
from safetensors.torch import load_file

from dynsearch import load
from dynsearch.cli import run as dynsearch
from dynsearch.export.folder import RUNTIME
from dynsearch.export.front import mark_named, write_front_json
from dynsearch.export.records import family_of
from dynsearch.export.torch_export import PACKAGES, export_torch
from dynsearch.export.torch_export import RUNTIME as TORCH_RUNTIME
from dynsearch.export.vendor import closure
from dynsearch.models.dynamic import DynamicEncoder, plan_of
from dynsearch.models.experts import split_experts
from dynsearch.models.int8 import quantised
from dynsearch.models.tokens import load_tokenizer, tokenize
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality.supernet import load_supernet, save_supernet
from dynsearch.quality.training import add_heads
from dynsearch.testing import tiny_model, tiny_texts
from search_spaces.candidate import Candidate, Exits, Experts, Skim
from search_spaces.codec import candidate_hash, candidate_to_dict
from search_spaces.errors import InputError

TEXTS = [t for t, _ in tiny_texts(40)]
MAX_LEN = 16
LABELS = ("negative", "positive")


def candidates(backbone) -> list[Candidate]:
    base = Candidate(backbone=backbone, depth=4)
    exits = Exits(layers=(1, 2), thresholds=(0.503, 0.505))
    experts = Experts(layers=(2, 3), num_experts=(4, 4), top_k=(1, 2))
    skim = (Skim(layers=(1, 2), keep_rate=(0.75, 0.5)),)
    return [
        base,
        replace(base, depth=2),
        replace(base, exits=exits),
        replace(base, depth=3, exits=exits, moe=experts, skim=skim),
        replace(base, moe=replace(experts, granularity="token"), dtype="bf16"),
        replace(base, depth=3, exits=exits, moe=experts, skim=skim, dtype="int8"),
        replace(base, moe=replace(experts, granularity="token"), dtype="int8"),
        replace(base, exits=Exits(layers=(1, 2, 3), criterion="patience", patience=1)),
        replace(base, exits=exits, skim=skim, exit_batching="compact"),
    ]


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_model(tmp_path_factory.mktemp("tiny"))
    tokenizer = load_tokenizer(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    weights = add_heads(config, read_pretrained(folder), 0)
    config, weights = split_experts(config, weights, tokenize(tokenizer, TEXTS, MAX_LEN), (4,), 0)
    out = tmp_path_factory.mktemp("run") / "supernet"
    info = {"labels": LABELS, "max_len": MAX_LEN}
    save_supernet(out, config, weights, info=info, tokenizer=folder / "tokenizer.json")
    return out


@pytest.fixture(scope="module")
def run(supernet: Path) -> Path:
    folder = supernet.parent
    template = run_folder.make_front(dtypes=("fp32",), draws=1)
    points = [
        replace(
            template.front[0],
            id=candidate_hash(c)[:8],
            family=family_of(c),
            candidate=candidate_to_dict(c),
            reach=None,
        )
        for c in candidates(_backbone(supernet))
    ]
    workload = template.workload | {"max_len": MAX_LEN}
    named = mark_named(points, run_folder.FULL_ERROR)
    write_front_json(replace(template, front=named, workload=workload), folder)
    return folder


def _backbone(supernet: Path):
    from search_spaces.candidate import Backbone

    config, _, _ = load_supernet(supernet)
    return Backbone(
        name="tiny",
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        ffn_size=config.ffn_size,
        vocab_size=config.vocab_size,
        max_len=config.max_len,
    )


@pytest.fixture(scope="module")
def exported(run: Path, supernet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    ids = [candidate_hash(c)[:8] for c in candidates(_backbone(supernet))]
    folders = export_torch(run, ids, out)
    assert [f.name for f in folders] == ids
    return out


FRESH = """
import json, sys
from pathlib import Path

def ours():
    return [n for n in sys.modules if n.split(".")[0] in ("dynsearch", "search_spaces", "runner")]

texts, answers, path = json.loads(sys.stdin.read()), {}, list(sys.path)
for folder in sorted(p.resolve() for p in Path(".").iterdir()):
    for name in ours():
        del sys.modules[name]
    sys.path[:] = [str(folder), *path]
    import runner
    model = runner.load()
    assert all(str(folder) in sys.modules[n].__file__ for n in ours()), ours()
    answers[folder.name] = [
        [(a.label, a.exit_layer, a.probability) for a in model.classify(texts, batch)]
        for batch in (1, 8)
    ]
print(json.dumps(answers))
"""


def test_a_fresh_process_gives_the_same_answers_and_exit_layers(exported: Path, supernet: Path):
    found = json.loads(away_from_checkout(exported, "-c", FRESH, given=json.dumps(TEXTS)))
    config, weights, _ = load_supernet(supernet)
    tokens = tokenize(load_tokenizer(supernet), TEXTS, MAX_LEN)
    exits = set()
    for c in candidates(_backbone(supernet)):
        model = DynamicEncoder(config, weights).to(c.dtype)
        for size, answers in zip((1, 8), found[candidate_hash(c)[:8]], strict=True):
            for rows in tokens.batches(batch=size, sort=size > 1):
                expected = model.run(plan_of(c), *tokens.batch(rows))
                shares = torch.softmax(torch.from_numpy(expected.logits).double(), -1).numpy()
                for i, row in enumerate(rows):
                    label, layer, share = answers[row]
                    exits.add(layer)
                    assert label == LABELS[expected.prediction[i]]
                    assert layer == expected.exit_layer[i]
                    assert np.isclose(share, shares[i].max(), rtol=1e-12)
    assert exits == {1, 2, 3, 4}


def test_the_command_line_of_an_export_answers(exported: Path):
    folder = sorted(exported.iterdir())[0]
    out = away_from_checkout(folder, "runner.py", "--json", "good great film")
    answer = json.loads(out)
    assert answer["label"] in LABELS
    assert answer["text"] == "good great film"


FAULTS = """
import resource
import sys

import numpy as np

if sys.argv[1] == "loaded":
    import runner

    runner.load()


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(64 << 20, 1, dtype=np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt belongs to glibc")
def test_a_process_that_serves_a_model_keeps_memory_that_it_frees(exported: Path):
    folder = sorted(exported.iterdir())[0]
    faults = {
        state: int(away_from_checkout(folder, "-c", FAULTS, state)) for state in ("new", "loaded")
    }
    assert faults["new"] > 10 * faults["loaded"]


def test_a_folder_is_laid_out_so_that_hugging_face_reads_its_tokenizer(exported: Path):
    from transformers import AutoTokenizer

    folder = sorted(exported.iterdir())[0]
    theirs = AutoTokenizer.from_pretrained(str(folder))
    found = theirs(TEXTS, truncation=True)["input_ids"]
    tokens = tokenize(load_tokenizer(folder), TEXTS, MAX_LEN)
    assert [i for ids in found for i in ids] == tokens.ids.tolist()
    assert (theirs.model_max_length, theirs.pad_token) == (MAX_LEN, "[PAD]")
    config = json.loads((folder / "config.json").read_text())
    assert [config["id2label"][str(k)] for k in range(2)] == list(LABELS)
    card = (folder / "README.md").read_text().splitlines()
    assert card[0] == "---"
    assert "pipeline_tag: text-classification" in card


def test_only_what_no_input_can_reach_is_cut(exported: Path, supernet: Path):
    _, weights, _ = load_supernet(supernet)
    for c in candidates(_backbone(supernet)):
        kept = load_file(str(exported / candidate_hash(c)[:8] / "model.safetensors"))
        layers = {int(n.split(".")[1]) for n in kept if n.startswith("layers.")}
        heads = {int(n.split(".")[1]) for n in kept if n.startswith("heads.")}
        routers = {int(n.split(".")[1]) for n in kept if ".router" in n}
        assert layers == set(range(c.depth))
        assert heads == {x - 1 for x in (c.exits.layers if c.exits else ())} | {c.depth - 1}
        assert routers == {x - 1 for x in (c.moe.layers if c.moe else ())}
        whole = quantised(weights) if c.dtype == "int8" else weights
        for name, tensor in kept.items():
            assert torch.equal(tensor, whole[name].to(tensor.dtype))


def test_altered_weights_are_refused_on_load(exported: Path, tmp_path: Path):
    from dynsearch.export import runner

    folder = tmp_path / "copy"
    shutil.copytree(sorted(exported.iterdir())[0], folder)
    shutil.rmtree(folder / "lib")
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(InputError, match="not the file"):
        runner.load(folder)


def test_unknown_ids_are_refused_all_at_once_and_nothing_is_written(run: Path, tmp_path: Path):
    with pytest.raises(InputError) as caught:
        export_torch(run, ["nope", "../x"], tmp_path / "out")
    assert [p.value for p in caught.value.problems] == ["nope", "../x"]
    assert not (tmp_path / "out").exists()


def test_the_runner_needs_none_of_the_searching_parts():
    modules = closure([*RUNTIME, *TORCH_RUNTIME])
    ours = {m for m in modules if m.startswith("dynsearch")}
    models = {f"dynsearch.models.{m}" for m in ("dynamic", "int8", "packed")}
    light = {"checksums", "heap", "export.manifest", "risk.certificate"}
    assert ours == models | {f"dynsearch.{m}" for m in light}
    assert not any(m.startswith("cost_models") for m in modules)


def test_the_command_line_answers_as_the_loaded_model_does(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = sorted(exported.iterdir())[0]
    texts = [*TEXTS[:6], "good " * 40]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"text": t}) for t in texts), encoding="utf-8")
    assert dynsearch(["run", str(folder), "--input", str(data), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    want = load(folder).classify(texts)
    assert told["answers"] == [asdict(answer) for answer in want]
    assert want[-1].tokens == MAX_LEN
    (warning,) = told["warnings"]
    assert f"fill the longest input of {MAX_LEN} tokens; the rest is not read" in warning


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"text": "caf\xe9"}', "not UTF-8 text"),
        (b'{"text": " "}', "no text in this row"),
        (b"", "no rows"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: bytes, says: str
):
    folder = sorted(exported.iterdir())[0]
    data = tmp_path / "data.jsonl"
    data.write_bytes(raw)
    assert dynsearch(["run", str(folder), "--input", str(data)]) == 2
    assert says in capsys.readouterr().err


def test_an_empty_text_is_answered_from_its_special_tokens(exported: Path):
    folder = sorted(exported.iterdir())[0]
    (answer,) = load(folder).classify([""])
    assert (answer.tokens, answer.label in LABELS) == (2, True)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_files_of_another_export_are_told(exported: Path, tmp_path: Path, name: str):
    one, two = sorted(exported.iterdir())[:2]
    folder = tmp_path / "copy"
    shutil.copytree(one, folder)
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["normalizer"]["lowercase"] = False
    other = {
        "model.safetensors": (two / "model.safetensors").read_bytes(),
        "tokenizer.json": json.dumps(spec).encode(),
    }
    (folder / name).write_bytes(other[name])
    with pytest.raises(InputError, match=r"not the file that config\.json describes") as caught:
        load(folder)
    assert [Path(p.file).name for p in caught.value.problems] == [name]


@pytest.mark.slow
def test_a_fresh_environment_with_the_named_packages_runs_an_export(
    exported: Path, supernet: Path, tmp_path: Path
):
    """The packages that the model card names, in the versions that are installed here."""
    c = candidates(_backbone(supernet))[3]
    folder = exported / candidate_hash(c)[:8]
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    torch_first = [f"torch=={version('torch').partition('+')[0]}"]
    rest = [f"{name}=={version(name)}" for name in PACKAGES if name != "torch"]
    for wanted in (torch_first, rest):
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]
        subprocess.run([*pip, *wanted], check=True)
    done = subprocess.run(
        [str(python), "runner.py", "--json", *TEXTS[:3]],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    want = [asdict(answer) for answer in load(folder).classify(TEXTS[:3])]
    for found, expected in zip(answers, want, strict=True):
        assert found["exit_layer"] == expected["exit_layer"]
        assert np.isclose(found["probability"], expected["probability"], atol=1e-6)


PAIR_RUN = """
import json, sys
sys.path.insert(0, ".")
import runner
model = runner.load()
pairs = json.loads(sys.stdin.read())
answers = [[(a.label, a.exit_layer, a.probability) for a in model.classify(pairs, batch)]
           for batch in (1, 8)]
try:
    model.classify(["one text"])
except ValueError as error:
    answers.append(str(error))
print(json.dumps(answers))
"""


def test_an_export_of_pairs_reads_pairs(run: Path, supernet: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    head = tmp_path / "run" / "supernet" / "config.json"
    config = json.loads(head.read_text())
    head.write_text(json.dumps(config | {"text_columns": ["premise", "hypothesis"]}))
    c = candidates(_backbone(supernet))[2]
    (folder,) = export_torch(tmp_path / "run", [candidate_hash(c)[:8]], tmp_path / "out")
    assert '"first text" "second text"' in (folder / "README.md").read_text()
    pairs = list(zip(TEXTS[:20], TEXTS[20:], strict=True))
    *found, error = json.loads(away_from_checkout(folder, "-c", PAIR_RUN, given=json.dumps(pairs)))
    assert "reads pairs of texts, not 'one text'" in error
    geometry, weights, _ = load_supernet(supernet)
    tokens = tokenize(load_tokenizer(supernet), pairs, MAX_LEN)
    model = DynamicEncoder(geometry, weights)
    for size, answers in zip((1, 8), found, strict=True):
        for rows in tokens.batches(batch=size, sort=size > 1):
            want = model.run(plan_of(c), *tokens.batch(rows), tokens.batch_types(rows))
            shares = torch.softmax(torch.from_numpy(want.logits).double(), -1).numpy()
            for i, row in enumerate(rows):
                label, layer, share = answers[row]
                assert (label, layer) == (LABELS[want.prediction[i]], want.exit_layer[i])
                assert np.isclose(share, shares[i].max(), rtol=1e-12)
    (folder / "pairs.txt").write_text("good film\tbad plot\n", encoding="utf-8")
    out = away_from_checkout(
        folder, "runner.py", "--json", "--file", "pairs.txt", "good film", "bad plot"
    )
    first, second = map(json.loads, out.splitlines())
    assert first == second
    assert first["text"] == ["good film", "bad plot"]
