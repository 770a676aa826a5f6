"""How many numbers a network consists of: published counts exactly, weights for memory models.

    layer    = attention (twice where a decoder reads an encoder) + feed-forward network + norms
    network  = embeddings + layers + last norms + output projection (0 where tied)

"Matrices" are what quantisation shrinks: the projections and feed-forward networks of the layers
with their biases, experts included. All else is norms, routers, embeddings and heads.
"""

from __future__ import annotations

from search_spaces.backbone import Backbone, Stack

_IN = ("all", "qkv", "no_key")  # biases of queries and values
_KEY = ("all", "qkv")
_OUT = ("all", "no_key")  # of output projections and feed-forward networks


def count_parameters(backbone: Backbone, *, pooler: bool = True) -> int:
    """Weights of a network without task heads.

    Args:
        backbone: Geometry.
        pooler: Whether an encoder's pooler (h x h with a bias) is counted.
    """
    b = backbone
    total = embedding_values(b) + output_values(b)
    for stack in b.stacks():
        kept = 1 if b.tied_layers else stack.num_layers
        total += sum(layer_values(b, stack, layer) for layer in range(kept))
        total += stack_values(b, stack)
    has_pooler = pooler and b.type == "encoder"
    return total + (b.hidden_size * (b.hidden_size + 1) if has_pooler else 0)


def embedding_values(backbone: Backbone) -> int:
    """Tables of tokens, positions and types, their norm, a projection; convolutions of sound."""
    b = backbone
    h, e = b.hidden_size, b.embedding_width
    positions = sum(s.max_len * (e if s.hidden == h else s.hidden) for s in b.stacks())
    values = b.vocab_size * e + (positions if b.positions == "learned" else 0)
    if b.input_channels:
        values += (3 * b.input_channels + 1) * h + (3 * h + 1) * h
    values += b.type_vocab_size * e + (norm_values(b, e) if b.embedding_norm else 0)
    return values + ((e + 1) * h if e != h else 0)


def output_values(backbone: Backbone) -> int:
    """Projection of a decoder to the vocabulary, where it is not the embedding table."""
    last = backbone.stacks()[-1]
    if not last.is_decoder or backbone.tied_embeddings:
        return 0
    return backbone.vocab_size * last.hidden


def stack_values(backbone: Backbone, stack: Stack) -> int:
    """What the layers of a stack have in common: the last norm, biases of relative positions."""
    last = norm_values(backbone, stack.hidden) if backbone.norm_place == "pre" else 0
    return last + backbone.relative_buckets * stack.heads


def layer_values(backbone: Backbone, stack: Stack, layer: int = 0) -> int:
    """Numbers in one layer (0-based), experts and their router included."""
    b = backbone
    norms = (3 if stack.source else 2) * norm_values(b, stack.hidden)
    if b.query_key_norm:
        norms += 2 * stack.head
    router = stack.hidden * b.num_experts if b.has_experts(layer) else 0
    return matrix_values(b, stack, layer) + norms + router


def matrix_values(backbone: Backbone, stack: Stack, layer: int = 0) -> int:
    """Numbers in the matrices of one layer and their biases."""
    b = backbone
    attention = attention_values(b, stack, stack.hidden)
    if stack.source:
        attention += attention_values(b, stack, stack.source)
    if not b.has_experts(layer):
        return attention + ffn_values(b, stack.hidden, stack.ffn)
    experts = b.num_experts + b.num_shared_experts
    return attention + experts * ffn_values(b, stack.hidden, b.expert_width)


def attention_values(backbone: Backbone, stack: Stack, source: int) -> int:
    """Projections of one attention whose keys and values come from states of `source` width."""
    h, own, shared = stack.hidden, stack.heads * stack.head, stack.kv_heads * stack.head
    kind = backbone.biases
    biases = (own + shared) * (kind in _IN) + shared * (kind in _KEY) + h * (kind in _OUT)
    return 2 * h * own + 2 * source * shared + biases


def ffn_values(backbone: Backbone, hidden: int, inner: int) -> int:
    """A feed-forward network of `inner` hidden values, or one expert."""
    up = backbone.up_projections
    biases = (up * inner + hidden) * (backbone.biases in _OUT)
    return (up + 1) * hidden * inner + biases


def norm_values(backbone: Backbone, width: int) -> int:
    """Scale, and shift where the norm has one."""
    return width if backbone.norm == "rms" else 2 * width
