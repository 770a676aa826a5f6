from __future__ import annotations

from search_spaces import DynsearchError, InputError, Problem


def test_a_problem_names_place_value_and_way_out() -> None:
    problem = Problem("jobs/x.toml", "space.keep_rate", "1.2", "is above 1.0")
    assert str(problem) == "jobs/x.toml: space.keep_rate = 1.2: is above 1.0"
    assert str(Problem("jobs/x.toml", "", "", "is empty")) == "jobs/x.toml: is empty"


def test_an_error_lists_all_its_problems() -> None:
    error = InputError([Problem("f", "a", "1", "bad"), Problem("f", "b", "", "missing")])
    assert str(error).splitlines() == ["f: a = 1: bad", "f: b: missing"]
    assert isinstance(error, DynsearchError)
    assert InputError.one("f", "a", None, "bad").problems == (Problem("f", "a", "", "bad"),)
