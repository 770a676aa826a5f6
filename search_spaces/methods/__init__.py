"""Published dynamic methods, one preset a file: what it decides, what it costs, a candidate."""

from search_spaces.activity import Assumed
from search_spaces.methods.files import list_methods, load_method, papers_without_policy
from search_spaces.methods.records import Check, Knob, Method, Paper

__all__ = [
    "Assumed",
    "Check",
    "Knob",
    "Method",
    "Paper",
    "list_methods",
    "load_method",
    "papers_without_policy",
]
