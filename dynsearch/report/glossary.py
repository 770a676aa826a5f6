"""Every word and column of the report, in one sentence each."""

from __future__ import annotations

from dynsearch.export.table import CSV_COLUMNS

WORDS: dict[str, str] = {
    "full network": "All layers, all experts, no skimming, no exit check: the reference of every "
    "loss and speed-up.",
    "loss": "Error minus the full network's error on the same rows, in percentage points.",
    "selected": "On the search rows, which chose the configurations: a little too good by nature.",
    "confirmed": "On the report rows, which were opened after the front was frozen and chose "
    "nothing; with a paired 95 % interval.",
    "error bound": "Full network's error + expected loss + 1.28 standard errors: what ranked and "
    "chose.",
    "named": "The fastest configuration of a device and dtype whose error bound allows a loss; "
    "chosen before the report rows were opened.",
    "held / missed": "Whether the confirmed loss of a named configuration is within its level.",
    "speed-up": "Time per input of the full network over that of the configuration: same device, "
    "dtype, batch.",
    "time per input": "Time of a batch divided by the inputs in it.",
    "mean latency": "From the start of its batch to an input's own answer, averaged over inputs.",
    "worst case": "A full batch at the longest length, every check paid, no exit taken.",
    "predicted": "From the cost model, with the search rows' activity; interval 90 %.",
    "measured": "From a stopwatch around the running model, on this machine.",
    "dominated": "After confirmation another one of its device and number format is no worse in "
    "error and cost and better in one; shown hollow.",
    "FLOPs share": "Operations that a configuration asks for, over those of the full network; "
    "without padding, each input alone.",
    "exit": "A classifier after a layer; the input leaves when the score reaches the threshold.",
    "exit rate": "Share of all inputs that leave after a layer.",
    "keep rate": "Share of an input's own tokens that is alive after a layer.",
    "experts k of E": "The layer's feed-forward network is cut into E parts of which k run.",
    "static truncation": "Only the first layers, no exit checks: the rival that needs no search.",
    "hypervolume": "Share of the box between the origin and the reference point (full network's "
    "error + 0.10, full network's cost) that the front dominates; 0 to 1.",
    "MAPE": "Mean of |predicted \u2212 measured| / measured.",
    "Spearman": "Rank correlation of predicted and measured; 1 = same order.",
    "coverage": "Share of measured values inside the predicted 90 % interval.",
}


def entries() -> dict[str, str]:
    """Words of the report, then the columns of `front.csv`."""
    return WORDS | CSV_COLUMNS
