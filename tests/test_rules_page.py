"""The page about rules of one's own shows code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from dynsearch.conformance import sample_evidence, sample_exits

PAGE = Path(__file__).parent.parent / "docs" / "rules.md"


def test_the_criterion_of_the_page_conforms_and_means_what_it_says() -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == 1
    names: dict[str, object] = {"__name__": "page"}
    exec(compile(code[0], str(PAGE), "exec"), names)
    criterion = names["CRITERION"]
    exits = sample_exits(criterion, 3)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    seen = sample_evidence(criterion, exits, rng, rows=4, classes=3)  # type: ignore[arg-type]
    p = np.exp(seen.logits) / np.exp(seen.logits).sum(axis=-1, keepdims=True)
    got = names["trail"](exits, seen)  # type: ignore[operator]
    for x in range(3):
        assert np.allclose(got[:, x], p[:, : x + 1].mean(axis=1).max(axis=-1))
