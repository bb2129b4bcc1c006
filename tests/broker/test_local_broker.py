"""The local broker: started, found again, stopped, without ever touching what is not ours."""

import time

from confluent_kafka import Producer


def test_a_transaction_commits_within_seconds_of_a_fresh_start(kafka, create_topics, environment):
    [topic] = create_topics(f"{environment}.first")
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": environment})
    started = time.monotonic()

    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(topic, b"value")
    producer.commit_transaction(10)

    assert time.monotonic() - started < 10
