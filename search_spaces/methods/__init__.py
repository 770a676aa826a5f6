"""Published dynamic methods, one preset a file: what it decides, what it costs, a candidate."""

from search_spaces.activity import Assumed
from search_spaces.methods.checks import found, holds, method_ops, total_flops
from search_spaces.methods.files import list_methods, load_method, papers_without_policy
from search_spaces.methods.records import Check, Knob, Method, Paper

__all__ = [
    "Assumed",
    "Check",
    "Knob",
    "Method",
    "Paper",
    "found",
    "holds",
    "list_methods",
    "load_method",
    "method_ops",
    "papers_without_policy",
    "total_flops",
]
