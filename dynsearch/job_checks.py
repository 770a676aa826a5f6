"""What a job file asks for, held against what is there: model, texts, devices, layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cost_models.device import load_device
from dynsearch.errors import InputError, Problem
from search_spaces.candidate import Backbone
from search_spaces.space import SearchSpace

LOCAL = "local"  # the device name that stands for the calibrated profile of this machine

# Stands in while the model's own geometry is unknown: layers without end and a width that every
# expert count divides, so that only those mistakes are found that no model allows.
ANY_BACKBONE = Backbone(
    name="unknown",
    num_layers=10_000,
    hidden_size=1,
    num_heads=1,
    ffn_size=0,
    vocab_size=1,
    max_len=1 << 30,
)


def world_problems(
    raw: Mapping[str, Any], *, file: str, base: Path, check_files: bool
) -> list[Problem]:
    """Every problem of a job that its own text does not show.

    Args:
        raw: The parsed file; tables of a wrong form are passed over here.
        file: Its name, for messages.
        base: Folder that relative paths start from.
        check_files: Also look for the model, the texts and device files.
    """
    backbone, problems = ANY_BACKBONE, []
    if check_files:
        model, data = _table(raw, "model"), _table(raw, "data")
        problems = _told(lambda: check_data(data, base), file, "data")
        found: list[Backbone] = []
        problems += _told(lambda: found.append(read_geometry(model, base)), file, "model")
        backbone = found[0] if found else ANY_BACKBONE
    problems += _told(lambda: _check_space(raw.get("space"), backbone, file), file, "space")
    problems += _length_problems(_table(raw, "workload").get("max_len"), backbone, file)
    for key in ("devices", "score_on"):
        problems += _device_problems(key, raw.get(key), file, base, check_files)
    return problems


def device_path(name: str, base: Path) -> str:
    """A device's name as it is; the path of a device file (*.toml) taken from `base`."""
    if not name.endswith(".toml"):
        return name
    return str((base / Path(name).expanduser()).resolve())


def short_name(name: str) -> str:
    """A device as run folders and hashes name it: a file without folder and ending.

    Any other name stands whole, because a runtime in it may hold dots ("m1@whisper.cpp-t8").
    """
    return Path(name).stem if name.endswith(".toml") else name


def _device_problems(
    key: str, devices: Any, file: str, base: Path, check_files: bool
) -> list[Problem]:
    """Devices of the job that cannot be loaded, with the reason that the loader gives."""
    problems: list[Problem] = []
    for i, name in enumerate(devices if isinstance(devices, list | tuple) else ()):
        if not isinstance(name, str) or name == LOCAL:
            continue
        if name.endswith(".toml") and not check_files:
            continue
        try:
            load_device(device_path(name, base))
        except InputError as error:
            in_job = Problem(file, f"{key}[{i}]", f'"{name}"', error.problems[0].message)
            problems += error.problems if name.endswith(".toml") else [in_job]
    return problems


def check_data(data: Mapping[str, Any], base: Path) -> None:
    """Look for the texts that [data] names.

    Raises:
        InputError: when they are not there.
    """
    from dynsearch.quality.data import package_folder

    file, package = data.get("file"), data.get("package")
    if isinstance(file, str) and file and not (base / Path(file).expanduser()).is_file():
        raise InputError.one("job", "data.file", f'"{file}"', "no such file; check the path")
    if isinstance(package, str) and package and file is None:
        package_folder(package)
    for key in ("also", "unlabelled"):
        more = data.get(key)
        if (
            isinstance(more, str)
            and package is None
            and not (base / Path(more).expanduser()).is_file()
        ):
            raise InputError.one("job", f"data.{key}", f'"{more}"', "no such file; check the path")


def read_geometry(model: Mapping[str, Any], base: Path) -> Backbone:
    """Geometry of the encoder that [model] names; any, where the table names none.

    Raises:
        InputError: when there is no such model, or it is of another architecture.
    """
    folder, package = model.get("folder"), model.get("package")
    if isinstance(folder, str) and folder:
        path = (base / Path(folder).expanduser()).resolve()
        if not path.is_dir():
            raise InputError.one("job", "model.folder", f'"{folder}"', "no such folder")
    elif isinstance(package, str) and package:
        from dynsearch.quality.data import model_folder

        path = model_folder(package)[0]
    else:
        return ANY_BACKBONE
    from dynsearch.models.weights import read_backbone, weights_path

    weights_path(path)
    return read_backbone(path)


def _check_space(space: Any, backbone: Backbone, file: str) -> None:
    if isinstance(space, dict):
        SearchSpace.from_dict(space, backbone=backbone, file=file)


def _length_problems(max_len: Any, backbone: Backbone, file: str) -> list[Problem]:
    if not isinstance(max_len, int) or max_len <= backbone.max_len:
        return []
    text = f"is longer than the model's positions; at most {backbone.max_len}"
    return [Problem(file, "workload.max_len", str(max_len), text)]


def _table(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = raw.get(name)
    return table if isinstance(table, Mapping) else {}


def _told(check: Callable[[], object], file: str, table: str) -> list[Problem]:
    """Problems that a check raises; those of the job itself get its file and the table's key."""
    try:
        check()
    except InputError as error:
        return [
            replace(p, file=file, key=p.key if "." in p.key else f"{table}.{p.key}")
            if p.file in ("job", file)
            else p
            for p in error.problems
        ]
    return []
