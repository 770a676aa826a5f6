"""Parts of a configuration's time, energy and memory add up to what the search predicts."""

from __future__ import annotations

import numpy as np
import pytest
import small_run

from cost_models.memory import peak_bytes
from dynsearch.evaluate import Scene
from dynsearch.explain.parts import parts
from search_spaces.candidate import with_policies


@pytest.mark.parametrize("seed", range(6))
def test_parts_add_up_to_time_energy_memory_and_spread_of_the_replay(seed: int) -> None:
    case = small_run.draw(seed, device=small_run.DEVICES[seed % len(small_run.DEVICES)])
    setting = case.setting
    found = parts(case)
    seconds = sum(row["seconds"] for row in found["operators"])
    assert seconds == pytest.approx(case.account.total_s, rel=1e-9)
    memory = peak_bytes(
        with_policies(setting.outer, case.policy),
        workload=setting.workload,
        num_classes=setting.num_classes,
    )
    assert sum(found["memory"].values()) == memory[0]
    scene = Scene(
        devices=(setting.device,), workload=setting.workload, num_classes=setting.num_classes
    )
    replayer = scene.replayer(setting.outer, case.trace, None)
    replayed = replayer.run(case.policy)
    energies = [row["energy_j"] for row in found["operators"] if row["kind"] != "call"]
    if "energy_j" in replayer.quantities:
        whole = float(replayed.cost("energy_j")[0, 0])
        assert sum(energies) == pytest.approx(whole, rel=1e-6)
    else:
        assert energies == [None] * len(energies)
    latencies = replayer.latencies(case.policy)[0, 0]
    spread = found["latency_quantiles"]
    assert (spread[0], spread[-1]) == (latencies.min(), latencies.max())
    assert spread[20] == np.median(latencies)
    assert spread == sorted(spread)
