"""`dynsearch simulate`: checks what is asked, picks how it runs, and gives one object back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynsearch.commands.devices import find_device
from dynsearch.errors import InputError
from dynsearch.simulate.assumptions import parse_assumptions
from dynsearch.simulate.cascade import cascade
from dynsearch.simulate.classify import classify, work_of
from dynsearch.simulate.fidelity import fidelity
from dynsearch.simulate.generation import generate
from dynsearch.simulate.outcome import Outcome
from dynsearch.simulate.queue import with_arrivals
from dynsearch.simulate.reader import read
from dynsearch.simulate.setting import SAMPLES, Setting
from dynsearch.simulate.stated import stated_parameters
from dynsearch.simulate.subject import load_subject
from dynsearch.simulate.traces import fitting_trace
from search_spaces.codec import candidate_to_dict, in_words
from search_spaces.validity import require_valid
from search_spaces.workload import Workload


def simulate(
    subject: str,
    *,
    device: str,
    batch: int = 1,
    lengths: Sequence[int] = (64,),
    new_tokens: int = 32,
    threads: int = 1,
    classes: int = 2,
    sort: bool = False,
    exit_batching: str | None = None,
    trace: Path | None = None,
    weights_hash: str | None = None,
    against: Path | None = None,
    assume: Sequence[str] = (),
    arrival_rate: float | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Costs and activity of one candidate or method on one device.

    Args:
        subject: Name of a method, or a TOML file with a candidate.
        device: Name, "local", or a device file.
        batch: Inputs that arrive together.
        lengths: Tokens of inputs, equally frequent; a trace has its own.
        new_tokens: That decoders write after the input.
        threads: Of the runtime.
        classes: Of heads; a trace has its own.
        sort: Whether batches are formed of inputs sorted by length.
        exit_batching: In place of the candidate's own; methods that are published for one input at
            a time are compacted in a larger batch, and a note says so.
        trace: File of a recorded pass that is replayed; without one the stated model is used.
        weights_hash: Weights that the trace must come from.
        against: A trace of the same rows recorded with the candidate's own skims and experts:
            how far the replay is from it is measured.
        assume: Words NAME=VALUE of `assumptions.Assumptions`.
        arrival_rate: Inputs a second that arrive at random and wait for one another.
        samples: Inputs that are drawn for percentiles, where no trace has them.
        seed: Of everything drawn.

    Returns:
        `outcome.Outcome.table`, with `subject`, `candidate`, `device`, `workload` and, where
        `against` is given, `fidelity`.

    Raises:
        InputError: everything that is wrong with the input, by name.
    """
    found = load_subject(subject)
    candidate = found.candidate
    notes: tuple[str, ...] = ()
    if exit_batching is not None:
        candidate = replace(candidate, exit_batching=exit_batching)
    elif found.published and batch > 1 and candidate.exits and candidate.exit_batching == "serial":
        candidate = replace(candidate, exit_batching="compact")
        notes = (f"published for one input at a time: {batch} are compacted (--exit-batching)",)
    recorded = None
    if trace is not None:
        recorded = fitting_trace(trace, candidate, weights_hash)
        classes = int(recorded.logits.shape[2])
        lengths = [int(recorded.lengths.max())]
    load = Workload(batch=batch, max_len=max(lengths), sort=sort, threads=threads)
    require_valid(candidate, workload=load, num_classes=classes, file=found.file)
    setting = Setting(
        candidate=candidate,
        file=found.file,
        device=find_device(device, threads=threads),
        workload=load,
        lengths=tuple(lengths),
        new_tokens=new_tokens,
        num_classes=classes,
        stages=found.stages,
        assumptions=parse_assumptions(assume, found.assumed),
        trace=recorded,
        samples=samples,
        seed=seed,
    )
    outcome = run(setting)
    measured = {} if against is None else {"fidelity": _fidelity(setting, against, weights_hash)}
    if arrival_rate is not None:
        outcome = with_arrivals(outcome, setting, arrival_rate)
    return {
        "subject": found.name,
        "candidate": in_words(candidate_to_dict(candidate)),
        "device": setting.device.name,
        "workload": {
            "batch": batch,
            "lengths": list(lengths),
            "new_tokens": new_tokens if candidate.backbone.type in _WRITES else 0,
            "threads": threads,
            "sort": sort,
            "exit_batching": setting.serving.mode,
            "arrival_rate_per_s": arrival_rate,
        },
        **measured,
        **replace(
            outcome,
            parameters=stated_parameters(setting, outcome),
            notes=(*notes, *outcome.notes),
        ).table(),
    }


def _fidelity(setting: Setting, against: Path, weights_hash: str | None) -> dict[str, Any]:
    if setting.trace is None:
        text = "is compared with a trace that is replayed; give --trace"
        raise InputError.one("command line", "--against", str(against), text)
    executed = fitting_trace(against, setting.candidate, weights_hash)
    planned = work_of(setting, setting.drawn_lengths())[0]
    return fidelity(setting.candidate, setting.trace, planned, executed)


_WRITES = ("decoder", "enc_dec")


def run(setting: Setting) -> Outcome:
    """Simulate by what kind of network it is.

    Raises:
        InputError: a trace of what cannot be replayed.
    """
    candidate = setting.candidate
    kind = candidate.backbone.type
    if setting.trace is not None and (candidate.cascade is not None or kind != "encoder"):
        what = "cascade" if candidate.cascade is not None else kind
        text = f"a {what} is not replayed on a trace of one encoder; leave --trace out"
        raise InputError.one("command line", "--trace", "", text)
    if candidate.cascade is not None:
        return cascade(setting, run)
    if kind in _WRITES:
        return generate(setting)
    return read(setting) if kind == "recurrent" else classify(setting)
