"""Dispatch and combine of expert parallelism: tokens to the ranks of their experts and back.

Large batches send one copy of a token to each rank (and, between nodes, to each node) that holds
at least one of its k experts; with experts spread evenly over g places that is
    places(k, g) = g * (1 - (1 - 1/g)^k)
and a number of streaming multiprocessors, `units`, does the copying:
    t = start + start_per_byte * b + ramp * T / (T + 32) + hop * log2(nodes)
        + soft maximum of copying, rate of the node's links, rate of the network
    copying = (copies * (b / out_rate + per_copy) + T * b / in_rate) / units
T tokens of b bytes. Between nodes a token is copied twice, once for each kind of link.

Low latency sends one copy per chosen expert, without copying by units:
    t = start + per_expert * experts of a rank + T * k * b / (share * B) + network + hops,
bounded by the rate at which one expert's buffer can be filled.
Semantics and both modes: DeepEP, github.com/deepseek-ai/DeepEP (README).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cost_models.forms import Parameter
from cost_models.links import FOLDER, Link
from cost_models.units import split_key, to_si
from search_spaces.errors import InputError
from search_spaces.ops import COLLECTIVE

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

UNITS = 20  # streaming multiprocessors that DeepEP takes unless told otherwise
MANY_EXPERTS = 32.0  # of a rank, where nothing is said
RAMP_TOKENS = 32.0
SOFTNESS = 4.0
LOW_LATENCY = ("dispatch_low_latency", "combine_low_latency")
THROUGHPUT = ("dispatch", "combine")

# Defaults: geometric means of the two kinds of NVLink that were measured.
_DISPATCH = (27e-6, 3.5e-10, 5.2e-6, 45e9, 13e9, 165e-9, 0.55)
_COMBINE = (26.5e-6, 1.5e-9, 5.9e-6, 40e9, 9.3e9, 77e-9, 0.60)


def _throughput(values: tuple[float, ...]) -> tuple[Parameter, ...]:
    start, per_byte, ramp, out_rate, in_rate, per_copy, share = values
    return (
        Parameter("start", "s", start, 0.4, "of the kernel on every rank"),
        Parameter("start_per_byte", "s", per_byte, 0.8, "more of it per byte of a token"),
        Parameter("ramp", "s", ramp, 0.8, "what more than a few tokens add"),
        Parameter("out_rate", "bytes_per_s", out_rate, 0.4, "copies a unit writes"),
        Parameter("in_rate", "bytes_per_s", in_rate, 0.4, "tokens a unit reads"),
        Parameter("per_copy", "s", per_copy, 0.8, "start of one copy in a unit"),
        Parameter("share", "number", share, 0.3, "share of the rate of the links", 1.0),
    )


def _low_latency(
    start: float, per_expert: float, share: float, fill: float
) -> tuple[Parameter, ...]:
    return (
        Parameter("start", "s", start, 0.4, "of the kernel on every rank"),
        Parameter("per_expert", "s", per_expert, 0.8, "for each expert of a rank"),
        Parameter("share", "number", share, 0.3, "share of the rate of the links", 1.0),
        Parameter("expert_rate", "bytes_per_s", fill, 0.5, "one expert's buffer is filled"),
    )


PARAMETERS: Mapping[str, tuple[Parameter, ...]] = {
    "dispatch": _throughput(_DISPATCH),
    "combine": _throughput(_COMBINE),
    "dispatch_low_latency": _low_latency(9.7e-6, 0.16e-6, 0.65, 30e9),
    "combine_low_latency": _low_latency(11e-6, 0.09e-6, 0.65, 240e9),
}
# Of the network between nodes.
NETWORK: tuple[Parameter, ...] = (
    Parameter("hop", "s", 7e-6, 0.6, "for each doubling of nodes"),
    Parameter("share", "number", 0.93, 0.2, "share of the rate of the adapter", 1.0),
    Parameter("twice", "number", 2.0, 0.4, "copying that forwarding adds, as a factor"),
)


def places(choices: F64 | I64, groups: F64 | I64) -> F64:
    """Expected number of distinct groups that hold one of `choices` experts, spread evenly."""
    g = np.maximum(np.asarray(groups, dtype=np.float64), 1.0)
    found: F64 = g * (1.0 - (1.0 - 1.0 / g) ** choices)
    return found


def exchange_s(
    code: I64,
    message_bytes: F64,
    token_bytes: F64,
    participants: I64,
    top_k: I64,
    *,
    link: Link,
    network: Link | None = None,
    experts: F64 | None = None,
    units: float | F64 = UNITS,
    numbers: Mapping[str, Mapping[str, float]] | None = None,
) -> F64:
    """Seconds of dispatches and combines [R].

    Args:
        code: Index into `ops.COLLECTIVES` [R].
        message_bytes: The tokens of one rank, each once [R].
        token_bytes: One token as it is sent [R].
        participants: Ranks [R]; beyond the domain of the link they stand in several nodes.
        top_k: Experts chosen per token [R].
        link: What joins the ranks of a node.
        network: What joins nodes; needed where participants exceed the link's domain.
        experts: Experts in all [R]; None: many per rank.
        units: Streaming multiprocessors that copy, one number or [R].
        numbers: Parameters in place of those in the files, by section and name.

    Returns:
        Seconds [R].

    Raises:
        InputError: more participants than the link joins, and no network.
    """
    n = np.asarray(participants, dtype=np.float64)
    nodes = np.ceil(n / link.domain)
    if network is None and bool((nodes > 1).any()):
        text = f"{link.name} joins {link.domain}; name the network between nodes"
        raise InputError.one("cluster", "network", None, text)
    tokens = np.asarray(message_bytes, dtype=np.float64) / token_bytes
    own = MANY_EXPERTS if experts is None else np.maximum(experts / n, 1.0)
    seconds = np.zeros(n.shape)
    for name in (*THROUGHPUT, *LOW_LATENCY):
        p: dict[str, float | F64] = {
            "units": np.asarray(units, dtype=np.float64),
            **exchange_parameters(link, name),
        }
        p |= (numbers or {}).get(name, {})
        q = network_parameters(network, name) | dict((numbers or {}).get(f"network_{name}", {}))
        rate = np.inf if network is None else network.bandwidth.value * q["share"]
        form = _low_latency_s if name in LOW_LATENCY else _throughput_s
        found = form(tokens, token_bytes, n, nodes, top_k, own, p, q, link.bandwidth.value, rate)
        seconds = np.where(code == COLLECTIVE[name], found, seconds)
    return seconds


def _throughput_s(
    tokens: F64,
    size: F64,
    n: F64,
    nodes: F64,
    top_k: I64,
    own: float | F64,
    p: Mapping[str, float | F64],
    q: Mapping[str, float],
    link_rate: float,
    network_rate: float,
) -> F64:
    far = nodes > 1
    copies: F64 = tokens * places(top_k, n) * np.where(far, 1.0, (n - 1) / n)
    copying = copies * (size / p["out_rate"] + p["per_copy"]) + tokens * size / p["in_rate"]
    copying = copying * np.where(far, q["twice"], 1.0) / p["units"]
    near = copies * size / (link_rate * p["share"])
    between: F64 = tokens * places(top_k, nodes) * (nodes - 1) / nodes * size / network_rate
    largest = (copying**SOFTNESS + near**SOFTNESS + between**SOFTNESS) ** (1 / SOFTNESS)
    start = p["start"] + p["start_per_byte"] * size + p["ramp"] * tokens / (tokens + RAMP_TOKENS)
    found: F64 = start + q["hop"] * np.log2(nodes) + largest
    return found


def _low_latency_s(
    tokens: F64,
    size: F64,
    n: F64,
    nodes: F64,
    top_k: I64,
    own: float | F64,
    p: Mapping[str, float | F64],
    q: Mapping[str, float],
    link_rate: float,
    network_rate: float,
) -> F64:
    sent = tokens * top_k * size
    per_node = n / nodes
    near = sent * np.where(nodes > 1, per_node / n, 1.0) / (link_rate * p["share"])
    between = sent * (n - per_node) / n / network_rate
    first = p["start"] + q["hop"] * (np.log2(nodes) + (nodes > 1))
    free = first + p["per_expert"] * own + near + between
    filling = first + sent / own / p["expert_rate"]
    found: F64 = (free**6 + filling**6) ** (1 / 6)
    return found


def exchange_parameters(link: Link, name: str) -> dict[str, float]:
    """Parameters of one operation over a node's links: fitted, or the defaults."""
    return _section(link.name, name, PARAMETERS[name])


def network_parameters(network: Link | None, name: str) -> dict[str, float]:
    """The same of the network between nodes, in the section `network_<operation>`."""
    return _section("" if network is None else network.name, f"network_{name}", NETWORK)


@cache
def _read(link: str) -> dict[str, dict[str, dict[str, object]]]:
    path = FOLDER / f"{link}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _section(link: str, section: str, known: tuple[Parameter, ...]) -> dict[str, float]:
    found = {p.name: p.default for p in known}
    for key, entry in _read(link).get(section, {}).items():
        stem, unit = split_key(key)
        if stem not in found:
            raise InputError.one(
                f"{link}.toml", f"{section}.{key}", None, "unknown key; remove it"
            )
        found[stem] = to_si(float(str(entry["value"])), unit)
    return found
