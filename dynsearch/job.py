"""A job file: what to search, on what data, for which devices, within which budgets.

`load_job` reads TOML into a frozen `Job` and reports every problem of the file at once. The job
knows names and numbers only; opening the model, the data and the devices is the caller's work.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import Field, PrivateAttr, ValidationError, field_validator

from dynsearch.errors import InputError, Problem
from dynsearch.job_checks import device_path, short_name, world_problems
from dynsearch.job_problems import problems_of
from dynsearch.job_tables import (
    COSTS,
    Budget,
    BudgetName,
    DataTable,
    ModelTable,
    Names,
    ObjectiveNames,
    OptionalNames,
    QualityTable,
    RiskTable,
    SearchTable,
    Table,
    TrainingTable,
    WorkloadTable,
)

SCHEMA_VERSION = 1

# Where jobs ship: inside the installed package, or beside it in a checkout.
SHIPPED = (Path(__file__).parent / "jobs", Path(__file__).parents[1] / "runs" / "jobs")


class Job(Table):
    """One search, as written in its file and completed by defaults."""

    schema_version: Annotated[int, Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    devices: Names = ("local",)
    score_on: OptionalNames = ()
    objectives: ObjectiveNames = ("error", "latency_mean_s")
    model: ModelTable
    data: DataTable
    training: TrainingTable = TrainingTable()
    space: dict[str, Any]
    workload: WorkloadTable = WorkloadTable()
    quality: QualityTable = QualityTable()
    budgets: dict[BudgetName, Budget] = Field(default_factory=dict)
    search: SearchTable = SearchTable()
    risk: RiskTable | None = None

    _source: str = PrivateAttr("job")

    @property
    def source(self) -> str:
        """The file that the job came from, for messages."""
        return self._source

    @field_validator("devices", "objectives", "score_on")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("names an entry twice; list each once")
        return names

    @field_validator("objectives")
    @classmethod
    def _error_and_cost(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "error" not in names or len(names) < 2:
            raise ValueError(f'must hold "error" and at least one cost: {", ".join(COSTS)}')
        return names

    @property
    def cost_objective(self) -> str:
        """The first cost among the objectives; anchors and named points use it."""
        return next(name for name in self.objectives if name != "error")


def find_job(path: str | Path) -> Path:
    """The job file at `path`, or the shipped job of that name where no such file exists.

    Raises:
        InputError: when there is neither; lists the shipped jobs.
    """
    file = Path(path)
    if file.exists():
        return file
    shipped = {found.name: found for folder in SHIPPED for found in sorted(folder.glob("*.toml"))}
    name = file.name if file.suffix == ".toml" else f"{file.name}.toml"
    if len(file.parts) == 1 and name in shipped:
        return shipped[name]
    raise InputError.one(path, "", None, f"no such job file; shipped: {', '.join(shipped)}")


def load_job(path: str | Path, *, check_files: bool = True) -> Job:
    """Read and check a job file.

    Relative paths are taken from the folder of the job file, and come back absolute.

    Args:
        path: The file.
        check_files: Also look for the model, the texts and the device files that it names.

    Raises:
        InputError: with every problem of the file.
    """
    file = Path(path)
    base = file.resolve().parent
    return job_from_dict(_read_toml(file), file=str(path), base=base, check_files=check_files)


def job_from_dict(
    raw: dict[str, Any], *, file: str = "job", base: Path | None = None, check_files: bool = True
) -> Job:
    """A checked job from the parsed content of a job file.

    Args:
        raw: The tables of the file.
        file: Name of the file, for messages.
        base: Folder that relative paths start from; the current one by default.
        check_files: Also look for the model, the texts and the device files that it names.

    Raises:
        InputError: with every problem found.
    """
    version = raw.get("schema_version")
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA_VERSION:
        text = f"newer schema: this dynsearch reads up to {SCHEMA_VERSION}; upgrade dynsearch"
        raise InputError.one(file, "schema_version", version, text)
    problems: list[Problem] = []
    job = None
    try:
        job = Job.model_validate(raw)
    except ValidationError as error:
        problems = problems_of(error, Job, raw, file=file)
    base = base or Path.cwd()
    problems += world_problems(raw, file=file, base=base, check_files=check_files)
    if problems or job is None:
        raise InputError(problems)
    job = _with_absolute_paths(job, base)
    job._source = file
    return job


def override(
    job: Job,
    *,
    trials: int | None = None,
    workers: int | None = None,
    seed: int | None = None,
    storage: str | None = None,
    gpu_share: float | None = None,
) -> Job:
    """The job with values from the command line in its [search] table; None keeps the file's.

    Raises:
        InputError: when a value is out of range.
    """
    given = {
        "trials": trials,
        "workers": workers,
        "seed": seed,
        "storage": storage,
        "gpu_share": gpu_share,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        return job
    raw = json.loads(job.model_dump_json(exclude_none=True))
    raw["search"].update(changes)
    try:
        new = Job.model_validate(raw)
    except ValidationError as error:
        raise InputError(problems_of(error, Job, raw, file="command line")) from None
    new._source = job.source
    return new


def resolve_to_toml(job: Job) -> str:
    """The job with all defaults and absolute paths, as TOML that `load_job` reads anywhere."""
    return tomli_w.dumps(job.model_dump(mode="json", exclude_none=True))


def job_hash(job: Job, *, model_hash: str, data_hash: str) -> str:
    """Hex sha256 of all that decides what the run records.

    Covers space, model and data by content, training, devices by name, workload, objectives,
    budgets, sampler and seed, and the metric that ranks unless it is the error. Number of trials,
    workers, shares of a GPU, threads of training, storage, paths, time limits and certificates may
    change while a run is continued.
    """
    dump = job.model_dump(mode="json")
    del dump["training"]["threads"]
    for key in ("expert_counts", "input_skims"):
        if dump["training"][key] is None:  # as before the key existed
            del dump["training"][key]
    covered = {
        "schema_version": SCHEMA_VERSION,
        "model": model_hash,
        "data": data_hash,
        "devices": sorted(short_name(name) for name in job.devices),
        **{key: dump[key] for key in ("space", "training", "workload", "objectives", "budgets")},
        **{key: dump["search"][key] for key in ("sampler", "seed")},
    }
    if job.quality != QualityTable():  # jobs without the table keep the hash that they always had
        covered["quality"] = dump["quality"]
    text = json.dumps(_canonical(covered), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """1 and 1.0 are the same number in a job file, so they are the same in its hash."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return value


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError.one(
            file, "", None, f"cannot be read ({reason}); check the path"
        ) from None
    except UnicodeDecodeError:
        raise InputError.one(file, "", None, "is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError.one(file, "", None, f"is not valid TOML: {error}") from None


def _with_absolute_paths(job: Job, base: Path) -> Job:
    def absolute(path: str | None) -> str | None:
        return None if path is None else str((base / Path(path).expanduser()).resolve())

    model = job.model.model_copy(update={"folder": absolute(job.model.folder)})
    data = job.data.model_copy(update={"file": absolute(job.data.file)})
    if data.package is None:  # else they are subsets of the package
        data = data.model_copy(
            update={"unlabelled": absolute(data.unlabelled), "also": absolute(data.also)}
        )
    devices = tuple(device_path(name, base) for name in job.devices)
    scored = tuple(device_path(name, base) for name in job.score_on)
    sources = tuple(str(absolute(path)) for path in job.search.warm_start)
    search = job.search.model_copy(update={"warm_start": sources})
    return job.model_copy(
        update={
            "model": model,
            "data": data,
            "devices": devices,
            "score_on": scored,
            "search": search,
        }
    )
