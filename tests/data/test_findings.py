"""What a reader has repaired or left out is counted and told once a kind."""

import logging

from kd2.data.findings import Findings


def test_places_of_one_kind_are_counted_and_the_first_are_shown():
    findings = Findings("labels.json")
    for number in range(7):
        findings.dropped("a box without area", number)
    findings.repaired("a size read from the picture", "a.png")
    assert list(findings.rows()) == [
        ("dropped", "a box without area", 7, "0, 1, 2, 3, 4, ..."),
        ("repaired", "a size read from the picture", 1, "a.png"),
    ]


def test_every_kind_is_one_warning_that_begins_with_the_source(caplog):
    findings = Findings("labels.json")
    findings.noted("255 is ignored", "a.png")
    findings.noted("255 is ignored", "b.png")
    with caplog.at_level(logging.WARNING):
        findings.tell()
    assert caplog.messages == ["labels.json: noted: 255 is ignored (2: a.png, b.png)"]
