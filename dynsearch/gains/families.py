"""The searches that are compared: one supernet, one data split, four spaces, the same passes.

Each number format has a search of its own, because it is judged by itself: in one front of several
formats the fastest hides what the others could do, and they get few passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dynsearch.evaluate import build, inner_spec
from dynsearch.front_points import FullNetwork
from dynsearch.gains.remembered import RememberingQuality
from dynsearch.job import Job
from dynsearch.main_job import make_run, run_passes
from dynsearch.opened import Opened, open_all, pass_fronts
from dynsearch.problem import problem_of
from dynsearch.progress import Progress
from dynsearch.quality.opening import Material, open_material
from dynsearch.quality.trace import Trace, load_trace
from dynsearch.search.fronts import MergedFront, as_merged
from dynsearch.threads import one_core_each
from search_spaces.candidate import Candidate
from search_spaces.space import FAMILIES
from search_spaces.workload import Workload

OBJECTIVES = ("error", "time_per_sample_s")  # every speed-up is a ratio of times per sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A family's finished passes, of all number formats."""

    family: str
    opened: Opened  # of the first format, fp32
    settings: dict[int, Candidate]  # outer setting by trial
    traces: dict[int, Path]  # of the search rows


def family_job(
    job: Job,
    material: Material,
    family: str,
    *,
    dtype: str,
    seed: int,
    trials: int | None,
) -> Job:
    """`job` narrowed to a family and a number format, on this machine alone, without budgets.

    The supernet stays the joint job's: what it is trained for is written down. Budgets are left
    out because they would forbid the families without exits, which run all layers.
    """
    learnt = {key: getattr(material.training, key) for key in ("expert_counts", "input_skims")}
    training = job.training.model_copy(update={"seed": seed} | learnt)
    search = job.search.model_copy(update={"seed": seed, "trials": trials or job.search.trials})
    made = job.model_copy(
        update={
            "name": f"{job.name}-{family}-{dtype}-seed{seed}",
            "devices": ("local",),
            "score_on": (),
            "budgets": {},
            "space": material.space.restrict(family).to_dict() | {"dtype": [dtype]},
            "training": training,
            "search": search,
        }
    )
    made._source = job.source
    return made


def search_families(
    job: Job,
    *,
    out: Path,
    traces: Path,
    formats: Sequence[str],
    seed: int,
    trials: int | None,
    progress: Progress,
    families: Sequence[str] = FAMILIES,
) -> list[Searched]:
    """Run, or go on with, the passes of every family in every number format.

    Args:
        job: The job.
        out: Gets a run folder for each family and format.
        traces: Folder of the traces that families share.
        formats: Number formats that are searched, fp32 first.
        seed: Of training and search.
        trials: Passes of each family in each number format; None: the job's.
        progress: Shows what happens.
        families: Which, in this order.

    Raises:
        KeyboardInterrupt: a search was interrupted; what was finished is kept.
    """
    material = open_material(job)
    found = []
    for family in families:
        parts = []
        for dtype in formats:
            progress.stage(f"{job.name}, seed {seed}: {family}, {dtype}")
            mine = family_job(job, material, family, dtype=dtype, seed=seed, trials=trials)
            parts.append(_search(mine, family, out=out, traces=traces, progress=progress))
        found.append(_together(parts))
    return found


def _search(mine: Job, family: str, *, out: Path, traces: Path, progress: Progress) -> Searched:
    """Run, or go on with, the passes of one search."""
    own = open_material(mine)
    run = make_run(mine, own, out)
    opened = open_all(mine, run, own, progress)
    opened = replace(opened, quality=RememberingQuality.of(opened.recorder, traces))
    problem, _ = problem_of(opened)
    result = run_passes(opened, problem, progress)
    if result.stopped == "interrupted":
        raise KeyboardInterrupt
    _, found = pass_fronts(run)
    settings = {n: own.space.decode(s) for n, s in result.settings.items()}
    return Searched(
        family=family,
        opened=opened,
        settings={n: settings[n] for n in found},
        traces=found,
    )


def _together(parts: Sequence[Searched]) -> Searched:
    """The passes of a family's searches as those of one, numbered anew."""
    passes = [(part.settings[n], part.traces[n]) for part in parts for n in sorted(part.traces)]
    return replace(
        parts[0],
        settings={n: outer for n, (outer, _) in enumerate(passes)},
        traces={n: trace for n, (_, trace) in enumerate(passes)},
    )


def full_network(searched: Searched, formats: Sequence[str]) -> FullNetwork:
    """The full network of a search, its trace of the search rows included.

    Args:
        searched: A family's passes, those in fp32 among them.
        formats: All number formats that are searched.
    """
    full = searched.opened.material.space.full()
    trial = next(n for n, outer in searched.settings.items() if outer == full)
    weights = searched.opened.quality.weights_hash
    return FullNetwork(
        trial=trial,
        outer={d: replace(full, dtype=d) for d in formats},
        trace=load_trace(searched.traces[trial], weights),
        exit_batching=searched.opened.exit_batching,
    )


def fronts_for(
    searched: Searched,
    workload: Workload,
    reference: Trace,
) -> list[MergedFront]:
    """Fronts of all passes under another workload than the search's, from the same traces.

    The workload is an inner knob: it changes what a policy costs, not what it answers.

    Args:
        searched: The passes.
        workload: Batch size, sorting, threads.
        reference: The full network's trace, whose answers losses are paired with.
    """
    opened = searched.opened
    scene = replace(opened.scene, workload=workload)
    space = opened.material.space.inner
    if workload.batch > 1:
        batching = tuple(b for b in space.exit_batching if b != "serial") or ("compact",)
        space = replace(space, exit_batching=batching)
    spec = inner_spec(scene, inner_space=space, objectives=OBJECTIVES, budgets={}, anchors={})
    spec |= {
        "anchors": {d.name: () for d in scene.devices},
        "majority_error": opened.quality.majority_error("search"),
        "reference_trace": reference,
    }
    end_of_pass = build(spec)
    weights = opened.quality.weights_hash

    def one(trial: int) -> list[MergedFront]:
        trace = load_trace(searched.traces[trial], weights)
        found = end_of_pass(searched.settings[trial], trace)
        return [as_merged(front, trial) for front in found.devices]

    return [part for parts in one_core_each(one, sorted(searched.traces)) for part in parts]
