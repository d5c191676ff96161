"""From what Redis or a cache holds to a snapshot: checked first, where only signed policy may come into force."""

from collections.abc import Callable

from control.policy.endpoints import Registry
from control.policy.snapshot import Snapshot, build
from control.signing import Verifier


class Builder:
    """verifier None: no signature is asked for. wall: seconds since the epoch."""

    def __init__(self, verifier: Verifier | None, wall: Callable[[], float]) -> None:
        self._verifier = verifier
        self._wall = wall

    def build(
        self,
        revision: int,
        documents: dict[str, str],
        signature: str,
        registered: Registry,
        last: Snapshot | None = None,
    ) -> Snapshot:
        """Raises PolicyErrors, and UntrustedError for a policy that is not signed by who may, or is older."""
        if self._verifier is None:
            return build(revision, documents, last, self._wall(), registered)
        checked = self._verifier.check(revision, documents, signature)
        snapshot = build(revision, documents, last, self._wall(), registered)
        self._verifier.accept(checked)
        return snapshot
