"""Runs the ONNX graphs of one configuration: onnxruntime or OpenVINO, and numpy.

A graph ends where a sample may leave. Between two graphs the exit rule is asked, and samples that
have their answer leave the batch, so that what follows is computed for the others alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.candidate import keep_counts
from search_spaces.errors import InputError
from search_spaces.exits import exit_score

Ints = NDArray[np.int64]
Opener = Callable[[str | bytes, int], Any]  # graph, threads -> what has onnxruntime's `run`
PROVIDERS = ("CPUExecutionProvider",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Answers of one batch."""

    prediction: Ints  # [B] class
    exit_layer: Ints  # [B] 1-based layer whose head answered
    logits: NDArray[np.float32]  # [B, C] of that head


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When a sample leaves after a graph that is not the last."""

    criterion: str
    patience: int
    temperature: float
    wait: bool  # exited samples wait for their batch instead of leaving it


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One graph: the layers up to an exit."""

    session: Any
    exit_layer: int  # 1-based
    threshold: float | None  # None: the rule has none, or it is the last
    keep_rate: tuple[float, ...]  # of its places that drop tokens


class OnnxEncoder:
    """A configuration whose graphs are loaded."""

    def __init__(
        self,
        manifest: Mapping[str, Any],
        open_graph: Callable[[str], str | bytes],
        *,
        threads: int = 1,
        opener: Opener | None = None,
    ) -> None:
        """Open the sessions.

        Args:
            manifest: The table `onnx` of a config.json.
            open_graph: File name in the manifest -> path or content of the graph.
            threads: Of the runtime.
            opener: Of a runtime in `OPENERS`; None: onnxruntime.
        """
        opener = opener or open_session
        self.rule = Rule(**manifest["rule"])
        self.stages = [
            Stage(
                session=opener(open_graph(part["file"]), threads),
                exit_layer=part["exit_layer"],
                threshold=part["threshold"],
                keep_rate=tuple(part["keep_rate"]),
            )
            for part in manifest["segments"]
        ]

    def run(
        self,
        ids: Ints,
        lengths: Ints,
        types: Ints | None = None,
        on_stage: Callable[[], None] | None = None,
    ) -> Result:
        """Answer one batch, stopping as early as the rule allows.

        Args:
            ids: Token ids [B, T], padded on the right to the longest sample.
            lengths: Unpadded token counts [B].
            types: Token types [B, T], where pairs are read.
            on_stage: Called when a graph has run (a stopwatch).
        """
        original = n = np.asarray(lengths, dtype=np.int64)
        rows = np.arange(n.size)  # inputs that are still computed
        exit_layer = np.zeros(n.size, dtype=np.int64)
        agreed, previous = np.zeros_like(n), np.full_like(n, -1)
        feed: dict[str, Any] = {"ids": ids} if types is None else {"ids": ids, "types": types}
        answer: NDArray[np.float32] | None = None
        for stage in self.stages:
            feed["n"] = n
            if stage.keep_rate:
                rates = np.array(stage.keep_rate)[None]
                kept = np.minimum(keep_counts(original[:, None], rates), n[:, None])
                feed["keep"], n = kept, kept[:, -1]
            found = stage.session.run(None, feed)
            if on_stage is not None:
                on_stage()
            logits = found[0]
            if answer is None:
                answer = np.zeros((exit_layer.size, logits.shape[1]), dtype=np.float32)
            leave = self._leave(stage, logits, rows, agreed, previous)
            done = leave & (exit_layer[rows] == 0)
            answer[rows[done]], exit_layer[rows[done]] = logits[done], stage.exit_layer
            stay = np.flatnonzero(exit_layer[rows] == 0)
            if stay.size == 0:
                break
            x = found[1]
            if stay.size < rows.size and not self.rule.wait:
                rows, n, original = rows[stay], n[stay], original[stay]
                x = x[stay, : int(n.max())]
            feed = {"x": x}
        assert answer is not None  # a configuration has a layer
        return Result(prediction=answer.argmax(axis=1), exit_layer=exit_layer, logits=answer)

    def _leave(
        self,
        stage: Stage,
        logits: NDArray[np.float32],
        rows: Ints,
        agreed: Ints,
        previous: Ints,
    ) -> NDArray[np.bool_]:
        """Which of `rows` leave; the runs of agreement are carried on in place."""
        if stage is self.stages[-1]:
            return np.ones(rows.size, dtype=bool)
        if stage.threshold is None:
            vote = logits.argmax(axis=1)
            agreed[rows] = np.where(vote == previous[rows], agreed[rows] + 1, 0)
            previous[rows] = vote
            return np.asarray(agreed[rows] >= self.rule.patience)
        sure = exit_score(self.rule.criterion, logits, self.rule.temperature)
        return np.asarray(sure) >= stage.threshold


def open_session(graph: str | bytes, threads: int) -> Any:
    """A session of onnxruntime on the processor.

    Raises:
        InputError: onnxruntime is not installed, or cannot read the graph.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError.one(
            "model", "format", "onnx", "needs onnxruntime; run: pip install onnxruntime"
        ) from None

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # without VNNI the kernels for signed weights add pairs of products in int16, which overflows
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=list(PROVIDERS))
    except Exception as error:  # onnxruntime raises its own, undocumented types
        text = f"onnxruntime {onnxruntime.__version__} cannot read it: {error}; upgrade it"
        file = graph if isinstance(graph, str) else "graph"
        raise InputError.one(file, "", None, text) from error


class _Compiled:
    """A graph in OpenVINO, called as onnxruntime's sessions are."""

    def __init__(self, model: Any) -> None:
        self._request = model.create_infer_request()

    def run(self, names: None, feed: Mapping[str, Any]) -> list[Any]:
        """All outputs, in order, as arrays of their own."""
        found = self._request.infer(feed)
        return [np.array(value) for value in found.values()]


def open_openvino(graph: str | bytes, threads: int) -> _Compiled:
    """A graph compiled by OpenVINO for the processor.

    Raises:
        InputError: it is not installed, or cannot read the graph.
    """
    try:
        import openvino
    except ImportError:
        raise InputError.one(
            "model", "runtime", "openvino", "not installed; run: pip install openvino"
        ) from None
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        return _Compiled(core.compile_model(core.read_model(graph), "CPU", settings))
    except RuntimeError as error:
        text = f"OpenVINO {openvino.__version__} cannot read it: {error}; upgrade it"
        file = graph if isinstance(graph, str) else "graph"
        raise InputError.one(file, "", None, text) from error


OPENERS: dict[str, Opener] = {"onnxruntime": open_session, "openvino": open_openvino}


def opener_of(runtime: str) -> Opener:
    """What opens graphs on a runtime.

    Raises:
        InputError: an unknown one.
    """
    if runtime not in OPENERS:
        text = f"ONNX graphs run on {' or '.join(OPENERS)}"
        raise InputError.one("model", "runtime", runtime, text)
    return OPENERS[runtime]
