"""The runnable dynamic transformer: a post-norm BERT encoder that executes a candidate for real.

Exited samples leave the batch (or wait), skimmed tokens are dropped and not masked, only routed
experts are computed. A sub-network is a pure function of (weights, candidate): `DynamicEncoder`
holds weights and never changes; a `Plan` says what to run.

Read `DynamicEncoder.run` first, then `_layer`. Shapes: B samples, T padded tokens, h hidden size,
f feed-forward width, H heads, E experts, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from search_spaces.candidate import CRITERIA, Candidate, keep_counts, stack
from search_spaces.exits import exit_score
from search_spaces.skims.attention_received import MAX_QUERIES, query_positions

TORCH_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}
Weights = dict[str, Tensor]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Geometry of the runnable model."""

    num_layers: int
    hidden_size: int
    num_heads: int
    ffn_size: int
    vocab_size: int
    max_len: int
    num_classes: int
    type_vocab_size: int = 2
    norm_eps: float = 1e-12
    pooling: str = "mean"
    expert_counts: tuple[int, ...] = ()  # nested splits of each FFN, ascending, e.g. (4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one candidate asks of each layer, as plain lists (0-based layers)."""

    depth: int
    keep_input: float  # share of tokens that enter the first layer
    keep_rate: tuple[float, ...]
    num_experts: tuple[int, ...]
    top_k: tuple[int, ...]
    token_routing: bool
    exit_on: tuple[bool, ...]
    thresholds: tuple[float, ...]
    criterion: str
    patience: int
    temperature: float
    wait: bool  # exited samples wait for their batch instead of leaving it


