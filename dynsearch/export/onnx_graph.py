"""One configuration as static ONNX graphs, one for each stretch of layers that ends in an exit.

Built operator by operator from the weights, nothing is traced. Who leaves, how many tokens a text
keeps and which segment runs next is decided outside (`onnx_engine.py`); which tokens stay and
which experts run is decided inside. Only operators of the standard set are used.

Read `segment_graph` first. Inputs: `ids` [B, T] (and `types` [B, T] where pairs are read) of the
first segment, `x` [B, T, h] of the others; `n` [B] tokens alive, placed first; `keep` [B, D]
tokens that stay at each of the D places of the segment that drop some. Outputs: `logits` [B, C],
and unless it is the last one the states `y` [B, most kept, h].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.skims.attention_received import MAX_QUERIES

OPSET = 17  # the first with LayerNormalization; each runtime of today reads it
GELU_OPSET = 20
IR_VERSION = 8  # that of opset 17; later sets need later ones, which onnx knows
FLOAT, INT64 = 1, 7  # onnx.TensorProto's numbers
INPUT = -1  # the place before layer 0
FAR_BELOW = -1e30  # added to scores of padding: its share is 0 after the softmax
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the graphs need to know besides the weights; layers are 0-based."""

    num_heads: int
    hidden_size: int
    norm_eps: float
    pooling: str
    max_len: int
    num_classes: int
    pairs: bool  # token types are an input
    num_experts: tuple[int, ...]  # [L] 1 = dense
    top_k: tuple[int, ...]  # [L]
    token_routing: bool
    opset: int = OPSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """0-based layers `first` to `last` with the head of `last`.

    `drops` are those after whose attention tokens are dropped; INPUT: some are before layer 0.
    """

    first: int
    last: int
    drops: tuple[int, ...]
    final: bool


