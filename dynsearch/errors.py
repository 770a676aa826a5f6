"""The project's exceptions, under the name that users import."""

from search_spaces.errors import DynsearchError, InputError, Problem

__all__ = ["DynsearchError", "InputError", "Problem"]
