"""A platform's rules, checked before anything is created: a plan and a cluster in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from shoal.clusters.fit import OWN
from shoal.clusters.rules import RULES
from shoal.clusters.schema import Cluster, Policy
from shoal.clusters.situation import LEVELS, Finding, Made, Situation
from shoal.plan import Plan

__all__ = ["check"]


def check(
    plan: Plan,
    cluster: Cluster,
    *,
    todo: Collection[str] | None = None,
    parallel: int | None = None,
    scripts: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Finding]:
    """Check a plan against what a cluster has and allows.

    Args:
        plan: the plan.
        cluster: where it is to run.
        todo: ids of the tasks that are still to run; default: all.
        parallel: at most so many tasks at once.
        scripts: step to name to text of the shell scripts that its command names.

    Returns:
        Findings, fine ones first, errors last; those of the platform before those of Shoal's own.
    """
    wanted = frozenset(plan.tasks if todo is None else todo)
    situation = Situation(plan, cluster, wanted, parallel, scripts or {})
    found = [*_platform(situation), *_own(situation)]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _platform(situation: Situation) -> Iterator[Finding]:
    for name, policy in situation.cluster.policies.items():
        if policy.check == "people":
            continue
        rule = RULES.get(name)
        if rule is None:
            yield Finding("ok", name, f"{policy.text}: watched while running")
        else:
            yield from (_finding(name, made, policy) for made in rule(situation, policy))


def _own(situation: Situation) -> Iterator[Finding]:
    for name, rule in OWN.items():
        yield from (_finding(name, made) for made in rule(situation))


def _finding(name: str, made: Made, policy: Policy | None = None) -> Finding:
    level, text, hint = made if len(made) == 3 else (*made, None)
    if policy is None or level == "ok":
        return Finding(level, name, text, hint=hint)
    return Finding(level, name, text, policy.reason, policy.link, hint)