def plan_of(candidate: Candidate) -> Plan:
    """The plan of `candidate`."""
    batch = stack([candidate])
    exits_on = tuple(bool(x) for x in batch.exit_on[0])
    return Plan(
        depth=candidate.depth,
        keep_input=float(batch.keep_before[0, 0]),
        keep_rate=tuple(float(x) for x in batch.keep_rate[0]),
        num_experts=tuple(int(x) for x in batch.num_experts[0]),
        top_k=tuple(int(x) for x in batch.top_k[0]),
        token_routing=bool(candidate.moe is not None and candidate.moe.granularity == "token"),
        exit_on=exits_on,
        thresholds=tuple(float(x) for x in batch.thresholds[0]),
        criterion=CRITERIA[int(batch.criterion[0])],
        patience=int(batch.patience[0]),
        temperature=float(batch.temperature[0]),
        wait=candidate.exit_batching == "wait_all",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """Answers of one batch."""

    prediction: Ints  # [B] class
    exit_layer: Ints  # [B] 1-based layer whose head answered
    logits: NDArray[np.float32]  # [B, C] of that head


@dataclass(slots=True)
class Record:
    """What a recording pass collects per layer, appended in layer order."""

    logits: list[Tensor] = field(default_factory=list)  # [B, C] each
    tokens_layer: list[Ints] = field(default_factory=list)  # [B] each
    tokens_ffn: list[Ints] = field(default_factory=list)
    expert_tokens: list[Ints] = field(default_factory=list)  # [B, max E]
    skim_gap: list[NDArray[np.float32]] = field(default_factory=list)  # [B]
    router_gap: list[NDArray[np.float32]] = field(default_factory=list)  # [B]
    cosine_previous: list[Tensor] = field(default_factory=list)  # [B] of the pooled states


@dataclass(frozen=True, slots=True)
class State:
    """Hidden states of the samples that are still computed."""

    x: Tensor  # [B, T, h], T = the longest alive length
    n: Ints  # [B] alive tokens, placed first
    original: Ints  # [B] tokens of the input

    def mask(self) -> Tensor | None:
        """[B, T] True where a token is alive; None when nothing is padded."""
        if int(self.n.min()) == self.x.shape[1]:
            return None
        return _places(self.x, self.x.shape[1])[None] < _beside(self.x, self.n)[:, None]


class DynamicEncoder:
    """A dynamic encoder over a flat dictionary of weights (names in `models/weights.py`)."""

    def __init__(self, config: EncoderConfig, weights: Weights) -> None:
        self.config = config
        self.weights = weights

    @property
    def device(self) -> torch.device:
        """Where its weights lie and its inputs belong."""
        return self.weights["embeddings.word"].device

    def to(self, dtype: str, device: str = "cpu") -> DynamicEncoder:
        """A copy with weights in `dtype` for processors, packed (models/packed.py), or a GPU.

        Args:
            dtype: "fp32", "bf16" or "int8", of which there are kernels for processors alone.
            device: "cpu" or "cuda".
        """
        from dynsearch.models.packed import encoder_of, stored

        held = stored(self.weights, dtype)
        if device == "cpu" or dtype == "int8":
            return encoder_of(self.config, held, dtype)
        return DynamicEncoder(self.config, {k: v.to(device) for k, v in held.items()})

    def run(
        self,
        plan: Plan,
        ids: Tensor,
        lengths: Ints,
        types: Tensor | None = None,
        on_layer: Callable[[], None] | None = None,
    ) -> RunResult:
        """Answer one batch, stopping as early as the plan allows.

        Args:
            plan: What to execute; its exits decide who leaves where.
            ids: Token ids [B, T], padded on the right to the longest sample.
            lengths: Unpadded token counts [B].
            types: Token types [B, T]; None: all 0, one text each.
            on_layer: Called when a layer begins (a stopwatch).
        """
        size = ids.shape[0]
        answer = np.zeros((size, self.config.num_classes), dtype=np.float32)
        exit_layer = np.zeros(size, dtype=np.int64)
        rows = np.arange(size)  # inputs that are still computed
        agreed = np.zeros(size, dtype=np.int64)
        previous = np.full(size, -1, dtype=np.int64)
        with torch.inference_mode():
            state, _ = self.drop_input(self.start(ids, lengths, types), plan)
            for layer in range(plan.depth):
                if on_layer is not None:
                    on_layer()
                state = self._layer(layer, state, plan)
                last = layer == plan.depth - 1
                if not last and not plan.exit_on[layer]:
                    continue
                logits = self.head(layer, self.pool(state)).float().cpu().numpy()
                if last:
                    leave = np.ones(rows.size, dtype=bool)
                elif plan.criterion == "patience":
                    vote = logits.argmax(axis=1)
                    agreed[rows] = np.where(vote == previous[rows], agreed[rows] + 1, 0)
                    previous[rows] = vote
                    leave = agreed[rows] >= plan.patience
                else:
                    sure = exit_score(plan.criterion, logits, plan.temperature)
                    leave = np.asarray(sure) >= plan.thresholds[layer]
                done = leave & (exit_layer[rows] == 0)
                answer[rows[done]] = logits[done]
                exit_layer[rows[done]] = layer + 1
                stay = np.flatnonzero(exit_layer[rows] == 0)
                if stay.size == 0:
                    break
                if stay.size < rows.size and not plan.wait:
                    state = _compact(state, stay)
                    rows = rows[stay]
        return RunResult(prediction=answer.argmax(axis=1), exit_layer=exit_layer, logits=answer)

    def record(
        self,
        plan: Plan,
        ids: Tensor,
        lengths: Ints,
        record: Record,
        types: Tensor | None = None,
    ) -> None:
        """Run all `plan.depth` layers with no exit and append what happened to `record`."""
        with torch.inference_mode():
            state, gap = self.drop_input(self.start(ids, lengths, types), plan)
            before = self.pool(state)
            for layer in range(plan.depth):
                record.tokens_layer.append(state.n)
                state = self._layer(layer, state, plan, record)
                record.tokens_ffn.append(state.n)
                pooled = self.pool(state)
                record.logits.append(self.head(layer, pooled).float())
                likeness = functional.cosine_similarity(pooled.float(), before.float(), dim=-1)
                record.cosine_previous.append(likeness)
                before = pooled
            record.skim_gap[0] = np.minimum(record.skim_gap[0], gap)

    def pooled(
        self,
        plan: Plan,
        ids: Tensor,
        lengths: Ints,
        types: Tensor | None = None,
    ) -> list[Tensor]:
        """Pooled state [B, h] after each layer, with gradients where the weights ask for them."""
        state, _ = self.drop_input(self.start(ids, lengths, types), plan)
        out = []
        for layer in range(plan.depth):
            state = self._layer(layer, state, plan)
            out.append(self.pool(state))
        return out

    def head(self, layer: int, pooled: Tensor) -> Tensor:
        """Logits [B, C] of the exit head after 0-based `layer` from its pooled state [B, h]."""
        w, name = self.weights, f"heads.{layer}."
        hidden = torch.tanh(
            functional.linear(pooled, w[name + "dense.weight"], w[name + "dense.bias"])
        )
        return functional.linear(hidden, w[name + "out.weight"], w[name + "out.bias"])

    def start(self, ids: Tensor, lengths: Ints, types: Tensor | None = None) -> State:
        """Embeddings [B, T, h] of a padded batch; `types` as in `run`."""
        w = self.weights
        words = w["embeddings.word"]
        ids = ids.to(self.device)
        x = (  # where words are trained, the gradient holds the rows that were read, no others
            functional.embedding(ids, words, sparse=words.requires_grad)
            + w["embeddings.position"][: ids.shape[1]]
        )
        kind = w["embeddings.token_type"]
        if types is None or kind.shape[0] == 1:  # DistilBERT and RoBERTa tell no types apart
            kind = kind[0]
        else:
            kind = functional.embedding(types.to(self.device), kind)
        x = self._norm("embeddings.norm", x + kind)
        if "embeddings.project.weight" in w:  # embeddings of another width than the layers
            x = functional.linear(x, w["embeddings.project.weight"], w["embeddings.project.bias"])
        n = np.asarray(lengths, dtype=np.int64)
        return State(x=x, n=n, original=n)

    def token_scores(self, x: Tensor) -> Tensor:
        """How much an answer hangs on each token [B, T], float32, from embeddings [B, T, h].

        A logarithm up to a constant of a text: larger stays.
        """
        w = self.weights
        inner = functional.gelu(
            functional.linear(x, w["scorer.hidden.weight"], w["scorer.hidden.bias"])
        )
        scores = functional.linear(inner, w["scorer.out.weight"], w["scorer.out.bias"])
        return scores[..., 0].float()

    def drop_input(self, state: State, plan: Plan) -> tuple[State, NDArray[np.float32]]:
        """What is left of embeddings where the plan drops tokens before the first layer.

        Also the relative gap [B] between the last kept and the first dropped token, +inf where
        none is.
        """
        counts = keep_counts(state.original, np.asarray(plan.keep_input))
        if not (counts < state.n).any():
            return state, np.full(len(counts), np.inf, dtype=np.float32)
        with torch.no_grad():
            weight = self.token_scores(state.x).exp()
        positions, gap = _kept_positions(weight, state.n, counts, True)
        return State(x=_take(state.x, positions), n=counts, original=state.original), gap

    def _linear(self, name: str, x: Tensor) -> Tensor:
        """One linear operator of a layer, [..., in] -> [..., out]."""
        return functional.linear(x, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[name + ".weight"], self.weights[name + ".bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, self.config.norm_eps)

    def pool(self, state: State) -> Tensor:
        """[B, T, h] -> [B, h] over the tokens that are alive."""
        x = state.x
        if self.config.pooling == "cls":
            return x[:, 0]
        mask = state.mask()
        if mask is None:
            return x.mean(dim=1)
        weight = mask.to(x.dtype) / _beside(x, state.n).to(x.dtype)[:, None]  # [B, T]
        return torch.bmm(weight[:, None], x)[:, 0]

    def _layer(self, layer: int, state: State, plan: Plan, record: Record | None = None) -> State:
        """Attention, drop of tokens, feed-forward network of 0-based `layer`."""
        return self.feed_forward(layer, self.attend(layer, state, plan, record), plan, record)

    def feed_forward(
        self, layer: int, state: State, plan: Plan, record: Record | None = None
    ) -> State:
        """The feed-forward half of 0-based `layer`."""
        update = self._ffn(layer, state, plan, record)
        x = self._norm(f"layers.{layer}.norm2", state.x + update)
        return State(x=x, n=state.n, original=state.original)

    def attend(self, layer: int, state: State, plan: Plan, record: Record | None = None) -> State:
        """The attention half of 0-based `layer`: what its feed-forward network sees."""
        name = f"layers.{layer}."
        x, mask, heads = state.x, state.mask(), self.config.num_heads
        size, width, hidden = x.shape
        qkv = self._linear(name + "qkv", x)
        q, k, v = qkv.view(size, width, 3, heads, hidden // heads).permute(2, 0, 3, 1, 4)
        counts = np.minimum(
            keep_counts(state.original, np.asarray(plan.keep_rate[layer])), state.n
        )
        gap, want_gap = np.full(size, np.inf, dtype=np.float32), record is not None
        dropping = bool((counts < state.n).any())
        if dropping and width > MAX_QUERIES:
            context, positions, gap = _attend_where_kept(q, k, v, state.n, counts, want_gap)
            x = _take(x, positions)
        elif dropping:
            context, received = _attend_with_importance(q, k, v, mask)
            positions, gap = _kept_positions(received, state.n, counts, want_gap)
            x, context = _take(x, positions), _take(_joined_heads(context), positions)
        else:
            wide = None if mask is None else mask[:, None, None]
            context = _joined_heads(_attend(q, k, v, wide))
        if record is not None:
            record.skim_gap.append(gap)
        x = self._norm(name + "norm1", x + self._linear(name + "out", context))
        return State(x=x, n=counts, original=state.original)

    def _ffn(self, layer: int, state: State, plan: Plan, record: Record | None) -> Tensor:
        """Feed-forward network [B, T, h] -> [B, T, h]: dense, or the routed experts alone."""
        w, name = self.weights, f"layers.{layer}."
        experts, top_k = plan.num_experts[layer], plan.top_k[layer]
        x = state.x
        if top_k >= experts:
            if record is not None:
                record.expert_tokens.append(np.zeros((x.shape[0], 0), dtype=np.int64))
                record.router_gap.append(np.full(x.shape[0], np.inf, dtype=np.float32))
            hidden = functional.gelu(self._linear(name + "ffn_in", x))
            return self._linear(name + "ffn_out", hidden)
        router = f"{name}router{experts}."
        base = w[f"{name}experts{experts}.base"]  # [h] bias and mean output of all experts
        if plan.token_routing:
            return self._ffn_by_token(layer, state, experts, top_k, router, base, record)
        scores = functional.linear(
            self.pool(state), w[router + "weight"], w[router + "bias"]
        )  # [B, E]
        chosen = scores.topk(top_k, dim=-1).indices.cpu().numpy()  # the host reads the choice
        if record is not None:
            tokens = np.zeros((x.shape[0], experts), dtype=np.int64)
            np.put_along_axis(tokens, chosen, state.n[:, None], axis=1)
            record.expert_tokens.append(tokens)
            record.router_gap.append(_router_gap(scores, top_k))
        if x.shape[0] == 1:
            return base + sum(self._expert(layer, experts, int(e), x) for e in chosen[0])
        return base + self._dispatch(layer, experts, x, chosen)

    def _ffn_by_token(
        self,
        layer: int,
        state: State,
        experts: int,
        top_k: int,
        router: str,
        base: Tensor,
        record: Record | None,
    ) -> Tensor:
        """Token routing: padding is never routed."""
        w, x = self.weights, state.x
        size, width, hidden = x.shape
        mask = state.mask()
        flat = x.reshape(size * width, hidden)
        where = None if mask is None else torch.nonzero(mask.reshape(-1))[:, 0]
        tokens = flat if where is None else flat.index_select(0, where)
        scores = functional.linear(tokens, w[router + "weight"], w[router + "bias"])  # [tokens, E]
        chosen = scores.topk(top_k, dim=-1).indices.cpu().numpy()
        out = base + self._dispatch(layer, experts, tokens, chosen)
        if record is not None:
            owner = np.repeat(np.arange(size), state.n)
            counts = np.zeros((size, experts), dtype=np.int64)
            np.add.at(counts, (np.repeat(owner, top_k), chosen.reshape(-1)), 1)
            record.expert_tokens.append(counts)
            gap = np.full(size, np.inf, dtype=np.float32)
            np.minimum.at(gap, owner, _router_gap(scores, top_k))
            record.router_gap.append(gap)
        if where is None:
            return out.view(size, width, hidden)
        full = torch.zeros_like(flat)
        return full.index_copy(0, where, out).view(size, width, hidden)

    def _dispatch(self, layer: int, experts: int, items: Tensor, chosen: Ints) -> Tensor:
        """Sum over the chosen experts [R, ..., h] of R items (tokens or sequences).

        Items are put in the order of their experts once, each expert computes its own stretch,
        and one look-up puts the answers back: two copies, however many experts there are.

        Args:
            layer: 0-based.
            experts: E.
            items: [R, ..., h].
            chosen: [R, k] expert indices.
        """
        asked = chosen.reshape(-1)
        order = np.argsort(asked, kind="stable")
        stretches = torch.split(
            items.index_select(0, _beside(items, order // chosen.shape[1])),
            np.bincount(asked, minlength=experts).tolist(),
        )
        answers = torch.cat(
            [self._expert(layer, experts, e, x) for e, x in enumerate(stretches) if len(x)]
        )
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        back = answers.index_select(0, _beside(answers, place))
        if chosen.shape[1] == 1:
            return back
        return back.view(*chosen.shape, *items.shape[1:]).sum(dim=1)

    def _expert(self, layer: int, experts: int, e: int, x: Tensor) -> Tensor:
        """Output of expert e of `experts`, less its mean over the training text."""
        w, name = self.weights, f"layers.{layer}."
        share = self.config.ffn_size // experts
        part = slice(e * share, (e + 1) * share)
        hidden = functional.linear(
            x, w[name + "ffn_in.weight"][part], w[name + "ffn_in.bias"][part]
        )
        minus_mean = w[f"{name}experts{experts}.minus_mean"][e]
        return functional.linear(
            functional.gelu(hidden), w[name + "ffn_out.weight"][:, part], minus_mean
        )


def _beside(x: Tensor, values: Ints) -> Tensor:
    """`values` on the device of `x`."""
    return torch.from_numpy(values).to(x.device)


def _places(x: Tensor, count: int) -> Tensor:
    """0 to count - 1 on the device of `x`."""
    return torch.arange(count, device=x.device)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention [B, H, T, d] of queries [B, H, T, d] to keys and values [B, H, K, d]."""
    if not q.requires_grad:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return torch.matmul(_attention_weights(q, k, mask), v)  # its backward is faster on a CPU


def _attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) [B, H, T, K]; `mask` is True where a key counts."""
    logits = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if mask is not None:
        logits.masked_fill_(~mask, float("-inf"))
    return torch.softmax(logits, dim=-1)


def _joined_heads(context: Tensor) -> Tensor:
    """[B, H, T, d] -> [B, T, h]."""
    size, heads, width, head = context.shape
    return context.transpose(1, 2).reshape(size, width, heads * head)


def _attend_with_importance(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention [B, H, T, d] and the attention that each token receives [B, T] in float32.

    Received attention is summed over heads and over the sample's own query tokens (PoWER-BERT).
    """
    weights = _attention_weights(q, k, None if mask is None else mask[:, None, None])
    if mask is None:
        received = weights.sum(dim=(1, 2), dtype=torch.float32)
    else:
        queries = mask.to(torch.float32)[:, None]  # [B, 1, T]
        received = torch.bmm(queries, weights.sum(dim=1, dtype=torch.float32))[:, 0]
    return torch.matmul(weights, v), received


def _attend_where_kept(
    q: Tensor, k: Tensor, v: Tensor, n: Ints, counts: Ints, want_gap: bool
) -> tuple[Tensor, Tensor, NDArray[np.float32]]:
    """Attention of the tokens that stay [B, most, h], their positions [B, most], gaps [B].

    For texts of more than MAX_QUERIES tokens, one by one, so that nothing is padding: the
    attention that few of its own queries pay ranks a text's tokens, and only those that stay
    attend. Rows beyond a text's count are zeros and the last position.
    """
    found, places, gaps = [], [], []
    most = int(counts.max())
    for i in range(q.shape[0]):
        own, count = int(n[i]), counts[i : i + 1]
        mine, keys = q[i : i + 1, :, :own], k[i : i + 1, :, :own]
        asked = mine.index_select(2, _beside(q, query_positions(own)))
        with torch.no_grad():
            received = _attention_weights(asked, keys).sum(dim=(1, 2), dtype=torch.float32)
        positions, gap = _kept_positions(received, n[i : i + 1], count, want_gap)
        context = _attend(mine.index_select(2, positions[0]), keys, v[i : i + 1, :, :own])
        short = most - int(count[0])
        found.append(functional.pad(_joined_heads(context), (0, 0, 0, short)))
        places.append(functional.pad(positions, (0, short), value=q.shape[2] - 1))
        gaps.append(gap)
    return torch.cat(found), torch.cat(places), np.concatenate(gaps)


def _kept_positions(
    received: Tensor, n: Ints, counts: Ints, want_gap: bool
) -> tuple[Tensor, NDArray[np.float32]]:
    """Positions to keep [B, max count] in text order; [CLS] first, padding last.

    A sample keeps its `counts` tokens of largest received attention, [CLS] always among them.
    Also the relative gap between the last kept and the first dropped token, +inf where none is.
    """
    size, width = received.shape
    most = int(counts.max())
    order = received.detach().clone()
    order[:, 0] = torch.inf
    gap = np.full(size, np.inf, dtype=np.float32)
    if size == 1:
        top = torch.topk(order[0], most).indices.sort().values
        positions = top[None]
    else:
        place = _places(order, width)
        valid = place[None] < _beside(order, n)[:, None]
        order = order.masked_fill(~valid, -1.0)
        ranked = torch.argsort(order, dim=1, descending=True, stable=True)
        kept = place[None] < _beside(order, counts)[:, None]  # by rank
        positions = ranked.masked_fill(~kept, width).sort(dim=1).values[:, :most]
        positions = positions.clamp_max(width - 1)
    if want_gap:
        value = np.sort(order.cpu().numpy(), axis=1)[:, ::-1]
        rows = np.flatnonzero(counts < n)
        last, first = value[rows, counts[rows] - 1], value[rows, counts[rows]]
        gap[rows] = (last - first) / np.maximum(np.abs(last), 1e-30)
    return positions, gap


def _router_gap(scores: Tensor, top_k: int) -> NDArray[np.float32]:
    """Relative gap between the k-th and the next router score, one per row."""
    value = np.sort(scores.float().cpu().numpy(), axis=-1)[:, ::-1]
    last, first = value[:, top_k - 1], value[:, top_k]
    gap: NDArray[np.float32] = ((last - first) / np.maximum(np.abs(last), 1e-30)).astype(
        np.float32
    )
    return gap


def _take(x: Tensor, positions: Tensor) -> Tensor:
    """Rows `positions` [B, K] of x [B, T, h].

    Whole rows are copied: `torch.gather` reads value by value and takes 12 times as long (8 x 115
    of 230 rows of 384 in fp32 776 against 63 us, in bf16 882 against 39; Zen 4, one thread).
    """
    size, width, hidden = x.shape
    if size == 1:
        return x.index_select(1, positions[0])
    first = width * _places(x, size)[:, None]
    flat = x.reshape(size * width, hidden).index_select(0, (first + positions).reshape(-1))
    return flat.view(*positions.shape, hidden)


def _compact(state: State, stay: Ints) -> State:
    """The samples `stay` of the batch, padded no wider than the longest of them."""
    n = state.n[stay]
    x = state.x.index_select(0, _beside(state.x, stay))[:, : int(n.max())]
    return State(x=x, n=n, original=state.original[stay])


def full_plan(config: EncoderConfig) -> Plan:
    """All layers, all experts, no skim, no exit check."""
    layers = config.num_layers
    return Plan(
        depth=layers,
        keep_input=1.0,
        keep_rate=(1.0,) * layers,
        num_experts=(1,) * layers,
        top_k=(1,) * layers,
        token_routing=False,
        exit_on=(False,) * layers,
        thresholds=(float("inf"),) * layers,
        criterion="max_prob",
        patience=0,
        temperature=1.0,
        wait=False,
    )
