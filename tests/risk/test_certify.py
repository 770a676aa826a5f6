"""The way of certificates on a tiny real model: job, calibration rows, front, export, runner."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from cost_models import device as device_module
from dynsearch import main_job, timing, verify
from dynsearch.cli import run as command_line
from dynsearch.errors import InputError
from dynsearch.export import runner
from dynsearch.export.front import read_front
from dynsearch.export.manifest import model_sha256
from dynsearch.export.opened import open_export
from dynsearch.export.promise import certificate_of
from dynsearch.job import job_from_dict, load_job
from dynsearch.job_tables import RiskTable
from dynsearch.models.dynamic import plan_of
from dynsearch.opened import reopen
from dynsearch.progress import make_progress
from dynsearch.quality.opening import open_material
from dynsearch.quality.source import split_hash
from dynsearch.risk.certificate import ALONE, bound_to, certificate_from_dict, void_reasons
from dynsearch.risk.certify import Subject, decide
from dynsearch.risk.control import METHODS, certify_path, check_rows
from dynsearch.risk.losses import RISKS
from dynsearch.risk.path import Path as PolicyPath
from dynsearch.search.runs import open_run
from dynsearch.testing import tiny_data, tiny_model
from search_spaces.candidate import static_policies
from search_spaces.codec import candidate_from_dict, candidate_hash

JOB = """
schema_version = 1
name = "tiny"
devices = ["local"]
[model]
folder = "model"
[data]
file = "data.jsonl"
[training]
epochs = 1
distillation = 0.25
learning_rate = 1e-3
head_learning_rate = 3e-3
threads = 1
[space]
dtype = ["fp32"]
[space.skim]
layers = [1]
keep = [1.0, 0.5]
[space.exits]
layers = [1, 2, 3]
criteria = ["max_prob"]
[workload]
max_len = 24
[search]
trials = 2
workers = 1
sampler = "random"
"""
RISK = "[risk]\nepsilon = 0.08\nlevels = [0.0, 0.02]\n"
ROWS = 60  # that calibrate, 5 % of 1,200


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    tiny_model(home / "model")
    tiny_data(home / "data.jsonl", 20 * ROWS)
    shipped = Path(device_module.__file__).parent / "devices" / "generic-x86-avx2.toml"
    (home / "cache" / "devices").mkdir(parents=True)
    shutil.copyfile(shipped, home / "cache" / "devices" / "local-1.toml")
    return home


def search(home: Path, risk: str) -> dict[str, Any]:
    """The job with a [risk] table, its passes run in this process."""
    (home / "job.toml").write_text(JOB + risk, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNSEARCH_CACHE", str(home / "cache"))
        patch.setattr(main_job, "report", lambda run: None)
        job = load_job(home / "job.toml")
        return main_job.search(job, out=home / "out", progress=make_progress(quiet=True))


def again(found: dict[str, Any], out: Path, risk: str) -> dict[str, Any]:
    """A copy of the finished run, certified by another [risk] table."""
    copy = out / Path(found["run"]).name
    shutil.copytree(found["run"], copy)
    job = (copy / "job.toml").read_text(encoding="utf-8")
    job = job[: job.index("[risk]")] + risk
    (copy / "job.toml").write_text(job, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main_job, "report", lambda run: None)
        return main_job.resume(copy, progress=make_progress(quiet=True))


@pytest.fixture(scope="module")
def plain(home: Path) -> dict[str, Any]:
    return search(home, "")


@pytest.fixture(scope="module")
def found(home: Path, plain: dict[str, Any]) -> dict[str, Any]:
    """The finished run, certified afterwards."""
    return search(home, RISK)


@pytest.fixture(autouse=True)
def own_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNSEARCH_CACHE", str(home / "cache"))
    monkeypatch.setattr(verify, "measure", lambda folder, runtime: None)


def test_a_finished_run_is_certified_without_another_pass(plain, found) -> None:
    assert found["run"] == plain["run"]
    assert {p["certificate"] is None for p in plain["front"]} == {True}
    have = {p["id"]: p for p in plain["front"]}
    for p in found["front"]:
        if p["id"] in have:  # what was frozen stays as it was, dominated ones apart
            kept = {"certificate", "fidelity", "dominated"}
            old = have[p["id"]]
            assert {k: v for k, v in p.items() if k not in kept} == {
                k: v for k, v in old.items() if k not in kept
            }
        else:
            assert p["certificate"] is not None
            assert p["named"] == []
            assert p["confirmed"] is not None
    assert len([p for p in found["front"] if p["certificate"]]) >= 1
    stored = (Path(found["run"]) / "job.toml").read_text(encoding="utf-8")
    assert "[risk]" in stored


def test_a_certified_run_is_finished(home, found) -> None:
    before = (Path(found["run"]) / "front.json").stat().st_mtime_ns
    assert search(home, RISK)["front"] == found["front"]
    assert (Path(found["run"]) / "front.json").stat().st_mtime_ns == before


def certified(found: dict[str, Any]):
    front = read_front(Path(found["run"]))
    return [p for p in front.front if p.certificate is not None]


def test_a_certificate_says_all_that_it_rests_on(found) -> None:
    opened = reopen(open_run(Path(found["run"])))
    rows = opened.quality.splits["calibrate"]
    for p in certified(found):
        c = p.certificate
        assert p.fidelity == "certified"
        assert (c.method, c.risk, c.epsilon, c.delta) == ("wsr", "performance_gap", 0.08, 0.1)
        assert c.guarantee == "probability"
        assert c.delta_each == pytest.approx(0.1 / c.configurations)
        assert c.rows == len(rows.tokens) == ROWS
        assert c.split_sha256 == split_hash(rows)
        assert c.weights_sha256 == opened.quality.weights_hash
        assert c.candidate_sha256 == candidate_hash(candidate_from_dict(p.candidate))
        assert c.empirical < c.upper < c.epsilon
        assert c.grid[0] is None
        assert c.thresholds == tuple(p.candidate.get("exits", {}).get("thresholds", ()))
        assert (c.dtype, c.max_len, c.exit_batching) == ("fp32", 24, "serial")


def test_the_risk_in_a_certificate_is_what_real_execution_gives(found) -> None:
    """Each certified configuration and the full network run, row by row, on the split."""
    opened = reopen(open_run(Path(found["run"])))
    rows = opened.quality.splits["calibrate"]
    encoder = opened.quality.encoder("fp32")
    full = plan_of(opened.material.space.full())

    def wrong(plan: Any) -> np.ndarray:
        order = range(len(rows.tokens))
        said = [encoder.run(plan, *rows.tokens.batch(np.array([i]))) for i in order]
        return np.array([a.prediction[0] for a in said]) != rows.labels

    lost = wrong(full)
    for p in certified(found):
        gap = wrong(plan_of(candidate_from_dict(p.candidate))).mean() - lost.mean()
        assert p.certificate.empirical == pytest.approx(gap, abs=0.01)  # near ties


def test_another_order_of_the_rows_is_recorded_and_changes_no_mean(found, tmp_path) -> None:
    other_order = again(found, tmp_path, RISK + "seed = 1\n")
    one, other = (
        {
            p["certificate"]["calibrated_from"]: p["certificate"]
            for p in f["front"]
            if p["certificate"]
        }
        for f in (found, other_order)
    )
    assert set(one) == set(other)
    for key, c in one.items():
        if c["chosen"] == other[key]["chosen"]:
            assert c["empirical"] == pytest.approx(other[key]["empirical"])
        assert (c["seed"], other[key]["seed"]) == (0, 1)


def test_an_average_guarantee_is_called_one(found, tmp_path) -> None:
    made = again(found, tmp_path, RISK + 'method = "crc"\n')
    certificates = [p["certificate"] for p in made["front"] if p["certificate"]]
    assert certificates
    for c in certificates:
        assert c["guarantee"] == "average"
        assert c["delta"] is None
        statement = certificate_from_dict(c).statement
        assert "average guarantee" in statement
        assert "probability" not in statement


def test_what_cannot_be_certified_says_why(found, tmp_path, capsys) -> None:
    made = again(found, tmp_path, "[risk]\nepsilon = 0.04\ndelta = 0.1\n")  # 59 rows for one
    named = {p["id"] for p in made["front"] if p["named"] and p["family"] != "full"}
    sources = {p["certificate"]["calibrated_from"] for p in made["front"] if p["certificate"]}
    assert set(made["uncertified"]) == named - sources
    assert command_line(["front", made["run"], "-q"]) == 0
    out = capsys.readouterr().out
    for key, reason in made["uncertified"].items():
        assert f"{key} not certified: {reason}" in out


def test_too_few_calibration_rows_are_refused_with_the_number_needed(found, tmp_path) -> None:
    with pytest.raises(InputError, match=r"60 calibration rows; at least 230 are needed") as e:
        again(found, tmp_path, '[risk]\nepsilon = 0.01\nmethod = "ltt"\n')
    assert e.value.problems[0].key == "risk.epsilon"


def test_a_bench_prices_a_certified_configuration_with_the_setting_it_came_from(found) -> None:
    front = read_front(Path(found["run"]))
    keys = {p.id: timing._key(candidate_from_dict(p.candidate)) for p in front.front}
    outer = {key: f"setting of {id_}" for id_, key in keys.items()}
    mine = timing._certified(front, outer)
    assert mine == {
        keys[p.id]: f"setting of {p.certificate.calibrated_from}" for p in certified(found)
    }


def test_opening_the_rows_again_for_another_risk_is_warned_of(home, found, caplog) -> None:
    run = Path(found["run"])
    before = (run / "job.toml").read_text(encoding="utf-8")
    (home / "job.toml").write_text(JOB + RISK.replace("0.08", "0.09"), encoding="utf-8")
    job = load_job(home / "job.toml")
    with caplog.at_level(logging.WARNING):
        main_job.make_run(job, open_material(job), home / "out")
    assert "pays with the sum of both deltas" in caplog.text
    assert "0.09" in (run / "job.toml").read_text(encoding="utf-8")
    (run / "job.toml").write_text(before, encoding="utf-8")


def test_half_of_the_rows_must_be_enough_where_the_other_half_picks() -> None:
    risk = RiskTable(epsilon=0.02, method="binomial", selection="split")
    check_rows(risk, 228, file="job")
    with pytest.raises(InputError, match="at least 228 are needed"):
        check_rows(risk, 227, file="job")


def subjects(n: int = 400) -> list[Subject]:
    rng = np.random.default_rng(0)
    path = PolicyPath(
        policies=static_policies([1] * 5, num_layers=1, exit_batching="serial"), knob=(None,) * 5
    )
    rates = np.linspace(0, 0.1, 5)[:, None]
    return [
        Subject(
            id=str(i),
            chosen=None,  # type: ignore[arg-type]
            path=path,
            losses=(rng.random(n) < rates * slow).astype(float),
            time_s=lambda index, slow=slow: slow / (index + 1),
        )
        for i, slow in enumerate((1.0, 3.0, 0.5))
    ]


def test_configurations_that_are_chosen_among_share_delta() -> None:
    risk = RiskTable(epsilon=0.1, delta=0.12)
    told = decide(risk, subjects())
    assert [(s.id, rows, each) for s, _, rows, each in told] == [
        (i, 400, pytest.approx(0.04)) for i in "012"
    ]
    for subject, found, _, each in told:
        want = certify_path("wsr", subject.losses, epsilon=0.1, delta=each)
        assert found == want


def test_under_split_one_half_picks_and_the_other_certifies_at_the_whole_delta() -> None:
    risk = RiskTable(epsilon=0.1, delta=0.12, selection="split")
    ((subject, found, rows, each),) = decide(risk, subjects())
    assert (subject.id, rows, each) == ("2", 200, 0.12)
    assert found == certify_path("wsr", subjects()[2].losses[:, 200:], epsilon=0.1, delta=0.12)


def test_a_certificate_is_void_when_anything_it_rests_on_changed(found) -> None:
    p = certified(found)[0]
    c, candidate = p.certificate, candidate_from_dict(p.candidate)
    assert void_reasons(c, candidate=candidate, max_len=24, split_rows=ROWS) == []

    def says(certificate=c, candidate=candidate, **known: Any) -> str:
        return "; ".join(void_reasons(certificate, candidate=candidate, **known))

    assert "seal" in says(replace(c, epsilon=0.01))
    assert "seal" in says(replace(c, rows=ROWS + 1))
    assert "certified is int8" in says(replace(c, dtype="int8"))
    assert "longest input is 32 tokens, certified is 24" in says(max_len=32)
    assert "weights are abc" in says(weights_sha256="abc")
    assert "certified are None" in says(export_sha256="abc")
    assert says(bound_to(c, "abc"), export_sha256="abc") == ""
    assert "calibration rows are abc" in says(split_sha256="abc")
    assert "counts 60 rows of 50" in says(split_rows=50)
    assert "pooling" in says(candidate=replace(candidate, pooling="cls"))
    assert "runs in bf16" in says(candidate=replace(candidate, dtype="bf16"))
    if candidate.exits is not None:
        lower = replace(candidate.exits, thresholds=tuple(0.5 for _ in candidate.exits.layers))
        assert "thresholds are [0.5" in says(candidate=replace(candidate, exits=lower))
        warm = replace(candidate.exits, temperature=2.0)
        assert "temperature" in says(candidate=replace(candidate, exits=warm))


def test_a_front_whose_certificate_was_edited_is_read_without_it(found, tmp_path, caplog) -> None:
    data = json.loads((Path(found["run"]) / "front.json").read_text(encoding="utf-8"))
    key = next(p["id"] for p in data["front"] if p["certificate"])
    for p in data["front"]:
        if p["id"] == key:
            p["certificate"]["epsilon"] = 0.001
    (tmp_path / "front.json").write_text(json.dumps(data), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        front = read_front(tmp_path)
    assert f"the certificate of {key} is void: a figure in it was changed" in caplog.text
    for p in front.front:
        assert p.id != key or (p.certificate is None and p.fidelity == "confirmed")


@pytest.fixture
def folder(found, tmp_path) -> Path:
    key = certified(found)[0].id
    main_job.export(Path(found["run"]), "torch", tmp_path, (key,))
    return tmp_path / key


def loaded(folder: Path, change: Any = None) -> tuple[Any, list[str]]:
    """The export as its runner loads it after a change of its config, and what is warned of."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if change is not None:
        change(config)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        patch.setattr(runner.sys, "path", list(runner.sys.path))
        model = runner.load(folder)
    return model, [str(w.message) for w in told if "certificate" in str(w.message)]


