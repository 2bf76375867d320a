"""Kubernetes, as far as it needs no cluster: a task's manifests, what starts in its pod, and the login that kubectl would use."""
