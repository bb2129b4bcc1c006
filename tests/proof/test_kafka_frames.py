"""Requests and answers are found in the stream however its chunks fall."""

import struct

import pytest

from tests.proof.kafka_frames import END_TXN, PRODUCE, AnswerFrames, Request, RequestFrames


def request(api_key: int, correlation: int, body: bytes = b"") -> bytes:
    inner = struct.pack(">hhi", api_key, 3, correlation) + body
    return struct.pack(">i", len(inner)) + inner


def answer(correlation: int, body: bytes = b"") -> bytes:
    inner = struct.pack(">i", correlation) + body
    return struct.pack(">i", len(inner)) + inner


REQUESTS = [request(PRODUCE, 1, b"x" * 300), request(END_TXN, 2), request(18, 3, b"y")]
ANSWERS = [answer(1, b"z" * 300), answer(2), answer(3, b"y")]


@pytest.mark.parametrize("size", [1, 2, 7, 13, 10_000])
def test_requests_come_out_whole_whatever_the_chunks(size):
    stream = b"".join(REQUESTS)
    frames = RequestFrames()
    found = [out for at in range(0, len(stream), size) for out in frames.feed(stream[at : at + size])]
    assert found == [
        (Request(PRODUCE, 3, 1), REQUESTS[0]),
        (Request(END_TXN, 3, 2), REQUESTS[1]),
        (Request(18, 3, 3), REQUESTS[2]),
    ]


@pytest.mark.parametrize("size", [1, 2, 7, 13, 10_000])
def test_answers_come_out_whole_whatever_the_chunks(size):
    stream = b"".join(ANSWERS)
    frames = AnswerFrames()
    found = [out for at in range(0, len(stream), size) for out in frames.feed(stream[at : at + size])]
    assert found == [(1, ANSWERS[0]), (2, ANSWERS[1]), (3, ANSWERS[2])]


def test_half_a_request_is_held_back():
    assert list(RequestFrames().feed(REQUESTS[0][:-1])) == []
