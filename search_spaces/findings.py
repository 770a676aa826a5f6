"""Findings of validity checks, and those about the backbone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from search_spaces.backbone import Backbone
from search_spaces.vocabulary import (
    BACKBONE_TYPES,
    BIASES,
    CELLS,
    FFN_KINDS,
    NORM_PLACES,
    NORMS,
    POSITIONS,
)

_POSITIVE = ("num_layers", "hidden_size", "num_heads", "ffn_size", "vocab_size", "max_len")
_MAYBE = ("head_width", "decoder_hidden_size", "decoder_num_heads", "decoder_ffn_size")
_POSITIVE_IF_SET = (*_MAYBE, "decoder_max_len", "sliding_window", "expert_ffn_size")
_T5_BUCKETS = 32  # of relative positions in T5, the model that has them


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing about a candidate that is wrong (reject) or needs care (warn)."""

    severity: str  # reject, warn
    rule: int
    key: str
    value: Any
    reason: str
    nearest: Any = None  # of a reject: the nearest legal value, None for a key to leave out


class Findings(list[Finding]):
    """Findings on their way."""

    def reject(self, rule: int, key: str, value: Any, reason: str, near: Any) -> None:
        """Note what is wrong and the nearest value that is not; None: leave the key out."""
        self.append(
            Finding(
                severity="reject", rule=rule, key=key, value=value, reason=reason, nearest=near
            )
        )

    def warn(self, rule: int, key: str, value: Any, reason: str) -> None:
        """Note what needs care."""
        self.append(Finding(severity="warn", rule=rule, key=key, value=value, reason=reason))

    def one_of(self, key: str, value: str, known: Iterable[str]) -> None:
        """Reject a name that is not known."""
        names = tuple(known)
        if value not in names:
            near = next(iter(get_close_matches(value, names, n=1, cutoff=0.0)), names[0])
            self.reject(0, key, value, f"is none of {', '.join(names)}", near)

    def at_least(self, key: str, value: float | None, least: float) -> None:
        """Reject a number below the least one; None passes."""
        if value is not None and not value >= least:
            self.reject(1, key, value, f"must be at least {least:g}", least)

    def belongs(self, key: str, value: Any, default: Any, owners: Iterable[str]) -> None:
        """Reject a field that is set though only `owners` read it."""
        if value != default:
            text = f"belongs to {' and '.join(owners)}"
            self.reject(1, key, value, text, default)

    def one_per_layer(
        self, key: str, values: Sequence[Any], layers: Sized, what: str, default: Any
    ) -> None:
        """Reject a list that has not one value per layer; an empty one gets `default` each."""
        if len(values) != len(layers):
            reason = f"needs one {what} per layer: {len(layers)} layers"
            self.reject(1, key, values, reason, fitted(values, len(layers), default))


def fitted(values: Sequence[Any], size: int, default: Any) -> tuple[Any, ...]:
    """The values cut off, or the last one (`default` without any) repeated, to so many."""
    last = values[-1] if values else default
    return (*values[:size], *[last] * (size - len(values)))


def check_backbone(backbone: Backbone) -> list[Finding]:
    """What is wrong with a geometry."""
    found, b = Findings(), backbone
    for name, known in (
        ("type", BACKBONE_TYPES),
        ("ffn_kind", FFN_KINDS),
        ("positions", POSITIONS),
        ("norm", NORMS),
        ("norm_place", NORM_PLACES),
        ("biases", BIASES),
        ("cell", CELLS),
    ):
        found.one_of(f"backbone.{name}", getattr(b, name), known)
    for name in (*_POSITIVE, *_POSITIVE_IF_SET):
        value = getattr(b, name)
        if value is not None and value < 1:
            found.reject(0, f"backbone.{name}", value, "must be at least 1", 1)
    heads, kv = b.num_heads, b.num_kv_heads
    if heads >= 1 and b.head_width is None and b.hidden_size % heads:
        near = nearest_divisor(b.hidden_size, heads)
        found.reject(0, "backbone.num_heads", heads, "must divide hidden_size", near)
    if kv is not None and (kv < 1 or heads % kv):
        near = nearest_divisor(heads, kv)
        found.reject(0, "backbone.num_kv_heads", kv, "must divide num_heads", near)
    _check_decoder(found, b)
    _check_own_experts(found, b)
    return list(found)


def _check_decoder(found: Findings, b: Backbone) -> None:
    both = b.type == "enc_dec"
    if both and b.num_decoder_layers < 1:
        reason = "an encoder-decoder needs decoder layers"
        found.reject(0, "backbone.num_decoder_layers", b.num_decoder_layers, reason, b.num_layers)
    elif not both and b.num_decoder_layers:
        reason = "only an enc_dec has them; a decoder's layers are num_layers"
        found.reject(0, "backbone.num_decoder_layers", b.num_decoder_layers, reason, 0)
    for name in ("hidden_size", "num_heads", "ffn_size", "max_len"):
        value = getattr(b, f"decoder_{name}")
        if value is not None and not both:
            reason = "only an enc_dec has a second stack"
            found.reject(0, f"backbone.decoder_{name}", value, reason, None)
    hidden, heads = b.decoder_hidden_size, b.decoder_num_heads
    if both and b.head_width is None and (hidden or heads):
        width, count = hidden or b.hidden_size, heads or b.num_heads
        if count >= 1 and width % count:
            near = nearest_divisor(width, count)
            reason = f"must divide the decoder's width {width}"
            found.reject(0, "backbone.decoder_num_heads", count, reason, near)
    if b.sliding_window is not None and b.type == "encoder":
        reason = "counts keys before a query: an encoder has none such"
        found.reject(0, "backbone.sliding_window", b.sliding_window, reason, None)
    if (b.relative_buckets > 0) != (b.positions == "relative"):
        reason = 'belongs to positions = "relative" and to no other'
        near = _T5_BUCKETS if b.positions == "relative" else 0
        found.reject(0, "backbone.relative_buckets", b.relative_buckets, reason, near)
    if b.input_channels and not both:
        reason = "sound is read by the encoder of an enc_dec"
        found.reject(0, "backbone.input_channels", b.input_channels, reason, 0)


def _check_own_experts(found: Findings, b: Backbone) -> None:
    E, k = b.num_experts, b.experts_per_token
    if E < 1:
        found.reject(0, "backbone.num_experts", E, "must be at least 1 (dense)", 1)
    elif not 1 <= k <= E:
        near = min(max(k, 1), E)
        reason = f"must lie in 1..{E} (num_experts)"
        found.reject(0, "backbone.experts_per_token", k, reason, near)
    if E == 1 and b.num_shared_experts:
        reason = "a dense backbone has no experts"
        found.reject(0, "backbone.num_shared_experts", b.num_shared_experts, reason, 0)
    for name, least in (("num_shared_experts", 0), ("first_dense_layers", 0), ("expert_every", 1)):
        value = getattr(b, name)
        if value < least:
            found.reject(0, f"backbone.{name}", value, f"must be at least {least}", least)


def nearest_divisor(number: int, wish: int) -> int:
    """The divisor of `number` nearest to `wish`, the smaller of two."""
    divisors = [d for d in range(1, max(number, 1) + 1) if number % d == 0]
    return min(divisors, key=lambda d: (abs(d - wish), d))
