"""``shoal clusters``: the places that ``--on`` knows, and what is known of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.cli.common import JsonOption, console, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from shoal.clusters import Cluster

StudyOption = Annotated[
    Path | None,
    typer.Option("--study", metavar="STUDY", help="Look beside this study file too.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(invoke_without_command=True, no_args_is_help=False)
    group.callback(invoke_without_command=True)(clusters)
    group.command("show")(show)
    app.add_typer(group, name="clusters")


def clusters(context: typer.Context, study: StudyOption = None, json: JsonOption = False) -> None:
    """List the places that --on knows; shoal clusters show NAME prints what is known of one."""
    if context.invoked_subcommand is not None:
        return
    from shoal.clusters import cluster_places, known_clusters

    places = cluster_places(study.parent if study else Path.cwd())
    found = known_clusters(places)
    if json:
        print_json([{"name": name, "from": where, "file": str(path)} for name, (where, path) in sorted(found.items())])
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    table.add_row(Text("local", style="cyan"), "this machine", "")
    table.add_row(Text("debug", style="cyan"), "this machine, one task after another, in this terminal", "")
    for name, (where, path) in sorted(found.items()):
        table.add_row(
            Text(name, style="cyan"), where, Text("" if where == "comes with Shoal" else str(path), style="dim")
        )
    console().print(table)
    own = next(folder for where, folder in places if where == "yours")
    typer.echo(f"\nOne of your own: NAME.yaml in {own}, or in a folder clusters/ beside the study.")


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The cluster's name, or its file.")],
    study: StudyOption = None,
    json: JsonOption = False,
) -> None:
    """Print what the cluster file knows: GPUs and how to ask for them, regions, priorities, storage, rules.

    What is free at this moment is not shown: that takes a connection, which this version does not make yet.
    """
    from shoal.clusters import load_cluster

    cluster = load_cluster(name, beside=study.parent if study else Path.cwd())
    if json:
        print_json({"name": cluster.name, "files": list(cluster.files), **cluster.model_dump(mode="json")})
    else:
        _show(console(), cluster)


def _show(out: Console, cluster: Cluster) -> None:
    from rich.text import Text

    title = f"[bold]{cluster.name}[/bold]" + (f" · {cluster.title}" if cluster.title else "")
    out.print(title + (f"  [dim]{cluster.link}[/dim]" if cluster.link else ""))
    out.print(Text(f"from {', then '.join(cluster.files)}", style="dim"))
    store = cluster.store
    defaults = cluster.defaults
    kept = "none yet: store: {claim: NAME} in a file of yours"
    if store is not None:
        kept = f"claim {store.claim} at {store.root}" if store.claim else str(store.s3)
    _rows(
        out,
        "where",
        [
            ("context", cluster.context or "the kubeconfig's current one"),
            ("namespace", cluster.namespace or "the context's own"),
            ("store", kept),
            *((f"claim {one.claim}", one.path + (" (read only)" if one.read_only else "")) for one in cluster.volumes),
            ("image", defaults.image or "the study's"),
            ("queue", cluster.queue or "none"),
        ],
    )
    _gpus(out, cluster)
    if cluster.regions:
        _rows(out, f"regions ({cluster.labels.region})", list(cluster.regions.items()))
    _rows(out, "priority classes", list(cluster.priority_classes.items()))
    words = {"yes": "may be tolerated", "ask": "after approval", "never": "never"}
    _rows(
        out,
        "taints",
        [
            (key, words[one.allowed] + (f" ({', '.join(one.values)})" if one.values else "") + f": {one.note or ''}")
            for key, one in cluster.taints.items()
        ],
    )
    _rows(out, "storage classes", list(cluster.storage_classes.items()))
    _rows(out, "S3", [(key, f"{one.outside}  from pods {one.inside}") for key, one in cluster.object_stores.items()])
    _rows(out, "rules", [(key, one.text) for key, one in cluster.policies.items()])
    out.print(Text("Which GPUs are free now is not shown yet: this version makes no connection.", style="dim"))


def _gpus(out: Console, cluster: Cluster) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from shoal.units import format_size

    if not cluster.gpus:
        return
    out.print(Text("GPUs, by the name that studies use (resources: {gpu_type: ...})", style="dim"))
    table = Table.grid(padding=(0, 3, 0, 0))
    for name, gpu in cluster.gpus.items():
        notes = []
        if gpu.quota == "reservation":
            notes.append("reserved for you" if name in cluster.reserved else "needs a reservation")
        elif gpu.quota == "priority":
            notes.append(f"as {gpu.priority_class} only")
        notes += [gpu.note] if gpu.note else []
        table.add_row(
            Text(name, style="cyan"),
            format_size(gpu.memory) if gpu.memory else "",
            gpu.resource or cluster.gpu_resource,
            Text(", ".join(gpu.products), style="dim", overflow="fold"),
            "; ".join(notes),
        )
    out.print(Padding(table, (0, 0, 1, 2)))


def _rows(out: Console, title: str, rows: list[tuple[str, Any]]) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    out.print(Text(title, style="dim"))
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, text in rows:
        table.add_row(Text(key, style="cyan"), Text(str(text)))
    out.print(Padding(table, (0, 0, 1, 2)))
