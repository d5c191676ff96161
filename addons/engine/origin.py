"""Where connections go: the key of a pool."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Origin:
    """An address to connect to, and how. Connections are shared by all who name an equal origin.

    server_name is what TLS asks for and verifies; empty: the host. peer: the URI that the peer's certificate has to name
    instead; generation: of the certificate that is shown to it. Keep origins and reuse them, it saves the hash.
    """

    host: str
    port: int
    tls: bool = False
    server_name: str = ""
    peer: str = ""
    generation: int = 0
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        named = (self.host, self.port, self.tls, self.server_name, self.peer, self.generation)
        object.__setattr__(self, "_hash", hash(named))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
