"""addons/certificates.py: who the proxy is, from files that may change, and those whom it tells."""

import re

import pytest
from mitmproxy import exceptions
from mitmproxy.test import taddons

from addons.certificates import Certificates
from addons.policy_feed import PolicyFeed
from control.identity.authority import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.create(tmp_path_factory.mktemp("ca") / "ca", "mesh")


@pytest.fixture
def addon():
    """Loaded, and what it told of."""
    certificates = Certificates()
    told = []
    certificates.changed.append(told.append)
    with taddons.context(PolicyFeed(), certificates) as context:
        yield certificates, told, context


def test_without_an_identity_there_is_none(addon):
    certificates, told, context = addon
    context.configure(certificates, mesh_service="web")
    assert certificates.identity is None
    assert told == []


def test_a_folder_is_read_and_followed(addon, authority, tmp_path):
    certificates, told, context = addon
    first = authority.issue("web")
    first.write(tmp_path)
    context.configure(certificates, mesh_identity=str(tmp_path), mesh_service="Web")
    assert certificates.identity == first
    assert told == [first]
    certificates.look_at_files()
    assert told == [first]
    authority.issue("web").write(tmp_path)
    certificates.look_at_files()
    assert [identity.generation for identity in told] == [1, 2]
    assert certificates.identity is told[1]
    assert told[1].certificate == (tmp_path / "cert.pem").read_bytes() != first.certificate


def test_files_that_do_not_fit_leave_what_is(addon, authority, tmp_path, caplog):
    certificates, told, context = addon
    authority.issue("web").write(tmp_path)
    context.configure(certificates, mesh_identity=str(tmp_path))
    new = authority.issue("web")
    (tmp_path / "key.pem").write_bytes(new.key)
    for _ in range(2):
        certificates.look_at_files()
    assert len(told) == 1
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        "mesh_identity: key.pem does not belong to cert.pem; going on with the certificate from before"
    ]
    new.write(tmp_path)
    certificates.look_at_files()
    assert told[-1].certificate == new.certificate
    (tmp_path / "cert.pem").unlink()
    certificates.look_at_files()
    assert f"mesh_identity: {tmp_path}/cert.pem: No such file" in caplog.text
    assert certificates.identity is told[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mesh_service": "other"}, "is of spiffe://mesh/service/web, but this proxy stands for other in mesh mesh"),
        ({"mesh_name": "staging"}, "is of spiffe://mesh/service/web, but this proxy stands for any service in mesh staging"),
        ({"mesh_identity": "/nowhere"}, "mesh_identity: /nowhere/key.pem: No such file or directory"),
    ],
)  # fmt: skip
def test_an_identity_of_somebody_else_ends_the_start(addon, authority, tmp_path, options, said):
    certificates, _, context = addon
    authority.issue("web").write(tmp_path)
    with pytest.raises(exceptions.OptionsError, match=re.escape(said)):
        context.configure(certificates, **{"mesh_identity": str(tmp_path), **options})
    assert certificates.identity is None
