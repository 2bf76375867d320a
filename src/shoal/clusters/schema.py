"""What a cluster file may hold. A cluster is data: names, defaults and rules, nothing that is computed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from shoal.study import fields as f
from shoal.study import readers as r
from shoal.study.fields import Kind
from shoal.study.model import FileModel
from shoal.units import parse_cpu, parse_duration, parse_size

__all__ = [
    "Cluster", "Defaults", "Gpu", "Labels", "Limits", "ObjectStore", "Policy", "Security", "Store", "Taint", "Toleration",
    "Volume",
]  # fmt: skip

DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
DNS_NAME = rf"{DNS_LABEL}(\.{DNS_LABEL})*"
QUALIFIED = rf"({DNS_NAME}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"
VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"


def _matching(pattern: str, what: str, longest: int = 253) -> Callable[[object], str]:
    def check(value: object) -> str:
        text = r.read_text(value)
        if not re.fullmatch(pattern, text) or len(text) > longest:
            r.refuse(f"must be {what}, not {text!r}")
        return text

    return check


def _number(least: float, most: float) -> Callable[[object], float]:
    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            r.refuse(f"must be a number from {least:g} to {most:g}, not {value!r}")
        return float(value)

    return check


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        r.refuse(f"must be true or false, not {value!r}")
    return value


def _folder(value: object) -> str:
    text = r.read_text(value)
    if not text.startswith("/") or ".." in text.split("/") or ":" in text or "\0" in text:
        r.refuse(f"must be an absolute path inside of the pod, not {text!r}", "For example /shoal")
    return text.rstrip("/") or "/"


def _below(value: object) -> str:
    text = r.read_text(value).strip("/")
    if ".." in text.split("/"):
        r.refuse(f"must be a folder inside of the claim, not {value!r}")
    return text


def _bucket(value: object) -> str:
    text = r.read_text(value)
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", text):
        r.refuse(f"must be s3://BUCKET or s3://BUCKET/FOLDER, not {text!r}")
    return text.rstrip("/")


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        r.refuse("must be a mapping of name to text")
    for name, text in value.items():
        if not re.fullmatch(QUALIFIED, str(name)):
            r.refuse(f"holds {name!r}, which Kubernetes does not take for a name", at=(str(name),))
        if not isinstance(text, str):
            r.refuse(f"must give {name!r} a text, not {text!r}", "Put it in quotes.", at=(str(name),))
    return {str(name): str(text) for name, text in value.items()}


def _label_values(value: object) -> dict[str, str]:
    found = _labels(value)
    for name, text in found.items():
        if not re.fullmatch(VALUE, text):
            r.refuse(f"gives {name!r} the value {text!r}, which a label cannot have", at=(name,))
    return found


def _texts_by_name(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(one, str) for one in value.values()):
        r.refuse("must be a mapping of name to what it is for")
    return {str(name): one for name, one in value.items()}


def _parameters(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        r.refuse("must be a mapping of name to value")
    return {str(name): one for name, one in value.items()}


Namespace = Annotated[str, Kind(_matching(DNS_LABEL, "the name of a namespace"), "namespace")]
Name = Annotated[str, Kind(_matching(DNS_NAME, "a name in Kubernetes' sense"), "name")]
Key = Annotated[str, Kind(_matching(QUALIFIED, "a key such as nvidia.com/gpu", 317), "key")]
Flag = Annotated[bool, Kind(_flag, "true or false")]
Cores = Annotated[float, Kind(r.units(parse_cpu), "amount of CPU")]
Size = Annotated[int, Kind(r.units(parse_size), "size")]
Duration = Annotated[float, Kind(r.units(parse_duration), "length of time")]
Ratio = Annotated[float, Kind(_number(1, 100), "number from 1")]
Share = Annotated[float, Kind(_number(0, 0.5), "number from 0 to 0.5")]
Id = Annotated[int, Kind(r.read_whole(0), "whole number")]
Folder = Annotated[str, Kind(_folder, "absolute path")]
Below = Annotated[str, Kind(_below, "folder")]
Bucket = Annotated[str, Kind(_bucket, "s3://BUCKET/FOLDER")]
LabelsOf = Annotated[dict[str, str], Kind(_label_values, "label to value")]
Annotations = Annotated[dict[str, str], Kind(_labels, "annotation to text")]
Described = Annotated[dict[str, str], Kind(_texts_by_name, "name to what it is for")]
Parameters = Annotated[dict[str, Any], Kind(_parameters, "name to value")]
Operator = Annotated[Literal["Exists", "Equal"], Kind(r.read_choice("Exists", "Equal"), "Exists or Equal")]
Effect = Annotated[
    Literal["NoSchedule", "PreferNoSchedule", "NoExecute"],
    Kind(r.read_choice("NoSchedule", "PreferNoSchedule", "NoExecute"), "effect of a taint"),
]
Allowed = Annotated[Literal["yes", "ask", "never"], Kind(r.read_choice("yes", "ask", "never"), "yes, ask or never")]
Checked = Annotated[
    Literal["plan", "running", "people"],
    Kind(r.read_choice("plan", "running", "people"), "plan, running or people"),
]


class Store(FileModel):
    """Where outputs and results live: a PersistentVolumeClaim, or a bucket. One of `claim` and `s3`."""

    claim: Name | None = Field(None, description="Name of the PersistentVolumeClaim, mounted in every pod.")
    path: Folder = Field("/shoal", description="Where the claim is mounted in pods.")
    folder: Below = Field("", description="Folder inside of the claim that is the store; empty for all of it.")
    shared: Flag = Field(True, description="Whether pods on several nodes can mount the claim at once (ReadWriteMany).")
    s3: Bucket | None = Field(None, description="Bucket and folder, for example s3://mine/shoal.")
    endpoint: f.Text | None = Field(None, description="Address of the object store, as pods reach it; none for AWS.")
    region: f.Text = Field("us-east-1", description="Region of the bucket; stores of one's own mostly take any.")
    secret: Name | None = Field(
        None, description="Secret with the keys of the bucket: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`."
    )

    @property
    def root(self) -> str:
        """The store's folder as pods see it."""
        return f"{self.path.rstrip('/')}/{self.folder}" if self.folder else self.path

    @property
    def bucket(self) -> str:
        """Name of the bucket; empty for a claim."""
        return (self.s3 or "s3://").removeprefix("s3://").partition("/")[0]

    @property
    def prefix(self) -> str:
        """Folder inside of the bucket; empty for all of it."""
        return (self.s3 or "").removeprefix("s3://").partition("/")[2].strip("/")

    @property
    def address(self) -> str:
        """Address of the object store as pods reach it."""
        return (self.endpoint or f"https://s3.{self.region}.amazonaws.com").rstrip("/")


