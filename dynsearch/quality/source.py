"""A supernet with its data as a source of traces: the real forward passes of the search."""

from __future__ import annotations

import functools
import hashlib
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dynsearch.heap import give_freed_memory_back, keep_freed_memory
from dynsearch.models.dynamic import DynamicEncoder, EncoderConfig, Record, Weights, plan_of
from dynsearch.models.tokens import Tokens
from dynsearch.quality.trace import SCHEMA_VERSION, Trace
from dynsearch.quality.training import Labelled
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_hash, candidate_to_dict
from search_spaces.errors import InputError
from search_spaces.exits.hash import random_layers, sample_layers

RECORD_BATCH = 32
# In int8 a scale is shared by a call: one text at a time, so that no answer depends on its mates.
RECORD_BATCH_OF = {"int8": 1}
_LOG = logging.getLogger(__name__)

TRIM_TEXTS = 512  # freed memory goes back so often: 32 long texts leave up to 50 MB of holes


@dataclass(slots=True)
class SupernetQuality:
    """Weights and tokenised splits; `record` runs a candidate's network over one of them."""

    config: EncoderConfig
    weights: Weights
    splits: dict[str, Labelled]
    weights_hash: str
    _cast: dict[str, DynamicEncoder] = field(default_factory=dict)
    device: str = "cpu"  # or "cuda": where passes run; int8 runs on processors alone

    @property
    def num_classes(self) -> int:
        """C."""
        return self.config.num_classes

    def majority_error(self, split: str) -> float:
        """Error of always answering the most frequent class of `split`."""
        labels = self.splits[split].labels
        return 1.0 - float(np.bincount(labels).max()) / float(labels.shape[0])

    def encoder(self, dtype: str) -> DynamicEncoder:
        """The runnable network with its weights in `dtype`."""
        if dtype not in self._cast:
            self._cast[dtype] = DynamicEncoder(self.config, self.weights).to(dtype, self.device)
        return self._cast[dtype]

    def record(self, outer: Candidate, split: str) -> Trace:
        """Run the first `outer.depth` layers of a setting over `split`, no exit taken.

        Layers above the depth stay zero in the trace, which serves policies down to it only.
        """
        start = time.perf_counter()
        keep_freed_memory()
        data = self.splits[split]
        plan, whole = plan_of(outer), replace(outer, depth=self.config.num_layers)
        model = self.encoder(outer.dtype)
        size, layers = len(data.tokens), self.config.num_layers
        most = max(1, *plan.num_experts)
        logits = np.zeros((size, layers, self.num_classes), dtype=np.float32)
        layer_in = np.zeros((size, layers), dtype=np.int32)
        ffn_in = np.zeros((size, layers), dtype=np.int32)
        experts = np.zeros((size, layers, most), dtype=np.int32)
        skim_gap = np.zeros((size, layers), dtype=np.float32)
        router_gap = np.zeros((size, layers), dtype=np.float32)
        likeness = np.zeros((size, layers), dtype=np.float32)
        hashed = np.zeros((size, layers), dtype=np.float32)
        sites = np.arange(1, layers + 1)
        # longest first: what a batch frees fits the next one, and memory does not fill with holes
        order = np.argsort(-data.tokens.lengths, kind="stable")
        batch = RECORD_BATCH_OF.get(outer.dtype, RECORD_BATCH)
        for i in range(0, size, batch):
            if i and i % TRIM_TEXTS < batch:
                give_freed_memory_back()
            rows = order[i : i + batch]
            ids, n = data.tokens.batch(rows)
            seen = Record()
            types = data.tokens.batch_types(rows)
            model.record(plan, ids, n, seen, types)
            hashed[rows] = sample_layers(random_layers(ids.numpy(), sites), n)[:, None]
            for layer in range(plan.depth):
                logits[rows, layer] = seen.logits[layer].cpu().numpy()
                layer_in[rows, layer] = seen.tokens_layer[layer]
                ffn_in[rows, layer] = seen.tokens_ffn[layer]
                got = seen.expert_tokens[layer]
                experts[rows, layer, : got.shape[1]] = got
                skim_gap[rows, layer] = seen.skim_gap[layer]
                router_gap[rows, layer] = seen.router_gap[layer]
                likeness[rows, layer] = seen.cosine_previous[layer].cpu().numpy()
        give_freed_memory_back()
        return Trace(
            logits=logits,
            labels=data.labels,
            lengths=data.tokens.lengths,
            tokens_layer=layer_in,
            tokens_ffn=ffn_in,
            expert_tokens=experts,
            aux={
                "skim_gap": skim_gap,
                "router_gap": router_gap,
                "cosine_previous": likeness,
                "hash_layer": hashed,
            },
            header={
                "schema_version": SCHEMA_VERSION,
                "weights_hash": self.weights_hash,
                "split": split,
                "split_hash": split_hash(data),
                "outer": candidate_to_dict(whole),
                "outer_hash": candidate_hash(whole),
                "dtype": outer.dtype,
                "depth": plan.depth,
                "seconds": time.perf_counter() - start,
            },
        )

    def first_rows(self, split: str, n: int) -> SupernetQuality:
        """The same network on the first `n` rows of one split alone."""
        return self.rows(split, 0, n)

    def rows(self, split: str, start: int, stop: int | None = None) -> SupernetQuality:
        """The same network on the rows from `start` up to `stop` of one split alone."""
        whole, kept = self.splits[split], slice(start, stop)
        tokens = replace(
            whole.tokens, starts=whole.tokens.starts[kept], lengths=whole.tokens.lengths[kept]
        )
        part = Labelled(tokens=tokens, labels=whole.labels[kept])
        return SupernetQuality(
            self.config, self.weights, {split: part}, self.weights_hash, self._cast, self.device
        )

    def on(self, device: str) -> SupernetQuality:
        """The same network with its passes on "cpu" or "cuda".

        A GPU adds in another order: logits differ from a processor's by rounding.

        Raises:
            InputError: "cuda" where torch finds no GPU.
        """
        if device == self.device:
            return self
        if device == "cuda" and not torch.cuda.is_available():
            text = "workers were given a GPU, torch finds none; install its CUDA build on every "
            text += "node with GPUs, or set it to 0"
            raise InputError.one("job", "search.gpu_share", device, text)
        return replace(self, device=device, _cast={})

    def payload(self) -> dict[str, Any]:
        """Numpy arrays and plain values; `from_payload` is the inverse."""
        return {
            "config": asdict(self.config),
            "weights": {k: v.numpy() for k, v in self.weights.items()},
            "weights_hash": self.weights_hash,
            "splits": {
                name: {
                    "ids": data.tokens.ids,
                    "starts": data.tokens.starts,
                    "lengths": data.tokens.lengths,
                    "types": data.tokens.types,
                    "labels": data.labels,
                }
                for name, data in self.splits.items()
            },
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> SupernetQuality:
        """The source, sharing memory with arrays that may be read-only."""
        config = dict(payload["config"])
        config["expert_counts"] = tuple(config["expert_counts"])
        splits = {
            name: Labelled(
                tokens=Tokens(
                    ids=d["ids"], starts=d["starts"], lengths=d["lengths"], types=d["types"]
                ),
                labels=d["labels"],
            )
            for name, d in payload["splits"].items()
        }
        return cls(
            config=EncoderConfig(**config),
            weights={k: _shared(v) for k, v in payload["weights"].items()},
            splits=splits,
            weights_hash=str(payload["weights_hash"]),
        )


@functools.cache
def own_device(gpu_share: float) -> str:
    """Where this process trains and runs passes: "cuda" or "cpu".

    A GPU where the job wants workers to hold a share of one and torch finds one here. The head of
    a cluster may have none: then its processor, which the log says.
    """
    if gpu_share == 0:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    _LOG.info("torch finds no GPU here: this process trains and confirms on its processor")
    return "cpu"


def _shared(array: NDArray[Any]) -> torch.Tensor:
    """A tensor on the same memory. Torch warns of read-only arrays; nothing writes to weights."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def split_hash(data: Labelled) -> str:
    """Content hash of a tokenised split."""
    digest = hashlib.sha256()
    types = [] if data.tokens.types is None else [data.tokens.types]
    for array in (data.tokens.ids, data.tokens.lengths, data.labels, *types):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
