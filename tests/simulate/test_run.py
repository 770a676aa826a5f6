from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynsearch import cli
from dynsearch.commands.cost import cost
from dynsearch.errors import InputError
from dynsearch.quality.trace import Trace, save_trace
from dynsearch.simulate.run import simulate
from search_spaces.candidate import Candidate, Exits, Skim, stack, tokens_per_layer
from search_spaces.codec import candidate_to_dict, to_toml
from search_spaces.methods.files import list_methods
from search_spaces.tokens import SCORER_WIDTH
from search_spaces.workload import Workload

from .cases import BOARD, PHONE, SERVER, SMALL, encoder, entry, experts, skims

COSTS = {
    *("mean", "p50", "p95", "p99", "worst"),
    *("energy_j", "peak_bytes", "flops_ideal", "flops_executed"),
}


def written(folder: Path, candidate: Candidate, name: str = "candidate.toml") -> Path:
    path = folder / name
    path.write_text(to_toml(candidate))
    return path


def a_trace(candidate: Candidate, rows: int = 120, seed: int = 0, **header: Any) -> Trace:
    rng = np.random.default_rng(seed)
    layers = candidate.backbone.num_layers
    lengths = rng.integers(8, 40, rows)
    one = stack([candidate])
    into_layer, into_ffn = tokens_per_layer(lengths, one.keep_rate[0], one.keep_before[0])
    loads = np.zeros((rows, layers, 4), dtype=np.int32)
    if candidate.moe is not None:
        for layer in candidate.moe.layers:
            loads[:, layer - 1, 0] = into_ffn[:, layer - 1]
    return Trace(
        logits=rng.normal(size=(rows, layers, 2)).astype(np.float32) * 2,
        labels=rng.integers(0, 2, rows),
        lengths=lengths,
        tokens_layer=into_layer.astype(np.int32),
        tokens_ffn=into_ffn.astype(np.int32),
        expert_tokens=loads,
        header={"dtype": "fp32", "outer": candidate_to_dict(candidate), **header},
    )


def test_the_object_has_every_cost_with_its_interval_and_origin(tmp_path: Path) -> None:
    found = simulate(str(written(tmp_path, encoder())), device=BOARD, samples=500)
    assert set(found) >= COSTS | {"exits", "tokens", "experts", "parameters", "warnings"}
    for name in COSTS:
        entry = found[name]
        assert set(entry) == {"value", "low", "high", "origin"}
        assert entry["value"] is None or entry["low"] <= entry["value"] <= entry["high"]
    assert found["parameters"]["accuracy"]["origin"].startswith("as 12 exits on SNLI")
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("mode", ["serial", "wait_all", "compact"])
@pytest.mark.parametrize(
    ("device", "before"), [(BOARD, ()), (SERVER, ()), (BOARD, entry(0.7)), (SERVER, entry(0.95))]
)
def test_a_replay_costs_what_cost_predicts(
    tmp_path: Path, mode: str, device: str, before: tuple[Skim, ...]
) -> None:
    skim = (*before, *skims(2, 0.8))
    candidate = encoder(skim=skim, moe=experts(), exit_batching=mode)
    batch = 1 if mode == "serial" else 4
    path, trace = written(tmp_path, candidate), tmp_path / "trace.npz"
    save_trace(trace, a_trace(candidate))
    load = Workload(batch=batch, max_len=40)
    want = cost(path, device=device, activity=trace, workload=load)
    found = simulate(str(path), device=device, batch=batch, trace=trace)
    assert found["activity"] == "trace"
    assert found["exact"]
    for name in ("mean", "p95"):
        assert found[name]["value"] == pytest.approx(want[name]["value"], rel=0.02)
    assert found["worst"]["value"] == pytest.approx(want["worst"]["value"], rel=0.05)
    assert found["flops_ideal"]["value"] == pytest.approx(want["flops_ideal"]["value"], rel=0.01)
    assert found["peak_bytes"]["value"] == pytest.approx(want["peak_bytes"]["value"], rel=0.02)


@pytest.mark.parametrize("rate", [0.6, 1.0])
def test_tokens_dropped_before_the_first_layer_enter_none_and_are_scored(
    tmp_path: Path, rate: float
) -> None:
    """The scorer reads all embeddings; what stays costs as much as shorter texts do."""
    plain = encoder(exits=None)
    skimmed = encoder(exits=None, skim=entry(rate))
    found, short = (
        simulate(str(written(tmp_path, c)), device=BOARD, lengths=(n,), samples=100)
        for c, n in ((skimmed, 50), (plain, round(50 * rate)))
    )
    assert [row["mean"] for row in found["tokens"]] == [50 * rate] * 6
    h, width = SMALL.hidden_size, SCORER_WIDTH
    scorer = 2.0 * 50 * (h * width + width)
    extra = found["flops_ideal"]["value"] - short["flops_ideal"]["value"]
    if rate == 1.0:
        assert extra == 0.0  # who leaves nobody out asks nobody
    else:
        embedding = 10.0 * (50 - 50 * rate) * h  # sums and a norm of vectors that are dropped
        assert scorer < extra < 1.2 * scorer + embedding
    assert found["activity"] == "counted"


def test_a_trace_of_another_setting_is_an_estimate_that_says_why(tmp_path: Path) -> None:
    plain, skimmed = encoder(), encoder(skim=skims(4, 0.8))
    trace, real = tmp_path / "plain.npz", tmp_path / "real.npz"
    save_trace(trace, a_trace(plain))
    save_trace(real, a_trace(skimmed))
    path = str(written(tmp_path, skimmed))
    found = simulate(path, device=SERVER, trace=trace, against=real)
    assert not found["exact"]
    assert "dropped" in found["inexact_because"][0]
    measured = found["fidelity"]
    assert measured["same_exit"] == measured["same_answer"] == 1.0  # the same logits in both
    assert measured["tokens"] == pytest.approx(1.0)
    itself = simulate(path, device=SERVER, trace=real)
    assert itself["exact"]
    assert itself["mean"]["value"] == pytest.approx(found["mean"]["value"])


