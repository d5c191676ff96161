"""The same store over TLS, a Unix socket, with few rights, behind Sentinel and in a Cluster."""

import asyncio
import contextlib
import datetime
import ipaddress
import re
import ssl
from contextlib import aclosing
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from control.policy.endpoints import Registered
from control.store import Hint, NodeReport, Store, StoreError, Update, Wanted
from control.store_records import Moved
from control.store_registry import Registration
from tests.conftest import REDIS, StartValkey, Valkey

ROOT = Path(__file__).parent.parent


async def exercise(url: str) -> None:
    """Everything that a store does, once."""
    store = Store(url)
    start = await store.revision()
    async with aclosing(store.hints()) as hints:
        assert await anext(hints) is None
        await act_as_operator(store)
        assert await anext(hints) == Hint(start + 1, ("a", "b"))
    await act_as_proxy(store, start + 2)
    assert [node.id for node in await store.nodes()] == ["n:1"]
    assert await store.node_ids() == ["n:1"]
    assert await store.progress(["n:1"]) == {"n:1": (start + 2, "")}
    await store.forget("n:1")
    assert await store.nodes() == []
    await store.close()


async def act_as_operator(store: Store) -> None:
    change = await store.change(lambda stored: {"a": "1", "b": "1"}, author="me", message="")
    await store.change(lambda stored: {"a": None, "b": None}, author="me", message="")
    assert await store.at(change.revision) == {"a": "1", "b": "1"}
    assert [entry.revision for entry in await store.history("a", limit=2)] == [
        change.revision + 1,
        change.revision,
    ]
    assert (await store.read()).revision == await store.revision() == change.revision + 1
    held = await store.canary("a", "me", "force", 0, 0.001, "state")
    assert (held.mine, held.state) == (True, "state")
    assert await store.registrations() == {}


async def act_as_proxy(store: Store, revision: int, node: str = "n:1") -> None:
    gone = {"a": None, "b": None}
    assert (await store.read()).revision == revision
    assert await store.read_since(revision - 1, Hint(revision, ("b", "a"))) == Update(
        revision, gone, full=False
    )
    assert await store.read_since(revision - 2, None) == Update(revision, gone, full=False)
    assert await store.read_since(revision + 9, None) == Update(revision, {}, full=True)
    await store.report(NodeReport(node, "a", revision), 30)
    endpoint = Registration("web", Registered("v1", "10.0.0.1:80"))
    await store.register(node, endpoint, 30)
    async with aclosing(store.hints_and_moves()) as heard:
        await anext(heard)
        await store.register("n:2", endpoint, 30)
        assert await anext(heard) == Moved()
    assert (await store.registered("", 30))[1] == {node: endpoint, "n:2": endpoint}
    for each in (node, "n:2"):
        await store.deregister(each, 30)
    assert await store.take([Wanted(name, 10**6, 1, 10**9, 1) for name in "ab"]) == [(1, 0)] * 2


