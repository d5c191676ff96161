"""The control plane of mitmesh: the policy language, its store in Redis, and the `mitmesh` command."""
