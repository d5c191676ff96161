"""Where mutual TLS is spoken: the `mtls` of a service, and what it means for reaching an endpoint."""

from typing import Literal

Mode = Literal["strict", "permissive"]
"""None stands for `off` everywhere."""


def mode(said: str | None, otherwise: Mode | None) -> Mode | None:
    """The mode of a document that says `said`; None: it says nothing, and `otherwise` holds."""
    if said is None:
        return otherwise
    return None if said == "off" else said  # type: ignore[return-value]


def endpoint_mode(service: Mode | None, speaks: bool) -> Mode | None:
    """How an endpoint of a service is reached; `speaks`: whether its registration, or the policy, says that it takes TLS.

    "strict": by mutual TLS or not at all. "permissive": by mutual TLS where the caller has a certificate, since the
    endpoint takes plain connections too. None: plain.
    """
    if service == "strict":
        return "strict"
    return "permissive" if service is not None and speaks else None
