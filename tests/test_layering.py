"""Imports point one way: search_spaces <- cost_models <- dynsearch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "search_spaces": {"search_spaces", "numpy"},
    "cost_models": {"cost_models", "search_spaces", "numpy", "scipy"},
}
IN_FUNCTIONS = {
    "cost_models/calibrate/measure.py": {"torch", "onnxruntime"},
    "cost_models/calibrate/target.py": {"torch", "onnxruntime", "onnx"},
}
HEAVY = ("torch", "ray", "optuna")


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of all absolute imports under a node."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add((node.module or "").split(".")[0])
    return names


def at_import_time(tree: ast.Module) -> ast.Module:
    """The module without the bodies of its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [ast.Pass()]
    return tree


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["dynsearch", "search_spaces", "cost_models"])
def test_importing_a_package_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run_python(code) == "[]"


def test_search_spaces_loads_numpy_and_nothing_else_from_outside() -> None:
    code = (
        "import sys; before = set(sys.modules); import search_spaces;"
        "names = {m.split('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(n for n in names - set(sys.stdlib_module_names)))"
    )
    loaded = set(ast.literal_eval(run_python(code)))
    assert loaded <= {"search_spaces", "numpy", "__mp_main__"}
