"""The commands of jobs on a Ray cluster, added to the command line by `cli.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dynsearch.commands.session import Session

Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Dashboard of the cluster, http://HOST:8265; else RAY_API_SERVER_ADDRESS.",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="File with the cluster's token; else RAY_AUTH_TOKEN(_PATH), as Ray."),
]
Wait = Annotated[float, typer.Option(min=0, help="Seconds for the cluster to answer.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Job, as submit or list name it.")]
Storage = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Storage of the study: journal, memory or a database."),
]
GpuShare = Annotated[
    float | None,
    typer.Option(help="Share of a GPU for each worker; above 0 training uses one, too."),
]
Follow = Annotated[bool, typer.Option("--follow", help="Stay until it ends; print its log.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object in place of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no warnings.")]
_WAIT_S = 10.0


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (submit, status, logs, stop):
        app.command()(command)
    app.command("list")(list_jobs)


def submit(
    ctx: typer.Context,
    job: Annotated[Path, typer.Argument(metavar="JOB.toml", help="Job file.")],
    address: Address = None,
    out: Annotated[
        str, typer.Option(help="Folder on the cluster for run folders; best on a shared disk.")
    ] = "~/dynsearch-runs",
    trials: Annotated[int | None, typer.Option(help="Forward passes in all.")] = None,
    workers: Annotated[int | None, typer.Option(help="Passes in parallel.")] = None,
    gpu_share: GpuShare = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search.")] = None,
    storage: Storage = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew.")] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Paths of the job are the cluster's: send no files.")
    ] = False,
    follow: Follow = False,
    token_file: TokenFile = None,
    wait: Wait = _WAIT_S,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Run a job file on a Ray cluster; submitted again, it goes on."""
    from dynsearch.commands import jobs

    loaded = jobs.local_job(
        job,
        trials=trials,
        workers=workers,
        seed=seed,
        storage=storage,
        gpu_share=gpu_share,
        in_place=in_place,
    )
    result = jobs.submit(
        jobs.open_cluster(address, token_file=token_file, wait_s=wait),
        loaded,
        out=out,
        in_place=in_place,
        follow=follow,
        options=("--fresh",) if fresh else (),
        log=None if quiet else sys.stderr,
    )
    return _finish(ctx, result, jobs.show_submitted)


def status(
    ctx: typer.Context,
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="Job; else what runs.")] = None,
    address: Address = None,
    token_file: TokenFile = None,
    wait: Wait = _WAIT_S,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Say how far a job on a cluster is."""
    from dynsearch.commands import jobs

    cluster = jobs.open_cluster(address, token_file=token_file, wait_s=wait)
    return _finish(ctx, jobs.status(cluster, id_), jobs.show_jobs)


def logs(
    ctx: typer.Context,
    id_: Id,
    address: Address = None,
    follow: Follow = False,
    token_file: TokenFile = None,
    wait: Wait = _WAIT_S,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Print what a job on a cluster has written."""
    from dynsearch.commands import jobs

    cluster = jobs.open_cluster(address, token_file=token_file, wait_s=wait)
    # With --json standard output holds the object alone.
    to = sys.stderr if json_ else sys.stdout
    return _finish(ctx, jobs.logs(cluster, id_, follow=follow, to=to), jobs.show_log)


def stop(
    ctx: typer.Context,
    id_: Id,
    address: Address = None,
    token_file: TokenFile = None,
    wait: Wait = _WAIT_S,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Have a job finish the passes under way, write its front and end."""
    from dynsearch.commands import jobs

    cluster = jobs.open_cluster(address, token_file=token_file, wait_s=wait)
    return _finish(ctx, jobs.stop(cluster, id_), jobs.show_stopped)


def list_jobs(
    ctx: typer.Context,
    address: Address = None,
    token_file: TokenFile = None,
    wait: Wait = _WAIT_S,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """List the jobs that were submitted to a cluster."""
    from dynsearch.commands import jobs

    cluster = jobs.open_cluster(address, token_file=token_file, wait_s=wait)
    return _finish(ctx, jobs.list_jobs(cluster), jobs.show_jobs)


def _finish(ctx: typer.Context, result: dict[str, Any], show: Callable[..., None]) -> int:
    session: Session = ctx.obj
    return session.finish(result, show)
