"""Hashes that every proxy computes alike, on every machine and in every release."""

from hashlib import blake2b

_MASK = 2**64 - 1


def hash64(text: str) -> int:
    """64 bits of a text, evenly spread. Lone surrogates, which a header may hold, count as what they were."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def mix64(value: int) -> int:
    """64 bits that look nothing like those of `value` (the finalizer of splitmix64)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def unit(value: int) -> float:
    """64 bits as a number above 0 and below 1."""
    return ((value >> 12) + 0.5) * 2.0**-52
