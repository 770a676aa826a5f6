"""What a configuration becomes as ONNX: its segments, their graphs, the manifest beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dynsearch.export.onnx_graph import INPUT, OPSET, Segment, Shape, segment_graph
from dynsearch.models.dynamic import EncoderConfig, Plan, Weights, plan_of
from dynsearch.models.packed import stored
from search_spaces.candidate import Candidate
from search_spaces.errors import InputError, Problem
from search_spaces.exits import exit_criterion

DTYPES = ("fp32", "int8")
MAX_GRAPH_BYTES = 2**31 - 1  # what one protobuf message can hold


def graphs(
    config: EncoderConfig,
    weights: Weights,
    candidate: Candidate,
    *,
    max_len: int,
    pairs: bool,
    opset: int = OPSET,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the graphs by file name.

    Args:
        config: Geometry of the supernet.
        weights: Its weights, float32; what `candidate` cannot reach is not read.
        candidate: The configuration.
        max_len: Longest input in tokens.
        pairs: Whether token types are an input.
        opset: Set of operators to write.

    Raises:
        InputError: the format cannot express a part of `candidate` (all such parts at once), or
            onnx is not installed or does not know `opset`.
    """
    _check(candidate, opset)
    plan = plan_of(candidate)
    shape = Shape(
        num_heads=config.num_heads,
        hidden_size=config.hidden_size,
        norm_eps=config.norm_eps,
        pooling=config.pooling,
        max_len=max_len,
        num_classes=config.num_classes,
        pairs=pairs,
        num_experts=plan.num_experts,
        top_k=plan.top_k,
        token_routing=plan.token_routing,
        opset=opset,
    )
    arrays = {name: value.numpy() for name, value in stored(weights, candidate.dtype).items()}
    files: dict[str, bytes] = {}
    parts: list[dict[str, Any]] = []
    for number, segment in enumerate(segments(plan)):
        name = f"segment-{number}.onnx"
        files[name] = segment_graph(shape, arrays, segment)
        if len(files[name]) > MAX_GRAPH_BYTES:
            raise InputError.one(
                "export",
                "format",
                "onnx",
                f"layers {segment.first + 1} to {segment.last + 1} take more than 2 GB, which one "
                "ONNX file cannot hold; choose a configuration with more exits, or --format torch",
            )
        threshold = None if segment.final else plan.thresholds[segment.last]
        parts.append(
            {
                "file": name,
                "layers": [segment.first + 1, segment.last + 1],
                "exit_layer": segment.last + 1,
                "threshold": None if plan.criterion == "patience" else threshold,
                "keep_rate": [_rate(plan, place) for place in segment.drops],
            }
        )
    rule = {
        "criterion": plan.criterion,
        "patience": plan.patience,
        "temperature": plan.temperature,
        "wait": plan.wait,
    }
    return {"opset": opset, "rule": rule, "segments": parts}, files


def segments(plan: Plan) -> Iterator[Segment]:
    """The stretches of layers between exits."""
    first = 0
    for layer in range(plan.depth):
        final = layer == plan.depth - 1
        if not final and not plan.exit_on[layer]:
            continue
        places = range(first if first else INPUT, layer + 1)
        drops = [x for x in places if _rate(plan, x) < _rate(plan, x - 1)]
        yield Segment(first=first, last=layer, drops=tuple(drops), final=final)
        first = layer + 1


def _rate(plan: Plan, place: int) -> float:
    """Share of the tokens of a text that is left behind a place: INPUT or a 0-based layer."""
    if place < INPUT:
        return 1.0
    return plan.keep_input if place == INPUT else plan.keep_rate[place]


def _check(candidate: Candidate, opset: int) -> None:
    """Refuse what cannot be written, all of it at once.

    Raises:
        InputError: see `graphs`.
    """
    problems = [Problem("export", *found) for found in _inexpressible(candidate)]
    newest = _newest_opset()
    if not OPSET <= opset <= newest:
        text = (
            f"too old: {OPSET} is the first with LayerNormalization; leave --opset out"
            if opset < OPSET
            else f"the installed onnx knows up to {newest}"
        )
        problems.append(Problem("command line", "--opset", str(opset), text))
    if problems:
        raise InputError(problems)


def _newest_opset() -> int:
    try:
        from onnx import defs
    except ImportError:
        raise InputError.one(
            "export", "format", "onnx", "needs onnx; run: pip install 'dynsearch[onnx]'"
        ) from None
    newest: int = defs.onnx_opset_version()
    return newest


def _inexpressible(candidate: Candidate) -> Iterator[tuple[str, str, str]]:
    """(key, value, what to do) of each part that graphs and their runner cannot express."""
    instead = "use --format torch"
    if candidate.dtype not in DTYPES:
        text = f"onnxruntime runs {' and '.join(DTYPES)} on processors; choose one of these, or "
        yield "dtype", candidate.dtype, text + instead
    exits = candidate.exits
    if exits is not None:
        criterion = exit_criterion(exits.criterion)
        if criterion.aux or (criterion.score is None and exits.criterion != "patience"):
            needs = ", ".join(criterion.aux) or "more than logits"
            text = f"decides by {needs}, which the graphs do not hand out; {instead}"
            yield "exits.criterion", exits.criterion, text
        if exits.granularity != "sample":
            yield "exits.granularity", exits.granularity, f"only samples leave; {instead}"
    for skim in candidate.skim:
        if skim.mechanism != "fixed_schedule":
            text = f"only fixed shares of tokens are dropped; {instead}"
            yield "skim.mechanism", skim.mechanism, text
        elif skim.score != ("learned" if skim.point == "before_layer" else "attention_received"):
            text = f"attention received ranks tokens, before the first layer a scorer; {instead}"
            yield "skim.score", skim.score, text
    moe = candidate.moe
    if moe is not None and (moe.origin != "split" or moe.num_shared_experts):
        yield "moe.origin", moe.origin, f"only a feed-forward network cut up is known; {instead}"
    if candidate.cascade is not None:
        yield "cascade", "given", "export its stages one by one"
