"""Builds, starts and stops a testbed: ``python -m testbed --help``."""

from __future__ import annotations

import argparse
import sys
import time

from testbed import queueing
from testbed.binaries import OPTIONAL, PROGRAMS, BuildError, binaries, build
from testbed.control import Options
from testbed.image import archive
from testbed.instance import Testbed, sweep
from testbed.real import lacking
from testbed.registry import TestbedError, instances


def main() -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m testbed", description="A real Kubernetes on this machine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser(
        "build", help="build the programs and images that are not in the cache yet; prints their folder"
    )
    verb.add_argument(
        "programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(PROGRAMS)}; default: all; kueue: only if named"
    )
    verb.add_argument("-p", "--jobs", type=int, help="compilers at once; default: one a core")
    verb = verbs.add_parser("start", help="start an instance that stays; prints its kubeconfig")
    verb.add_argument("name", nargs="?", default="default")
    verb.add_argument("--nodes", type=int, default=0, metavar="N", help="with so many fake nodes of 8 GPUs")
    verb.add_argument("--real", action="store_true", help="with the one node whose pods truly run")
    verb.add_argument("--kueue", action="store_true", help="with Kueue, which lets Jobs of a queue go")
    verb.add_argument("--audit", action="store_true", help="log each request")
    verb = verbs.add_parser("stop", help="end an instance and remove all of it")
    verb.add_argument("name", nargs="?", default="default")
    verbs.add_parser("status", help="the instances, and whether they answer")
    verb = verbs.add_parser("user", help="make a namespace and its admin; prints the admin's kubeconfig")
    verb.add_argument("namespace")
    verb.add_argument("--name", default="default", help="the instance")
    verb.add_argument("--no-nodes", action="store_true", help="the user may not even read nodes")
    verb = verbs.add_parser("queue", help="make a queue of a namespace, where --kueue was given at the start")
    verb.add_argument("namespace")
    verb.add_argument("queue")
    verb.add_argument("--gpus", type=int, default=4, metavar="N", help="how many nvidia.com/gpu it lets go at once")
    verb.add_argument("--name", default="default", help="the instance")
    options = parser.parse_args()
    try:
        return _run(options)
    except (BuildError, TestbedError, TimeoutError, RuntimeError) as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1


def _build(options: argparse.Namespace) -> None:
    named = set(options.programs)
    if wrong := named - {*PROGRAMS, *OPTIONAL}:
        raise BuildError(f"there is no program {', '.join(sorted(wrong))}: {', '.join([*PROGRAMS, *OPTIONAL])}")
    begin = time.monotonic()
    folder = binaries()
    if own := tuple(name for name in PROGRAMS if name in named or not named):
        folder = build(own, options.jobs)
    if queueing.KUEUE in named:
        folder = queueing.build_kueue(options.jobs)
    if not named and lacking() is None:
        made = time.monotonic()
        archive()
        print(f"testbed: images of the real node: {time.monotonic() - made:.0f} s", file=sys.stderr)
    print(f"testbed: all in {time.monotonic() - begin:.0f} s", file=sys.stderr)
    print(folder)


def _run(options: argparse.Namespace) -> int:
    if options.verb == "build":
        _build(options)
    elif options.verb == "start":
        if options.name in instances() and (found := Testbed.open(options.name)).ready():
            print(found.kubeconfig)
            return 0
        begin = time.monotonic()
        found = Testbed.start(
            options.name, nodes=options.nodes, real_node=options.real, stay=True, options=Options(audit=options.audit)
        )
        if options.kueue:
            try:
                queueing.start(found)
            except BaseException:
                found.stop()
                raise
        print(f"testbed: {found.name} is ready after {time.monotonic() - begin:.1f} s", file=sys.stderr)
        print(f"testbed: kubectl is {binaries() / 'kubectl'}", file=sys.stderr)
        print(found.kubeconfig)
    elif options.verb == "queue":
        bed, priorities = Testbed.open(options.name), {"low": 1, "normal": 10, "high": 100}
        queueing.make_queue(bed, options.namespace, options.queue, {"nvidia.com/gpu": str(options.gpus)}, priorities)
    elif options.verb == "stop":
        Testbed.open(options.name).stop()
    elif options.verb == "status":
        for name in sweep():
            print(f"{name}\tremoved: whoever started it is gone")
        for name in instances():
            found = Testbed.open(name)
            dead = [each for each in found.processes.names() if not found.processes.alive(each)]
            state = f"dead: {', '.join(dead)}" if dead else "ready" if found.ready() else "not ready"
            print(f"{name}\t{state}\t{found.server}\t{found.kubeconfig}")
    else:
        print(Testbed.open(options.name).namespace_user(options.namespace, nodes=not options.no_nodes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
