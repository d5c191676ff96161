"""The certificate authority of a mesh in a folder: its roots, which of them signs, and their keys, which stay there."""

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from control.files import write_file
from control.identity import x509 as certificates
from control.identity.bundles import Bundle, write_bundle
from control.identity.folders import AuthorityError, told
from control.identity.identity import Identity, read_certificates
from control.identity.ledger import Ledger
from control.identity.names import spiffe_id
from control.identity.private_files import read_secret
from control.identity.tokens import make_token, read_token

_STATE, _TOKEN_KEY, _LEDGER, _LOCK = "authority.json", "tokens.key", "ledger.json", "lock"


@dataclass(frozen=True)
class State:
    """roots: the numbers of those that are trusted, oldest first. signing: the one that signs."""

    mesh: str
    roots: tuple[int, ...]
    signing: int
    serial: int = 1
    """One more at each change of what proxies must know; proxies take no lower one than they have seen."""
    since: float = 0.0
    """Unix seconds: when the newest root came, and once it signs, since when it does."""

    @property
    def rotating(self) -> bool:
        return len(self.roots) > 1


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

    def _save(self, state: State) -> State:
        write_file(self.folder / _STATE, json.dumps(asdict(state), indent=2).encode() + b"\n")
        return state

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

    def bundle(self) -> Bundle:
        """The trusted roots; the one that signs comes first."""
        state = self.state()
        roots = tuple(self.root(number) for number in _signing_first(state))
        return Bundle(state.serial, roots, certificates.fingerprint(roots[0]))

    def statement(self) -> str:
        """The bundle as it goes to Redis, signed by every root. Raises AuthorityError."""
        with told():
            keys = [self.root_key(number) for number in _signing_first(self.state())]
            return write_bundle(self.mesh, self.bundle(), keys)

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
            return Identity.of(certificate, certificates.key_pem(key), self.bundle().pem)

    # Roots come and go

    def begin_rotation(self) -> State:
        """A new root, trusted beside the old one, which still signs. Raises AuthorityError."""
        with told(), self.locked():
            state = self.state()
            if state.rotating:
                raise AuthorityError("a rotation is under way: `mitmesh ca status` says how far it is")
            number = state.roots[-1] + 1
            self._make_root(number)
            return self._save(
                replace(state, roots=(*state.roots, number), serial=state.serial + 1, since=self.clock())
            )

    def sign_with_newest(self) -> State:
        """From now on the newest root signs; what the old one signed is still trusted."""
        with told(), self.locked():
            state = self.state()
            if state.signing == state.roots[-1]:
                return state
            return self._save(
                replace(state, signing=state.roots[-1], serial=state.serial + 1, since=self.clock())
            )

    def drop_old_roots(self) -> State:
        """Only the root that signs is trusted; the others' keys are deleted."""
        with told(), self.locked():
            state = self.state()
            if not state.rotating:
                return state
            done = self._save(replace(state, roots=(state.signing,), serial=state.serial + 1))
            for number in state.roots:
                if number != state.signing:
                    self._key_file(number).unlink(missing_ok=True)
            return done

    # Tokens

    @property
    def _ledger_file(self) -> Path:
        return self.folder / _LEDGER

    def token_key(self) -> bytes:
        return read_secret(self.folder / _TOKEN_KEY)

    def ledger(self) -> Ledger:
        """Raises AuthorityError."""
        with told():
            return Ledger.read(self._ledger_file)

    def remember(self, ledger: Ledger) -> None:
        """In place of the ledger that was read under the same lock."""
        with told():
            if ledger != Ledger.read(self._ledger_file):
                ledger.write(self._ledger_file)

    def new_token(self, service: str, lifetime: float, uses: int) -> str:
        """A join token for the service, remembered by its digest. Raises AuthorityError."""
        with told(), self.locked():
            signing = certificates.fingerprint(self.root(self.state().signing))
            now = self.clock()
            text = make_token(self.token_key(), self.mesh, service, now + lifetime, uses, signing)
            Ledger.read(self._ledger_file).with_token(read_token(text), now).write(self._ledger_file)
            return text

    def revoke(self, service: str) -> None:
        """The service's tokens and certificates of before now get it no new certificate. Raises AuthorityError."""
        with told(), self.locked():
            Ledger.read(self._ledger_file).revoke(service.lower(), self.clock()).write(self._ledger_file)


def _signing_first(state: State) -> list[int]:
    return sorted(state.roots, key=lambda number: number != state.signing)
