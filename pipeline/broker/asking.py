"""Asking a broker whether it is there, without the noise that clients make about refused connections."""

from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient


class Asker:
    """Asks one address again and again; `complaint` is what the client said last when nobody answered."""

    def __init__(self, bootstrap: str, **config: Any) -> None:
        self.complaint = "no answer"
        quiet: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 200,
            "log_level": 0,  # refused connections are what waiting looks like
            "error_cb": self._hear,
        }
        self._admin = AdminClient({**config, **quiet})

    def brokers(self, timeout_s: float, cluster_id: str | None = None) -> frozenset[int]:
        """The ids of the live brokers that the address lists; none when it does not answer in time.

        None either when a cluster other than `cluster_id` answers.
        """
        try:
            cluster = self._admin.list_topics(timeout=timeout_s)
        except KafkaException:
            return frozenset()
        finally:
            self._admin.poll(0)  # hands over what was complained about
        return frozenset(cluster.brokers) if cluster_id in {None, cluster.cluster_id} else frozenset()

    def out_of_sync(self, timeout_s: float, brokers: int) -> str | None:
        """What keeps a cluster of this size from being whole (a partition, a broker); None when it is whole."""
        try:
            cluster = self._admin.list_topics(timeout=timeout_s)
        except KafkaException as error:
            return f"the cluster ({error})"
        if len(cluster.brokers) < brokers:
            return f"the cluster (only brokers {sorted(cluster.brokers)} live)"
        for topic in cluster.topics.values():
            for partition in topic.partitions.values():
                if partition.leader < 0 or set(partition.isrs) != set(partition.replicas):
                    return f"{topic.topic}-{partition.id}"
        return None

    def _hear(self, error: object) -> None:
        self.complaint = str(error)
