"""Geometry of a network: encoder, decoder, or both, with the choices that change shapes.

Everything after `tied_layers` came later than the first files: `backbone_table` leaves it out
where it has its default, so that files and hashes of earlier candidates stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """Geometry of the network that the policies act on.

    An "enc_dec" has `num_layers` encoder layers and `num_decoder_layers` decoder layers; a
    "decoder" has `num_layers` of its own kind.
    """

    name: str
    type: str = "encoder"  # encoder, decoder, enc_dec, recurrent
    num_layers: int
    hidden_size: int
    num_heads: int
    ffn_size: int
    vocab_size: int
    max_len: int
    num_kv_heads: int | None = None  # None: as many as num_heads
    embedding_size: int | None = None  # None: hidden_size; another width is projected to it
    ffn_kind: str = "mlp"  # mlp, gated
    type_vocab_size: int = 2
    tied_embeddings: bool = False  # the output projection of a decoder is its embedding table
    tied_layers: bool = False
    head_width: int | None = None  # None: hidden_size / num_heads
    num_decoder_layers: int = 0  # of an enc_dec
    decoder_hidden_size: int | None = None  # None, here and below: as in the encoder
    decoder_num_heads: int | None = None
    decoder_ffn_size: int | None = None
    decoder_max_len: int | None = None
    sliding_window: int | None = None  # keys that a query of a decoder sees; None: all before it
    positions: str = "learned"  # learned, fixed, rotary, relative
    relative_buckets: int = 0  # of relative positions: one bias per bucket and head, each stack
    norm: str = "layer"  # layer (scale and shift), rms (scale)
    norm_place: str = "post"  # post, pre (one norm more at the end of each stack)
    embedding_norm: bool = True
    query_key_norm: bool = False  # scale of each head's queries and keys
    biases: str = "all"  # all, none, qkv, no_key
    input_channels: int = 0  # above 0: two convolutions over so many channels, no input tokens
    num_experts: int = 1  # per layer that has experts; 1: dense
    experts_per_token: int = 1
    num_shared_experts: int = 0  # see every token
    expert_ffn_size: int | None = None  # None: ffn_size
    first_dense_layers: int = 0  # layers below have no experts
    expert_every: int = 1  # of the others every such layer has experts, counted from its end
    cell: str = "lstm"  # of a recurrent backbone: lstm, gru, rnn

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_width or self.hidden_size // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def attention_width(self) -> int:
        """Width of all heads together, which the output projection brings back to hidden_size."""
        return self.num_heads * self.head_size

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings, before any projection to `hidden_size`."""
        return self.embedding_size or self.hidden_size

    @property
    def expert_width(self) -> int:
        """Hidden width of one expert of a layer that has experts."""
        return self.expert_ffn_size or self.ffn_size

    @property
    def up_projections(self) -> int:
        """Matrices that lead into a feed-forward network."""
        return 2 if self.ffn_kind == "gated" else 1

    def has_experts(self, layer: int) -> bool:
        """Whether a layer (0-based) has experts of its own."""
        above = layer - self.first_dense_layers
        return self.num_experts > 1 and above >= 0 and (above + 1) % self.expert_every == 0

    def stacks(self) -> tuple[Stack, ...]:
        """The encoder or decoder, or both in this order."""
        first = Stack(
            num_layers=self.num_layers,
            hidden=self.hidden_size,
            heads=self.num_heads,
            kv_heads=self.kv_heads,
            head=self.head_size,
            ffn=self.ffn_size,
            max_len=self.max_len,
            is_decoder=self.type == "decoder",
        )
        if self.type != "enc_dec":
            return (first,)
        hidden = self.decoder_hidden_size or self.hidden_size
        heads = self.decoder_num_heads or self.num_heads
        second = Stack(
            num_layers=self.num_decoder_layers,
            hidden=hidden,
            heads=heads,
            kv_heads=heads if self.num_kv_heads is None else self.num_kv_heads,
            head=self.head_width or hidden // heads,
            ffn=self.decoder_ffn_size or self.ffn_size,
            max_len=self.decoder_max_len or self.max_len,
            is_decoder=True,
            source=self.hidden_size,
        )
        return (first, second)

    def decoder(self) -> Stack:
        """The stack that writes tokens.

        Raises:
            InputError: there is none.
        """
        last = self.stacks()[-1]
        if not last.is_decoder:
            raise InputError.one(
                self.name,
                "backbone.type",
                self.type,
                "has no decoder; use a backbone of type decoder or enc_dec",
            )
        return last


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Widths of layers of one kind."""

    num_layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int  # width of one head
    ffn: int
    max_len: int
    is_decoder: bool
    source: int = 0  # width of the states that cross attention reads; 0: there is none
