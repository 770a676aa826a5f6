"""Errors on measured rows that no fit had seen, beside what was promised of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from cost_models.adapters import edge_aihub, tpu_gemm, tpu_trace
from cost_models.calibrate.posterior import (
    default_prior,
    fit_rows,
    left_out,
    predict_rows,
    sibling_prior,
)
from cost_models.calibrate.sibling import sibling_of, transfer
from cost_models.device import load_device
from cost_models.measured import Measured
from search_spaces.candidate import DTYPES

from .shared_data import DATA, needs_data

GEMM, TRACE = "tpu/tpu-gemm-v6e-v7/tpu_gemm.csv", "tpu/tpu-gemm-v6e-v7/tpu_v7_trace.csv"
AIHUB = "edge/qualcomm-aihub/aihub_transformers.csv"


def mape(predicted: np.ndarray, measured: np.ndarray) -> float:
    return float(np.mean(np.abs(predicted / measured - 1)))


@needs_data
def test_tpu_matmuls_of_shapes_left_out_are_met_within_6_percent() -> None:
    (table,) = tpu_gemm.read(DATA / GEMM, DATA)
    found = left_out([table], load_device(table.device))
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
def test_geometries_left_out_on_neural_processors_are_met_within_25_percent() -> None:
    errors = []
    for runtime in ("qnn_dlc", "qnn_context_binary"):
        for name, table in boards(runtime).items():
            if name in ("qualcomm-qcs8550", "qualcomm-snapdragon-x-elite", "qualcomm-sa8295p"):
                found = left_out([table], load_device(name), folds=99)
                errors.append(found.mape)
    assert np.median(errors) < 0.25


@needs_data
def test_five_points_beside_a_relative_are_met_within_9_percent() -> None:
    tables = boards("qnn_dlc")
    names = ("qualcomm-snapdragon-8-elite", "qualcomm-snapdragon-x-elite", "qualcomm-iq-9075")
    relatives = [sibling_of([tables[n]], load_device(n)) for n in names]
    new, rng, errors = tables["qualcomm-qcs8550"], np.random.default_rng(0), []
    for _ in range(5):
        used = rng.permutation(len(new))[:5]
        other = new.take(np.setdiff1d(np.arange(len(new)), used))
        errors.append(mape(transfer(new.take(used), relatives).predict(other), other.seconds))
    assert np.mean(errors) < 0.09