class Volume(FileModel):
    """One more claim that every pod mounts, for example with data."""

    claim: Name = Field(description="Name of the PersistentVolumeClaim.")
    path: Folder = Field(description="Where it is mounted in pods.")
    read_only: Flag = Field(False, description="Whether pods may only read it.")


class Toleration(FileModel):
    """A taint that pods put up with, in Kubernetes' words."""

    key: Key | None = Field(None, description="The taint's key; none for every taint.")
    operator: Operator = Field("Exists", description="`Exists`, or `Equal` to a value.")
    value: f.Text | None = Field(None, description="The taint's value, for `Equal`.")
    effect: Effect | None = Field(None, description="The taint's effect; none for every effect.")


class Defaults(FileModel):
    """What pods get when the study says nothing about it, and what only a cluster knows."""

    image: f.Text | None = Field(None, description="Container image of steps that name none.")
    python: f.Text = Field("python3", description="Python 3.8 or newer in the image, to run the agent.")
    memory: Size | None = Field(None, description="Memory of steps that ask for none.")
    shm: Size | None = Field(None, description="Shared memory of GPU steps that ask for none.")
    disk: Size | None = Field(None, description="Scratch disk of steps that ask for none.")
    gpu_type: f.Texts = Field((), description="Types of GPU for steps that name neither type nor memory.")
    regions: f.Texts = Field((), description="Run in these regions only.")
    zones: f.Texts = Field((), description="Run in these zones only.")
    hosts: f.Texts = Field((), description="Run on these nodes only.")
    avoid_hosts: f.Texts = Field((), description="Never run on these nodes.")
    tolerations: tuple[Toleration, ...] = Field((), description="Taints that every pod puts up with.")
    priority_class: Name | None = Field(None, description="Priority class of the pods of tasks.")
    ttl: Duration = Field(604800.0, description="How long ended Jobs are kept.")
    service_account: Name | None = Field(None, description="Service account of pods; its token is never mounted.")
    image_pull_secrets: f.Texts = Field((), description="Secrets for a private registry.")
    secret: Name = Field("shoal-secrets", description="The Secret that holds the values of a study's `secrets`.")
    env: f.Environment = Field(default_factory=dict, description="Variables of the pods of tasks; the study's win.")
    labels: LabelsOf = Field(default_factory=dict, description="Labels on every object.")
    annotations: Annotations = Field(default_factory=dict, description="Annotations on every object.")


class RunnerPod(FileModel):
    """The pod that runs a study from inside of the cluster, for ``shoal run --detach``."""

    image: f.Text | None = Field(None, description="Image with Shoal in it (images/engine.Containerfile).")
    python: f.Text = Field("python3", description="Python of that image, with Shoal.")
    service_account: Name | None = Field(
        None,
        description="Service account with the rights of `shoal run --print-role`; none: Shoal makes `shoal-runner`.",
    )
    memory: Size = Field(1_900_000_000, description="Memory of the pod.")


class Gpu(FileModel):
    """A type of GPU, and how a pod asks for it."""

    resource: Key | None = Field(None, description="Resource of its own; none where the plain one serves.")
    products: f.Texts = Field((), description="Values of the product label, any of which is this type.")
    memory: Size | None = Field(None, description="Memory as the memory label tells it (MiB).")
    quota: Literal["yes", "reservation", "priority"] = Field(
        "yes",
        description="`yes`: anybody may ask; `reservation`: after one was granted; `priority`: by a priority class.",
    )
    priority_class: Name | None = Field(None, description="The priority class that admits it, for quota: priority.")
    tolerations: tuple[Toleration, ...] = Field((), description="Taints of the nodes that have it.")
    note: f.Text | None = Field(None, description="What one should know about it.")


