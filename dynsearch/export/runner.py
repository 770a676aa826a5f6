"""Runs one exported configuration: texts in; class, probability and exit layer out.

Copied into every exported folder. Needs no dynsearch: the model's own source files lie in `lib`
beside this file. A torch model needs torch, numpy, safetensors and tokenizers, an ONNX model
onnxruntime and numpy.

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
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SCHEMA_VERSION = 1
Text = str | tuple[str, str]  # one text, or a pair
Row = tuple[list[int], list[int]]  # token ids and types of one text or pair
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


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
    encode: Callable[[Sequence[Text]], list[Row]]
    # ids [B, T], lengths [B], types [B, T] or None -> prediction, exit_layer, logits
    run: Callable[[Any, Any, Any], Any]

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


def load(folder: str | Path = HERE, *, threads: int | None = None) -> Model:
    """The configuration in `folder`, every file checked against config.json.

    Args:
        folder: An exported folder.
        threads: Of the runtime; None: one for onnxruntime, torch as it is set.

    Raises:
        InputError: a file that is missing, changed or of another export, a newer schema version,
            a file name that leaves the folder.
    """
    folder = Path(folder)
    # oneDNN keeps 1,024 compiled kernels unless told otherwise; bf16 needs one a number of rows
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
    if (HERE / "lib").is_dir() and str(HERE / "lib") not in sys.path:
        sys.path.insert(0, str(HERE / "lib"))
    config = _config(folder)
    _check_files(folder, config)
    return (_load_onnx if config["format"] == "onnx" else _load_torch)(folder, config, threads)


def _config(folder: Path) -> dict[str, Any]:
    from search_spaces.errors import InputError

    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, kind, _ = config["schema_version"], config["format"], config["files"]
    except FileNotFoundError:
        text = "missing; is this a folder that dynsearch export wrote?"
        raise InputError.one(path, "", None, text) from None
    except (ValueError, KeyError, TypeError) as error:
        text = f"no config.json of an export ({error!r}); export it again"
        raise InputError.one(path, "", None, text) from None
    if version > SCHEMA_VERSION:
        raise InputError.one(path, "schema_version", version, "of a newer dynsearch; upgrade")
    if kind not in ("torch", "onnx"):
        raise InputError.one(path, "format", kind, "must be torch or onnx; export it again")
    return config


def _check_files(folder: Path, config: dict[str, Any]) -> None:
    """Refuse names that leave the folder, files that are missing, files that are others."""
    from search_spaces.errors import InputError, Problem

    path, problems = folder / "config.json", []
    asked = [part["file"] for part in config.get("onnx", {}).get("segments", ())]
    for name in dict.fromkeys([*config["files"], *asked]):
        digest = config["files"].get(name)
        if not _FILE.fullmatch(name):
            problems.append(Problem(str(path), "files", name, "no plain name of a file here"))
        elif digest is None:
            problems.append(Problem(str(path), "files", name, "has no checksum; export it again"))
        elif not (folder / name).is_file():
            problems.append(Problem(str(folder / name), "", "", "missing; copy the whole folder"))
        elif hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            text = "not the file that config.json describes: changed, or of another export"
            problems.append(Problem(str(folder / name), "", "", text))
    if problems:
        raise InputError(problems)


def _load_torch(folder: Path, config: dict[str, Any], threads: int | None) -> Model:
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    from dynsearch.models.dynamic import EncoderConfig, plan_of
    from dynsearch.models.packed import encoder_of
    from search_spaces.codec import candidate_from_dict

    if threads is not None:
        torch.set_num_threads(threads)
    geometry: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config["encoder"].items()
    }
    network = EncoderConfig(**geometry)
    tensors = load_file(str(folder / "model.safetensors"))
    plan = plan_of(candidate_from_dict(config["candidate"]))
    encoder = encoder_of(network, tensors, config["candidate"]["dtype"], plan)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=config["max_len"])

    def encode(texts: Sequence[Text]) -> list[Row]:
        given = [text if isinstance(text, str) else tuple(text) for text in texts]
        return [(row.ids, row.type_ids) for row in tokenizer.encode_batch(given)]

    def run(ids: Any, lengths: Any, types: Any) -> Any:
        kinds = None if types is None else torch.from_numpy(types)
        return encoder.run(plan, torch.from_numpy(ids), lengths, kinds)

    return Model(config=config, encode=encode, run=run)


def _load_onnx(folder: Path, config: dict[str, Any], threads: int | None) -> Model:
    from dynsearch.export.onnx_engine import OnnxEncoder
    from dynsearch.export.plain_tokens import plain_tokenizer

    path = folder / "tokenizer.json"
    tokenizer = plain_tokenizer(json.loads(path.read_text(encoding="utf-8")), path)
    encoder = OnnxEncoder(
        config["onnx"], lambda name: str(folder / name), threads=1 if threads is None else threads
    )
    max_len = config["max_len"]
    return Model(
        config=config, encode=lambda texts: tokenizer.encode(texts, max_len), run=encoder.run
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Classify texts with this configuration.")
    parser.add_argument("text", nargs="*", help="texts to classify; pairs: two and two")
    parser.add_argument(
        "--file", type=Path, help="UTF-8 file, one text a line (pairs: a tab between)"
    )
    parser.add_argument("--batch", type=int, default=1, help="texts per batch")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    if options.batch < 1 or options.threads < 1:
        parser.error("--batch and --threads must be at least 1")
    model = load_or_stop(parser, options.threads)
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


def load_or_stop(parser: argparse.ArgumentParser, threads: int) -> Model:
    """The model beside this file; what is wrong with the folder ends the program."""
    try:
        return load(threads=threads)
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
