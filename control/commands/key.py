"""mitmesh key: who may write policy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control.commands.failure import Failed, usage
from control.commands.options import Mesh, Message, Redis, target_of
from control.commands.output import counted, say

if TYPE_CHECKING:
    from control.store import Change, Store

PRIVATE, PUBLIC = "policy.key", "policy.pub"

app = typer.Typer(no_args_is_help=True, help="The key that policy is signed with.")


@app.command()
def init(
    out: Annotated[
        str, typer.Option("--out", metavar="DIR", help="where policy.key and policy.pub go")
    ] = ".",
) -> None:
    """Make a key to sign policy with: policy.key (mode 0600), and policy.pub for the proxies.

    From then on give every command that changes policy `--policy-key` or
    MITMESH_POLICY_KEY, and every proxy mesh_policy_key. Sign what is there already
    with `mitmesh key sign`.
    """
    from control.files import write_file
    from control.signing import name_of, new_key, read_public

    directory = Path(out).expanduser()
    private, public = new_key()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (directory / PRIVATE).exists():
            raise Failed(f"error: there is a {PRIVATE} in {directory} already; name another --out")
        write_file(directory / PRIVATE, private)
        write_file(directory / PUBLIC, public, 0o644)
    except OSError as error:
        raise Failed(f"error: {error.filename}: {error.strerror}") from None
    say(
        f"key {name_of(read_public(public)[0])}: {directory / PRIVATE}, and {directory / PUBLIC} for the proxies"
    )


@app.command()
def sign(context: typer.Context, message: Message = "", redis: Redis = None, mesh: Mesh = None) -> None:
    """Sign the policy as it is in Redis, whoever wrote it: look at it first (`mitmesh get`).

    For the first signature of a mesh, for a new key, and for a policy that was
    changed behind the key's back and is found good.
    """
    from control.commands.author import author, storable

    target = target_of(context, redis, mesh)
    if target.signer() is None:
        raise usage("say with which key: mitmesh --policy-key FILE key sign, or MITMESH_POLICY_KEY")

    async def work(store: "Store") -> "Change":
        stored = await store.read()
        return await store.change(
            lambda now: {},
            author=author(),
            message=storable(message or "signed as it is"),
            trusted=stored.documents,
            sign_anyway=True,
        )

    done = target.run(work)
    documents = len(target.run(lambda store: store.read()).documents)
    say(f"signed: {counted(documents, 'document')}, revision {done.revision}")
