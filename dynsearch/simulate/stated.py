"""The parameters behind an outcome, by name, each with where it comes from."""

from __future__ import annotations

from typing import Any

import numpy as np

from dynsearch.simulate.assumptions import PARAMETRIC, SNLI_ACCURACY
from dynsearch.simulate.outcome import COUNTED, Outcome
from dynsearch.simulate.setting import Setting
from dynsearch.simulate.texts import expected_rates, fixed_amounts
from search_spaces.candidate import stack_depth

SNLI = "as 12 exits on SNLI (repository txsun1997/HashEE)"
GIVEN = "given"
PRESET = "assumed by the preset"


def stated_parameters(setting: Setting, outcome: Outcome) -> dict[str, Any]:
    """Name -> {value, origin} of everything that an input would decide."""
    candidate, trace = setting.candidate, setting.trace
    if trace is not None:
        header = trace.header
        keys = ("weights_hash", "split", "split_hash", "outer_hash")
        return {
            "rows": _entry(trace.num_samples, "trace"),
            **{key: _entry(header[key], "trace") for key in keys if key in header},
        }
    found: dict[str, Any] = {}
    if setting.candidate.backbone.type == "recurrent":
        assumed = setting.assumptions
        given = dict.fromkeys(assumed.preset, PRESET) | dict.fromkeys(assumed.stated, GIVEN)
        found |= {
            name: _entry(getattr(assumed, name), origin)
            for name, origin in given.items()
            if name in ("read", "branches", "width", "keep")
        }
    if outcome.activity != COUNTED:
        found |= _exit_parameters(setting, outcome)
        found |= _skim_parameters(setting)
    if outcome.experts:
        value = setting.assumptions.concentration
        note = "even" if np.isinf(value) else GIVEN
        found["concentration"] = _entry(None if np.isinf(value) else value, note)
    if candidate.exits is not None and candidate.exits.kv_policy == "self_speculative":
        stated = setting.assumptions.acceptance is not None
        rate = outcome.more.get("acceptance")
        found["acceptance"] = _entry(rate, GIVEN if stated else PARAMETRIC)
    return found


def _exit_parameters(setting: Setting, outcome: Outcome) -> dict[str, Any]:
    candidate, assumed = setting.candidate, setting.assumptions
    if candidate.exits is None and candidate.cascade is None:
        return {}
    if assumed.rates:
        origin = GIVEN if "rates" in assumed.stated else PRESET
        return {"rates": _entry(list(assumed.rates), origin)}
    layers = outcome.exits.size
    kinds = ("decoder", "enc_dec")
    if candidate.cascade is None and candidate.backbone.type in kinds:
        layers = stack_depth(candidate, "decoder")
    model = assumed.exit_model(layers)
    given = assumed.accuracy != SNLI_ACCURACY
    return {
        "accuracy": _entry([round(float(x), 4) for x in model.accuracy], GIVEN if given else SNLI),
        "likeness": _entry([round(float(x), 4) for x in model.carry], SNLI),
        "sharpness": _entry(assumed.sharpness, PARAMETRIC),
        "temperature": _entry(assumed.temperature, PARAMETRIC),
    }


def _skim_parameters(setting: Setting) -> dict[str, Any]:
    loose = [s for s in setting.candidate.skim if not fixed_amounts(s)]
    if not loose:
        return {}
    found: dict[str, Any] = {"spread": _entry(setting.assumptions.spread, PARAMETRIC)}
    for i, skim in enumerate(loose):
        if skim.mechanism != "jump":
            rates = [float(x) for x in expected_rates(skim, setting.assumptions)]
            origin = "candidate" if skim.keep_rate else PARAMETRIC
            found[f"keep_rate[{i}]"] = _entry(rates, origin)
    return found


def _entry(value: Any, origin: str) -> dict[str, Any]:
    return {"value": value, "origin": origin}
