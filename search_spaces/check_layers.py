"""Checks of layer lists and of the stack that a part acts on; called by the other checks."""

from __future__ import annotations

from search_spaces.backbone import Backbone
from search_spaces.findings import Findings


def check_stack(
    found: Findings, key: str, backbone: Backbone, stack: str | None, known: tuple[str, ...]
) -> None:
    """Reject a stack that the backbone does not have."""
    if stack is None:
        return
    if backbone.type != "enc_dec":
        found.reject(0, key, stack, "only an enc_dec has two stacks", None)
    else:
        found.one_of(key, stack, known)


def check_layers(
    found: Findings, key: str, layers: tuple[int, ...], backbone: Backbone, stacks: tuple[str, ...]
) -> None:
    """Reject layers that do not ascend or that one of the stacks does not have."""
    counts = {"encoder": backbone.num_layers, "decoder": backbone.num_layers}
    if backbone.type == "enc_dec":
        counts["decoder"] = backbone.num_decoder_layers
    most = min((counts[s] for s in stacks if s in counts), default=backbone.num_layers)
    if list(layers) != sorted(set(layers)):
        found.reject(1, key, layers, "must ascend", tuple(sorted(set(layers))))
    if any(not 1 <= layer <= most for layer in layers):
        inside = tuple(layer for layer in layers if 1 <= layer <= most)
        found.reject(1, key, layers, f"layers are numbered 1..{most}", inside)
