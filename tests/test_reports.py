"""What parts of a proxy tell in its report."""

import logging

from addons.reports import Reports


def test_each_field_is_asked_for_at_every_report() -> None:
    reports = Reports()
    told = iter(("1", "2"))
    reports["breakers"] = lambda: next(told)
    assert [reports.ask(), reports.ask()] == [{"breakers": "1"}, {"breakers": "2"}]


def test_one_that_fails_is_left_out_and_said_once(caplog) -> None:
    reports = Reports()

    def broken() -> str:
        raise ValueError("a bug")

    reports["broken"] = broken
    reports["sound"] = lambda: "x"
    with caplog.at_level(logging.ERROR):
        assert reports.ask() == reports.ask() == {"sound": "x"}
    assert [record.getMessage() for record in caplog.records] == [
        "broken: missing in the node's report; said only once"
    ]
