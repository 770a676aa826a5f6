"""Times configurations on runtimes of ONNX graphs: those that people deploy on processors.

The graphs are those that `dynsearch export --format onnx` writes. Beside every number format the
runtime's own full network in each format that it runs is timed, one graph without exits: that is
what a dynamic network has to beat.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from dynsearch.bench import Engine
from dynsearch.bench_select import for_batch
from dynsearch.bench_timing import F64, Batch, Runner
from dynsearch.export.onnx_engine import OPENERS, OnnxEncoder, Opener, open_session
from dynsearch.export.onnx_plan import DTYPES, graphs
from dynsearch.export.torch_export import reachable
from dynsearch.models.dynamic import EncoderConfig, Weights
from search_spaces.candidate import Candidate
from search_spaces.errors import InputError

if TYPE_CHECKING:
    from cost_models.device import Device
    from dynsearch.opened import Opened

UNCALIBRATED = (
    "predicted from what torch's operators cost, because {0} is not calibrated on this machine: "
    "read the scaled errors, or run dynsearch calibrate --runtime {0}"
)


def onnx_engine(opened: Opened, runtime: str) -> Engine:
    """What times the configurations of a run on `runtime`; writes `bench-<runtime>.json`.

    Raises:
        InputError: an unknown runtime.
    """
    if runtime not in OPENERS:
        known = ", ".join(("torch", *OPENERS))
        raise InputError.one("command line", "--runtime", runtime, f"must be one of {known}")
    workload, quality = opened.scene.workload, opened.quality
    pairs = len(opened.material.text_columns) == 2

    def runner(candidate: Candidate, batch: int) -> Runner:
        encoder = encoder_on(
            quality.config,
            quality.weights,
            for_batch(candidate, batch),
            max_len=workload.max_len,
            pairs=pairs,
            threads=workload.threads,
            opener=OPENERS[runtime],
        )
        return onnx_runner(encoder)

    return Engine(
        name=runtime,
        file=f"bench-{runtime}.json",
        runner=runner,
        beside=lambda dtype: [d for d in DTYPES if d != dtype],
        notes=() if profile_of(workload.threads, runtime) else (UNCALIBRATED.format(runtime),),
    )


def profile_of(threads: int, runtime: str) -> Device | None:
    """This machine as it was calibrated on `runtime`, None where it was not."""
    from cost_models.device import load_device
    from dynsearch.commands.devices import local_file

    file = local_file(threads, runtime)
    return load_device(file) if file.is_file() else None


def encoder_on(
    config: EncoderConfig,
    weights: Weights,
    candidate: Candidate,
    *,
    max_len: int,
    pairs: bool,
    threads: int = 1,
    opener: Opener = open_session,
) -> OnnxEncoder:
    """`candidate` with its graphs opened, nothing written to disk."""
    kept = reachable(weights, candidate)
    manifest, files = graphs(config, kept, candidate, max_len=max_len, pairs=pairs)
    return OnnxEncoder(manifest, files.__getitem__, threads=threads, opener=opener)


def onnx_runner(encoder: OnnxEncoder) -> Runner:
    """A runner of a bench: a sample has its answer when the graph of its exit has run.

    Where exited samples wait for their batch, when the run ends.
    """
    layers = [stage.exit_layer for stage in encoder.stages]

    def run(one: Batch) -> F64:
        ids, lengths, types = one
        stamps: list[float] = []
        result = encoder.run(
            ids.numpy(),
            lengths,
            None if types is None else types.numpy(),
            on_stage=lambda: stamps.append(time.perf_counter()),
        )
        end = time.perf_counter()
        if encoder.rule.wait:
            return np.full(result.exit_layer.shape, end)
        stamps[-1] = end  # the answers of the last graph are there when the run ends
        return np.array([stamps[layers.index(layer)] for layer in result.exit_layer])

    return run
