"""Copies the few source files that a module needs, so that an export runs without dynsearch."""

from __future__ import annotations

import ast
import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

OWN = ("search_spaces", "cost_models", "dynsearch")
_PASSED_THROUGH = '"""Part of what dynsearch exported beside the runner."""\n'


def vendor(modules: Sequence[str], out: Path) -> tuple[Path, ...]:
    """Copy `modules` and what they import of this project into `out`, keeping the tree.

    A package that is itself imported is copied with all its modules, because it may scan its
    folder; a package that is only on the way to a module gets an empty `__init__.py`.

    Returns:
        The files written.
    """
    found = closure(modules)
    written = []
    for name, source in found.items():
        target = out.joinpath(*name.split("."))
        target = (
            target / "__init__.py" if source.name == "__init__.py" else target.with_suffix(".py")
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        written.append(target)
    for folder in {p for f in written for p in f.parents if p != out and out in p.parents}:
        init = folder / "__init__.py"
        if not init.exists():
            init.write_text(_PASSED_THROUGH, encoding="utf-8")
            written.append(init)
    return tuple(sorted(written))


def closure(modules: Sequence[str]) -> dict[str, Path]:
    """Module name -> source file, of `modules` and everything of ours that they import."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        source = _source(name)
        if source is None:
            continue
        found[name] = source
        if source.name == "__init__.py":
            waiting += [f"{name}.{p.stem}" for p in source.parent.glob("*.py") if p != source]
        waiting += _imports(source)
    return dict(sorted(found.items()))


def _source(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin)


def _imports(source: Path) -> Iterator[str]:
    """Modules of ours that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in OWN)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module.split(".")[0] not in OWN:
                continue
            parts = [f"{node.module}.{a.name}" for a in node.names]
            modules = [p for p in parts if _is_module(p)]
            yield from modules
            if len(modules) < len(parts):
                yield node.module


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent is a module, so this is one of its names
        return False