def test_traces_of_other_models_are_refused_by_name(tmp_path: Path) -> None:
    candidate, trace = encoder(), tmp_path / "trace.npz"
    path = str(written(tmp_path, candidate))
    save_trace(trace, a_trace(candidate, weights_hash="aa"))
    with pytest.raises(InputError, match=r"weights_hash = aa: comes from another model than bb"):
        simulate(path, device=SERVER, trace=trace, weights_hash="bb")
    outer = candidate_to_dict(candidate)
    outer["backbone"]["hidden_size"] = 768
    save_trace(trace, a_trace(candidate, outer=outer))
    with pytest.raises(InputError, match=r"outer\.backbone\.hidden_size = 768"):
        simulate(path, device=SERVER, trace=trace)
    save_trace(trace, a_trace(candidate, dtype="bf16"))
    with pytest.raises(InputError, match="dtype = bf16"):
        simulate(path, device=SERVER, trace=trace)
    save_trace(trace, a_trace(candidate, depth=3))
    with pytest.raises(InputError, match="depth = 3"):
        simulate(path, device=SERVER, trace=trace)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 9}, r"depth = 9: .*nearest legal value: 6"),
        ({"exits": Exits(layers=(2,), thresholds=(0.5,))}, r"thresholds\[0\] = 0.5"),
        ({"moe": experts(4, 5)}, r"top_k\[0\] = 5: .*nearest legal value: 4"),
        ({"skim": skims(2, 1.2)}, r"keep_rate"),
    ],
)
def test_meaningless_candidates_are_refused_with_the_nearest_legal_value(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        simulate(str(written(tmp_path, encoder(**changes))), device=SERVER)


def test_unknown_names_bring_the_nearest_ones(tmp_path: Path) -> None:
    path = str(written(tmp_path, encoder()))
    with pytest.raises(InputError, match="nvidia-h100-80g-sxm"):
        simulate(path, device="nvidia-h100-80g-sxn")
    with pytest.raises(InputError, match="no method of this name"):
        simulate("deebertt", device=SERVER)
    with pytest.raises(InputError, match="sharpness"):
        simulate(path, device=SERVER, assume=("sharpnes=0.5",))
    with pytest.raises(InputError, match="below 1"):
        simulate(path, device=SERVER, assume=("accuracy=0.5,1.5",))
    with pytest.raises(InputError, match=r"serial.*nearest legal value: compact"):
        simulate(path, device=SERVER, batch=4)


def test_a_method_for_one_input_at_a_time_is_compacted_in_a_batch_and_says_so() -> None:
    def seen(**asked: Any) -> dict[str, Any]:
        return simulate("deebert", device=SERVER, samples=200, **asked)

    batch = seen(batch=4)
    assert batch["workload"]["exit_batching"] == "compact"
    assert batch["notes"][0].startswith("published for one input at a time: 4 are compacted")
    assert batch["mean"] == seen(batch=4, exit_batching="compact")["mean"]
    assert seen(batch=4, exit_batching="wait_all")["workload"]["exit_batching"] == "wait_all"
    assert seen()["workload"]["exit_batching"] == "serial"
    assert not any("published" in note for note in seen()["notes"])


def test_the_command_prints_tables_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, encoder(moe=experts(), exit_batching="compact"))
    picture = tmp_path / "cost.svg"
    words = ["simulate", str(path), "--device", SERVER, "--batch", "4", "--samples", "500"]
    assert cli.run([*words, "--picture", str(picture), "-q"]) == 0
    shown = capsys.readouterr().out
    assert "mean exit layer" in shown
    assert "most loaded / mean" in shown
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert cli.run([*words, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= COSTS | {"schema_version", "status"}
    assert cli.run([*words, "--picture", "cost.png"]) == 2
    assert "cost.svg" in capsys.readouterr().err


DEVICES = (PHONE, SERVER)


def answers_sensibly(name: str, device: str) -> None:
    batch = 1 if device == PHONE else 3
    found = simulate(
        name,
        device=device,
        batch=batch,
        samples=200,
        new_tokens=3,
        lengths=(24,),
    )
    values = {key: found[key]["value"] for key in COSTS}
    assert 1e-6 < values["mean"] < 1000
    # the worst case has no exit, and so no copies of those that stay
    assert values["p50"] <= values["p95"] <= values["p99"] <= values["worst"] * 1.02
    assert values["mean"] <= values["worst"] * 1.001
    assert values["flops_ideal"] <= values["flops_executed"] * 1.001
    assert values["peak_bytes"] > 1e5
    assert sum(row["share"] for row in found["exits"]) == pytest.approx(1.0)
    for row in found["experts"]:
        assert sum(row["load"]) == pytest.approx(1.0)
        assert 0.0 <= row["dropped"] < 1.0
    json.dumps(found, allow_nan=False)


# Half of them on one device, half on the other; the rest by make test-all.
@pytest.mark.parametrize(
    ("name", "device"), [(n, DEVICES[i % 2]) for i, n in enumerate(list_methods())]
)
def test_a_method_answers_sensibly_on_a_phone_or_on_a_server(name: str, device: str) -> None:
    answers_sensibly(name, device)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "device"), [(n, DEVICES[1 - i % 2]) for i, n in enumerate(list_methods())]
)
def test_a_method_answers_sensibly_on_the_other_one_too(name: str, device: str) -> None:
    answers_sensibly(name, device)
