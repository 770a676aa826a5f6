"""Runs one exported configuration: texts in; class, probability and exit layer out.

Copied into every exported folder. Needs torch, numpy, safetensors and tokenizers, not dynsearch:
the model's own source files lie in `lib` beside this file.

    python runner.py "a fine film" "a dull plot"
    python runner.py --file texts.txt --batch 8 --json
    python runner.py "a premise" "a hypothesis"   # where config.json names two text_columns

    import runner                      # from Python, with this folder on the path
    model = runner.load()
    model.classify(["a fine film"])               # pairs: [("a premise", "a hypothesis")]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SCHEMA_VERSION = 1
Text = str | tuple[str, str]  # one text, or a pair


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says of one text."""

    label: str
    probability: float
    exit_layer: int  # 1-based layer whose exit answered
    tokens: int  # special tokens included


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded configuration."""

    config: dict[str, Any]
    encoder: Any
    plan: Any
    tokenizer: Any
    certificate: Any = None  # None: there is none, or it is void

    @property
    def pairs(self) -> bool:
        """Whether it reads pairs of texts."""
        return len(self.config.get("text_columns", ())) == 2

    def classify(self, texts: Sequence[Text], batch: int = 1) -> list[Answer]:
        """Answers in the order of `texts`, computed in batches of similar length.

        Raises:
            ValueError: a pair where the model reads one text, or the other way round.
        """
        given = [text if isinstance(text, str) else tuple(text) for text in texts]
        for text in given:
            if isinstance(text, str) == self.pairs or (self.pairs and len(text) != 2):
                what = "pairs of texts" if self.pairs else "one text at a time"
                raise ValueError(f"this model reads {what}, not {text!r}")
        if self.certificate and self.certificate.batches != "any" and batch > 1:
            warnings.warn(
                f"the certificate is void here: it holds for {self.certificate.batches}, not for "
                f"batches of {batch}",
                stacklevel=2,
            )
        rows = self.tokenizer.encode_batch(given)
        order = range(len(rows))
        if batch > 1:
            order = sorted(order, key=lambda i: len(rows[i].ids))  # type: ignore[assignment]
        answers: dict[int, Answer] = {}
        for start in range(0, len(rows), batch):
            part = list(order[start : start + batch])
            answers |= dict(zip(part, self._batch([rows[i] for i in part]), strict=True))
        return [answers[i] for i in range(len(rows))]

    def _batch(self, rows: list[Any]) -> list[Answer]:
        import numpy as np
        import torch

        lengths = np.array([len(row.ids) for row in rows], dtype=np.int64)
        ids, types = torch.zeros((2, len(rows), int(lengths.max())), dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : lengths[i]] = torch.tensor(row.ids)
            types[i, : lengths[i]] = torch.tensor(row.type_ids)
        result = self.encoder.run(self.plan, ids, lengths, types if self.pairs else None)
        shares = torch.softmax(torch.from_numpy(result.logits).double(), dim=-1).numpy()
        labels = self.config["labels"]
        return [
            Answer(
                label=labels[int(k)],
                probability=float(shares[i, k]),
                exit_layer=int(result.exit_layer[i]),
                tokens=int(lengths[i]),
            )
            for i, k in enumerate(result.prediction)
        ]


def load(folder: str | Path = HERE) -> Model:
    """The configuration in `folder`, checked against the checksum in its config.json.

    A certificate that does not fit what is in the folder is void: a warning says why.

    Raises:
        ValueError: another schema version, or weights that are not those of config.json.
    """
    folder = Path(folder)
    # oneDNN keeps 1,024 compiled kernels unless told otherwise; bf16 needs one a number of rows
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
    if (folder / "lib").is_dir() and str(folder / "lib") not in sys.path:
        sys.path.insert(0, str(folder / "lib"))
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    from dynsearch.models.dynamic import EncoderConfig, plan_of
    from dynsearch.models.packed import encoder_of
    from dynsearch.risk.certificate import checked
    from search_spaces.codec import candidate_from_dict

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["schema_version"] > SCHEMA_VERSION:
        raise ValueError("config.json was written by a newer dynsearch")
    weights = folder / "model.safetensors"
    if hashlib.sha256(weights.read_bytes()).hexdigest() != config["sha256"]:
        raise ValueError("model.safetensors is not the file that config.json describes")
    geometry: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config["encoder"].items()
    }
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=config["max_len"])
    network, tensors = EncoderConfig(**geometry), load_file(str(weights))
    candidate = candidate_from_dict(config["candidate"])
    plan = plan_of(candidate)
    certificate, reasons = checked(
        config.get("certificate"),
        candidate=candidate,
        max_len=config["max_len"],
        export_sha256=config["sha256"],
    )
    for reason in reasons:
        warnings.warn(f"the certificate of this model is void: {reason}", stacklevel=2)
    return Model(
        config=config,
        encoder=encoder_of(network, tensors, config["candidate"]["dtype"], plan),
        plan=plan,
        tokenizer=tokenizer,
        certificate=certificate,
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Classify texts with this configuration.")
    parser.add_argument("text", nargs="*", help="texts to classify; pairs: two and two")
    parser.add_argument(
        "--file", type=Path, help="UTF-8 file, one text a line (pairs: a tab between)"
    )
    parser.add_argument("--batch", type=int, default=1, help="texts per batch")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    if options.batch < 1 or options.threads < 1:
        parser.error("--batch and --threads must be at least 1")
    model = load()
    lines = []
    if options.file is not None:
        lines = [t for t in options.file.read_text(encoding="utf-8").splitlines() if t.strip()]
    texts: list[Text] = [*options.text, *lines]
    if model.pairs:
        texts = _pairs(parser, options.text, lines)
    if not texts:
        parser.error("give texts or --file")
    import torch

    torch.set_num_threads(options.threads)
    for text, answer in zip(texts, model.classify(texts, options.batch), strict=True):
        if options.json:
            line = json.dumps(asdict(answer) | {"text": text}, ensure_ascii=False)
        else:
            shown = text if isinstance(text, str) else "\t".join(text)
            line = f"{answer.label}\t{answer.probability:.3f}\tlayer {answer.exit_layer}\t{shown}"
        sys.stdout.write(line + "\n")
    return 0


def _pairs(parser: argparse.ArgumentParser, words: list[str], lines: list[str]) -> list[Text]:
    """Pairs from the command line, two and two, and from lines with one tab."""
    if len(words) % 2:
        parser.error("this model reads pairs: give an even number of texts")
    pairs: list[Text] = list(zip(words[::2], words[1::2], strict=True))
    for line in lines:
        first, tab, second = line.partition("\t")
        if not tab or "\t" in second:
            parser.error(f"this model reads pairs: one tab a line is needed, not {line[:60]!r}")
        pairs.append((first, second))
    return pairs


if __name__ == "__main__":
    sys.exit(main())
