"""control/identity/serving.py: requests that are answered, refused and told, and one that nothing was prepared for."""

import asyncio
import json

import pytest

from control.identity import serving, x509
from control.identity.authority import Authority
from control.identity.folders import AuthorityError
from control.identity.requests import make_request
from control.identity.serving import Serving
from control.identity.tokens import read_token
from control.store import Store


@pytest.fixture
def authority(tmp_path):
    return Authority.create(tmp_path / "ca", "mesh")


def served(authority, redis_url, *texts):
    """What is told of these requests, and what is told in Redis."""
    told = []

    async def run():
        store = Store(redis_url)
        service = Serving(authority, store, 60.0, told.append, told.append, told.append)
        for text in texts:
            await store.ask_certificate(text)
        await service.serve_waiting()
        await service.look_around()
        left = await store.certificate_requests()
        refusals = [each.reason for each in await store.refusals()]
        said = await store.authority()
        await store.close()
        return left, refusals, said

    return told, *asyncio.run(run())


def asked(authority, service="web", request_id="0" * 32):
    token = read_token(authority.new_token("web", 60.0, 1))
    name = f"spiffe://mesh/service/{service}"
    return make_request(x509.new_key(), name, "mesh", "n", request_id, token)


def test_each_is_answered_and_told_of(authority, redis_url):
    good, bad = asked(authority), asked(authority, "bank", "1" * 32)
    told, left, refusals, said = served(authority, redis_url, good, bad, "rubbish")
    assert [type(each).__name__ for each in told] == ["Issued", "Refused", "Refused"]
    assert left == []
    reason = "it wants 'spiffe://mesh/service/bank', but its token is of web"
    assert refusals == ["it is no certificate request", reason]
    assert (said["issued"], said["refused"], said["serial"]) == ("1", "2", "1")
    [token] = json.loads(said["tokens"])
    assert (token["service"], token["left"]) == ("web", 1)


def test_what_nothing_was_prepared_for_ends_no_service(authority, redis_url, monkeypatch):
    real = serving.answer

    def surprised(authority, text, lifetime):
        if "bank" in text:
            raise KeyError("surprise")
        return real(authority, text, lifetime)

    monkeypatch.setattr(serving, "answer", surprised)
    told, left, refusals, _ = served(authority, redis_url, '{"bank": 1}', asked(authority))
    assert [type(each).__name__ for each in told] == ["Refused", "Issued"]
    assert refusals == ["it cannot be read (KeyError)"]
    assert left == []


def test_a_folder_that_cannot_be_used_ends_it(authority, redis_url):
    text = asked(authority)
    (authority.folder / "root-1.key").chmod(0o644)
    with pytest.raises(AuthorityError, match=r"root-1\.key is open to others"):
        served(authority, redis_url, text)
