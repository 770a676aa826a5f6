"""Write what was fitted into the link files: `python -m cost_models.calibrate.link_write DATA`.

Everything above the first fitted section of a file stays as it is. A link that several devices
share gets the geometric mean of their fits.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cost_models.adapters import links_nccl
from cost_models.calibrate.exchange_fit import Numbers, fit_operation, timed
from cost_models.calibrate.link_fit import fit_link, left_out, pooled, say
from cost_models.exchange import LOW_LATENCY, NETWORK, PARAMETERS, THROUGHPUT
from cost_models.links import FOLDER, KNOWN, Link, link_of, load_link
from cost_models.measured import Measured
from cost_models.units import from_si, join_key, split_key

NETWORK_NAME = "infiniband-ndr"
FIRST = ("model", *PARAMETERS, *(f"network_{name}" for name in PARAMETERS))


def model_lines(values: Mapping[str, float], source: str, error: float, rows: Measured) -> str:
    """The sections `model` and `error` of a link file."""
    text = _section("model", values, {p: KNOWN[p].dimension for p in values}, source)
    bytes_, n = rows.ops.m, rows.ops.n
    text += f"\n[error]  # of numbers of participants left out\nlog_sd = {error:.3g}\n"
    text += f"measured.bytes = [{bytes_.min()}, {bytes_.max()}]\n"
    return text + f"measured.participants = [{n.min()}, {n.max()}]\n"


def exchange_lines(numbers: Numbers, source: str, *, network: bool) -> str:
    """The sections of dispatch and combine that belong to a node's link, or to the network."""
    text = ""
    for section, values in numbers.items():
        if section.startswith("network_") == network:
            known = NETWORK if network else PARAMETERS[section]
            text += _section(section, values, {p.name: p.dimension for p in known}, source)
    return text


def _section(
    name: str, values: Mapping[str, float], dimension: Mapping[str, str], source: str
) -> str:
    lines = [f"\n[{name}]  # {source}"]
    for stem, value in values.items():
        key = join_key(stem, dimension[stem])
        shown = float(f"{from_si(value, split_key(key)[1]):.4g}")
        what = f'source = "{source}", grade = "measured"'
        lines.append(f"{key} = {{ value = {shown!r}, {what} }}")
    return "\n".join(lines) + "\n"


def _replace(name: str, text: str) -> None:
    path = FOLDER / f"{name}.toml"
    old = path.read_text(encoding="utf-8")
    starts = [at for section in FIRST if (at := old.find(f"\n[{section}]")) >= 0]
    head = old[: min(starts)] if starts else old
    path.write_text(head.rstrip("\n") + "\n" + text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Fit every link that the data cover and write its file."""
    root = Path(arguments[0])
    folder = root / "gpu" / "aiconfigurator"
    texts: dict[str, str] = {}
    tables: dict[str, list[tuple[Link, Measured]]] = {}
    for rows in links_nccl.read(folder / "nccl.csv.gz", root):
        link = link_of(rows.device)
        if link is not None:
            tables.setdefault(link.name, []).append((link, rows))
    for name, parts in tables.items():
        values = pooled([fit_link(link, rows) for link, rows in parts])
        errors = np.concatenate([left_out(k, r, r.ops.n.astype(str)) for k, r in parts])
        count = sum(len(rows) for _, rows in parts)
        names = ", ".join(rows.device for _, rows in parts)
        source = f"fit to {count} rows of AIConfigurator nccl ({names})"
        sd = math.sqrt(float(np.mean(np.minimum(errors**2, 0.25))))
        texts[name] = model_lines(values, source, sd, parts[0][1])
    network = load_link(NETWORK_NAME)
    for data in timed(folder / "deepep_raw.csv.gz", root):
        link = link_of(data.rows.device)
        if link is None:
            continue
        operations = LOW_LATENCY if data.rows.runtime == "deepep-ll" else THROUGHPUT
        numbers: Numbers = {}
        for name in operations:
            numbers |= fit_operation(link, network, data, name)
        source = f"fit to {len(data.rows)} rows of AIConfigurator deepep_raw ({data.rows.device})"
        texts[link.name] += exchange_lines(numbers, source, network=False)
        if any(k.startswith("network_") for k in numbers):
            shared = exchange_lines(numbers, source, network=True)
            texts[NETWORK_NAME] = texts.get(NETWORK_NAME, "") + shared
    for name, text in texts.items():
        _replace(name, text)
        say(FOLDER / f"{name}.toml")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
