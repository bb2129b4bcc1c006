"""Lockgate beside its peers on one broker, in one run: `python -m tests.bench --help`.

How a number comes about:

* **Throughput.** The input topic is filled first. A system starts in a process of its own, and an independent
  `read_committed` consumer watches the output topic. The window opens at the first read after a tenth of the
  records (or two seconds) has come out, so start-up and warm-up are outside, and closes with the last record
  or after `window_s`; that of the pipeline opens at the first exit, because its stages run ahead of each other.
  `events_per_s` is the records read inside the window over its length: slow systems are measured on fewer records,
  in bounded time.
* **CPU.** `cpu_us_per_event` is user + system time of the system's process over the same window, from
  /proc; the whole life of the process, start-up included, is in the details (from `os.wait4`).
  `broker_cpu_share` is the broker's CPU time over (window x cores).
* **Latency.** A second run on empty topics, at the scenario's rate or at half of what the system can do,
  whichever is lower: from just before `produce()` to the return of the consumer's `poll()`.
  The row `direct` is the floor: loader to consumer, nothing between.
* **Correctness.** Every record carries its key and its number within the key. For each key the output must be
  0, 1, 2, ... without a gap: gaps, repeats and reorderings are counted and printed. After the window the system is
  stopped, and what it wrote until then is read to the end and checked too.
* **Noise.** `others` in the table is the share of the machine that neither the system, nor the broker, nor the watcher
  used. Above a tenth or so, rates say more about the neighbours than about the system. `--repeats` goes round by round.
* **Where the time goes.** Lockgate runs once more under a profiler (`tests.bench.profiling`), into bench-logs/.

Records are 500 bytes, uncompressed; every key has the same number of them, in an order shuffled once (seeded);
all systems read the same input topic, on a broker that has been warmed up. Loader and watcher use the same cores:
compare rows, not machines.
"""
