"""The certificate authority of a mesh in a folder: its roots, which of them signs, and their keys, which stay there."""

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from control.identity import x509 as certificates
from control.identity.identity import Identity, read_certificates
from control.identity.names import spiffe_id
from control.identity.private_files import read_secret, write_file

_STATE, _TOKEN_KEY, _LOCK = "authority.json", "tokens.key", "lock"


class AuthorityError(Exception):
    """The folder cannot be used: one line for a person, with what to do."""


def default_folder(mesh: str) -> Path:
    """Where the authority of the mesh is kept unless told otherwise; see the XDG Base Directory Specification."""
    data = os.environ.get("XDG_DATA_HOME", "")
    base = Path(data) if data.startswith("/") else Path.home() / ".local/share"
    return base / "mitmesh" / "ca" / mesh


@dataclass(frozen=True)
class State:
    """roots: the numbers of those that are trusted, oldest first. signing: the one that signs."""

    mesh: str
    roots: tuple[int, ...]
    signing: int
    serial: int = 1
    """One more at each change of what proxies must know; proxies take no lower one than they have seen."""
    since: float = 0.0
    """When the newest root came, in Unix seconds."""


class Authority:
    """An open folder. Nothing of it is cached: another command may change it meanwhile."""

    def __init__(self, folder: Path, mesh: str, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.mesh = mesh
        self.clock = clock

    @staticmethod
    def create(folder: Path, mesh: str, clock: Callable[[], float] = time.time) -> "Authority":
        """Make the first root. Raises AuthorityError, also where there is an authority already."""
        spiffe_id(mesh, "any")
        authority = Authority(folder, mesh, clock)
        with told():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with authority.locked():
                if (folder / _STATE).exists():
                    raise AuthorityError(f"there is an authority in {folder} already; name another --dir")
                write_file(folder / _TOKEN_KEY, secrets.token_bytes(32))
                authority._make_root(1)
                authority._save(State(mesh, (1,), 1, since=clock()))
        return authority

    @staticmethod
    def open(folder: Path, mesh: str, clock: Callable[[], float] = time.time) -> "Authority":
        """Raises AuthorityError where there is none of this mesh, or where its keys could be read by others."""
        authority = Authority(folder, mesh, clock)
        with told():
            state = authority.state()
            for number in state.roots:
                read_secret(authority._key_file(number))
            read_secret(folder / _TOKEN_KEY)
        return authority

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Between reading and writing again: only one process at a time."""
        handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def state(self) -> State:
        path = self.folder / _STATE
        try:
            said: dict[str, Any] = json.loads(path.read_text())
            state = State(**{**said, "roots": tuple(said["roots"])})
        except FileNotFoundError:
            raise AuthorityError(
                f"there is no authority in {self.folder}: make one with `mitmesh ca init`, or name its --dir"
            ) from None
        except (ValueError, TypeError, KeyError):
            raise AuthorityError(f"{path} is spoiled: put it back from a backup") from None
        if state.mesh != self.mesh:
            raise AuthorityError(
                f"the authority in {self.folder} is of mesh {state.mesh}, not {self.mesh}: name --mesh or --dir"
            )
        return state

    def _save(self, state: State) -> None:
        write_file(self.folder / _STATE, json.dumps(asdict(state), indent=2).encode() + b"\n")

    def _key_file(self, number: int) -> Path:
        return self.folder / f"root-{number}.key"

    def _make_root(self, number: int) -> None:
        key = certificates.new_key()
        root = certificates.new_root(self.mesh, key, self.clock())
        write_file(self._key_file(number), certificates.key_pem(key))
        write_file(self.folder / f"root-{number}.pem", root.public_bytes(Encoding.PEM), 0o644)

    def root(self, number: int) -> x509.Certificate:
        return read_certificates((self.folder / f"root-{number}.pem").read_bytes(), f"root-{number}.pem")[0]

    def root_key(self, number: int) -> ec.EllipticCurvePrivateKey:
        return certificates.read_key(read_secret(self._key_file(number)))

    def bundle(self) -> bytes:
        """The trusted roots, PEM; the one that signs comes first."""
        state = self.state()
        order = sorted(state.roots, key=lambda number: number != state.signing)
        return b"".join(self.root(number).public_bytes(Encoding.PEM) for number in order)

    def sign(self, name: str, public_key: ec.EllipticCurvePublicKey, lifetime: float) -> bytes:
        """A leaf for that SPIFFE ID, PEM. The caller has made sure that the key is its owner's. Raises AuthorityError."""
        with told():
            signing = self.state().signing
            root = self.root(signing)
            leaf = certificates.new_leaf(
                root, self.root_key(signing), name, public_key, self.clock(), lifetime
            )
            return leaf.public_bytes(Encoding.PEM)

    def issue(self, service: str, lifetime: float = certificates.LEAF_LIFETIME) -> Identity:
        """An identity with a new key. Raises AuthorityError."""
        key = certificates.new_key()
        with told():
            certificate = self.sign(spiffe_id(self.mesh, service), key.public_key(), lifetime)
            return Identity.of(certificate, certificates.key_pem(key), self.bundle())


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What goes wrong with the files becomes an AuthorityError."""
    try:
        yield
    except OSError as error:
        raise AuthorityError(f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise AuthorityError(str(error)) from None
