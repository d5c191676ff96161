"""The one exception by which a command ends early."""


class Failed(Exception):
    """What a person is told on stderr, a line each, and the exit code.

    Exit codes: 1 refused or failed, 2 the command was not understood.
    """

    def __init__(self, *lines: str, code: int = 1) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.code = code


def usage(message: str) -> Failed:
    """For a command line that asks for something that cannot be."""
    return Failed(f"error: {message}", code=2)