@dataclass(slots=True)
class Graph:
    """Nodes and constants of a graph that is being written."""

    opset: int
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Append a node; the name of its first output (others: the name with `.1` and so on)."""
        from onnx import helper

        name = f"{op.lower()}{len(self.nodes)}"
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A named weight."""
        self.constants[name] = np.asarray(value, order="C")
        return name

    def ints(self, *values: int) -> str:
        """A constant vector of whole numbers."""
        return self.constant("i" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def whole(self, value: int) -> str:
        """A constant whole number without axes."""
        return self.constant(f"n{value}", np.array(value, dtype=np.int64))

    def real(self, value: float) -> str:
        """A constant real number without axes."""
        return self.constant(f"f{value!r}", np.array(value, dtype=np.float32))

    def rename(self, name: str, public: str) -> str:
        """Give a result the name under which the graph hands it out."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [name], [public], name=f"out_{public}"))
        return public

    def size(self, x: str, axis: int) -> str:
        """Length of an axis, without axes."""
        return self.add("Gather", self.add("Shape", x), self.whole(axis), axis=0)

    def range(self, stop: str) -> str:
        """0 .. stop - 1."""
        return self.add("Range", self.whole(0), stop, self.whole(1))


@dataclass(slots=True)
class _Tokens:
    """Names of the states and of what tells which of their rows are alive."""

    x: str  # [B, T, h]
    n: str  # [B]
    alive: str  # bool [B, T]
    share: str  # [B, 1, T] 1 / n where alive, else 0
    bias: str  # [B, 1, 1, T] 0 where alive, else far below


def segment_graph(shape: Shape, weights: Arrays, segment: Segment) -> bytes:
    """The serialised graph of `segment`.

    Args:
        shape: Geometry and policy.
        weights: float32 arrays; int8 matrices have a `scale` beside them.
        segment: Layers to write.
    """
    g = Graph(opset=shape.opset)
    x = _embedded(g, shape, weights) if segment.first == 0 else "x"
    tokens = _alive(g, x, "n")
    if INPUT in segment.drops:
        tokens = _entering(g, weights, tokens, segment.drops)
    for layer in range(segment.first, segment.last + 1):
        tokens = _attention_half(g, shape, weights, tokens, layer, segment.drops)
        update = _feed_forward(g, shape, weights, tokens, layer)
        tokens.x = _norm(g, shape, weights, f"layers.{layer}.norm2", tokens.x, update)
    _logits(g, shape, weights, tokens, segment.last)
    if not segment.final:
        g.rename(tokens.x, "y")
    return _serialised(g, shape, segment)


def matrix_graph(parts: Arrays) -> bytes:
    """A graph of one affine map `x` [m, in] -> `y` [m, out]; see `_matrix`."""
    g = Graph(opset=OPSET)
    g.rename(_matrix(g, "matrix", parts, "x"), "y")
    outer, inner = parts["weight"].shape
    ends = [_value("x", FLOAT, "m", inner)], [_value("y", FLOAT, "m", outer)]
    return _packed(g, "matrix", *ends, OPSET)


def _value(name: str, kind: int, *axes: str | int) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, list(axes))


def _serialised(g: Graph, shape: Shape, segment: Segment) -> bytes:
    value, whole, real, h = _value, INT64, FLOAT, shape.hidden_size
    inputs = [value("x", real, "B", "T", h)]
    if segment.first == 0:
        names = ("ids", "types") if shape.pairs else ("ids",)
        inputs = [value(name, whole, "B", "T") for name in names]
    inputs.append(value("n", whole, "B"))
    if segment.drops:
        inputs.append(value("keep", whole, "B", len(segment.drops)))
    outputs = [value("logits", real, "B", shape.num_classes)]
    if not segment.final:
        outputs.append(value("y", real, "B", "S", h))
    name = f"layers{segment.first + 1}to{segment.last + 1}"
    return _packed(g, name, inputs, outputs, shape.opset)


def _packed(g: Graph, name: str, inputs: list[Any], outputs: list[Any], opset: int) -> bytes:
    from onnx import checker, helper, numpy_helper

    constants = [numpy_helper.from_array(array, key) for key, array in g.constants.items()]
    graph = helper.make_graph(g.nodes, name, inputs, outputs, constants)
    sets = [helper.make_opsetid("", opset)]
    version = max(IR_VERSION, helper.find_min_ir_version_for(sets))
    model = helper.make_model(
        graph, opset_imports=sets, ir_version=version, producer_name="dynsearch"
    )
    checker.check_model(model)
    raw: bytes = model.SerializeToString()
    return raw


def _embedded(g: Graph, shape: Shape, weights: Arrays) -> str:
    """Embeddings [B, T, h]; without types every token is of type 0, which joins the positions."""
    positions = weights["embeddings.position"][: shape.max_len]
    kinds = weights["embeddings.token_type"]
    typed = shape.pairs and kinds.shape[0] > 1
    if not typed:
        positions = positions + kinds[0]
    words = g.add("Gather", g.constant("words", weights["embeddings.word"]), "ids", axis=0)
    width = g.add("Shape", "ids", start=1)  # [1]
    first = g.add("Slice", g.constant("positions", positions), g.ints(0), width, g.ints(0))
    x = g.add("Add", words, first)
    if typed:
        x = g.add("Add", x, g.add("Gather", g.constant("kinds", kinds), "types", axis=0))
    x = _norm(g, shape, weights, "embeddings.norm", x)
    if "embeddings.project.weight" in weights:
        x = _linear(g, weights, "embeddings.project", x)
    return x


def _alive(g: Graph, x: str, n: str) -> _Tokens:
    """What follows from the counts `n` of the texts whose states are `x`."""
    rows = g.add("Unsqueeze", n, g.ints(1))  # [B, 1]
    alive = g.add("Less", g.range(g.size(x, 1)), rows)
    one = g.add("Cast", alive, to=FLOAT)
    share = g.add("Div", one, g.add("Cast", rows, to=FLOAT))
    bias = g.add("Where", alive, g.real(0.0), g.real(FAR_BELOW))
    return _Tokens(
        x=x,
        n=n,
        alive=alive,
        share=g.add("Unsqueeze", share, g.ints(1)),
        bias=g.add("Unsqueeze", bias, g.ints(1, 2)),
    )


def _entering(g: Graph, weights: Arrays, t: _Tokens, drops: Sequence[int]) -> _Tokens:
    """The tokens that enter the first layer, see `models.dynamic.DynamicEncoder.token_scores`."""
    scores = _linear(g, weights, "scorer.out", _gelu(g, _linear(g, weights, "scorer.hidden", t.x)))
    weight = g.add("Exp", g.add("Squeeze", scores, g.ints(2)))  # [B, T]
    count = _count(g, drops, INPUT)
    return _alive(g, _take(g, t.x, _kept(g, weight, t, count)), count)


def _count(g: Graph, drops: Sequence[int], place: int) -> str:
    """Tokens [B] that stay at a place that drops some."""
    return g.add("Gather", "keep", g.whole(list(drops).index(place)), axis=1)


def _attention_half(
    g: Graph, shape: Shape, weights: Arrays, t: _Tokens, layer: int, drops: Sequence[int]
) -> _Tokens:
    """Attention of a layer and the drop of tokens: what its feed-forward network sees."""
    name = f"layers.{layer}."
    qkv = _linear(g, weights, name + "qkv", t.x)
    split = g.add("Split", qkv, g.ints(*[shape.hidden_size] * 3), outputs=3, axis=2)
    q, k, v = split, f"{split}.1", f"{split}.2"  # [B, T, h] each
    keys, values = _heads(g, shape, k), _heads(g, shape, v)
    x, after = t.x, t
    if layer not in drops:
        context = _attended(g, shape, _shares(g, shape, q, keys, t.bias), values)
    else:
        count = _count(g, drops, layer)
        if shape.max_len > MAX_QUERIES:
            received = _received_from_some(g, shape, q, keys, t)
            places = _kept(g, received, t, count)
            kept = _shares(g, shape, _take(g, q, places), keys, t.bias)
            context = _attended(g, shape, kept, values)
        else:
            shares = _shares(g, shape, q, keys, t.bias)
            by_query = g.add("ReduceSum", shares, g.ints(1), keepdims=0)  # [B, T, T]
            asked = g.add("Unsqueeze", g.add("Cast", t.alive, to=FLOAT), g.ints(1))
            received = g.add("Squeeze", g.add("MatMul", asked, by_query), g.ints(1))
            places = _kept(g, received, t, count)
            context = _take(g, _attended(g, shape, shares, values), places)
        x = _take(g, x, places)
        after = _alive(g, x, count)
    update = _linear(g, weights, name + "out", context)
    after = _Tokens(x=x, n=after.n, alive=after.alive, share=after.share, bias=after.bias)
    after.x = _norm(g, shape, weights, name + "norm1", x, update)
    return after


def _heads(g: Graph, shape: Shape, x: str) -> str:
    """[B, T, h] -> [B, H, T, d]."""
    head = shape.hidden_size // shape.num_heads
    apart = g.add("Reshape", x, g.ints(0, 0, shape.num_heads, head))
    return g.add("Transpose", apart, perm=[0, 2, 1, 3])


def _shares(g: Graph, shape: Shape, q: str, keys: str, bias: str) -> str:
    """softmax(q k^T / sqrt(d)) [B, H, Q, T] of queries [B, Q, h]."""
    head = shape.hidden_size // shape.num_heads
    scaled = g.add("Mul", _heads(g, shape, q), g.real(head**-0.5))
    scores = g.add("MatMul", scaled, g.add("Transpose", keys, perm=[0, 1, 3, 2]))
    return g.add("Softmax", g.add("Add", scores, bias), axis=-1)


def _attended(g: Graph, shape: Shape, shares: str, values: str) -> str:
    """Attention [B, Q, h]."""
    context = g.add("Transpose", g.add("MatMul", shares, values), perm=[0, 2, 1, 3])
    return g.add("Reshape", context, g.ints(0, 0, shape.hidden_size))


def _received_from_some(g: Graph, shape: Shape, q: str, keys: str, t: _Tokens) -> str:
    """Attention [B, T] that tokens receive from at most MAX_QUERIES evenly spaced queries.

    Which ones is `search_spaces.skims.attention_received.query_positions`, in whole numbers.
    """
    width = g.size(q, 1)
    row = g.range(g.add("Min", width, g.whole(MAX_QUERIES)))  # [Q]
    n = g.add("Unsqueeze", t.n, g.ints(1))
    asked = g.add("Min", n, g.whole(MAX_QUERIES))  # [B, 1]
    place = g.add("Div", g.add("Mul", row, n), asked)
    place = g.add("Min", place, g.add("Sub", width, g.whole(1)))  # rows beyond `asked` count 0
    shares = _shares(g, shape, _take(g, q, place), keys, t.bias)  # [B, H, Q, T]
    by_query = g.add("ReduceSum", shares, g.ints(1), keepdims=0)
    counts = g.add("Unsqueeze", g.add("Cast", g.add("Less", row, asked), to=FLOAT), g.ints(1))
    return g.add("Squeeze", g.add("MatMul", counts, by_query), g.ints(1))


def _kept(g: Graph, received: str, t: _Tokens, count: str) -> str:
    """Positions [B, most] of the `count` best tokens in text order, [CLS] first, padding last."""
    width = g.size(received, 1)
    first = g.add("Equal", g.range(width), g.whole(0))
    order = g.add("Where", t.alive, received, g.real(-1.0))
    order = g.add("Where", first, g.real(float(np.finfo(np.float32).max)), order)
    most = g.add("Reshape", g.add("ReduceMax", count, keepdims=0), g.ints(1))
    ranked = g.add("TopK", order, most, outputs=2, axis=1)
    rank = g.range(g.add("Squeeze", most, g.ints(0)))
    stays = g.add("Less", rank, g.add("Unsqueeze", count, g.ints(1)))
    places = g.add("Where", stays, f"{ranked}.1", width)
    places = g.add("TopK", places, most, outputs=2, axis=1, largest=0)
    return g.add("Min", places, g.add("Sub", width, g.whole(1)))


def _take(g: Graph, x: str, places: str) -> str:
    """Rows `places` [B, K] of x [B, T, h]."""
    return g.add("GatherND", x, g.add("Unsqueeze", places, g.ints(2)), batch_dims=1)


def _feed_forward(g: Graph, shape: Shape, weights: Arrays, t: _Tokens, layer: int) -> str:
    """Feed-forward network [B, T, h]: dense, or the routed experts alone."""
    name, experts, top_k = f"layers.{layer}.", shape.num_experts[layer], shape.top_k[layer]
    if top_k >= experts:
        hidden = _gelu(g, _linear(g, weights, name + "ffn_in", t.x))
        return _linear(g, weights, name + "ffn_out", hidden)
    items = _pool(g, shape, t)
    if shape.token_routing:  # padding is never routed
        where = g.add("Transpose", g.add("NonZero", t.alive), perm=[1, 0])  # [tokens, 2]
        items = g.add("GatherND", t.x, where)
    router = f"{name}router{experts}."
    scores = _gemm(g, weights, router, items)  # [R, E]
    chosen = g.add("TopK", scores, g.ints(top_k), outputs=2, axis=1)
    routed = items if shape.token_routing else t.x
    total = _dispatched(g, weights, layer, experts, top_k, routed, f"{chosen}.1")
    base = g.constant(f"{name}base", weights[f"{name}experts{experts}.base"])
    out = g.add("Add", total, base)
    if not shape.token_routing:
        return out
    empty = g.add("ConstantOfShape", g.add("Shape", t.x))
    return g.add("ScatterND", empty, where, out)


def _dispatched(
    g: Graph, weights: Arrays, layer: int, experts: int, top_k: int, items: str, chosen: str
) -> str:
    """Sum over the chosen experts [R, ..., h] of items [R, ..., h]; chosen [R, k].

    Every expert computes the items that asked for it, none where nobody did.
    """
    asked = g.add("Reshape", chosen, g.ints(-1))  # [R * k]
    where, answers = [], []
    for e in range(experts):
        mine = g.add("NonZero", g.add("Equal", asked, g.whole(e)))
        mine = g.add("Reshape", mine, g.ints(-1))
        rows = g.add("Div", mine, g.whole(top_k)) if top_k > 1 else mine
        where.append(mine)
        answers.append(_expert(g, weights, layer, experts, e, g.add("Gather", items, rows)))
    together, order = g.add("Concat", *answers, axis=0), g.add("Concat", *where, axis=0)
    place = g.add("ScatterElements", order, order, g.range(g.size(order, 0)))
    back = g.add("Gather", together, place, axis=0)
    if top_k == 1:
        return back
    shape = g.add("Concat", g.add("Shape", chosen), g.add("Shape", items, start=1), axis=0)
    return g.add("ReduceSum", g.add("Reshape", back, shape), g.ints(1), keepdims=0)


def _expert(g: Graph, weights: Arrays, layer: int, experts: int, e: int, x: str) -> str:
    """Output of expert e, less its mean over the training text."""
    name = f"layers.{layer}."
    share = weights[name + "ffn_in.weight"].shape[0] // experts
    part = slice(e * share, (e + 1) * share)
    up: dict[str, NDArray[Any]] = {
        kind: weights[f"{name}ffn_in.{kind}"][part]
        for kind in ("weight", "bias", "scale")
        if f"{name}ffn_in.{kind}" in weights
    }
    down = {
        "weight": weights[name + "ffn_out.weight"][:, part],
        "bias": weights[f"{name}experts{experts}.minus_mean"][e],
    }
    if name + "ffn_out.scale" in weights:
        down["scale"] = weights[name + "ffn_out.scale"]
    hidden = _gelu(g, _matrix(g, f"{name}e{e}.up", up, x))
    return _matrix(g, f"{name}e{e}.down", down, hidden)


def _pool(g: Graph, shape: Shape, t: _Tokens) -> str:
    """[B, T, h] -> [B, h] over the tokens that are alive."""
    if shape.pooling == "cls":
        return g.add("Gather", t.x, g.whole(0), axis=1)
    return g.add("Squeeze", g.add("MatMul", t.share, t.x), g.ints(1))


def _logits(g: Graph, shape: Shape, weights: Arrays, t: _Tokens, layer: int) -> None:
    head = f"heads.{layer}."
    hidden = g.add("Tanh", _gemm(g, weights, head + "dense.", _pool(g, shape, t)))
    g.rename(_gemm(g, weights, head + "out.", hidden), "logits")


def _gemm(g: Graph, weights: Arrays, name: str, x: str) -> str:
    """Affine map [R, in] -> [R, out] in fp32."""
    matrix = g.constant(name + "weight", weights[name + "weight"])
    return g.add("Gemm", x, matrix, g.constant(name + "bias", weights[name + "bias"]), transB=1)


def _linear(g: Graph, weights: Arrays, name: str, x: str) -> str:
    parts = {
        kind: weights[f"{name}.{kind}"]
        for kind in ("weight", "bias", "scale")
        if f"{name}.{kind}" in weights
    }
    return _matrix(g, name, parts, x)


def _matrix(g: Graph, name: str, parts: Arrays, x: str) -> str:
    """Affine map [..., in] -> [..., out], in int8 where the weight is (see models/int8.py)."""
    matrix = g.constant(name + ".weight", parts["weight"].T)
    bias = g.constant(name + ".bias", parts["bias"])
    if "scale" not in parts:
        return g.add("Add", g.add("MatMul", x, matrix), bias)
    quantised = g.add("DynamicQuantizeLinear", x, outputs=3)
    summed = g.add("MatMulInteger", quantised, matrix, f"{quantised}.2")
    scale = g.add("Mul", f"{quantised}.1", g.constant(name + ".scale", parts["scale"]))
    return g.add("Add", g.add("Mul", g.add("Cast", summed, to=FLOAT), scale), bias)


def _gelu(g: Graph, x: str) -> str:
    if g.opset >= GELU_OPSET:
        return g.add("Gelu", x)
    halves = g.add("Erf", g.add("Div", x, g.real(2.0**0.5)))
    return g.add("Mul", g.add("Mul", x, g.add("Add", halves, g.real(1.0))), g.real(0.5))


def _norm(g: Graph, shape: Shape, weights: Arrays, name: str, x: str, update: str = "") -> str:
    if update:
        x = g.add("Add", x, update)
    scale = g.constant(name + ".weight", weights[name + ".weight"])
    bias = g.constant(name + ".bias", weights[name + ".bias"])
    return g.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=shape.norm_eps)
