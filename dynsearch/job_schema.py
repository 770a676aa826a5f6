"""The JSON Schema of a job file, from the models that read it; editors complete by it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter

from dynsearch.job import Job
from dynsearch.job_tables import COSTS, OBJECTIVES
from search_spaces.candidate import (
    EXIT_BATCHING,
    GRANULARITY,
    POOLING,
    RUNNABLE_CRITERIA,
    RUNNABLE_DTYPES,
)
from search_spaces.space_file import ExitTable, ExpertTable, SkimTable

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PARTS = {"skim": SkimTable, "experts": ExpertTable, "exits": ExitTable}
CHOICES = {"criteria": RUNNABLE_CRITERIA, "batching": EXIT_BATCHING, "granularity": GRANULARITY}
ABOUT = {  # keys whose models carry no description of their own
    "schema_version": "Version of this format",
    "name": "Name of the job; its run folder is called so",
    "devices": "What the search optimises for: local (this machine, calibrated), a shipped "
    "device, or the path of a device file",
    "score_on": "Devices that the front that is found is priced on, too",
    "objectives": "error and at least one cost; the first cost ranks",
    "model": "The pretrained encoder",
    "data": "The labelled texts",
    "training": "How the supernet is fine-tuned, once",
    "space": "What may be tried",
    "workload": "How inputs arrive",
    "budgets": "Limits on costs: a number in SI units, or a share of the full network's cost",
    "quality": "What counts as a good answer",
    "search": "How long and with what the search runs",
    "risk": "What named configurations are certified for; leave out for no certificates",
    "dtype": "Number formats",
    "pooling": "How token states become one state",
    "skim": "Token skimming; leave the table out to switch it off",
    "experts": "Feed-forward networks cut into experts; leave out to switch off",
    "exits": "Early exits; leave out to switch off",
    "skim.layers": "Layers (1 = first) after whose attention tokens may be dropped; 0 = before "
    "the first layer, by learned scores",
    "skim.keep": "Shares of an input's own tokens that may stay; 1.0 must be among them",
    "experts.groups": "Groups of layers [first, last] that are cut alike",
    "experts.counts": "Numbers of experts; 1 (dense) must be among them",
    "experts.active": "Shares of the experts that run",
    "experts.granularity": "Whether a token or a whole sequence chooses its experts",
    "exits.layers": "Layers after which an input may leave; all below the deepest if absent",
    "exits.min_depth": "Least number of layers of a network",
    "exits.max_depth": "Largest number of layers; all if absent",
    "exits.criteria": "Scores by which an exit decides",
    "exits.batching": "What a batch does with inputs that left",
    "exits.temperatures": "Divisors of the logits that may be tried",
    "exits.patience": "Exits in a row that must agree (criterion patience)",
    "exits.max_exits": "Most early exits; no limit if absent",
}


def job_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a job file."""
    schema = Job.model_json_schema()
    schema["$schema"] = DIALECT
    schema["title"] = "dynsearch job"
    properties = schema["properties"]
    for key, part in properties.items():
        part["description"] = ABOUT[key]
    properties["space"] = _space()
    properties["budgets"]["propertyNames"] = {"enum": list(COSTS)}
    properties["objectives"]["items"] = {"type": "string", "enum": list(OBJECTIVES)}
    return schema


def _space() -> dict[str, Any]:
    parts = {name: _part(name, cls) for name, cls in PARTS.items()}
    return {
        "type": "object",
        "description": ABOUT["space"],
        "additionalProperties": False,
        "properties": {
            "dtype": _names("dtype", RUNNABLE_DTYPES),
            "pooling": _names("pooling", POOLING),
            **parts,
        },
    }


def _names(key: str, known: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "array",
        "description": ABOUT[key],
        "items": {"type": "string", "enum": list(known)},
        "minItems": 1,
        "uniqueItems": True,
    }


def _part(name: str, cls: type) -> dict[str, Any]:
    """Schema of one table of [space]; its keys are the fields of the record that reads it."""
    schema: dict[str, Any] = TypeAdapter(cls).json_schema()
    schema["description"] = ABOUT[name]
    schema["additionalProperties"] = False
    for field in fields(cls):
        part = schema["properties"][field.name]
        part["description"] = ABOUT[f"{name}.{field.name}"]
        if field.name in CHOICES:
            part["items"] = {"type": "string", "enum": list(CHOICES[field.name])}
    return schema
