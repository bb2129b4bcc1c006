"""The proof harness: judges the engine from outside, by what lies in Kafka before and after.

Nothing in this package imports `pipeline` or `agents` (a test reads the sources to make sure): a checker that shared
the engine's code would share its mistakes. Tests beside it may use `pipeline.broker` to start a broker, no more.

    ledger            what lies in the topics, read to their settled end
    topology          which topics a proof speaks about, and how one leads to the next
    conservation      published events against topics: lost, doubled, reordered, contradicting, damaged
    audits            reads `duplicate` out of the audit topic
    load              a steady publisher that knows what was acknowledged
    workers           processes that are killed, paused, stopped, and always cleaned up
    tcp_proxy         the network between a worker and the broker, cut at a chosen request
    brokers           a real broker behind that proxy (the only module here that may use pipeline.broker)
    reference_worker  a small right worker, and broken ones, to prove the harness itself
"""
