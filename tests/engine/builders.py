"""Parts of the engine made by hand: what the reader and the restorer make on a real broker."""

from pipeline.stream.delivery import Delivery
from pipeline.stream.progress import Progress
from pipeline.stream.retry import ParkedKeys
from pipeline.stream.route import Route
from pipeline.stream.state import State
from pipeline.stream.tenure import Tenure, Track

ROUTE = Route(
    stage="lone",
    group="dev.lone",
    source="in",
    input="dev.in",
    retry="dev.retry",
    dead_letter="dev.dead",
    state="dev.state",
)


def a_tenure(
    partition: int = 0,
    *,
    progress: Progress | None = None,
    retry_progress: Progress | None = None,
    parked: ParkedKeys | None = None,
    state: State | None = None,
    epoch: int = 1,
) -> Tenure:
    return Tenure(
        ROUTE,
        partition,
        epoch,
        progress={ROUTE.input: progress or Progress(0), ROUTE.retry: retry_progress or Progress(0)},
        parked=parked or ParkedKeys(),
        state=state or State(1_000),
    )


def a_delivery(
    track: Track | None = None,
    offset: int = 0,
    *,
    cover: int | None = None,
    key: bytes | None = None,
    value: bytes | None = b"value",
    headers: tuple[tuple[str, bytes], ...] = (),
    window=None,
) -> Delivery:
    """As the reader makes it: the counters of its track know of it."""
    track = track or a_tenure().input
    cover = offset if cover is None else cover
    delivery = Delivery(window, track, cover, offset, 1_000 + offset, key, value, headers)
    track.fed += 1
    track.fed_bytes += delivery.size
    track.next_offset = max(track.next_offset, offset + 1)
    return delivery


def read_on(track: Track, offsets: list[int]) -> list[tuple[int, int]]:
    """(cover, offset) of what a reader would hand over of a log of these offsets, from the track's progress on."""
    read = []
    cover = track.next_offset
    for offset in offsets:
        if offset < cover:
            continue
        if not track.restored.is_done(offset):
            read.append((cover, offset))
        cover = offset + 1
    track.next_offset = cover
    return read
