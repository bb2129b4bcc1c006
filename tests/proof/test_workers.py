"""Worker processes do what they are told, and none is left behind."""

import sys
import time
from pathlib import Path

import pytest

from tests.proof.workers import Crew, wait_until

ENDLESS = "print('up', flush=True)\nwhile True: time.sleep(1)"
STUBBORN = f"import signal, time; signal.signal(signal.SIGTERM, lambda *_: None); {ENDLESS}"
POLITE = f"import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); {ENDLESS}"
COUNTING = "import time, itertools\nfor n in itertools.count(): print(n, flush=True); time.sleep(0.01)"
PARENT = f"import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, 'born', flush=True); {ENDLESS}"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture
def crew(tmp_path):
    with Crew(tmp_path) as made:
        yield made


def gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_a_killed_worker_is_gone_on_return(crew):
    worker = crew.start(python(POLITE))
    worker.wait_said("up", 10)
    worker.kill()
    assert worker.returncode == -9
    assert gone(worker.pid)


def test_a_paused_worker_does_nothing_until_it_is_resumed(crew):
    worker = crew.start(python(COUNTING))
    worker.wait_said("5\n", 10)
    worker.pause()
    wait_until(lambda: "\nState:\tT" in Path(f"/proc/{worker.pid}/status").read_text(), 5, "it is stopped")
    before = worker.said()
    time.sleep(0.2)
    assert worker.said() == before
    worker.resume()
    wait_until(lambda: len(worker.said()) > len(before), 5, "it goes on")


def test_the_time_to_an_end_is_measured(crew):
    worker = crew.start(python(POLITE))
    worker.wait_said("up", 10)
    assert worker.terminate(5) < 5
    assert worker.returncode == 3


def test_a_worker_that_does_not_end_is_an_error_with_its_last_words(crew):
    worker = crew.start(python(STUBBORN))
    worker.wait_said("up", 10)
    with pytest.raises(AssertionError, match=r"still runs 0 s after SIGTERM\. Its last words: up"):
        worker.terminate(0.3)


def test_waiting_for_words_of_a_worker_that_ended_fails_at_once(crew):
    worker = crew.start(python("print('last words'); raise SystemExit(4)"))
    with pytest.raises(AssertionError, match="ended with 4 and never said 'up': last words"):
        worker.wait_said("up", 30)


def test_words_are_waited_for_beyond_those_already_heard(crew):
    worker = crew.start(python(COUNTING))
    heard = worker.wait_said("1\n", 10)
    assert worker.wait_said("1\n", 10, after=heard) > heard


def test_a_restarted_worker_speaks_for_itself(crew):
    first = crew.start(python("print('first')"))
    wait_until(lambda: not first.alive, 10, "it ended")
    second = crew.start(python("print('second')"))
    wait_until(lambda: not second.alive, 10, "it ended")
    assert second.said() == "second\n"
    assert second.log.read_text() == "first\nsecond\n"


def test_environment_is_handed_over(crew):
    worker = crew.start(python("import os; print(os.environ['LAB'])"), env={"LAB": "here"})
    worker.wait_said("here", 10)


@pytest.mark.parametrize("end", ["running", "killed", "paused"])
def test_leaving_the_block_ends_workers_and_their_children(tmp_path, end):
    with Crew(tmp_path) as crew:
        worker = crew.start(python(PARENT))
        worker.wait_said("born", 10)
        child = int(worker.said().split()[0])
        assert not gone(child)
        if end == "killed":
            worker.kill()
        if end == "paused":
            worker.pause()
    assert gone(worker.pid)
    wait_until(lambda: gone(child), 5, "the child is gone")


def test_waiting_gives_back_what_came_true():
    results = iter([None, 0, "here"])
    assert wait_until(lambda: next(results), 5, "something") == "here"


def test_waiting_names_what_did_not_come_true():
    with pytest.raises(AssertionError, match=r"not within 0\.1 s: the moon"):
        wait_until(lambda: False, 0.1, "the moon")