class Labels(FileModel):
    """Which label of a node says what."""

    product: Key = Field("nvidia.com/gpu.product", description="Type of GPU.")
    memory: Key = Field("nvidia.com/gpu.memory", description="Memory of a GPU in MiB, a whole number.")
    driver: Key = Field("nvidia.com/cuda.driver.major", description="Major version of the driver.")
    region: Key = Field("topology.kubernetes.io/region", description="Region.")
    zone: Key = Field("topology.kubernetes.io/zone", description="Zone.")
    host: Key = Field("kubernetes.io/hostname", description="Name of the node.")


class Limits(FileModel):
    """How far limits lie above requests."""

    cpu: Ratio = Field(1.0, description="Limit of CPU, as a multiple of the request.")
    memory: Ratio = Field(1.0, description="Limit of memory, as a multiple of the request.")
    equal_above: f.Whole | None = Field(None, description="With more pods than this at once, limits equal requests.")


class Taint(FileModel):
    """Who may tolerate a taint."""

    allowed: Allowed = Field(description="`yes`: anybody; `ask`: after approval; `never`: nobody.")
    values: f.Texts = Field((), description="Its known values.")
    note: f.Text | None = Field(None, description="What it is for.")


class Security(FileModel):
    """As whom pods run. Without it the image decides; privileges are dropped either way."""

    user: Id | None = Field(None, description="User id; 0 is root.")
    group: Id | None = Field(None, description="Group id.")
    fs_group: Id | None = Field(None, description="Group that owns mounted volumes.")


class ObjectStore(FileModel):
    """An S3 endpoint of the platform, by where one stands."""

    outside: f.Text = Field(description="Address from anywhere.")
    inside: f.Text | None = Field(None, description="Address from pods.")


class Policy(FileModel):
    """One rule of the platform."""

    text: f.Text = Field(description="The rule in a few words.")
    reason: f.Text | None = Field(None, description="Why the platform has it.")
    link: f.Text | None = Field(None, description="Where the platform says so.")
    check: Checked = Field("plan", description="Who checks it: `plan`, the runner while `running`, or `people`.")
    parameters: Parameters = Field(default_factory=dict, description="Its numbers and names.")


class Cluster(FileModel):
    """A place to run: what is there, what it is called, what is allowed."""

    extends: f.Text | None = Field(None, description="Another cluster's name; this file is laid over it.")
    title: f.Text | None = Field(None, description="Its name for people.")
    link: f.Text | None = Field(None, description="Its documentation.")
    context: f.Text | None = Field(None, description="Context of the kubeconfig; none for the current one.")
    namespace: Namespace | None = Field(None, description="Namespace; none for the context's own.")
    store: Store | None = Field(None, description="Where outputs and results live.")
    waiting: f.Whole = Field(
        200, description="At most so many pods wait for a node at once; the next is submitted when one has got one."
    )
    volumes: tuple[Volume, ...] = Field((), description="More claims to mount in every pod.")
    defaults: Defaults = Field(default_factory=Defaults, description="What pods get unless the study says otherwise.")
    runner: RunnerPod = Field(default_factory=RunnerPod, description="The pod of `shoal run --detach`.")
    gpu_resource: Key = Field("nvidia.com/gpu", description="The plain GPU resource.")
    gpus: dict[str, Gpu] = Field(default_factory=dict, description="Types of GPU, by the name that studies use.")
    reserved: f.Texts = Field((), description="Types of GPU for which this namespace was granted a reservation.")
    memory_slack: Share = Field(
        0.0, description="How far below its round size a GPU's memory label may lie: with 0.065, 24Gi takes 22.4Gi."
    )
    labels: Labels = Field(default_factory=Labels, description="Which label of a node says what.")
    regions: Described = Field(default_factory=dict, description="Regions.")
    limits: Limits = Field(default_factory=Limits, description="How far limits lie above requests.")
    taints: dict[str, Taint] = Field(default_factory=dict, description="Taints of nodes, and who may tolerate them.")
    priority_classes: Described = Field(default_factory=dict, description="Priority classes that pods may have.")
    queue: Name | None = Field(None, description="Kueue LocalQueue that Jobs wait in.")
    queue_priority: Name | None = Field(None, description="Kueue WorkloadPriorityClass of Jobs.")
    storage_classes: Described = Field(default_factory=dict, description="Storage classes for claims.")
    object_stores: dict[str, ObjectStore] = Field(default_factory=dict, description="S3 endpoints.")
    security: Security = Field(default_factory=Security, description="As whom pods run.")
    policies: dict[str, Policy] = Field(default_factory=dict, description="Rules of the platform.")
    _name: str = PrivateAttr("cluster")
    _files: tuple[str, ...] = PrivateAttr(())

    @property
    def name(self) -> str:
        """What ``--on`` calls it: the file's name."""
        return self._name

    @property
    def files(self) -> tuple[str, ...]:
        """The files it was made from, the user's own first."""
        return self._files
