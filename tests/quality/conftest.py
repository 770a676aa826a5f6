"""What several files of tests here are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dynsearch.models.tokens import load_tokenizer, tokenize
from dynsearch.quality.training import Labelled
from dynsearch.testing import tiny_texts


@pytest.fixture(scope="session")
def labelled() -> Callable[[Path, int], Labelled]:
    """Makes so many texts of up to 24 tokens, classes numbered in the order of their names."""

    def made(folder: Path, rows: int) -> Labelled:
        texts = tiny_texts(rows)
        names = sorted({label for _, label in texts})
        tokens = tokenize(load_tokenizer(folder), [text for text, _ in texts], 24)
        return Labelled(tokens=tokens, labels=np.array([names.index(y) for _, y in texts]))

    return made
