"""Collectives of the data folder: what their columns mean, and how well the links explain them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cost_models.adapters import links_deepep, links_nccl
from cost_models.calibrate.link_fit import bare, fit_link, mape, predicted_s
from cost_models.device import Device
from cost_models.links import KNOWN, link_of
from cost_models.measured import Measured
from cost_models.price import price_ops
from search_spaces.ops import COLLECTIVE

from ..shared_data import DATA, needs_data

MakeDevice = Callable[..., Device]
FOLDER = DATA / "gpu" / "aiconfigurator"

CSV = """device,nccl_version,collective,dtype,num_gpus,elements,latency_us
a100_sxm,2.27.3,all_reduce,half,8,1024,20
a100_sxm,2.27.3,alltoall,int8,2,2048,10
other,1,all_gather,half,4,4096,12
"""


def test_elements_times_their_size_are_bytes(tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    file.write_text(CSV)
    rows = {r.device: r for r in links_nccl.read(file, tmp_path)}
    ops = rows["nvidia-a100-80g-sxm"].ops
    assert ops.m.tolist() == [2048, 2048]
    assert ops.n.tolist() == [8, 2]
    assert ops.k.tolist() == [COLLECTIVE["all_reduce"], COLLECTIVE["all_to_all"]]
    assert rows["other"].seconds.tolist() == [12e-6]


def test_planted_parameters_are_found_again(tmp_path: Path) -> None:
    truth = bare("x", 3e11).with_parameters({"start": 9e-6, "step": 2e-6, "share": 0.6}, "planted")
    lines = ["device,nccl_version,collective,dtype,num_gpus,elements,latency_us"]
    lines += [
        f"x,1,{name},int8,{n},{2**e},1"
        for name in links_nccl.CODE_OF
        for n in (2, 4, 8)
        for e in range(9, 30)
    ]
    file = tmp_path / "c.csv"
    file.write_text("\n".join(lines))
    rows = links_nccl.read(file, tmp_path)[0]
    rows.seconds[:] = predicted_s(truth, rows)
    found = fit_link(bare("x", 3e11), rows)
    assert mape(np.log(predicted_s(found, rows) / rows.seconds)) < 0.01
    for name in ("start", "step", "share"):
        assert found.parameter(name) == pytest.approx(truth.parameter(name), rel=0.1)
        assert found.parameter(name) != pytest.approx(KNOWN[name].default, rel=0.1)


@needs_data
def test_shipped_links_explain_every_measured_device() -> None:
    for rows in links_nccl.read(FOLDER / "nccl.csv.gz", DATA):
        link = link_of(rows.device)
        assert link is not None, rows.device
        assert mape(np.log(predicted_s(link, rows) / rows.seconds)) < 0.11, rows.device


@needs_data
def test_equal_bytes_take_equal_time_whatever_the_type() -> None:
    for rows in links_nccl.read(FOLDER / "nccl.csv.gz", DATA):
        gathers = rows.ops.k == COLLECTIVE["all_gather"]
        half, int8 = (gathers & (rows.ops.dtype == d) for d in np.unique(rows.ops.dtype))
        key = [rows.ops.m * 10 + rows.ops.n for _ in (0, 1)]
        order = [np.argsort(key[i][which]) for i, which in enumerate((half, int8))]
        a, b = rows.seconds[half][order[0]], rows.seconds[int8][order[1]]
        assert np.median(np.abs(np.log(a / b))) < 0.03


@needs_data
def test_shipped_links_explain_dispatch_and_combine(make_device: MakeDevice) -> None:
    for rows in links_deepep.read(FOLDER / "deepep_raw.csv.gz", DATA):
        one_node = rows.take(rows.ops.n == 8)
        assert _mape(one_node, make_device) < 0.10, rows.runtime


def _mape(rows: Measured, make_device: MakeDevice) -> float:
    device = replace(make_device(kind="gpu"), name=rows.device)
    found = price_ops(rows.ops, device).time_s
    return mape(np.log(found / rows.seconds))
