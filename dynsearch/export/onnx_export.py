"""Configurations as folders that run with onnxruntime and numpy alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dynsearch.export.folder import SUPERNET, Source, Written, export_folders
from dynsearch.export.manifest import TOKENIZER
from dynsearch.export.onnx_graph import OPSET
from dynsearch.export.onnx_plan import DTYPES, graphs
from dynsearch.export.plain_tokens import plain_tokenizer
from dynsearch.export.promise import Row
from dynsearch.export.torch_export import reachable

RUNTIME = ("dynsearch.export.onnx_engine", "dynsearch.export.plain_tokens")
PACKAGES = ("onnxruntime", "numpy")
OTHER_KERNELS = "int8 on onnxruntime rounds otherwise than in torch, where it was calibrated"


def export_onnx(
    run_dir: Path,
    ids: Sequence[str],
    out: Path,
    opset: int = OPSET,
    rows: Sequence[Row] = (),
) -> tuple[Path, ...]:
    """One folder per configuration; see `folder.export_folders`.

    Args:
        run_dir: The run folder.
        ids: Configurations of its front; empty = the named and the certified ones in
            fp32 and int8.
        out: Folder that gets the folders.
        opset: Set of ONNX operators to write.
        rows: Labelled texts to write beside each model.

    Raises:
        InputError: as there; also a part that ONNX cannot express, an old `opset`, a tokenizer
            that needs a library.
    """

    def written(source: Source) -> Written:
        manifest, files = graphs(
            source.geometry,
            reachable(source.weights, source.candidate),
            source.candidate,
            max_len=source.max_len,
            pairs=len(source.text_columns) == 2,
            opset=opset,
        )
        return Written(
            files=files,
            config={"format": "onnx", "onnx": manifest},
            runtime=RUNTIME,
            packages=PACKAGES,
            void="" if source.candidate.dtype == "fp32" else OTHER_KERNELS,
        )

    tokenizer = run_dir / SUPERNET / TOKENIZER
    if tokenizer.is_file():  # else reading the supernet says what is missing
        plain_tokenizer(json.loads(tokenizer.read_text(encoding="utf-8")), tokenizer)
    return export_folders(run_dir, ids, out, written, rows, DTYPES)
