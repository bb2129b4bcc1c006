"""Which finished records of one track have room in the metadata of the next commit."""

from pipeline.stream.delivery import Delivery
from pipeline.stream.progress import Progress


def fitting_prefix(base: Progress, deliveries: list[Delivery], room: int) -> tuple[list[Delivery], Progress]:
    """At most `room` finished deliveries of one track that fit into the metadata, and the progress with them.

    A prefix in the order of finishing, so that no key is overtaken; and then every one that is now the lowest
    offset not done, which nothing can be waiting for. With the lowest one in, there is always room for it.
    """

    def marked(count: int) -> Progress:
        trial = base.copy()
        for delivery in deliveries[:count]:
            trial.mark(delivery.cover, delivery.offset + 1)
        return trial

    low, high = 0, min(room, len(deliveries))
    progress = marked(high)
    if progress.fits():
        return deliveries[:high], progress
    while low < high:
        middle = (low + high + 1) // 2
        if marked(middle).fits():
            low = middle
        else:
            high = middle - 1
    progress = marked(low)
    chosen = deliveries[:low]
    for delivery in sorted(deliveries[low:], key=lambda d: d.offset):
        if delivery.cover > progress.base or len(chosen) == room:
            break
        progress.mark(delivery.cover, delivery.offset + 1)
        chosen.append(delivery)
    return chosen, progress
