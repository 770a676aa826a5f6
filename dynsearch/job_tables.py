"""The tables of a job file, one frozen model each, with their defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from dynsearch.export.records import LOSS_LEVELS
from dynsearch.job_problems import nearest

COSTS: tuple[str, ...] = (
    "latency_mean_s",
    "latency_p95_s",
    "latency_p99_s",
    "latency_worst_s",
    "time_per_sample_s",
    "energy_j",
    "peak_bytes",
)
OBJECTIVES: tuple[str, ...] = ("error", *COSTS)


def _known(names: tuple[str, ...], what: str) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"{what}; {nearest(name, names)}")
        return name

    return AfterValidator(check)


def _text_columns(value: Any) -> str | tuple[str, str]:
    """One column, or the two of a pair; a list of one is that one."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) and n for n in names):
        raise ValueError('must be a column, or two of them: text = ["premise", "hypothesis"]')
    if len(names) not in (1, 2):
        raise ValueError("holds too many or no columns; a model reads one text or a pair")
    if len(set(names)) < len(names):
        raise ValueError("names a column twice; a pair needs two columns of the file")
    return str(names[0]) if len(names) == 1 else (str(names[0]), str(names[1]))


TextColumns = Annotated[str | tuple[str, str], BeforeValidator(_text_columns)]
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
OptionalNames = Annotated[tuple[str, ...], Field(strict=False)]
ObjectiveName = Annotated[str, _known(OBJECTIVES, "is no objective")]
ObjectiveNames = Annotated[tuple[ObjectiveName, ...], Field(strict=False, min_length=1)]
BudgetName = Annotated[str, _known(COSTS, "cannot be budgeted")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """A table of the job file: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class ModelTable(Table):
    """The pretrained encoder: a Hugging Face folder, or a Python package that carries one."""

    folder: str | None = Field(
        default=None, description="Folder with config.json, weights, vocabulary"
    )
    package: str | None = Field(
        default=None, description="Python package that carries such a folder"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        _exactly_one("model", {"folder": self.folder, "package": self.package})
        return self


class DataTable(Table):
    """The labelled texts: a JSONL or CSV file, or a Python package that carries them."""

    file: str | None = Field(
        default=None, description="JSONL or CSV file, one labelled text a row"
    )
    text: TextColumns = Field(
        default="text", description="Column of the text in `file`, or the two of a pair"
    )
    label: str = Field(default="label", description="Column of the label in `file`")
    package: str | None = Field(
        default=None, description="Python package that carries labelled texts"
    )
    subset: str = Field(default="sentences", description="Which texts of `package`")
    unlabelled: str | None = Field(
        default=None,
        description="Texts whose labels are unknown or not used, to train on: a TXT, JSONL or CSV "
        "file, or another subset of `package`",
    )

    also: str | None = Field(
        default=None,
        description="More labelled texts, read in training alone: a JSONL or CSV file with the "
        "columns and labels of `file`, or another subset of `package`",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        _exactly_one("data", {"file": self.file, "package": self.package})
        if self.label in self.text_columns:
            raise ValueError("text and label name the same column; name two columns of the file")
        if self.package is not None and len(self.text_columns) == 2:
            raise ValueError("text names a pair, but a package holds single texts; give a file")
        return self

    @property
    def text_columns(self) -> tuple[str, ...]:
        """One column, or the two of a pair."""
        return (self.text,) if isinstance(self.text, str) else self.text


class TrainingTable(Table):
    """How the supernet is fine-tuned, once."""

    epochs: Count = Field(default=4, description="Times that each labelled text is seen")
    batch: Count = Field(default=32, description="Texts of a training step")
    distillation: Positive = Field(
        default=2.0, description="Steps of distillation for each step of fine-tuning on labels"
    )
    learning_rate: Positive = Field(default=1e-4, description="Of the layers, at its highest")
    head_learning_rate: Positive = Field(default=1e-3, description="Of the exit heads")
    seed: int = Field(default=0, ge=0, description="Of order, heads and sampled sub-networks")
    expert_counts: Annotated[tuple[Count, ...], Field(strict=False)] | None = Field(
        default=None,
        description="Expert counts that the supernet is trained for; those of the space if absent",
    )
    input_skims: bool | None = Field(
        default=None,
        description="Whether the supernet learns to lose tokens before its first layer; as the "
        "space has it if absent",
    )
    threads: int = Field(
        default=0, ge=0, description="Torch threads while training; 0 = all cores"
    )


class WorkloadTable(Table):
    """How inputs arrive, see `search_spaces.workload.Workload`."""

    batch: Count = Field(default=1, description="Inputs that are answered together")
    max_len: Annotated[int, Field(ge=4, le=512)] = Field(
        default=64, description="Tokens of the longest input; longer texts are cut"
    )
    sort: bool = Field(default=False, description="Batches of inputs of like length")
    threads: Count = Field(default=1, description="Threads of the runtime")
    runtime: Literal["torch"] = Field(default="torch", description="What runs the network")


class QualityTable(Table):
    """Which quality is minimised against the costs; all of them are reported."""

    metric: Literal["accuracy", "macro_f1", "mcc", "nll", "worst_class"] = Field(
        default="accuracy", description="Metric whose loss against the full network ranks"
    )


class RiskTable(Table):
    """Certificates for named configurations, from rows that nothing else reads."""

    epsilon: Share = Field(description="Risk that is allowed, as a share: 0.02 = two points")
    delta: Share = Field(
        default=0.1, description="Probability that a certificate is wrong, all of them together"
    )
    method: Literal["wsr", "hoeffding_bentkus", "binomial", "ltt", "crc"] = Field(
        default="wsr",
        description="Bound or test; crc holds on average alone, whatever delta says",
    )
    risk: Literal["performance_gap", "consistency", "brier_gap", "brier_consistency"] = Field(
        default="performance_gap",
        description="What is bounded: more errors than the full network, or other answers; Brier "
        "risks are halved",
    )
    levels: Annotated[tuple[float, ...], Field(strict=False, min_length=1)] | None = Field(
        default=None, description="Calibrate the points named for these losses; all if absent"
    )
    selection: Literal["bonferroni", "split"] = Field(
        default="bonferroni",
        description="How choosing among certified points is paid for: delta shared by all, or "
        "half of the rows picks one point and the other half certifies it",
    )
    seed: int = Field(default=0, ge=0, description="Of the order of the calibration rows")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.method == "binomial" and self.risk.startswith("brier"):
            raise ValueError(
                f"method binomial needs losses of 0 or 1, {self.risk} has others; take wsr"
            )
        for level in self.levels or ():
            if level not in LOSS_LEVELS:
                known = ", ".join(f"{x:g}" for x in LOSS_LEVELS)
                raise ValueError(f"levels: no point is named for {level:g}; known: {known}")
        return self


class RelativeBudget(Table):
    """A budget as a share of what the full network costs in the first dtype of the space."""

    of_full_network: Positive = Field(description="Share of the full network's cost")


def _budget_kind(value: Any) -> str:
    return "relative" if isinstance(value, dict | RelativeBudget) else "absolute"


Budget = Annotated[
    Annotated[Positive, Tag("absolute")] | Annotated[RelativeBudget, Tag("relative")],
    Discriminator(_budget_kind),
]


class SearchTable(Table):
    """How long and with what the search runs."""

    trials: Count = Field(default=64, description="Forward passes in all")
    workers: int = Field(
        default=0,
        ge=0,
        description="Parallel passes; 0 = one for each core, 1 = in this process, without Ray",
    )
    gpu_share: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Share of a GPU that each worker holds, where there is one; above 0 training "
        "and confirmation use one, too",
    )
    seed: int = Field(default=0, ge=0, description="Of the sampler")
    sampler: Literal["tpe", "nsga2", "random", "gp", "dynsearch"] = Field(
        default="dynsearch",
        description="Sampler of the outer settings: dynsearch (our own) or one of Optuna's",
    )
    max_failures: int = Field(
        default=8, ge=0, description="Failed passes before the search gives up"
    )
    timeout_s: Positive | None = Field(
        default=None, description="No new pass after so many seconds"
    )
    patience: Count | None = Field(
        default=None,
        description="No new pass once so many together added under 0.1 % of hypervolume",
    )
    screen_rows: Count | None = Field(
        default=None,
        description="Rows after which a pass is stopped where even the best that they allow would "
        "add nothing to the front; it counts by its share of rows. None is stopped if absent",
    )
    storage: str = Field(
        default="journal",
        description="journal, memory, or the URL of a database: sqlite:////PATH, "
        "postgresql://USER@HOST/DB",
    )
    warm_start: OptionalNames = Field(
        default=(),
        description="Run folders and front.json or front.csv files of earlier searches to begin "
        "with: passes of the same supernet are not run again, settings of other fronts come first",
    )


def _exactly_one(table: str, sources: dict[str, str | None]) -> None:
    given = [key for key, value in sources.items() if value is not None]
    names = " or ".join(sources)
    if not given:
        raise ValueError(f"needs one of {names}; add one to [{table}]")
    if len(given) > 1:
        raise ValueError(f"holds {' and '.join(given)}; keep one of {names}")
    if not sources[given[0]]:
        raise ValueError(f"{given[0]} is empty; write a name or a path")
