"""A real Kubernetes on this machine: for tests, benchmarks, and trying things out. No part of what users install.

`Testbed.start()` runs etcd, kube-apiserver, kube-controller-manager and kube-scheduler on loopback, from binaries that
``python -m testbed build`` makes of upstream's Go modules.
"""

from testbed.binaries import BuildError, binaries, build
from testbed.instance import Testbed
from testbed.registry import TestbedError

__all__ = ["BuildError", "Testbed", "TestbedError", "binaries", "build"]
