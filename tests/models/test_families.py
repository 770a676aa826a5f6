"""Every family computes what its reference implementation computes, tokens included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer

from cost_models.memory import weight_values
from dynsearch.models.dynamic import DynamicEncoder, full_plan
from dynsearch.models.families import FAMILIES
from dynsearch.models.tokens import load_tokenizer, ragged, tokenize
from dynsearch.models.weights import encoder_config, norm_eps, read_backbone, read_pretrained
from dynsearch.testing import tiny_texts
from search_spaces.candidate import Candidate, stack
from search_spaces.errors import InputError
from search_spaces.lowering.encoder import lower_embedding
from search_spaces.ops import KIND

transformers = pytest.importorskip("transformers")

COMMON = {"vocab_size": 120, "max_position_embeddings": 40}
SIZES = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SIZES),
    "roberta": ("Roberta", {**SIZES, "pad_token_id": 1, "type_vocab_size": 1}),
    "electra": ("Electra", {**SIZES, "embedding_size": 16}),
    "electra of one width": ("Electra", {**SIZES, "embedding_size": 32}),
    "distilbert": ("DistilBert", {"n_layers": 3, "dim": 32, "n_heads": 4, "hidden_dim": 64}),
}


def made(folder: Path, name: str) -> tuple[Path, Any]:
    """A random model of a family, saved as its library saves it."""
    torch.manual_seed(0)
    kind, sizes = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**COMMON, **sizes)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that are not 1 and 0
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder, model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_of_every_layer_are_those_of_the_reference(name: str, tmp_path: Path):
    folder, theirs = made(tmp_path, name)
    backbone = read_backbone(folder)
    config = encoder_config(backbone, num_classes=2, norm_eps=norm_eps(folder))
    ours = DynamicEncoder(config, read_pretrained(folder))
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, 120, size=n).astype(np.int32) for n in (backbone.max_len, 3, 9, 20)]
    ids, n = ragged(texts).batch(np.arange(4))
    mask = (torch.arange(ids.shape[1])[None] < torch.from_numpy(n)[:, None]).long()
    padded = torch.where(mask.bool(), ids, theirs.config.pad_token_id)
    with torch.no_grad():
        states = theirs(padded, attention_mask=mask, output_hidden_states=True).hidden_states[1:]
        pooled = ours.pooled(full_plan(config), ids, n)
    assert len(states) == len(pooled) == 3
    for want, got in zip(states, pooled, strict=True):
        mean = (want * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(got, mean, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_weights_of_a_model_with_a_head_are_the_same(name: str, tmp_path: Path):
    folder, theirs = made(tmp_path / "bare", name)
    bare = read_pretrained(folder)
    kind = f"{MODELS[name][0]}ForSequenceClassification"
    whole = getattr(transformers, kind)(theirs.config)
    whole.base_model.load_state_dict(theirs.state_dict(), strict=False)
    whole.save_pretrained(tmp_path / "whole")
    found = read_pretrained(tmp_path / "whole")
    assert found.keys() == bare.keys()
    assert all(torch.equal(found[k], bare[k]) for k in bare)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_weight_values_are_counted_as_they_are(name: str, tmp_path: Path):
    folder, _ = made(tmp_path, name)
    backbone = read_backbone(folder)
    weights = read_pretrained(folder)
    counted = weight_values(stack([Candidate(backbone=backbone, depth=3)]), num_classes=2)[0]
    head = 32 * 32 + 32 + 32 * 2 + 2
    assert counted == sum(v.numel() for v in weights.values()) + head


@pytest.mark.filterwarnings("ignore")
def test_a_projection_of_the_embeddings_is_priced_as_a_matmul(tmp_path: Path):
    folder, _ = made(tmp_path, "electra")
    ops = lower_embedding(read_backbone(folder), batch=2, n=5, dtype=0)
    matmul = ops.take(ops.kind == KIND["matmul"])
    assert matmul.flops.tolist() == [2.0 * 10 * 16 * 32]
    same, _ = made(tmp_path / "same", "electra of one width")
    ops = lower_embedding(read_backbone(same), batch=2, n=5, dtype=0)
    assert not (ops.kind == KIND["matmul"]).any()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["distilbert", "roberta"])
def test_a_family_without_token_types_reads_pairs_all_the_same(name: str, tmp_path: Path):
    folder, _ = made(tmp_path, name)
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=norm_eps(folder))
    ours = DynamicEncoder(config, read_pretrained(folder))
    ids, n = ragged([np.arange(5, 15, dtype=np.int32)]).batch(np.arange(1))
    types = torch.tensor([[0] * 5 + [1] * 5])
    with torch.no_grad():
        plain = ours.pooled(full_plan(config), ids, n)[-1]
        typed = ours.pooled(full_plan(config), ids, n, types)[-1]
    torch.testing.assert_close(plain, typed)


def test_another_family_is_refused_with_the_known_ones(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}), encoding="utf-8")
    with pytest.raises(InputError, match=f"supported: {', '.join(FAMILIES)}"):
        read_backbone(tmp_path)


def test_another_activation_is_refused_under_the_family_s_own_key(tmp_path: Path):
    config = {"model_type": "distilbert", "activation": "relu"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError) as told:
        read_backbone(tmp_path)
    assert told.value.problems[0].key == "activation"


@pytest.mark.filterwarnings("ignore")
def test_a_missing_tensor_is_named(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder, _ = made(tmp_path, "distilbert")
    raw = load_file(str(folder / "model.safetensors"))
    gone = "transformer.layer.1.ffn.lin2.weight"
    del raw[gone]
    save_file(raw, str(folder / "model.safetensors"))
    with pytest.raises(InputError) as told:
        read_pretrained(folder)
    assert told.value.problems[0].key == gone


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roberta")
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator([t for t, _ in tiny_texts(300)], 400, special_tokens=special)
    trained.save_model(str(folder))
    return folder


AWKWARD = [
    "",
    " leading space",
    "two  spaces",
    "naïve café",
    "emoji 😀 here",
    "中文字符",
    "tab\tand\nline",
    "<s> in the text </s>",
    "Upper lower",
    "don't can't",
]


def same_tokens(folder: Path, reference: Any, texts: list[str]) -> None:
    ours = tokenize(load_tokenizer(folder), texts, 24)
    theirs = reference(texts, truncation=True, max_length=24)["input_ids"]
    for i, want in enumerate(theirs):
        start = ours.starts[i]
        assert ours.ids[start : start + ours.lengths[i]].tolist() == want, texts[i]


@pytest.mark.filterwarnings("ignore")
def test_byte_level_tokens_are_those_of_the_reference(byte_level: Path):
    reference = transformers.RobertaTokenizerFast(
        vocab=str(byte_level / "vocab.json"), merges=str(byte_level / "merges.txt")
    )
    same_tokens(byte_level, reference, AWKWARD)

    @settings(max_examples=60)
    @given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
    def hold(texts: list[str]) -> None:
        same_tokens(byte_level, reference, texts)

    hold()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lower", [True, False])
def test_a_bare_vocabulary_keeps_case_where_its_model_does(lower: bool, tmp_path: Path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Fine", "fine", "film", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    found = tokenize(load_tokenizer(tmp_path), ["Fine films"], 8)
    assert found.ids.tolist() == [2, 6 if lower else 5, 7, 8, 3]
