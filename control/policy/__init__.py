"""The policy language: what a document may say, how it is read, checked and compiled. Pure: no I/O but reading files."""
