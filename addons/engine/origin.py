"""Where connections go: the key of a pool."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Origin:
    """An address to connect to, and how. Connections are shared by all who name an equal origin.

    server_name is what TLS asks for and verifies; empty: the host. Keep origins and reuse them, it saves the hash.
    """

    host: str
    port: int
    tls: bool = False
    server_name: str = ""
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.host, self.port, self.tls, self.server_name)))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
