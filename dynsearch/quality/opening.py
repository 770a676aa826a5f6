"""From a job's model and data to a quality source: read, split, tokenise, train or load."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from dynsearch.checksums import file_sha256
from dynsearch.job import Job
from dynsearch.models.tokens import load_tokenizer, tokenize
from dynsearch.models.weights import model_sha256, read_backbone, weights_path
from dynsearch.quality import data
from dynsearch.quality.source import SupernetQuality, own_device
from dynsearch.quality.splits import FEW_ROWS, PRESETS, split_examples, unseen
from dynsearch.quality.supernet import cache_folder, load_supernet, supernet_key
from dynsearch.quality.train_apart import train_apart
from dynsearch.quality.training import Labelled, Training
from dynsearch.quality.unlabelled import Unlabelled, read_texts
from search_spaces.candidate import Backbone
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace

logger = logging.getLogger(__name__)
MIN_CLASS_ROWS = 50  # search and report rows of every class when the worst class ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A job's model and data, read and checked; nothing trained yet."""

    backbone: Backbone
    space: SearchSpace
    folder: Path  # of the pretrained model
    model_sha256: str
    data_sha256: str  # labelled texts, and those without labels
    labelled_sha256: str
    labels: tuple[str, ...]
    text_columns: tuple[str, ...]  # two: pairs of texts
    splits: dict[str, Labelled]
    tokenizer: Tokenizer
    training: Training
    unlabelled: Unlabelled | None = None  # more texts to train on

    @property
    def key(self) -> str:
        """Content hash of the supernet that this material trains to."""
        return supernet_key(
            weights_sha256=self.model_sha256, data_sha256=self.data_sha256, training=self.training
        )


def open_material(job: Job) -> Material:
    """Read model and data of a job.

    Raises:
        InputError: whatever is wrong with the folder, the file, the rows or the space.
    """
    if job.model.package is not None:
        folder, expected = data.model_folder(job.model.package)
    else:
        folder, expected = Path(str(job.model.folder)), None
    backbone = read_backbone(folder)
    path = weights_path(folder)
    if expected is not None and (digest := file_sha256(path)) != expected:
        raise InputError.one(
            path, "sha256", digest, f"expected {expected}; run: {data.DEMO_INSTALL}"
        )
    if job.workload.max_len > backbone.max_len:
        raise InputError.one(
            job.source,
            "workload.max_len",
            job.workload.max_len,
            f"the model reads at most {backbone.max_len} tokens",
        )
    space = SearchSpace.from_dict(job.space, backbone=backbone, file=job.source)
    examples = _examples(job)
    parts = split_examples(
        examples, PRESETS.get(job.data.subset) if job.data.package else None, file=_data_name(job)
    )
    also = _also(job, examples)
    if also is not None:
        parts["train"] = parts["train"].joined(also)
    labelled_sha256 = examples.sha256(also)
    unlabelled = _unlabelled(job, examples)
    tokenizer = load_tokenizer(folder)
    splits = {
        name: Labelled(
            tokens=tokenize(tokenizer, part.texts, job.workload.max_len),
            labels=np.array(part.classes, dtype=np.int64),
        )
        for name, part in parts.items()
    }
    _check_classes(splits, examples.labels, _data_name(job))
    if len(job.data.text_columns) == 2 and splits["train"].tokens.types is not None:
        _check_types(splits["train"], backbone, job.source)
    if job.risk is not None:
        from dynsearch.risk.control import check_rows

        check_rows(job.risk, len(splits["calibrate"].tokens), file=job.source)
    if job.quality.metric == "worst_class":
        _check_worst_class(splits, examples.labels, _data_name(job))
    return Material(
        backbone=backbone,
        space=space,
        folder=folder,
        model_sha256=model_sha256(folder),
        data_sha256=unlabelled.sha256(labelled_sha256) if unlabelled else labelled_sha256,
        labelled_sha256=labelled_sha256,
        labels=examples.labels,
        text_columns=job.data.text_columns,
        splits=splits,
        tokenizer=tokenizer,
        training=Training(
            epochs=job.training.epochs,
            batch=job.training.batch,
            distillation=job.training.distillation,
            learning_rate=job.training.learning_rate,
            head_learning_rate=job.training.head_learning_rate,
            seed=job.training.seed,
            threads=job.training.threads,
            device=own_device(job.search.gpu_share),
            max_len=job.workload.max_len,
            expert_counts=_expert_counts(job, space),
            input_skims=_input_skims(job, space),
        ),
        unlabelled=unlabelled,
    )


def _expert_counts(job: Job, space: SearchSpace) -> tuple[int, ...]:
    """Splits that the supernet must hold: counts above 1 of the space, unless the job says.

    Raises:
        InputError: a count of the space is not among those that the job trains for.
    """
    wanted = {c for c in (space.table.experts.counts if space.table.experts else ()) if c > 1}
    given = job.training.expert_counts
    if given is None:
        return tuple(sorted(wanted))
    missing = sorted(wanted - set(given))
    if missing:
        raise InputError.one(
            job.source,
            "training.expert_counts",
            list(given),
            f"the space has {missing[0]} experts; add it, or leave the key out",
        )
    return tuple(sorted(c for c in set(given) if c > 1))


