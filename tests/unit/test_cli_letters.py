"""What `lockgate dlq` shows of a dead letter's headers and bytes."""

import pytest

from agents.cli.dead_letters import _parse_place, _Pile
from agents.cli.letters import Letter, hexdump, letter_of, readable, split_headers
from pipeline.errors import ConfigError


class Message:
    """As the client hands it over."""

    def __init__(self, headers, value=b"v", offset=0, timestamp=1000):
        self.headers = lambda: headers
        self.value = lambda: value
        self.offset = lambda: offset
        self.partition = lambda: 3
        self.timestamp = lambda: (2, timestamp)


ADDED = [
    ("lockgate_source_topic", b"workflow-events"),
    ("lockgate_source_partition", b"3"),
    ("lockgate_source_offset", b"17"),
    ("lockgate_stage", b"enrichment"),
    ("lockgate_class", b"poison"),
    ("lockgate_cause", b"not JSON"),
]


def test_headers_of_the_record_and_of_its_death_are_told_apart():
    own = [("a", b"1"), ("lockgate_release", b"x")]
    assert split_headers(own + ADDED) == (own, ADDED)
    assert split_headers(own) == (own, [])


def test_a_record_that_died_twice_keeps_its_first_death_among_its_own_headers():
    own = [("a", b"1"), *ADDED]
    assert split_headers(own + ADDED) == (own, ADDED)
    assert letter_of(Message([*own, *ADDED[:3], ("lockgate_stage", b"routing")])).stage == "routing"


def test_a_letter_without_our_headers_is_still_a_letter():
    letter = letter_of(Message(None, value=None))
    assert (letter.place, letter.stage, letter.source, letter.bytes) == ("3:0", None, None, 0)


def test_a_letter_says_where_its_record_lay():
    letter = letter_of(Message([("ce_id", b"\xff7"), *ADDED]))
    assert letter.source == "workflow-events:3:17"
    assert letter.event_id == "\ufffd7"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ""),
        ("größer\n\t".encode(), "größer\n\t"),
        (b"\x00\x00", None),
        (b"\xff", None),
        (b"\x1b[31m", None),
        (None, None),
    ],
)
def test_bytes_are_text_only_when_they_are_nothing_else(content, text):
    assert readable(content) == text


def test_a_dump_shows_offset_bytes_and_text():
    assert hexdump(b"0123456789abcdef\x00\xffA", 100) == [
        "00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|",
        "00000010  00 ff 41                                          |..A|",
    ]


def test_a_long_dump_says_how_much_is_left():
    lines = hexdump(b"x" * 1000, 24)
    assert lines[1].endswith("|xxxxxxxx|")
    assert lines[2:] == ["... 976 bytes more"]


@pytest.mark.parametrize("place", ["", "3", "3:", ":3", "a:1", "1:-1", "1:²", "1:2:3"])
def test_what_is_no_place_is_a_usage_error(place):
    with pytest.raises(ConfigError, match="PARTITION:OFFSET"):
        _parse_place(place)


def test_a_place_is_partition_and_offset():
    assert _parse_place("3:17") == (3, 17)


def letter(offset, cause="c"):
    return Letter(0, offset, 1000 + offset, "routing", "permanent", cause, "1", "t:0:1", "/s", "i", 5)


def test_letters_are_counted_by_cause_and_only_the_newest_are_kept():
    pile = _Pile(2)
    for offset in (3, 1, 4, 0, 2):
        pile.add(letter(offset, cause="odd" if offset % 2 else "even"))
    plain = pile.plain()
    assert [kept["offset"] for kept in plain["letters"]] == [4, 3]
    assert [(group["cause"], group["count"], group["newest_ms"]) for group in plain["groups"]] == [
        ("even", 3, 1004),
        ("odd", 2, 1003),
    ]
    assert (plain["count"], plain["ungrouped"]) == (5, 0)


def test_all_letters_can_be_kept():
    pile = _Pile(None)
    for offset in range(50):
        pile.add(letter(offset))
    assert len(pile.plain()["letters"]) == 50


def test_causes_without_end_do_not_fill_the_memory():
    pile = _Pile(0)
    for offset in range(1500):
        pile.add(letter(offset, cause=str(offset)))
    pile.add(letter(2000, cause="0"))
    assert (len(pile.groups), pile.ungrouped, pile.count) == (1000, 500, 1501)
    assert pile.groups["routing", "permanent", "0"] == 2
