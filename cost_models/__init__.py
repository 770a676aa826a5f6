"""What a device charges for operators: analytical forms, corrected by measurements."""

from cost_models.candidates import CandidateCosts, cost_candidates, working_set_bytes
from cost_models.device import (
    Device,
    Quantity,
    device_names,
    list_devices,
    load_device,
    overlay,
)
from cost_models.memory import peak_bytes
from cost_models.price import OpCosts, call_overhead_s, price_ops
from cost_models.profile import Profile, load_profile, profile_names

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
    "profile_names",
    "working_set_bytes",
]
