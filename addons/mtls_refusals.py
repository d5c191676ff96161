"""Each connection that mutual TLS lets in or not, counted; each that it does not, told in one line of the log."""

import logging
from collections import Counter

from mitmproxy import connection

from addons.metrics_text import Counts
from addons.mtls_contexts import distrust_of
from control.identity.peers import Distrust

Values = list[tuple[tuple[str, ...], float]]

logger = logging.getLogger("mesh.mtls")


class Refusals:
    """accepted: connections at inbound ports, by Istio's words for how they are secured: `mutual_tls`, `none`."""

    def __init__(self) -> None:
        self.accepted: Counter[str] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()

    def inbound(self, client: connection.Client, error: BaseException) -> None:
        """A connection that was not let in."""
        host, port = client.peername[:2]
        self._tell("destination", f"inbound connection of {host}:{port}", error)

    def outbound(self, whom: str, error: BaseException) -> None:
        """An endpoint that did not prove to be the service that was meant, or did not want us."""
        self._tell("source", f"outbound connection to {whom}", error)

    def _tell(self, reporter: str, what: str, error: BaseException) -> None:
        distrust = error if isinstance(error, Distrust) else distrust_of(error)
        self.refused[reporter, distrust.code] += 1
        logger.log(
            logging.INFO if distrust.code == "left" else logging.WARNING, f"{what} refused: {distrust}"
        )

    def counts(self) -> list[Counts]:
        """For the metrics."""
        accepted: Values = [((name,), float(count)) for name, count in self.accepted.items()]
        refused: Values = [(labels, float(count)) for labels, count in self.refused.items()]
        return [
            Counts("mitmesh_inbound_connections", ("connection_security_policy",), accepted),
            Counts("mitmesh_tls_refused", ("reporter", "reason"), refused),
        ]
