"""``shoal clusters``: the places that ``--on`` knows, and what is known of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.cli.common import JsonOption
from shoal.cli.words import console, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from shoal.clusters import Cluster
    from shoal.clusters.free import FreeGpus

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
    """List the places that --on knows. shoal clusters show NAME prints what is known of one."""
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
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the cluster which GPUs are free.")] = False,
    json: JsonOption = False,
) -> None:
    """Print what the cluster file knows and which GPUs are free.

    The file knows GPUs and how to ask for them, regions, priorities, storage, rules. What is free is counted from nodes, pods and
    quotas, as far as the login may read them; what it may not read is said.
    """
    from shoal.clusters import load_cluster

    cluster = load_cluster(name, beside=study.parent if study else Path.cwd())
    free, why = (None, "not asked (--offline)") if offline else _ask_for_free(cluster)
    if json:
        known = {"name": cluster.name, "files": list(cluster.files), **cluster.model_dump(mode="json")}
        print_json({**known, "free": free.to_json() if free else None, "free_unknown": why})
        return
    out = console()
    _show(out, cluster)
    if free is not None:
        _show_free(out, free)
    else:
        from rich.text import Text

        out.print(Text(f"Which GPUs are free now is not known: {why}", style="dim"))


def _ask_for_free(cluster: Cluster) -> tuple[FreeGpus | None, str | None]:
    """What is free, or why that is not known."""
    from shoal.errors import ShoalError
    from shoal.executors.kubernetes.client import connect
    from shoal.executors.kubernetes.survey import survey_gpus

    try:
        client = connect(cluster.context, cluster.namespace, patience=5.0)
        try:
            return survey_gpus(client, cluster), None
        finally:
            client.close()
    except ShoalError as error:
        return None, str(error)


def _show_free(out: Console, free: FreeGpus) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from shoal.units import format_size

    title = "GPUs free now" if free.exact else "GPUs free now, at most"
    out.print(Text(title, style="dim"))
    if free.types:
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        for head, where in (
            ("type", "left"), ("free", "right"), ("of", "right"), ("on one node", "right"), ("nodes", "right"),
            ("memory", "left"), ("asked for as", "left"), ("", "left"),
        ):  # fmt: skip
            table.add_column(head, justify=where, overflow="fold")  # type: ignore[arg-type]
        for one in free.types:
            closed = ", ".join(f"{count} more {why}" for why, count in one.closed.most_common())
            table.add_row(
                Text(one.name, style="cyan"),
                Text(str(one.free), style="green" if one.free else "dim"),
                str(one.total),
                str(one.largest),
                str(one.nodes),
                format_size(one.memory << 20) if one.memory else "",
                one.resource,
                Text(closed, style="dim"),
            )
        out.print(Padding(table, (0, 0, 0, 2)))
    elif not free.unseen or free.exact:
        out.print("  no node has any")
    for quota in free.quotas:
        text = f"  quota {quota.quota}: {quota.left} of {quota.hard} {quota.resource} left in the namespace"
        out.print(Text(text, style="yellow" if not quota.left else ""))
    for text in free.unseen:
        out.print(Text(f"  not seen: {text}", style="dim"))


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
