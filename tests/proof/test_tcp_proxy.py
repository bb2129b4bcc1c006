"""The proxy in front of a server that answers every request with its own bytes."""

import contextlib
import socket
import struct
import threading
import time

import pytest

from tests.proof.kafka_frames import END_TXN, PRODUCE
from tests.proof.tcp_proxy import Proxy
from tests.proof.test_kafka_frames import answer, request


class Server:
    """Takes requests, remembers them, and answers each with its correlation id."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.got: list[int] = []
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(link)
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        try:
            while head := link.recv(4, socket.MSG_WAITALL):
                body = link.recv(struct.unpack(">i", head)[0], socket.MSG_WAITALL)
                api_key, _, correlation = struct.unpack_from(">hhi", body)
                self.got.append(api_key)
                link.sendall(answer(correlation, body[8:]))
        except OSError:
            pass

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed before
            # A socket that is only closed goes on listening while a thread accepts on it.
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for link in self._open:
            link.close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def proxy(server):
    with Proxy(server.address) as made:
        yield made


class Client:
    def __init__(self, proxy: Proxy) -> None:
        self.link = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        self._correlation = 0

    def send(self, api_key: int, body: bytes = b"body") -> bytes:
        """Sends a request; returns the answer that is due."""
        self._correlation += 1
        self.link.sendall(request(api_key, self._correlation, body))
        return answer(self._correlation, body)

    def ask(self, api_key: int, body: bytes = b"body") -> bool:
        return self.hears(self.send(api_key, body))

    def hears(self, due: bytes) -> bool:
        heard = b""
        while len(heard) < len(due) and (chunk := self.link.recv(len(due) - len(heard))):
            heard += chunk
        return heard == due

    def silent(self) -> bool:
        self.link.settimeout(0.3)
        try:
            return self.link.recv(1) is None
        except TimeoutError:
            return True
        finally:
            self.link.settimeout(5)

    def reset(self) -> bool:
        try:
            return self.link.recv(1) is None
        except ConnectionResetError:
            return True


def test_bytes_pass_both_ways(proxy):
    client = Client(proxy)
    assert client.ask(PRODUCE, b"x" * 3_000_000)
    assert client.ask(END_TXN)
    assert proxy.seen() == {PRODUCE: 1, END_TXN: 1}


def test_a_cut_resets_connections_and_refuses_new_ones_until_it_may_pass(proxy):
    client = Client(proxy)
    assert client.ask(PRODUCE)
    proxy.cut()
    assert client.reset()
    with pytest.raises(ConnectionRefusedError):
        Client(proxy)
    proxy.let_pass()
    assert Client(proxy).ask(PRODUCE)


def test_a_stall_keeps_connections_and_moves_nothing(proxy, server):
    client = Client(proxy)
    assert client.ask(PRODUCE)
    proxy.stall()
    due = client.send(END_TXN)
    late = Client(proxy)  # accepted
    late_due = late.send(END_TXN)
    assert client.silent()
    assert late.silent()
    assert server.got == [PRODUCE]
    proxy.let_pass()
    assert client.hears(due)
    assert late.hears(late_due)


def test_a_delay_holds_bytes_back_each_way(proxy):
    client = Client(proxy)
    assert client.ask(PRODUCE)
    proxy.delay(150)
    began = time.monotonic()
    assert client.ask(PRODUCE)
    assert time.monotonic() - began >= 0.3


def test_a_cut_before_a_request_keeps_it_from_the_broker(proxy, server):
    client = Client(proxy)
    proxy.cut_on(END_TXN, "before")
    assert client.ask(PRODUCE)
    client.send(END_TXN)
    assert client.reset()
    assert proxy.wait_cut(5)["api_key"] == END_TXN
    assert server.got == [PRODUCE]
    with pytest.raises(ConnectionRefusedError):
        Client(proxy)


def test_a_cut_after_a_request_keeps_only_its_answer_from_the_client(proxy, server):
    client = Client(proxy)
    proxy.cut_on(END_TXN, "after")
    assert client.ask(PRODUCE)
    client.send(END_TXN)
    assert client.reset()
    assert proxy.wait_cut(5) == {"struck": True, "api_key": END_TXN, "version": 3, "correlation": 2}
    assert server.got == [PRODUCE, END_TXN]


def test_a_cut_strikes_the_other_connections_too(proxy):
    client, bystander = Client(proxy), Client(proxy)
    assert bystander.ask(PRODUCE)
    proxy.cut_on(END_TXN, "before")
    client.send(END_TXN)
    assert bystander.reset()


def test_a_cut_lets_as_many_requests_pass_as_it_was_told(proxy, server):
    client = Client(proxy)
    proxy.cut_on(END_TXN, "before", skip=2)
    assert client.ask(END_TXN)
    assert client.ask(END_TXN)
    client.send(END_TXN)
    assert client.reset()
    assert server.got == [END_TXN, END_TXN]


def test_a_trap_that_did_not_close_is_gone_when_everything_may_pass(proxy):
    client = Client(proxy)
    proxy.cut_on(END_TXN, "before")
    proxy.let_pass()
    assert client.ask(END_TXN)


def test_a_broker_that_is_away_resets_the_client(proxy, server):
    server.close()
    assert Client(proxy).reset()


def test_the_process_ends_with_its_owner(server):
    proxy = Proxy(server.address)
    assert proxy._process.poll() is None
    proxy.close()
    assert proxy._process.poll() == 0
