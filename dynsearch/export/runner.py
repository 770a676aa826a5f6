"""Runs one exported configuration: texts in; class, probability and exit layer out.

Copied into every exported folder. Needs no dynsearch: the model's own source files lie in `lib`
beside this file. A torch model needs torch, numpy, safetensors and tokenizers, an ONNX model
numpy and onnxruntime, or openvino with `--runtime openvino`.

    python runner.py "a fine film" "a dull plot"
    python runner.py --file texts.txt --batch 8 --json
    python runner.py "a premise" "a hypothesis"   # where config.json names two text_columns

    import runner                      # from Python, with this folder on the path
    model = runner.load()
    model.classify(["a fine film"])               # pairs: [("a premise", "a hypothesis")]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
Text = str | tuple[str, str]  # one text, or a pair
Row = tuple[list[int], list[int]]  # token ids and types of one text or pair
Encode = Callable[[Sequence[Text]], list[Row]]
# ids [B, T], lengths [B], types [B, T] or None -> prediction, exit_layer, logits
Run = Callable[[Any, Any, Any], Any]


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
    encode: Encode
    run: Run
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
        for text in texts:
            if isinstance(text, str) == self.pairs or (self.pairs and len(text) != 2):
                what = "pairs of texts" if self.pairs else "one text at a time"
                raise ValueError(f"this model reads {what}, not {text!r}")
        if self.certificate and self.certificate.batches != "any" and batch > 1:
            warnings.warn(
                f"the certificate is void here: it holds for {self.certificate.batches}, not for "
                f"batches of {batch}",
                stacklevel=2,
            )
        rows = self.encode(texts)
        answers: dict[int, Answer] = {}
        for part in batches(rows, batch):
            answers |= dict(zip(part, self.answer([rows[i] for i in part]), strict=True))
        return [answers[i] for i in range(len(rows))]

    def answer(self, rows: Sequence[Row]) -> list[Answer]:
        """Answers of one batch."""
        import numpy as np

        lengths = np.array([len(ids) for ids, _ in rows], dtype=np.int64)
        ids, types = np.zeros((2, len(rows), int(lengths.max())), dtype=np.int64)
        for i, (tokens, kinds) in enumerate(rows):
            ids[i, : lengths[i]], types[i, : lengths[i]] = tokens, kinds
        result = self.run(ids, lengths, types if self.pairs else None)
        logits = result.logits.astype(np.float64)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
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


def batches(rows: Sequence[Row], batch: int) -> list[list[int]]:
    """Numbers of `rows` in batches, sorted by length where a batch has more than one."""
    order = list(range(len(rows)))
    if batch > 1:
        order.sort(key=lambda i: len(rows[i][0]))
    return [order[start : start + batch] for start in range(0, len(rows), batch)]


def load(
    folder: str | Path = HERE, *, threads: int | None = None, runtime: str | None = None
) -> Model:
    """The configuration in `folder`, every file checked against config.json.

    A certificate that does not fit what is in the folder is void: a warning says why.

    With a torch model this process keeps memory that it frees (where glibc is the C library): the
    next batch asks for it again, and batches of long texts take a tenth longer where every page
    faults in anew. MALLOC_TRIM_THRESHOLD_ in the environment, if set, decides instead.

    Args:
        folder: An exported folder.
        threads: Of the runtime; None: one for onnxruntime, torch as it is set.
        runtime: Of ONNX graphs: "onnxruntime" (also None) or "openvino".

    Raises:
        InputError: a file that is missing, changed or of another export, a newer schema version,
            a file name that leaves the folder, a runtime that does not run it.
    """
    folder = Path(folder)
    # oneDNN keeps 1,024 compiled kernels unless told otherwise; bf16 needs one a number of rows
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
    if (HERE / "lib").is_dir() and str(HERE / "lib") not in sys.path:
        sys.path.insert(0, str(HERE / "lib"))
    from dynsearch.export.manifest import read_manifest
    from dynsearch.risk.certificate import checked
    from search_spaces.codec import candidate_from_dict
    from search_spaces.errors import InputError

    config = read_manifest(folder)
    candidate = candidate_from_dict(config["candidate"], file=folder / "config.json")
    certificate, reasons = checked(
        config.get("certificate"),
        candidate=candidate,
        max_len=config["max_len"],
        export_sha256=config["sha256"],
    )
    for reason in reasons:
        warnings.warn(f"the certificate of this model is void: {reason}", stacklevel=2)
    if config["format"] == "onnx":
        encode, run = _load_onnx(folder, config, threads, runtime or "onnxruntime")
    elif runtime is not None:
        text = "runs ONNX graphs; this is a torch model: export it with --format onnx"
        raise InputError.one(folder, "runtime", runtime, text)
    else:
        encode, run = _load_torch(folder, config, candidate, threads)
    return Model(config=config, encode=encode, run=run, certificate=certificate)


def _load_torch(
    folder: Path, config: dict[str, Any], candidate: Any, threads: int | None
) -> tuple[Encode, Run]:
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    from dynsearch.heap import keep_freed_memory
    from dynsearch.models.dynamic import EncoderConfig, plan_of
    from dynsearch.models.packed import encoder_of

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    geometry: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config["encoder"].items()
    }
    network = EncoderConfig(**geometry)
    tensors = load_file(str(folder / "model.safetensors"))
    plan = plan_of(candidate)
    encoder = encoder_of(network, tensors, candidate.dtype, plan)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=config["max_len"])

    def encode(texts: Sequence[Text]) -> list[Row]:
        given = [text if isinstance(text, str) else tuple(text) for text in texts]
        return [(row.ids, row.type_ids) for row in tokenizer.encode_batch(given)]

    def run(ids: Any, lengths: Any, types: Any) -> Any:
        kinds = None if types is None else torch.from_numpy(types)
        return encoder.run(plan, torch.from_numpy(ids), lengths, kinds)

    return encode, run


def _load_onnx(
    folder: Path, config: dict[str, Any], threads: int | None, runtime: str
) -> tuple[Encode, Run]:
    from dynsearch.export.onnx_engine import OnnxEncoder, opener_of
    from dynsearch.export.plain_tokens import plain_tokenizer

    path = folder / "tokenizer.json"
    tokenizer = plain_tokenizer(json.loads(path.read_text(encoding="utf-8")), path)
    encoder = OnnxEncoder(
        config["onnx"],
        lambda name: str(folder / name),
        threads=1 if threads is None else threads,
        opener=opener_of(runtime),
    )
    max_len = config["max_len"]
    return lambda texts: tokenizer.encode(texts, max_len), encoder.run


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Classify texts with this configuration.")
    parser.add_argument("text", nargs="*", help="texts to classify; pairs: two and two")
    parser.add_argument(
        "--file", type=Path, help="UTF-8 file, one text a line (pairs: a tab between)"
    )
    parser.add_argument("--batch", type=int, default=1, help="texts per batch")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime")
    parser.add_argument("--runtime", help="of ONNX graphs: onnxruntime or openvino")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    if options.batch < 1 or options.threads < 1:
        parser.error("--batch and --threads must be at least 1")
    model = load_or_stop(parser, options.threads, options.runtime)
    lines = [] if options.file is None else read_lines(parser, options.file)
    texts: list[Text] = [*options.text, *lines]
    if model.pairs:
        texts = pairs_of(parser, options.text, lines)
    if not texts:
        parser.error("give texts or --file")
    for text, answer in zip(texts, model.classify(texts, options.batch), strict=True):
        if options.json:
            line = json.dumps(asdict(answer) | {"text": text}, ensure_ascii=False)
        else:
            shown = text if isinstance(text, str) else "\t".join(text)
            line = f"{answer.label}\t{answer.probability:.3f}\tlayer {answer.exit_layer}\t{shown}"
        sys.stdout.write(line + "\n")
    return 0


def load_or_stop(
    parser: argparse.ArgumentParser, threads: int, runtime: str | None = None
) -> Model:
    """The model beside this file; what is wrong with the folder ends the program."""
    try:
        return load(threads=threads, runtime=runtime)
    except Exception as error:  # InputError, which is known only when `lib` is on the path
        if type(error).__name__ != "InputError":
            raise
        parser.error(str(error))


def read_lines(parser: argparse.ArgumentParser, path: Path) -> list[str]:
    """Lines of a UTF-8 file that hold something."""
    try:
        return [t for t in path.read_text(encoding="utf-8").splitlines() if t.strip()]
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"{path}: {error}")


def pairs_of(parser: argparse.ArgumentParser, words: list[str], lines: list[str]) -> list[Text]:
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
