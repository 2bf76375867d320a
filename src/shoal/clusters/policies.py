"""A platform's rules, checked before anything is created: a plan and a cluster in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from shoal.clusters.fit import OWN
from shoal.clusters.rules import RULES
from shoal.clusters.schema import Cluster, Policy
from shoal.clusters.situation import LEVELS, Finding, Made, Situation, limit_ratios
from shoal.plan import Plan

__all__ = ["RULES", "Finding", "Situation", "check", "limit_ratios"]


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
    found = [finding for rule in _platform(situation) for finding in rule]
    found += _own(situation)
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _platform(situation: Situation) -> Iterator[list[Finding]]:
    for name, policy in situation.cluster.policies.items():
        if policy.check == "people":
            continue
        rule = RULES.get(name)
        made = list(rule(situation, policy)) if rule is not None else [("ok", f"{policy.text}: watched while running")]
        yield [_finding(name, policy, one) for one in made]  # type: ignore[arg-type]


def _finding(name: str, policy: Policy, made: Made) -> Finding:
    level, text, hint = made if len(made) == 3 else (*made, None)
    if level == "ok":
        return Finding(level, name, text)
    return Finding(level, name, text, policy.reason, policy.link, hint)


def _own(situation: Situation) -> list[Finding]:
    return [
        Finding(made[0], name, made[1], hint=made[2] if len(made) == 3 else None)
        for name, rule in OWN.items()
        for made in rule(situation)
    ]
