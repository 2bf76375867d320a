"""Builds, starts and stops a testbed: ``python -m testbed --help``."""

from __future__ import annotations

import argparse
import sys
import time

from testbed.binaries import PROGRAMS, BuildError, binaries, build
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
    verb.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(PROGRAMS)}; default: all")
    verb.add_argument("-p", "--jobs", type=int, help="compilers at once; default: one a core")
    verb = verbs.add_parser("start", help="start an instance that stays; prints its kubeconfig")
    verb.add_argument("name", nargs="?", default="default")
    verb.add_argument("--nodes", type=int, default=0, metavar="N", help="with so many fake nodes of 8 GPUs")
    verb.add_argument("--real", action="store_true", help="with the one node whose pods truly run")
    verb.add_argument("--audit", action="store_true", help="log each request")
    verb = verbs.add_parser("stop", help="end an instance and remove all of it")
    verb.add_argument("name", nargs="?", default="default")
    verbs.add_parser("status", help="the instances, and whether they answer")
    verb = verbs.add_parser("user", help="make a namespace and its admin; prints the admin's kubeconfig")
    verb.add_argument("namespace")
    verb.add_argument("--name", default="default", help="the instance")
    verb.add_argument("--no-nodes", action="store_true", help="the user may not even read nodes")
    options = parser.parse_args()
    try:
        return _run(options)
    except (BuildError, TestbedError, TimeoutError) as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    if options.verb == "build":
        if wrong := set(options.programs) - set(PROGRAMS):
            raise BuildError(f"there is no program {', '.join(sorted(wrong))}: {', '.join(PROGRAMS)}")
        folder = build(tuple(options.programs or PROGRAMS), options.jobs)
        if not options.programs and lacking() is None:
            archive()
        print(folder)
    elif options.verb == "start":
        if options.name in instances() and (found := Testbed.open(options.name)).ready():
            print(found.kubeconfig)
            return 0
        begin = time.monotonic()
        found = Testbed.start(
            options.name, nodes=options.nodes, real_node=options.real, stay=True, options=Options(audit=options.audit)
        )
        print(f"testbed: {found.name} is ready after {time.monotonic() - begin:.1f} s", file=sys.stderr)
        print(f"testbed: kubectl is {binaries() / 'kubectl'}", file=sys.stderr)
        print(found.kubeconfig)
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
