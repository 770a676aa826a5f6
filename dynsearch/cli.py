"""The command line: parse, call, print. Exit status 0 done, 1 failed, 2 bad input.

Commands import what they need when they run, so that `dynsearch --help` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from dynsearch import cli_jobs
from dynsearch.commands.no_room import no_room
from dynsearch.commands.session import (
    BAD_INPUT,
    COMMAND_LINE,
    DONE,
    EXIT_STATUS,
    FAILED,
    INTERRUPTED,
    Session,
)

app = typer.Typer(
    name="dynsearch",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of a search.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object in place of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no warnings.")]
Trials = Annotated[int | None, typer.Option(help="Forward passes in all, also earlier ones.")]
OnnxRuntime = Annotated[
    str | None, typer.Option("--runtime", help="Of ONNX graphs: onnxruntime or openvino.")
]
Workers = Annotated[int | None, typer.Option(help="Passes in parallel.")]
GpuShare = cli_jobs.GpuShare
Storage = cli_jobs.Storage


def _version(shown: bool) -> None:
    if shown:
        from importlib.metadata import version

        typer.echo(f"dynsearch {version('dynsearch')}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Find dynamic transformers (early exit, skimming, experts) that fit your hardware."""


@app.command()
def search(
    ctx: typer.Context,
    job: Annotated[Path, typer.Argument(metavar="JOB.toml", help="Job file.")],
    out: Annotated[
        Path, typer.Option(help="Folder that gets the run folder <job>-<hash>.")
    ] = Path("runs/out"),
    trials: Trials = None,
    workers: Workers = None,
    gpu_share: GpuShare = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search.")] = None,
    storage: Storage = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew; a trained supernet is used again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take; train and write nothing.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Run a job file to a front, or go on with it."""
    from dynsearch.commands import show
    from dynsearch.job import find_job, load_job, override

    loaded = override(
        load_job(find_job(job)),
        trials=trials,
        workers=workers,
        seed=seed,
        storage=storage,
        gpu_share=gpu_share,
    )
    if dry_run:
        from dynsearch.dry_run import dry_run as estimate

        return _finish(ctx, estimate(loaded), show.dry_run)
    from dynsearch import main_job
    from dynsearch.progress import make_progress

    with make_progress(quiet=quiet) as progress:
        result = main_job.search(
            loaded,
            out=out,
            trials=trials,
            workers=workers,
            seed=seed,
            storage=storage,
            fresh=fresh,
            progress=progress,
        )
    return _finish(ctx, result, show.search)


@app.command()
def init(
    ctx: typer.Context,
    model: Annotated[Path, typer.Option(help="Folder of the pretrained encoder.")],
    data: Annotated[Path, typer.Option(help="CSV or JSONL file, one labelled text a row.")],
    out: Annotated[Path, typer.Option(help="Job file to write.")] = Path("job.toml"),
    text_column: Annotated[str | None, typer.Option(help="Column of the text.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file there.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Write a commented job file for one's own model and texts."""
    from dynsearch.commands import show
    from dynsearch.init_job import init as make

    found = make(model, data, out, text=text_column, label=label_column, force=force)
    return _finish(ctx, found, show.files)


@app.command()
def resume(
    ctx: typer.Context,
    run: Run,
    trials: Trials = None,
    workers: Workers = None,
    storage: Storage = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Go on with a search that was stopped or killed."""
    from dynsearch import main_job
    from dynsearch.commands import show
    from dynsearch.progress import make_progress

    with make_progress(quiet=quiet) as progress:
        result = main_job.resume(
            run, trials=trials, workers=workers, storage=storage, progress=progress
        )
    return _finish(ctx, result, show.search)


@app.command()
def front(
    ctx: typer.Context,
    run: Run,
    plot: Annotated[bool, typer.Option("--plot", help="Draw it, as plain text.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Print the front of a run."""
    from dynsearch import main_job
    from dynsearch.commands import plot as drawn
    from dynsearch.commands import show

    return _finish(ctx, main_job.front(run), drawn.front if plot else show.front)


@app.command()
def compare(
    ctx: typer.Context,
    first: Run,
    second: Run,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Say what differs between two runs of the same rows: settings, fronts, hypervolume."""
    from dynsearch.commands import compare as command

    return _finish(ctx, command.compare(first, second), command.show)


@app.command()
def export(
    ctx: typer.Context,
    run: Run,
    out: Annotated[Path, typer.Option(help="Folder that gets the files.")],
    format_: Annotated[
        str, typer.Option("--format", metavar="json|csv|toml|torch|onnx", help="What to write.")
    ] = "json",
    id_: Annotated[
        list[str] | None, typer.Option("--id", help="Only this configuration; may be repeated.")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX operators, onnx only.")] = None,
    rows: Annotated[
        int, typer.Option(min=0, help="Report rows to write beside each model, for verify.")
    ] = 0,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Write the front to files, or its models so that they run."""
    if format_ not in EXPORTS:
        raise _bad_option("--format", format_, f"must be one of {', '.join(EXPORTS)}")
    from dynsearch import main_job
    from dynsearch.commands import show

    if rows and format_ in ("json", "csv", "toml"):
        text = "only models carry texts; give --format torch or onnx"
        raise _bad_option("--rows", str(rows), text)
    found = main_job.export(run, format_, out, tuple(id_ or ()), opset=opset, rows=rows)
    return _finish(ctx, found, show.files)


EXPORTS = ("json", "csv", "toml", "torch", "onnx")


@app.command("run")
def run_export(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="EXPORT", help="Folder of one model.")],
    texts: Annotated[Path, typer.Option("--input", help="CSV or JSONL file, one text a row.")],
    out: Annotated[Path | None, typer.Option(help="JSONL file that gets the answers.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts in a batch.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    runtime: OnnxRuntime = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Classify texts with an exported model."""
    from dynsearch.commands import run_export as command

    result = command.run_export(
        folder, texts, out=out, batch=batch, threads=threads, runtime=runtime
    )
    return _finish(ctx, result, command.show)


@app.command()
def verify(
    ctx: typer.Context,
    export: Annotated[
        Path, typer.Argument(metavar="EXPORT|RUN", help="An exported model, or a finished run.")
    ],
    id_: Annotated[
        list[str] | None, typer.Option("--id", help="Of a run: only this configuration.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="CSV or JSONL file of texts; else those in the export.")
    ] = None,
    label_column: Annotated[str, typer.Option(help="Column of the label in --data.")] = "label",
    device: Annotated[
        str | None, typer.Option(help="Whose prediction and budgets count; else this machine's.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Texts at most.")] = 400,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of the timing.")] = 5,
    runtime: OnnxRuntime = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure an export here, beside its prediction; status 1 when a budget is missed."""
    from dynsearch.commands.verify import show
    from dynsearch.progress import make_progress
    from dynsearch.verify import verify
    from dynsearch.verify_run import is_run, verify_run

    if id_ and not is_run(export):
        text = "only a run has several configurations; leave it out"
        raise _bad_option("--id", id_[0], text)
    ids = tuple(id_ or ())
    work = partial(verify_run, ids=ids) if is_run(export) else verify
    with make_progress(quiet=quiet) as progress:
        progress.stage("measuring the export")
        result = work(
            export,
            data=data,
            label=label_column,
            device=device,
            rows=rows,
            repeats=repeats,
            on_progress=progress.share,
            runtime=runtime,
        )
    return _finish(ctx, result, show)


@app.command()
def bench(
    ctx: typer.Context,
    run: Run,
    rows: Annotated[int, typer.Option(min=1, help="Texts timed for each configuration.")] = 400,
    configs: Annotated[int, typer.Option(min=1, help="Configurations timed.")] = 24,
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8",
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of everything.")] = 5,
    data: Annotated[
        Path | None, typer.Option(help="Other texts: what named points do and cost on them.")
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="torch, onnxruntime or openvino: what runs the configurations.")
    ] = "torch",
    agreement: Annotated[
        bool, typer.Option("--agreement", help="Time nothing: judge what was measured.")
    ] = False,
    also: Annotated[
        list[Path] | None, typer.Option(help="Another run for --agreement; may be repeated.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Time the front on this machine, beside its prediction."""
    if agreement:
        from dynsearch import agreement as judge
        from dynsearch.commands.agreement import show as show_agreement

        return _finish(ctx, judge.agreement([run, *(also or ())]), show_agreement)
    batches = _counts("--batch", batch)
    from dynsearch import main_job
    from dynsearch.commands import show
    from dynsearch.progress import make_progress

    with make_progress(quiet=quiet) as progress:
        if data is not None:
            found = main_job.bench_data(run, data, rows=rows, repeats=repeats, progress=progress)
            return _finish(ctx, found, show.shift)
        result = main_job.bench(
            run,
            rows=rows,
            configs=configs,
            batches=batches,
            repeats=repeats,
            runtime=runtime,
            progress=progress,
        )
    return _finish(ctx, result, show.bench)


@app.command()
def gains(
    ctx: typer.Context,
    jobs: Annotated[list[Path], typer.Argument(metavar="JOB.toml...", help="Job files.")],
    out: Annotated[Path, typer.Option(help="Folder for runs, results and tables.")] = Path(
        "runs/out/gains"
    ),
    seed: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    trials: Annotated[
        int | None,
        typer.Option(help="Forward passes of each family in each number format."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Texts timed for each configuration.")] = 400,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of the timing.")] = 5,
    formats: Annotated[
        str,
        typer.Option(help="Number formats to search, separated by commas; else those that pay."),
    ] = "",
    families: Annotated[
        str,
        typer.Option(help="What to compare, separated by commas; else all, static networks too."),
    ] = "",
    workers: Workers = None,
    gpu_share: GpuShare = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Compare joint search with each family alone and with static networks, measured."""
    seeds = _counts("--seed", seed, least=0)
    from dynsearch.commands import gains as command
    from dynsearch.progress import make_progress

    with make_progress(quiet=quiet) as progress:
        result = command.gains(
            jobs,
            out=out,
            seeds=seeds,
            trials=trials,
            rows=rows,
            repeats=repeats,
            formats=_formats(formats),
            families=_families(families),
            workers=workers,
            gpu_share=gpu_share,
            progress=progress,
        )
    return _finish(ctx, result, command.show)


@app.command()
def report(
    ctx: typer.Context,
    run: Run,
    figures: Annotated[
        bool, typer.Option("--figures", help="Also write fronts as SVG files for papers.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Write the report of a run: one HTML file."""
    from dynsearch import main_job
    from dynsearch.commands import show

    return _finish(ctx, main_job.report(run, figures=figures), show.files)


@app.command()
def explain(
    ctx: typer.Context,
    run: Run,
    id_: Annotated[str, typer.Argument(metavar="ID", help="A configuration of its front.")],
    device: Annotated[
        str | None, typer.Option(help="Device of the run; else the one that was measured.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=128, help="Inputs in a batch; else the job's.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Tell where the time of a configuration goes, and what would help most."""
    from dynsearch.commands import show_explain
    from dynsearch.explain.run import explain as explained

    result = explained(run, id_, device=device, batch=batch)
    return _finish(ctx, result, show_explain.explain)


@app.command()
def analyse(
    ctx: typer.Context,
    run: Run,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID...]", help="Configurations to look at; else all."),
    ] = None,
    relax: Annotated[
        float, typer.Option(min=0.001, max=10.0, help="Share by which each budget is raised.")
    ] = 0.10,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Tell how a search went, which knobs matter, what binds, and what each step would change."""
    from dynsearch.analysis.run import analyse as analysed
    from dynsearch.commands import show_analysis
    from dynsearch.progress import make_progress

    with make_progress(quiet=quiet) as progress:
        progress.stage("replaying recorded passes")
        result = analysed(run, ids or (), relax=relax, on_progress=progress.share)
    return _finish(ctx, result, show_analysis.show)


@app.command()
def calibrate(
    ctx: typer.Context,
    action: Annotated[
        str, typer.Argument(help="host (this machine, at once), plan, measure or fit.")
    ] = "host",
    out: Annotated[Path | None, typer.Option(help="File to write.")] = None,
    device: Annotated[str | None, typer.Option(help="Device to plan or fit.")] = None,
    rows: Annotated[
        Path | None, typer.Option(help="Plan to measure, CSV to fit, or what a plan adds to.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Shapes to plan.")] = 20,
    dtype: Annotated[str, typer.Option(help="Number format to plan.")] = "fp32",
    ops: Annotated[str, typer.Option(help="What to plan.")] = "matmul,attention,network",
    runtime: Annotated[
        str, typer.Option(help="What ran the rows to fit; host: torch, onnxruntime or openvino.")
    ] = "torch-eager",
    seconds: Annotated[float, typer.Option(min=1, help="Time to measure.")] = 100,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the measured runtime.")] = 1,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure this machine and fit the cost model to it, or another device in steps."""
    from dynsearch.commands import calibrate as steps
    from dynsearch.commands import devices, show

    if action != steps.HOST:
        result = steps.run(
            action,
            device=device,
            rows=rows,
            out=out,
            count=count,
            dtype=dtype,
            runtime=runtime,
            threads=threads,
            ops=ops,
        )
        return _finish(ctx, result, steps.show)
    from dynsearch.progress import make_progress

    with make_progress(quiet=quiet) as progress:
        progress.stage("measuring this machine")
        result = devices.calibrate(
            out,
            seconds=seconds,
            threads=threads,
            progress=progress.share,
            runtime="torch" if runtime == "torch-eager" else runtime,
        )
    return _finish(ctx, result, show.calibrate)


@app.command()
def schema(
    ctx: typer.Context,
    out: Annotated[Path | None, typer.Option(help="File to write; else it is printed.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """JSON Schema of the job file, by which editors complete and check it."""
    import json

    from dynsearch.commands import show
    from dynsearch.export.files import write_atomic
    from dynsearch.job_schema import job_schema

    text = json.dumps(job_schema(), indent=1) + "\n"
    if out is None:
        return _finish(ctx, {"schema": json.loads(text)}, show.schema)
    return _finish(ctx, {"files": [str(write_atomic(out, text))]}, show.files)


@app.command()
def doctor(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder that runs go to.")] = Path("runs/out"),
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Check this machine: versions, room, number formats, Ray, calibration, noise of timings."""
    from dynsearch import doctor as checks
    from dynsearch.commands import show

    return _finish(ctx, checks.doctor(out), show.doctor)


@app.command("devices")
def list_devices(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="One device, with all its sources.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """List devices, or show one with its sources."""
    from dynsearch.commands import devices, show

    return _finish(ctx, devices.devices(name), show.devices)


@app.command()
def methods(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="One method, with all it holds.")] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables of docs/methods.md.")
    ] = False,
    readme: Annotated[
        Path | None, typer.Option(help="Write the table between the markers of this file.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """List published dynamic methods, or show one: rule, knobs, cost, candidate."""
    from dynsearch.commands import methods as command

    if markdown:
        sys.stdout.write(command.markdown())
        return EXIT_STATUS[DONE]
    if readme is not None:
        sys.stdout.write(f"{command.update(readme)}\n")
        return EXIT_STATUS[DONE]
    return _finish(ctx, command.methods(name), command.show)


@app.command()
def validate(
    ctx: typer.Context,
    data: Annotated[Path, typer.Option(help="Folder with measured CSV files.")],
    out: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
    known_only: Annotated[
        bool, typer.Option("--known-only", help="Leave no whole devices out; quicker.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Say how wrong the cost models are: predicted beside measured, and beside a roofline."""
    from dynsearch.commands import validate as command
    from dynsearch.progress import make_progress

    words = f"dynsearch validate --data {data}" + (" --known-only" if known_only else "")
    with make_progress(quiet=quiet) as progress:
        progress.stage("fitting measured tables")
        result = command.validate(
            data,
            out=out,
            known_only=known_only,
            command=words,
            progress=lambda share, _: progress.share(share),
        )
    return _finish(ctx, result, command.show)


@app.command()
def cost(
    ctx: typer.Context,
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE.toml", help="One candidate.")],
    device: Annotated[str, typer.Option(help="Device name, local, or a device file.")],
    activity: Annotated[
        Path | None,
        typer.Option(metavar="TRACE", help="Trace that says how deep inputs go (.npz)."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Inputs in a batch.")] = 1,
    max_len: Annotated[int, typer.Option(min=4, help="Tokens of the (longest) input.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    classes: Annotated[int, typer.Option(min=2, help="Classes, where no trace says.")] = 2,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Predict what one candidate costs on a device."""
    from dynsearch.commands import cost as costs
    from dynsearch.commands import show
    from search_spaces.workload import Workload

    workload = Workload(batch=batch, max_len=max_len, threads=threads)
    result = costs.cost(
        candidate, device=device, activity=activity, workload=workload, num_classes=classes
    )
    return _finish(ctx, result, show.cost)


@app.command()
def simulate(
    ctx: typer.Context,
    subject: Annotated[
        str, typer.Argument(metavar="CANDIDATE.toml|METHOD", help="One candidate, or a method.")
    ],
    device: Annotated[str, typer.Option(help="Device name, local, or a device file.")],
    batch: Annotated[int, typer.Option(min=1, max=512, help="Inputs in a batch.")] = 1,
    length: Annotated[
        str, typer.Option(help="Tokens of inputs, equally frequent, with commas between.")
    ] = "64",
    new_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens that a decoder writes after its input.")
    ] = 32,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    classes: Annotated[int, typer.Option(min=2, help="Classes, where no trace says.")] = 2,
    sort: Annotated[bool, typer.Option("--sort", help="Batches of similar lengths.")] = False,
    exit_batching: Annotated[
        str | None,
        typer.Option(metavar="serial|wait_all|compact|regroup", help="In place of its own."),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="TRACE.npz", help="Recorded pass to replay.")
    ] = None,
    weights_hash: Annotated[
        str | None, typer.Option(help="Weights that the trace must come from.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="TRACE.npz", help="The same rows run for real: compare."),
    ] = None,
    exits: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="What is assumed without a trace: accuracy=0.4,0.6,0.8, rates=0.3,0.2, "
            "sharpness, temperature, keep, spread, concentration, acceptance; may be repeated.",
        ),
    ] = None,
    arrival_rate: Annotated[
        float | None, typer.Option(help="Inputs a second that arrive at random.")
    ] = None,
    samples: Annotated[int, typer.Option(min=100, help="Inputs drawn for percentiles.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Picture to write.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Simulate a candidate or a published method: what it costs, and what its inputs do."""
    lengths = _counts("--length", length)
    from dynsearch.commands import simulate as command
    from dynsearch.simulate.run import simulate as run_it

    if picture is not None:
        command.require_svg(picture)
    result = run_it(
        subject,
        device=device,
        batch=batch,
        lengths=lengths,
        new_tokens=new_tokens,
        threads=threads,
        classes=classes,
        sort=sort,
        exit_batching=exit_batching,
        trace=trace,
        weights_hash=weights_hash,
        against=against,
        assume=tuple(exits or ()),
        arrival_rate=arrival_rate,
        samples=samples,
        seed=seed,
    )
    if picture is not None:
        result["files"] = [str(command.write_picture(result, picture))]
    return _finish(ctx, result, command.show)


@app.command()
def trace(
    ctx: typer.Context,
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL.py", help="File with a function trace_batch(texts)."),
    ],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="CSV or JSONL file, one labelled text a row.")
    ],
    out: Annotated[Path, typer.Option(help="Trace to write.")] = Path("trace.npz"),
    text_column: Annotated[
        str, typer.Option(help="Column of the text, or of both texts of a pair: a,b.")
    ] = "text",
    label_column: Annotated[str, typer.Option(help="Column of the label.")] = "label",
    batch: Annotated[int, typer.Option(min=1, help="Texts of a call.")] = 32,
    dtype: Annotated[str, typer.Option(help="Number format that the model runs in.")] = "fp32",
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Record what your own model does on labelled texts, for simulate to replay."""
    from dynsearch.commands import trace as command

    result = command.trace(
        model,
        data,
        out=out,
        text=tuple(text_column.split(",")),
        label=label_column,
        batch=batch,
        dtype=dtype,
    )
    return _finish(ctx, result, command.show)


cli_jobs.add_to(app)


def _finish(ctx: typer.Context, result: dict[str, Any], show: Callable[..., None]) -> int:
    session: Session = ctx.obj
    return session.finish(result, show)


def _counts(option: str, text: str, *, least: int = 1) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        counts = (least - 1,)
    if min(counts) < least:
        rule = f"must be whole numbers from {least}, with commas between: 1,8"
        raise _bad_option(option, text, rule)
    return counts


def _formats(text: str) -> tuple[str, ...] | None:
    """Number formats of `--formats`; None: none were named."""
    if not text:
        return None
    from dynsearch.formats import FORMATS

    names = tuple(part.strip() for part in text.split(","))
    unknown = [name for name in names if name not in FORMATS]
    if unknown or "fp32" not in names:
        rule = f"name some of {','.join(FORMATS)}, fp32 among them: everything is compared with it"
        raise _bad_option("--formats", unknown[0] if unknown else text, rule)
    return names


def _families(text: str) -> tuple[str, ...]:
    """What `--families` names, or everything."""
    from dynsearch.gains.run import COMPARED, STATIC

    names = tuple(part.strip() for part in text.split(",")) if text else COMPARED
    unknown = [name for name in names if name not in COMPARED]
    if unknown or set(names) <= {STATIC}:
        rule = f"name some of {','.join(COMPARED)}, one that is searched among them"
        raise _bad_option("--families", unknown[0] if unknown else text, rule)
    return names


def _bad_option(option: str, value: str, way_out: str) -> Exception:
    from dynsearch.errors import InputError

    return InputError.one(COMMAND_LINE, option, value, way_out)


def run(args: Sequence[str]) -> int:
    """Carry out one command line and give its exit status; no exception leaves it."""
    session = Session(args=tuple(args))
    with session.collected_warnings():
        try:
            command = typer.main.get_command(app)
            words = list(args) or ["--help"]
            status = command.main(words, "dynsearch", standalone_mode=False, obj=session)
            return (
                _interrupted(session) if status == EXIT_STATUS[INTERRUPTED] else int(status or 0)
            )
        except typer.TyperException as error:
            return _usage(session, error)
        except (KeyboardInterrupt, typer.Abort):
            return _interrupted(session)
        except Exception as error:
            return _failure(session, error)


def _failure(session: Session, error: Exception) -> int:
    from dynsearch.errors import DynsearchError, InputError

    if isinstance(error, InputError):
        return session.fail(BAD_INPUT, error.problems)
    if isinstance(error, DynsearchError):
        return session.fail_with(FAILED, f"dynsearch {session.command}", str(error))
    if (reason := no_room(error)) is not None:
        text = f"{reason}; free some, and the same command goes on from what is there"
        return session.fail_with(FAILED, f"dynsearch {session.command}", text)
    return session.crash(error)


def _interrupted(session: Session) -> int:
    text = "interrupted; `dynsearch resume RUN` goes on with a search"
    return session.fail_with(INTERRUPTED, "dynsearch", text)


def _usage(session: Session, error: typer.TyperException) -> int:
    known = {
        info.name or info.callback.__name__ for info in app.registered_commands if info.callback
    }
    of_command = f" {session.command}" if session.command in known else ""
    text = f"{error.format_message()} (help: dynsearch{of_command} --help)"
    return session.fail_with(BAD_INPUT, COMMAND_LINE, text)


def main() -> None:
    """Entry point of the `dynsearch` command."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
