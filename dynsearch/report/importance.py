"""How much each outer knob mattered in the search, from the run's study."""

from __future__ import annotations

import warnings
from pathlib import Path

from dynsearch.errors import InputError
from dynsearch.report import units
from dynsearch.report.markup import Html, tag
from dynsearch.search.runs import open_run
from dynsearch.search.types import NUM_ANCHORS

FEWEST = 12  # complete passes below which shares would be noise


def importances(run_dir: Path) -> tuple[dict[str, float], str]:
    """Shares by knob, largest first, and why there are none (empty where there are).

    PED-ANOVA (Watanabe, Bansal, Hutter, IJCAI 2023, as Optuna has it) of the mean of a pass's
    three anchor values: which knobs tell good passes from all of them.
    """
    try:
        run = open_run(run_dir)
    except InputError:
        return {}, "The folder holds no search."
    if not run.journal.is_file() or run.journal.stat().st_size == 0:
        return {}, "The study of the search is kept elsewhere, in a database."
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    from dynsearch.search.study import open_storage

    try:
        storage = open_storage(run, "journal")
        study = optuna.load_study(study_name=run.study_name, storage=storage)
    except InputError as error:
        return {}, f"The study cannot be read: {error.problems[0].message}."
    except KeyError:
        return {}, "The study of the search is kept elsewhere, in a database."
    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(done) < FEWEST:
        return {}, f"{len(done)} passes are too few to say; {FEWEST} or more would tell."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an experimental class says so each time
        shares = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(),
            target=lambda trial: sum(trial.values or ()) / NUM_ANCHORS,
        )
    return {name: float(share) for name, share in shares.items() if share > 0}, ""


def section(found: tuple[dict[str, float], str]) -> Html:
    """Bars, in the order of importance."""
    shares, why_not = found
    most = max(shares.values(), default=1.0)
    rows = [
        tag(
            "div",
            tag("dt", name.replace("_", " ")),
            tag("dd", tag("meter", min=0, max=1, value=f"{x / most:.4f}"), units.percent(x, 0)),
        )
        for name, x in shares.items()
    ]
    note = why_not or (
        "Share of what tells the better passes from all passes that a knob accounts for alone "
        "(PED-ANOVA). Knobs of exit policies are not among them: every pass tries all of those."
    )
    return tag(
        "div",
        tag("h3", "Importance of knobs"),
        tag("p", note, class_="small"),
        tag("dl", rows, class_="bars", id="importances") if rows else None,
    )