def _input_skims(job: Job, space: SearchSpace) -> bool:
    """Whether tokens may be lost before the first layer: as the space has it, unless the job says.

    Raises:
        InputError: the space has such skims and the job does not train for them.
    """
    wanted = space.table.skim is not None and 0 in space.table.skim.layers
    given = job.training.input_skims
    if wanted and given is False:
        raise InputError.one(
            job.source,
            "training.input_skims",
            given,
            "the space drops tokens before the first layer; make it true, or leave the key out",
        )
    return wanted if given is None else given


def _examples(job: Job) -> data.Examples:
    if job.data.package is not None:
        return data.read_package(job.data.package, job.data.subset)
    return data.read_examples(Path(str(job.data.file)), text=job.data.text, label=job.data.label)


def _unlabelled(job: Job, examples: data.Examples) -> Unlabelled | None:
    source = job.data.unlabelled
    if source is None:
        return None
    if not isinstance(job.data.text, str):
        raise InputError.one(
            job.source, "data.unlabelled", source, "not possible with pairs of texts; leave it out"
        )
    if job.data.package is None:
        texts = read_texts(Path(source), column=job.data.text)
    else:
        texts = _single(data.read_package(job.data.package, source, key="data.unlabelled"))
    return Unlabelled(texts=texts, labelled=_single(examples))


def _also(job: Job, examples: data.Examples) -> data.Examples | None:
    """Labelled texts that training alone reads, without those of any split of `examples`."""
    source = job.data.also
    if source is None:
        return None
    if job.data.package is None:
        more = data.read_examples(Path(source), text=job.data.text, label=job.data.label)
    else:
        more = data.read_package(job.data.package, source, key="data.also")
    strange = [name for name in more.labels if name not in examples.labels]
    if strange:
        raise InputError.one(
            job.source,
            "data.also",
            source,
            f'has the label "{strange[0]}", which the other texts lack; they have: '
            f"{', '.join(examples.labels)}",
        )
    return unseen(more.relabelled(examples.labels), examples)


def _single(examples: data.Examples) -> list[str]:
    """Texts that are no pairs."""
    return [text for text in examples.texts if isinstance(text, str)]


def report_texts(job: Job, labels: tuple[str, ...], count: int) -> list[tuple[data.Text, str]]:
    """The first report rows of a job as texts with their labels.

    Args:
        job: A job whose material was opened before.
        labels: Names of its classes.
        count: Rows at most.
    """
    sizes = PRESETS.get(job.data.subset) if job.data.package else None
    rows = split_examples(_examples(job), sizes, file=_data_name(job))["report"]
    named = [labels[k] for k in rows.classes[:count]]
    return list(zip(rows.texts[:count], named, strict=True))


def _data_name(job: Job) -> str:
    return job.data.package or str(job.data.file)


def _check_classes(splits: dict[str, Labelled], labels: tuple[str, ...], file: str) -> None:
    for name in ("train", "search", "report"):
        present = np.unique(splits[name].labels)
        if present.size < len(labels):
            absent = next(x for k, x in enumerate(labels) if k not in present)
            raise InputError.one(
                file, f"split {name}", absent, "class absent from this split; give more rows of it"
            )
    if len(splits["report"].tokens) < FEW_ROWS:
        logger.warning(
            "only %d report rows: confirmed figures have wide intervals (%d are advised)",
            len(splits["report"].tokens),
            FEW_ROWS,
        )


def _check_types(train: Labelled, backbone: Backbone, file: str) -> None:
    """Refuse pairs whose token types the model has no embeddings for."""
    assert train.tokens.types is not None
    most = int(train.tokens.types.max()) + 1
    if most > backbone.type_vocab_size:
        raise InputError.one(
            file,
            "data.text",
            "a pair",
            f"the tokenizer writes {most} token types, the model has {backbone.type_vocab_size} "
            "(type_vocab_size); name one column, or take a model trained on pairs",
        )


def _check_worst_class(splits: dict[str, Labelled], labels: tuple[str, ...], file: str) -> None:
    """Refuse to rank by a share of too few rows: one row would be worth more than a loss level."""
    for name in ("search", "report"):
        rows = np.bincount(splits[name].labels, minlength=len(labels))
        k = int(rows.argmin())
        if rows[k] < MIN_CLASS_ROWS:
            raise InputError.one(
                file,
                f"split {name}",
                labels[k],
                f"has {rows[k]} rows here, too few for quality.metric = worst_class "
                f"(at least {MIN_CLASS_ROWS}); give more rows of it, or rank by macro_f1",
            )


def open_quality(
    material: Material, run_folder: Path, *, progress: Callable[[float, str], None] | None = None
) -> SupernetQuality:
    """The supernet of `material` with its data, trained unless it is in the run or the cache.

    The run folder gets its own copy (a hard link where the file system allows it), so that an
    export never depends on the cache.
    """
    mine = run_folder / "supernet"
    if not mine.is_dir():
        cached = cache_folder() / "supernets" / material.key
        if not cached.is_dir():
            train_apart(cached, material, progress)
        _link_tree(cached, mine)
    config, weights, _ = load_supernet(mine)
    return SupernetQuality(
        config=config,
        weights=weights,
        splits={
            k: v for k, v in material.splits.items() if k in ("search", "calibrate", "report")
        },
        weights_hash=file_sha256(mine / "model.safetensors"),
    )


def _link_tree(source: Path, target: Path) -> None:
    """Copy a folder by hard links, or by bytes across file systems; whole or not at all."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for file in source.iterdir():
        try:
            os.link(file, part / file.name)
        except OSError:
            shutil.copyfile(file, part / file.name)
    part.rename(target)