def test_an_export_carries_its_certificate(folder) -> None:
    model, told = loaded(folder)
    assert told == []
    assert model.certificate.export_sha256 == model.config["sha256"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert model.certificate.statement in card
    assert "void it" in card


def test_a_changed_export_says_loudly_that_its_certificate_is_void(folder) -> None:
    def longer(config: dict[str, Any]) -> None:
        config["max_len"] = 32

    model, told = loaded(folder, longer)
    assert model.certificate is None
    assert len(told) == 1
    assert "void: the longest input is 32 tokens, certified is 24" in told[0]


def test_a_certificate_with_other_fields_is_void_not_a_crash(folder) -> None:
    def newer(config: dict[str, Any]) -> None:
        config["certificate"] = {"schema_version": 99}

    model, told = loaded(folder, newer)
    assert model.certificate is None
    assert "void: certificate of schema 99" in told[0]


def test_a_certificate_for_single_texts_is_void_in_batches(folder) -> None:
    model, _ = loaded(folder)
    model = replace(model, certificate=replace(model.certificate, batches=ALONE))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.classify(["good film", "bad plot"])
    with pytest.warns(UserWarning, match="holds for one text at a time"):
        model.classify(["good film", "bad plot"], batch=2)


def test_graphs_carry_the_certificate_and_what_stands_between_them_is_under_it(
    found, tmp_path
) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    p = certified(found)[0]
    main_job.export(Path(found["run"]), "onnx", tmp_path, (p.id,))
    model, told = loaded(tmp_path / p.id)
    assert told == []
    assert model.certificate.statement == p.certificate.statement
    assert model.certificate.export_sha256 == model.config["sha256"]

    def colder(config: dict[str, Any]) -> None:
        config["onnx"]["rule"]["temperature"] = 0.5

    def both(config: dict[str, Any]) -> None:
        config["sha256"] = model_sha256(config)

    with pytest.raises(InputError, match="not the checksum of the model"):
        loaded(tmp_path / p.id, colder)
    model, told = loaded(tmp_path / p.id, both)
    assert model.certificate is None
    assert "the weights are" in told[0]


def test_other_kernels_void_a_certificate_before_it_is_written(found, caplog) -> None:
    p = certified(found)[0]
    weights = Path(found["run"]) / "supernet" / "model.safetensors"
    candidate = candidate_from_dict(p.candidate)
    assert certificate_of(p, candidate, weights, "abc") is not None
    with caplog.at_level(logging.WARNING):
        assert certificate_of(p, candidate, weights, "abc", "rounds otherwise") is None
    assert "without its certificate, which is void: rounds otherwise" in caplog.text


def test_certified_configurations_are_exported_unasked(found, tmp_path) -> None:
    written = main_job.export(Path(found["run"]), "torch", tmp_path)["files"]
    assert {p.id for p in certified(found)} <= {Path(f).name for f in written}


def test_report_rows_go_with_an_export_for_verify_to_run(found, tmp_path) -> None:
    run = Path(found["run"])
    key = certified(found)[0].id
    main_job.export(run, "torch", tmp_path, (key,), rows=12)
    opened = reopen(open_run(run))
    report = opened.quality.splits["report"]
    export = open_export(tmp_path / key)
    texts = verify.read_texts(export, None, "label", 400)
    n = int(report.tokens.lengths[:12].sum())
    np.testing.assert_array_equal(texts.tokens.ids, report.tokens.ids[:n])
    np.testing.assert_array_equal(texts.labels, report.labels[:12])
    told = verify.verify(tmp_path / key, repeats=1)
    assert told["device"] == opened.scene.devices[0].name
    assert told["certificate"]["valid"]
    assert told["certificate"]["statement"] == certified(found)[0].certificate.statement


def test_verify_says_that_a_certificate_is_void(folder, tmp_path) -> None:
    def longer(config: dict[str, Any]) -> None:
        config["max_len"] = 32

    loaded(folder, longer)
    file = tmp_path / "texts.csv"
    file.write_text("text,label\ngood film,positive\n", encoding="utf-8")
    told = verify.verify(folder, data=file, repeats=1)
    assert told["certificate"]["void"] == ["the longest input is 32 tokens, certified is 24"]
    assert any(w.startswith("the certificate is void: the longest") for w in told["warnings"])


def test_an_export_of_other_weights_goes_without_certificate(found, tmp_path, caplog) -> None:
    copy = tmp_path / Path(found["run"]).name
    shutil.copytree(found["run"], copy)
    weights = copy / "supernet" / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.unlink()  # it is a hard link
    weights.write_bytes(raw)
    key = certified(found)[0].id
    with caplog.at_level(logging.WARNING):
        main_job.export(copy, "torch", tmp_path / "out", (key,))
    assert f"{key} is exported without its certificate, which is void: the weights" in caplog.text
    config = json.loads((tmp_path / "out" / key / "config.json").read_text(encoding="utf-8"))
    assert config["certificate"] is None


def test_the_job_offers_what_there_is() -> None:
    fields = RiskTable.model_fields
    assert get_args(fields["method"].annotation) == METHODS
    assert get_args(fields["risk"].annotation) == RISKS


@pytest.mark.parametrize(
    ("table", "key", "says"),
    [
        ({"delta": 0.1}, "risk.epsilon", "required and missing"),
        ({"epsilon": 2.0}, "risk.epsilon", "less than 1"),
        ({"epsilon": 0.02, "delta": 0.0}, "risk.delta", "greater than 0"),
        ({"epsilon": 0.02, "metod": "wsr"}, "risk.metod", "did you mean method"),
        ({"epsilon": 0.02, "method": "hoeffding"}, "risk.method", "must be one of"),
        ({"epsilon": 0.02, "levels": [0.03]}, "risk", "no point is named for 0.03"),
        (
            {"epsilon": 0.02, "method": "binomial", "risk": "brier_gap"},
            "risk",
            "needs losses of 0 or 1",
        ),
    ],
)
def test_a_faulty_risk_table_is_told_by_its_key(table, key, says) -> None:
    raw = {
        "schema_version": 1,
        "name": "x",
        "model": {"folder": "m"},
        "data": {"file": "d"},
        "space": {"dtype": ["fp32"]},
        "risk": table,
    }
    with pytest.raises(InputError, match=says) as e:
        job_from_dict(raw, check_files=False)
    assert [p.key for p in e.value.problems] == [key]
