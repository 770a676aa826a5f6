"""What a certificate says, and when it says nothing any more.

Part of every export, so it needs nothing but the standard library and the candidate's codec.
A seal (sha256 of all other fields) tells a figure that was changed afterwards; it is a checksum,
not a signature.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_hash

SCHEMA_VERSION = 1
ALONE = "one text at a time"  # int8: a scale is shared by a call, so batch mates matter
ANY_BATCH = "any"
NOTE = (
    "Holds for texts drawn as the calibration rows were, answered by this very configuration. Any "
    "change of weights, number format, thresholds, temperature, exits, skimming, experts, "
    "tokenizer or longest input, and texts of another kind, void it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A statement about one configuration: its risk is at most epsilon."""

    schema_version: int = SCHEMA_VERSION
    method: str  # a name in control.METHODS
    guarantee: str  # "probability": fails with probability delta at most; "average": see crc
    risk: str  # a name in losses.RISKS
    meaning: str  # of the risk, in words
    loss_bound: float  # largest loss of a row
    epsilon: float
    delta: float | None  # of all certificates of the run together; None: an average guarantee
    delta_each: float | None  # what this one was tested at
    configurations: int  # that were calibrated on the same rows
    selection: str  # how choosing among them is paid for: bonferroni, split
    rows: int  # that certified it
    split: str
    split_sha256: str  # of the whole split, tokens and labels
    seed: int  # of the order of its rows
    weights_sha256: str  # of the weights that were calibrated
    reference: str  # hash of the full network, whose answers losses compare with
    calibrated_from: str  # id of the configuration whose thresholds were moved
    candidate_sha256: str  # of the configuration that it is about
    knob: str  # what the path moves: shift (of all thresholds), patience, none
    grid: tuple[float | None, ...]  # values along the path; None: no early exit
    chosen: int  # place in `grid`
    thresholds: tuple[float, ...]
    empirical: float  # mean loss of the rows, gains clipped unless the method takes them
    upper: float | None  # bound on the risk at delta_each
    p_value: float | None  # of "the risk exceeds epsilon"
    exit_batching: str
    batches: str  # batches that the statement covers: any, or one text at a time
    dtype: str
    max_len: int
    note: str = NOTE
    export_sha256: str | None = None  # of the exported weights
    seal: str = ""

    @property
    def statement(self) -> str:
        """The certificate in one sentence."""
        what = f"{self.risk} (the {self.meaning}) <= {self.epsilon:g}"
        if self.guarantee == "average":
            return (
                f"{what} on average over draws of the calibration rows: an average guarantee "
                f"({self.method}, {self.rows} rows), not one for this configuration"
            )
        assert self.delta is not None
        return f"{what} with probability {1 - self.delta:g} ({self.method}, {self.rows} rows)"


def sealed(certificate: Certificate) -> Certificate:
    """The certificate with the seal that fits it."""
    return replace(certificate, seal=_seal(certificate))


def bound_to(certificate: Certificate, export_sha256: str) -> Certificate:
    """The certificate of an export, tied to the weights in it."""
    return sealed(replace(certificate, export_sha256=export_sha256))


def certificate_from_dict(data: dict[str, Any]) -> Certificate:
    """The certificate in a JSON object.

    Raises:
        ValueError: a newer schema, or fields that do not fit.
    """
    version = data.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ValueError(f"certificate of schema {version}; this one reads up to {SCHEMA_VERSION}")
    names = {field.name for field in fields(Certificate)}
    if set(data) != names:
        wrong = ", ".join(sorted(set(data) ^ names))
        raise ValueError(f"certificate with missing or unknown fields: {wrong}")
    lists: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in data.items()
    }
    return Certificate(**lists)


def checked(
    data: dict[str, Any] | None, *, candidate: Candidate, max_len: int, export_sha256: str
) -> tuple[Certificate | None, list[str]]:
    """The certificate of an export where it has one that applies, else why it does not."""
    if data is None:
        return None, []
    try:
        found = certificate_from_dict(data)
    except (ValueError, TypeError, AttributeError) as error:
        return None, [str(error)]
    reasons = void_reasons(
        found, candidate=candidate, max_len=max_len, export_sha256=export_sha256
    )
    return (None if reasons else found), reasons


def void_reasons(
    certificate: Certificate,
    *,
    candidate: Candidate,
    max_len: int | None = None,
    weights_sha256: str | None = None,
    export_sha256: str | None = None,
    split_sha256: str | None = None,
    split_rows: int | None = None,
) -> list[str]:
    """Why a certificate does not apply; empty where it does.

    Args:
        certificate: The certificate.
        candidate: The configuration that is about to run.
        max_len: Longest input that it reads.
        weights_sha256: Of the network that was searched, where it is there.
        export_sha256: Of the exported weights, where they are there.
        split_sha256: Of the calibration rows, where they are there.
        split_rows: How many they are.
    """
    reasons = []
    if certificate.seal != _seal(certificate):
        reasons.append("a figure in it was changed: its seal does not fit")
    exits = candidate.exits
    thresholds = exits.thresholds if exits is not None else ()
    if thresholds != certificate.thresholds:
        reasons.append(
            f"the thresholds are {list(thresholds)}, certified are {list(certificate.thresholds)}"
        )
    elif candidate.dtype != certificate.dtype:
        reasons.append(f"it runs in {candidate.dtype}, certified is {certificate.dtype}")
    elif candidate_hash(candidate) != certificate.candidate_sha256:
        reasons.append(
            "exits, temperature, skimming, experts, pooling or batching differ from what was "
            "certified"
        )
    known = (
        (max_len, certificate.max_len, "the longest input is {} tokens, certified is {}"),
        (weights_sha256, certificate.weights_sha256, "the weights are {}, certified are {}"),
        (export_sha256, certificate.export_sha256, "the weights are {}, certified are {}"),
        (split_sha256, certificate.split_sha256, "the calibration rows are {}, certified by {}"),
    )
    reasons += [
        text.format(str(here)[:8], str(there)[:8])
        for here, there, text in known
        if here is not None and here != there
    ]
    if split_rows is not None and certificate.rows > split_rows:
        reasons.append(f"it counts {certificate.rows} rows of {split_rows} that there are")
    return reasons


def _seal(certificate: Certificate) -> str:
    data = asdict(certificate)
    del data["seal"]
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
