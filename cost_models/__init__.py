"""What a device charges for operators: analytical forms, corrected by measurements."""

from cost_models.candidates import CandidateCosts, cost_candidates, working_set_bytes
from cost_models.device import (
    Device,
    Profile,
    Quantity,
    device_names,
    list_devices,
    load_device,
    load_profile,
    overlay,
)
from cost_models.memory import peak_bytes
from cost_models.price import OpCosts, call_overhead_s, price_ops

__all__ = [
    "CandidateCosts",
    "Device",
    "OpCosts",
    "Profile",
    "Quantity",
    "call_overhead_s",
    "cost_candidates",
    "device_names",
    "list_devices",
    "load_device",
    "load_profile",
    "overlay",
    "peak_bytes",
    "price_ops",
    "working_set_bytes",
]
