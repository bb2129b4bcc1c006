"""Processes are known by their mark, not by their pid alone."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.broker import processes
from pipeline.broker.guardian import Guardian
from pipeline.broker.processes import Process, free_ports, port_is_free, spawn

ROOT = Path(processes.__file__).parents[2]
STUBBORN = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"


@pytest.fixture
def start(tmp_path):
    """start(script): a marked Python program that waits; killed after the test."""
    started = []

    def run(script="import signal; signal.pause()"):
        mark = f"--mark={tmp_path}/{len(started)}"
        argv = [sys.executable, "-c", script, mark]
        started.append(spawn(argv, mark, tmp_path / "output", os.environ))
        return started[-1]

    yield run
    for process in started:
        process.kill()


def test_a_started_process_is_alive_at_once_and_in_a_session_of_its_own(start):
    for _ in range(20):
        process = start()
        assert process.alive()
        assert os.getsid(process.pid) == process.pid


def test_a_pid_that_another_program_has_now_is_not_alive_and_gets_no_signal(start):
    other = start()
    stale = Process(other.pid, "--mark=somebody else")

    assert not stale.alive()
    assert not stale.send(signal.SIGKILL)
    assert not stale.stop(grace_s=5)
    assert not stale.kill()
    assert other.alive()


def test_a_mark_that_is_only_part_of_an_argument_does_not_match(start):
    process = start()

    assert not Process(process.pid, process.mark[:-1]).alive()


def test_stop_ends_a_process_and_a_second_stop_finds_nothing(start):
    process = start()

    assert process.stop(grace_s=10)
    assert not process.alive()
    assert not process.stop(grace_s=10)


def test_stop_kills_what_does_not_end_in_time(start, tmp_path):
    process = start(STUBBORN)
    while not (tmp_path / "output").read_text():
        pass

    assert process.stop(grace_s=0.1)
    assert not process.alive()


def test_stop_ends_a_paused_process_in_an_orderly_way(start, tmp_path):
    says_goodbye = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('goodbye', flush=True), sys.exit()))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()"
    )
    process = start(says_goodbye)
    output = tmp_path / "output"
    while "ready" not in output.read_text():
        pass
    process.send(signal.SIGSTOP)

    assert process.stop(grace_s=30)
    assert "goodbye" in output.read_text()


def test_waiting_ends_with_the_bound_when_the_process_does_not(start):
    assert not start().wait(0.05)


def test_a_port_that_someone_listens_on_is_not_free():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        assert not port_is_free(server.getsockname()[1])


def test_a_port_taken_on_all_addresses_is_not_free():
    with closing(socket.create_server(("0.0.0.0", 0))) as server:
        assert not port_is_free(server.getsockname()[1])


def test_free_ports_are_free_and_differ():
    ports = free_ports(9)

    assert len(set(ports)) == 9
    assert all(port_is_free(port) for port in ports)


def test_a_guardian_ends_what_it_watches_and_nothing_else(start):
    watched, other = start(), start()

    with Guardian() as guardian:
        guardian.watch(watched)
        guardian.watch(Process(other.pid, "--mark=of a process that was here before"))
        assert watched.alive()

    assert not watched.alive()
    assert other.alive()


def test_a_guardian_outlives_a_killed_starter_and_does_its_work(tmp_path):
    script = """if True:
        import os, signal, sys
        from pathlib import Path
        from pipeline.broker.guardian import Guardian
        from pipeline.broker.processes import spawn
        mark = "--mark=" + sys.argv[1]
        argv = [sys.executable, "-c", "import signal; signal.pause()", mark]
        process = spawn(argv, mark, Path(sys.argv[1]), os.environ)
        Guardian().watch(process)
        print(process.pid, flush=True)
        signal.pause()
    """
    output = str(tmp_path / "output")
    starter = subprocess.Popen([sys.executable, "-c", script, output], cwd=ROOT, stdout=subprocess.PIPE)
    process = Process(int(starter.stdout.readline()), f"--mark={output}")
    assert process.alive()

    starter.kill()
    starter.wait()
    starter.stdout.close()

    assert process.wait(10)
