"""The kinds of objects that Shoal deals with, and where the API has them."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass

__all__ = [
    "ACCESS_REVIEWS", "CLAIMS", "CONFIG_MAPS", "EVENTS", "JOBS", "LEASES", "NAMESPACES", "NODES", "PODS", "QUOTAS", "ROLES",
    "ROLE_BINDINGS", "RULES_REVIEWS", "SECRETS", "SERVICES", "SERVICE_ACCOUNTS", "Resource", "of_kind",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object.

    Attributes:
        group: API group, empty for the core.
        version: version of the group.
        plural: the name in paths.
        kind: the name in manifests.
        namespaced: whether its objects live in namespaces.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def said(self) -> str:
        """What kubectl and error messages call it: ``jobs.batch``, ``pods``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """What manifests have as ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, sub: str | None = None) -> str:
        """The path of all objects, of one, or of a part of one (``log``, ``exec``)."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [urllib.parse.quote(name, safe=""), *([sub] if sub else [])] if name is not None else []
        return "/".join(parts)


PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
EVENTS = Resource("", "v1", "events", "Event")
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
JOBS = Resource("batch", "v1", "jobs", "Job")
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
RULES_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", namespaced=False
)

_BY_KIND = {
    (one.api_version, one.kind): one
    for one in (PODS, SERVICES, CONFIG_MAPS, SECRETS, CLAIMS, SERVICE_ACCOUNTS, JOBS, LEASES, ROLES, ROLE_BINDINGS)
}


def of_kind(api_version: str, kind: str) -> Resource:
    """The resource of a manifest.

    Raises:
        KeyError: Shoal makes no objects of that kind.
    """
    return _BY_KIND[api_version, kind]
