"""Follows the trust bundle in Redis, from the first root that was trusted by token or file."""

from collections.abc import Iterable

from control.identity.bundles import Bundle, read_bundle


class Trust:
    """`bundle` is the newest that was taken; None before. `error`: why what is in Redis is not taken, empty if it is."""

    def __init__(self, mesh: str, roots: Iterable[str]) -> None:
        self.mesh = mesh
        self.bundle: Bundle | None = None
        self.error = ""
        self._first = frozenset(roots)
        self._text = ""

    @property
    def trusted(self) -> frozenset[str]:
        """Fingerprints. What was trusted first ends with the first bundle: a root may have been dropped since."""
        return self.bundle.fingerprints if self.bundle is not None else self._first

    def trust_also(self, roots: Iterable[str]) -> None:
        """A person gave these, in a new token or file. Bundles start anew from them if they are not known."""
        roots = frozenset(roots)
        if not roots & self.trusted:
            self.bundle, self._text = None, ""
        self._first = roots

    def take(self, text: str) -> bool:
        """What Redis has; whether it is in force now and was not before."""
        if not text:
            # A Redis that lost its memory; the authority puts it back. Nobody is trusted less meanwhile.
            self.error = (
                "" if self.bundle else "there is no trust bundle in Redis: is `mitmesh ca serve` running?"
            )
            return False
        if text == self._text and not self.error:
            return False
        try:
            least = self.bundle.serial if self.bundle else 0
            bundle = read_bundle(text, self.mesh, self.trusted, least)
        except ValueError as error:
            self.error = str(error)
            return False
        changed = self.bundle != bundle
        self.bundle, self._text, self.error = bundle, text, ""
        return changed
