"""Errors on measured rows that no fit had seen, beside what was promised of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from cost_models.adapters import edge_aihub, tpu_gemm, tpu_trace
from cost_models.calibrate.beliefs import Prior
from cost_models.calibrate.posterior import (
    default_prior,
    fit_rows,
    left_out,
    predict_rows,
    sibling_prior,
)
from cost_models.calibrate.sibling import Sibling, sibling_of, transfer
from cost_models.device import load_device
from cost_models.measured import Measured
from search_spaces.candidate import DTYPES

from .shared_data import DATA, needs_data

GEMM, TRACE = "tpu/tpu-gemm-v6e-v7/tpu_gemm.csv", "tpu/tpu-gemm-v6e-v7/tpu_v7_trace.csv"
AIHUB = "edge/qualcomm-aihub/aihub_transformers.csv"


def mape(predicted: np.ndarray, measured: np.ndarray) -> float:
    return float(np.mean(np.abs(predicted / measured - 1)))


def blind(prior: Prior) -> Prior:
    """Wide beliefs: the form's own defaults were chosen on these very rows."""
    known = {"dispatch": 3e-5, "block": 512.0, "fp32_passes": 1.5}
    shares = dict.fromkeys(("efficiency", "efficiency_int8", "bandwidth_share"), 0.6)
    value = dict(prior.value) | {n: v for n, v in (known | shares).items() if n in prior.value}
    wide = {n: 1.5 if n in ("dispatch", "block") else 0.5 for n in known | shares}
    return Prior(value=value, log_sd=dict(prior.log_sd) | {n: wide[n] for n in wide if n in value})


@needs_data
def test_tpu_matmuls_of_shapes_left_out_are_met_within_6_percent() -> None:
    (table,) = tpu_gemm.read(DATA / GEMM, DATA)
    device = load_device(table.device)
    found = left_out([table], device, prior=blind(default_prior(device)))
    error = np.abs(np.exp(-found.log_error) - 1)
    for dtype in ("bf16", "fp32", "int8"):
        assert error[table.ops.dtype == DTYPES.index(dtype)].mean() < 0.06


@needs_data
def test_device_times_of_the_next_generation_are_met_within_8_percent_from_half_of_them() -> None:
    (host,) = tpu_gemm.read(DATA / GEMM, DATA)
    (trace,) = tpu_trace.read(DATA / TRACE, DATA)
    device = load_device(trace.device)
    earlier = fit_rows([host], load_device(host.device))
    prior = sibling_prior(default_prior(device), [earlier])
    errors = []
    for used in list(combinations(range(len(trace)), 4))[::7]:
        other = np.setdiff1d(np.arange(len(trace)), used)
        fitted = fit_rows([trace.take(np.array(used))], device, prior=prior)
        left = trace.take(other)
        errors.append(mape(predict_rows([left], fitted.on(device)), left.seconds))
    assert max(errors) < 0.08


def boards(runtime: str) -> dict[str, Measured]:
    return {t.device: t for t in edge_aihub.read(DATA / AIHUB, DATA) if t.runtime == runtime}


@needs_data
def test_geometries_left_out_are_met_within_25_percent_by_the_middle_neural_processor() -> None:
    found = [
        left_out([table], load_device(name), folds=99).mape
        for name, table in boards("qnn_dlc").items()
    ]
    assert len(found) == 8
    assert np.median(found) < 0.25
    assert max(found) < 0.35


def error_beside_relatives(relatives: list[Sibling], new: Measured) -> float:
    """Error on geometries that none of the five points has, mean over five draws."""
    rng, errors = np.random.default_rng(0), []
    for _ in range(5):
        used = rng.permutation(len(new))[:5]
        other = new.take(~np.isin(new.group, new.group[used]))
        errors.append(mape(transfer(new.take(used), relatives).predict(other), other.seconds))
    return float(np.mean(errors))


@needs_data
def test_five_points_beside_relatives_are_met_within_9_percent_by_the_middle_board() -> None:
    tables = boards("qnn_dlc")
    kin = {n: sibling_of([t], load_device(n)) for n, t in tables.items()}
    errors = {
        name: error_beside_relatives([k for n, k in kin.items() if n != name], new)
        for name, new in tables.items()
    }
    assert np.median(list(errors.values())) < 0.09
    assert max(errors, key=lambda n: errors[n]) == "qualcomm-qcs8275"  # the one of another size
    assert errors["qualcomm-qcs8275"] < 0.35