def certify(folder: Path) -> Path:
    """A CA and a certificate of 127.0.0.1 signed by it: ca.pem, cert.pem, key.pem in `folder`."""
    now = datetime.datetime.now(datetime.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def usage(ca: bool) -> x509.KeyUsage:
        names = (
            "content_commitment key_encipherment data_encipherment key_agreement encipher_only decipher_only"
        )
        return x509.KeyUsage(
            digital_signature=True, key_cert_sign=ca, crl_sign=ca, **dict.fromkeys(names.split(), False)
        )

    def build(subject: str, key: ec.EllipticCurvePrivateKey, ca: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("test CA"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
            )
            .add_extension(usage(ca), critical=True)
        )

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    ca = build("test CA", ca_key, True).sign(ca_key, hashes.SHA256())
    cert = build("server", key, False).add_extension(address, critical=False).sign(ca_key, hashes.SHA256())
    for file, certificate in (("ca.pem", ca), ("cert.pem", cert)):
        (folder / file).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder


def tls_files(folder: Path) -> dict[str, str]:
    certify(folder)
    return {
        f"ssl_{name}": f"{folder}/{file}.pem"
        for name, file in (("ca_certs", "ca"), ("certfile", "cert"), ("keyfile", "key"))
    }


async def test_tls(tmp_path: Path, valkey_server: Valkey, redis_url: str) -> None:
    """TLS ends before the server, as with a load balancer."""
    files = tls_files(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files["ssl_certfile"], files["ssl_keyfile"])

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", valkey_server.port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
            target.close()

        await asyncio.gather(copy(reader, back), copy(there, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    async with server:
        await exercise(f"rediss://{where}?ssl_ca_certs={files['ssl_ca_certs']}")
        await exercise(f"rediss://{where}?ssl_cert_reqs=none&ssl_check_hostname=false")
        with pytest.raises(StoreError, match=r"TLS failed: unable to get local issuer certificate; start"):
            await Store(f"rediss://{where}").read()
        with pytest.raises(StoreError, match=r"cannot reach Redis at redis://.*: it closed the connection"):
            await Store(f"redis://{where}").read()


async def test_tls_of_the_server_itself(tmp_path: Path, start_valkey: StartValkey) -> None:
    files = tls_files(tmp_path)
    options = {
        "tls-ca-cert-file": files["ssl_ca_certs"],
        "tls-cert-file": files["ssl_certfile"],
        "tls-key-file": files["ssl_keyfile"],
    }
    server = start_valkey(tls=True, options=options, binary=redis())
    url = f"rediss://{server.address}/0?ssl_ca_certs={files['ssl_ca_certs']}"
    await exercise(url + f"&ssl_certfile={files['ssl_certfile']}&ssl_keyfile={files['ssl_keyfile']}")
    with pytest.raises(StoreError, match=r"cannot reach Redis at rediss://.*; start one"):
        await Store(url).read()  # it wants a certificate of the client


async def test_unix_socket(tmp_path: Path, start_valkey: StartValkey) -> None:
    server = start_valkey(options={"unixsocket": str(tmp_path / "s")})
    await exercise(f"unix://{tmp_path}/s?db=2")
    assert b"db2:keys=" in server.command("INFO", "keyspace")


async def test_another_protocol_version(redis_url: str) -> None:
    await exercise(redis_url + "?protocol=3")


CLUSTER = {"cluster-enabled": "yes", "cluster-node-timeout": "2000"}


@pytest.mark.parametrize("binary", ["valkey", "redis"])
async def test_cluster_of_one(start_valkey: StartValkey, binary: str) -> None:
    server = start_valkey(options=CLUSTER, **({"binary": redis()} if binary == "redis" else {}))
    with pytest.raises(StoreError, match=r"cannot use Redis at .*: the cluster does not serve all slots"):
        await Store(f"redis+cluster://{server.address}").read()
    server.command("CLUSTER", "ADDSLOTS", *(str(slot) for slot in range(16384)))
    while b"cluster_state:ok" not in server.command("CLUSTER", "INFO"):
        await asyncio.sleep(0.01)
    await exercise(f"redis+cluster://{server.address}")
    await exercise(f"redis://{server.address}")
    text = (ROOT / "docs" / "security.md").read_text()
    more = ["+cluster|slots", "+command"]
    assert f"on a Cluster `{' '.join(more)}`" in text
    rights = {
        user: re.findall(r"\(.*?\)|\S+", line)
        for user, line in re.findall(r"ACL SETUSER (\S+) (on .*)", text)
    }
    more += [right for right in rights["operator"] if right.startswith("+")]
    server.command("ACL", "SETUSER", "both", "reset", *rights["proxy-6"], *more, "+pttl")
    await exercise(f"redis+cluster://both:SECRET@{server.address}")


async def test_cluster_of_two(start_valkey: StartValkey) -> None:
    """The mesh's slot is the other node's."""
    first, second = start_valkey(options=CLUSTER), start_valkey(options=CLUSTER)
    slot = int(first.command("CLUSTER", "KEYSLOT", "{mesh}:policy")[1:])
    second.command("CLUSTER", "ADDSLOTS", str(slot))
    first.command("CLUSTER", "ADDSLOTS", *(str(other) for other in range(16384) if other != slot))
    second.command("CLUSTER", "SET-CONFIG-EPOCH", "2")
    first.command("CLUSTER", "MEET", "127.0.0.1", str(second.port))
    for server in (first, second):
        while b"cluster_state:ok" not in server.command("CLUSTER", "INFO"):
            await asyncio.sleep(0.01)
    await exercise(f"redis+cluster://{first.address},127.0.0.1:1")
    with pytest.raises(StoreError, match="it is part of a cluster; write redis"):
        await Store(first.url).read()


@pytest.mark.parametrize("binary", ["valkey", "redis"])
async def test_sentinel(start_valkey: StartValkey, binary: str) -> None:
    program = {"binary": redis()} if binary == "redis" else {}
    secret = {"requirepass": "data", "masterauth": "data", "repl-diskless-sync-delay": "0"}
    primary = start_valkey(options=secret, **program)
    replica = start_valkey(options=secret | {"replicaof": f"127.0.0.1 {primary.port}"}, **program)
    await until_said(replica, "master_link_status:up", password="data")
    watch = {
        "requirepass": "guard",
        "sentinel monitor": f"main 127.0.0.1 {primary.port} 1",
        "sentinel auth-pass": "main data",
    }
    sentinel = start_valkey(sentinel=True, options=watch, **program)
    haste = ("info-period", "50", "ping-period", "50", "publish-period", "50")
    sentinel.command("SENTINEL", "DEBUG", *haste, password="guard")
    url = f"redis+sentinel://:data@127.0.0.1:1,{sentinel.address}/main/1?sentinel_password=guard"
    await exercise(url)
    with pytest.raises(StoreError, match="the sentinels know no primary named other"):
        await Store(url.replace("/main", "/other")).read()

    await until_replicated(primary, password="data")
    store = Store(url)
    async with aclosing(store.hints()) as hints:
        await anext(hints)
        while b"role:master" not in replication(replica, password="data"):
            # Refused until the sentinel has heard enough from the replica, and while it is at it.
            with contextlib.suppress(RuntimeError):
                sentinel.command("SENTINEL", "FAILOVER", "main", password="guard")
            await asyncio.sleep(0.05)
        # The sentinel throws the clients of the former primary out.
        with pytest.raises(StoreError):
            await anext(hints)
    await until_said(primary, "role:slave", password="data")
    change = await store.change(lambda stored: {"after": "1"}, author="me", message="")
    assert change.revision == 3
    await store.change(lambda stored: {"after": None}, author="me", message="")
    await store.close()
    await exercise(url)


async def until_replicated(primary: Valkey, *, password: str) -> None:
    while True:
        said = replication(primary, password=password)
        if re.search(rb"slave0:.*,offset=(\d+),.*\bmaster_repl_offset:\1\r", said, re.DOTALL):
            return
        await asyncio.sleep(0.01)


async def until_said(server: Valkey, said: str, *, password: str) -> None:
    while said.encode() not in replication(server, password=password):
        await asyncio.sleep(0.01)


def replication(server: Valkey, *, password: str) -> bytes:
    """What the server says of its role; nothing while a failover throws its clients out, this one included."""
    try:
        return server.command("INFO", "replication", password=password)
    except ConnectionError:
        return b""


def redis() -> str:
    if not Path(REDIS).exists():
        pytest.skip(f"no {REDIS}")
    return REDIS
