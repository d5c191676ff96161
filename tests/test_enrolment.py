"""control/identity/enrolment.py and trust.py: a proxy's certificates over time, on a fake clock, with a real authority."""

import asyncio
import json
from random import Random

import pytest

from control.identity.authority import Authority
from control.identity.bundles import fingerprints
from control.identity.enrolment import Enrolment
from control.identity.issuing import answer
from control.identity.requests import Refused, read_request
from control.identity.tokens import read_token
from control.identity.trust import Trust


class World:
    """An authority that answers through this in the place of Redis; nothing takes time but what a test lets pass."""

    def __init__(self, folder, uses=1, lifetime=100.0):
        self.now = 1_800_000_000.0
        self.authority = Authority.create(folder, "mesh", lambda: self.now)
        self.serves = True
        self.lifetime = lifetime
        self.answers = {}
        self.asked = []
        self.published = self.authority.statement()
        self.token = self.authority.new_token("web", 3600.0, uses)
        self.enrolment = self.new_proxy()

    def new_proxy(self):
        async def sleep(seconds):
            self.now += seconds

        return Enrolment(
            "mesh", "web", "n", lambda: read_token(self.token), lambda: self.now, Random(7), sleep
        )

    async def bundle(self):
        return self.published

    async def ask_certificate(self, text):
        request = read_request(text, "mesh")
        self.asked.append("token" if request.claims else "certificate")
        if self.serves:
            try:
                said = {"certificate": answer(self.authority, text, self.lifetime).certificate.decode()}
            except Refused as refused:
                said = {"refused": refused.reason}
            self.answers[request.id] = json.dumps(said)

    async def certificate_answer(self, request_id):
        return self.answers.get(request_id)

    def step(self, proxy=None):
        return asyncio.run((proxy or self.enrolment).step(self))

    def publish(self):
        self.published = self.authority.statement()


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "ca")


def test_first_by_token_then_by_certificate_at_half_of_the_lifetime(world):
    assert world.step()
    first = world.enrolment.identity
    assert (first.spiffe_id, first.generation) == ("spiffe://mesh/service/web", 1)
    world.now += 39
    assert not world.step()
    world.now += 22
    assert world.step()
    second = world.enrolment.identity
    assert world.asked == ["token", "certificate"]
    assert second.generation == 2
    assert second.key != first.key
    assert second.not_after > first.not_after
    assert world.enrolment.error == ""


def test_it_goes_on_for_many_lives_with_one_token(world):
    for _ in range(1000):
        world.now += 3
        world.step()
        assert world.now < world.enrolment.identity.not_after
    assert world.asked.count("token") == 1
    assert 45 <= len(world.asked) <= 80


def test_an_answer_that_got_lost_is_asked_for_again_and_costs_no_use(world):
    world.serves = False
    assert not world.step()
    assert world.enrolment.error == "no answer from the certificate authority: is `mitmesh ca serve` running?"
    world.serves = True
    # The authority had signed it: only the answer was lost.
    asked = []

    async def lose(request_id):
        asked.append(request_id)

    real, world.certificate_answer = world.certificate_answer, lose
    world.now += 60
    assert not world.step()
    world.certificate_answer = real
    world.now += 60
    assert world.step()
    assert world.asked == ["token"] * 3


def test_no_request_while_it_waits_after_a_failure(world):
    world.serves = False
    world.step()
    asked = len(world.asked)
    world.step()
    assert len(world.asked) == asked


def test_the_authority_away_leaves_what_is_in_force(world):
    world.step()
    first = world.enrolment.identity
    world.serves = False
    world.now += 90
    assert not world.step()
    assert world.enrolment.identity is first
    assert world.enrolment.life.ending(world.now)
    world.serves = True
    world.now += 2
    assert world.step()
    assert world.enrolment.error == ""


def test_a_refused_token(world):
    world.step()
    late = world.new_proxy()
    assert not world.step(late)
    assert late.identity is None
    assert late.error == (
        "the certificate authority refused: its token was used once already, as often as it may be"
    )


def test_over_its_end_a_new_token_helps(world):
    world.step()
    world.now += 200
    assert not world.step()
    assert world.asked[-1] == "token"
    assert "used once" in world.enrolment.error
    world.token = world.authority.new_token("web", 3600.0, 1)
    world.now += 60
    assert world.step()
    assert world.enrolment.identity.generation == 2


def test_revoked_it_takes_a_new_token(world):
    world.step()
    world.now += 30
    world.authority.revoke("web")
    world.now += 35
    world.step()
    assert "were revoked: it needs a new token" in world.enrolment.error
    world.token = world.authority.new_token("web", 3600.0, 1)
    world.now += 5
    assert world.step()
    assert world.asked == ["token", "certificate", "token"]
    world.now += 65
    assert world.step()
    assert world.asked[-1] == "certificate"


def test_a_new_root_is_trusted_at_once_and_followed_soon(world):
    world.step()
    first = world.enrolment.identity
    world.authority.begin_rotation()
    world.publish()
    assert world.step()
    assert world.enrolment.identity.bundle.count(b"BEGIN") == 2
    assert world.enrolment.identity.certificate == first.certificate
    world.authority.sign_with_newest()
    world.publish()
    world.step()
    world.now += 5.1
    assert world.step()
    assert world.enrolment.identity.certificate != first.certificate
    world.authority.drop_old_roots()
    world.publish()
    assert world.step()
    assert world.enrolment.identity.bundle.count(b"BEGIN") == 1
    assert list(world.asked) == ["token", "certificate"]


def test_a_bundle_of_somebody_else_or_of_yesterday_is_not_taken(world, tmp_path):
    old = world.published
    world.step()
    world.authority.begin_rotation()
    world.publish()
    world.step()
    good = world.enrolment.identity
    for text, reason in (
        (Authority.create(tmp_path / "b", "mesh").statement(), "signed by no root that is trusted here"),
        (old, "is older than the one in force (1 < 2)"),
    ):
        world.published = text
        assert not world.step()
        assert reason in world.enrolment.trust.error
        assert world.enrolment.identity is good
    world.publish()
    world.step()
    assert world.enrolment.trust.error == ""


def test_an_empty_redis_takes_nothing_away(world):
    world.step()
    good, world.published = world.enrolment.identity, ""
    world.now += 60
    world.serves = True
    world.step()
    assert world.enrolment.trust.bundle is not None
    assert world.enrolment.identity.bundle == good.bundle


def test_without_a_bundle_nothing_is_asked(world):
    world.published = ""
    world.step()
    assert world.enrolment.error == "there is no trust bundle in Redis: is `mitmesh ca serve` running?"
    assert world.asked == []


@pytest.mark.parametrize("text", ["", "[]", "x", '{"certificate": "x"}', "{}"])
def test_answers_that_are_none(world, text):
    async def spoiled(request_id):
        return text

    world.certificate_answer = spoiled
    assert not world.step()
    assert world.enrolment.error


def test_an_answer_with_the_certificate_of_somebody_else(world):
    other = world.authority.issue("bank")

    async def forged(request_id):
        return json.dumps({"certificate": other.certificate.decode()})

    world.certificate_answer = forged
    world.step()
    assert world.enrolment.error == "key.pem does not belong to cert.pem"


def test_a_persons_new_root_begins_anew(world, tmp_path):
    trust = Trust("mesh", fingerprints(world.authority.bundle().pem))
    assert trust.take(world.published)
    other = Authority.create(tmp_path / "b", "mesh")
    assert not trust.take(other.statement())
    trust.trust_also(fingerprints(other.bundle().pem))
    assert trust.take(other.statement())
    assert trust.error == ""
