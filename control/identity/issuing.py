"""What the authority does with a request: it signs the identity that the token or certificate proves, or refuses."""

from dataclasses import dataclass

from control.identity import x509 as certificates
from control.identity.authority import Authority
from control.identity.folders import told
from control.identity.ledger import Ledger
from control.identity.names import parse_spiffe_id, spiffe_id
from control.identity.requests import (
    Refused,
    Request,
    name_wanted,
    proved_by_certificate,
    proved_by_token,
    read_request,
)


@dataclass(frozen=True)
class Issued:
    """A certificate, PEM, and by what it was got: "token" or "certificate"."""

    service: str
    node: str
    by: str
    certificate: bytes


def answer(authority: Authority, text: str, lifetime: float) -> Issued:
    """Sign what the request in `text` asks for. Raises Refused, and AuthorityError when the folder cannot be used."""
    request = read_request(text, authority.mesh)
    by = "token" if request.claims else "certificate"
    with authority.locked():
        ledger = authority.ledger()
        if by == "token":
            service, ledger = _by_token(authority, request, ledger)
        else:
            service = _by_certificate(authority, request, ledger)
        name = spiffe_id(authority.mesh, service)
        if (wanted := name_wanted(request)) != name:
            raise Refused(f"it wants {wanted[:200]!r}, but its {by} is of {service}", service, request.node)
        with told():
            certificate = authority.sign(name, request.public_key, lifetime)
            authority.remember(ledger)
    return Issued(service, request.node, by, certificate)


def _by_token(authority: Authority, request: Request, ledger: Ledger) -> tuple[str, Ledger]:
    with told():
        key = authority.token_key()
    token = proved_by_token(request, key, authority.mesh, authority.clock())
    try:
        return token.service, ledger.used(token.digest, request.key_digest)
    except ValueError as error:
        raise Refused(str(error), token.service, request.node) from None


def _by_certificate(authority: Authority, request: Request, ledger: Ledger) -> str:
    with told():
        roots = authority.bundle().roots
    shown = proved_by_certificate(request, roots, authority.clock())
    name = certificates.uri_of(shown)
    try:
        service = parse_spiffe_id(name)[1]
        if name != spiffe_id(authority.mesh, service):
            raise ValueError(f"{name} is not of this mesh")
    except ValueError as error:
        raise Refused(f"its certificate is of no service: {error}", node=request.node) from None
    revoked = ledger.revoked.get(service)
    # A certificate is backdated: what counts is when it was made.
    if revoked is not None and certificates.made_at(shown) <= revoked:
        raise Refused(
            f"certificates of {service} from before were revoked: it needs a new token", service, request.node
        )
    return service
