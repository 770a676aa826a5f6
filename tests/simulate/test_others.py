from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynsearch.errors import InputError
from dynsearch.simulate.classify import classify
from dynsearch.simulate.queue import with_arrivals
from dynsearch.simulate.reader import read
from dynsearch.simulate.run import run
from search_spaces.candidate import Candidate, Cascade, Skim

from .cases import READER, SMALL, encoder, setting

WHOLE = Candidate(backbone=READER, depth=1)


def jump(**changes: object) -> Candidate:
    fields = {"jump_max": 5, "read_tokens": 4, "max_jumps": 6, "score": "learned"}
    skim = Skim(layers=(1,), mechanism="jump", **{**fields, **changes})  # type: ignore[arg-type]
    return WHOLE.with_policy(skim=(skim,))


def gate(**changes: object) -> Candidate:
    fields = {"keep_rate": (0.4,), "score": "learned", "skipped": "copy_state"}
    skim = Skim(layers=(1,), mechanism="gate", **{**fields, **changes})  # type: ignore[arg-type]
    return WHOLE.with_policy(skim=(skim,))


@pytest.mark.parametrize(
    "candidate",
    [
        jump(),
        jump(jump_min=-2),
        jump(structural=True, jump_max=None),
        gate(),
        gate(branch_widths=(16, 128)),
    ],
)
def test_readers_take_the_expected_time(candidate: Candidate) -> None:
    found = read(setting(candidate))
    error = 4.5 * found.latencies.std() / np.sqrt(found.latencies.size)
    assert abs(found.latencies.mean() - found.mean_s) < error
    assert found.latencies.max() <= found.worst_s * (1 + 1e-9)
    assert found.flops_ideal < read(setting(WHOLE)).flops_ideal * 1.05


def test_a_reader_without_skims_reads_every_word_with_all_gates_of_its_cell() -> None:
    found = read(setting(WHOLE, lengths=(48,)))
    matrices = 2 * 4 * 128 * (128 + 128) * 48 + 2 * 128 * 2
    values = 8 * 4 * 128 * 48
    assert found.flops_ideal == pytest.approx(matrices + values)


def cascaded(*thresholds: float, **changes: object) -> Candidate:
    stages = ("distilbert", "bert-base")[-len(thresholds) - 1 :]
    plan = Cascade(stages=stages, thresholds=thresholds)
    return Candidate(backbone=SMALL, depth=6, cascade=plan, **changes)  # type: ignore[arg-type]


def test_an_ensemble_costs_what_its_models_cost_together() -> None:
    both = run(setting(cascaded(np.inf), lengths=(32,)))
    parts = [
        run(setting(Candidate(backbone=b, depth=b.num_layers), lengths=(32,)))
        for b in (_backbone("distilbert"), _backbone("bert-base"))
    ]
    for name in ("mean_s", "flops_ideal", "flops_executed", "energy_j"):
        total = sum(getattr(part, name) for part in parts)
        assert getattr(both, name) == pytest.approx(total, rel=1e-6)
    assert both.exits[1] == 1.0


def test_a_cascade_costs_the_first_model_and_the_second_as_often_as_it_is_asked() -> None:
    found = run(setting(cascaded(0.8), lengths=(32,)))
    first, second = (
        run(setting(Candidate(backbone=b, depth=b.num_layers), lengths=(32,))).mean_s
        for b in (_backbone("distilbert"), _backbone("bert-base"))
    )
    assert found.mean_s == pytest.approx(first + found.exits[1] * second, rel=1e-6)
    assert found.latencies.mean() == pytest.approx(found.mean_s, rel=0.03)


def test_cascades_do_not_contain_cascades_and_name_unknown_stages() -> None:
    plan = Cascade(stages=("bert-bas", "bert-base"), thresholds=(0.8,))
    with pytest.raises(InputError, match="bert-bas"):
        run(setting(Candidate(backbone=SMALL, depth=6, cascade=plan)))


def test_waiting_by_the_closed_form_is_that_of_the_simulated_queue() -> None:
    asked = setting(encoder(), lengths=(32,))
    alone = classify(asked)
    busy = with_arrivals(alone, asked, 0.5 / alone.mean_s)
    assert busy.mean_s > alone.mean_s
    assert busy.latencies.mean() == pytest.approx(busy.mean_s, rel=0.06)
    with pytest.raises(InputError, match="what can be served"):
        with_arrivals(alone, asked, 2.0 / alone.mean_s)
    many = replace(asked, candidate=encoder(exit_batching="compact"))
    with pytest.raises(InputError, match="--batch 1"):
        with_arrivals(alone, replace(many, workload=replace(many.workload, batch=4)), 1.0)


def _backbone(name: str):  # type: ignore[no-untyped-def]
    from search_spaces.backbones import load_backbone

    return load_backbone(name)
