"""The network between a worker and a broker, in a process of its own, broken on command.

    with Proxy(target="127.0.0.1:29092") as proxy:   # the broker advertises proxy.port
        proxy.cut()                  # every connection reset, new ones refused
        proxy.let_pass()
        proxy.stall()                # connections stay and are accepted, no byte moves
        proxy.delay(250)             # every byte 250 ms later, each way
        proxy.cut_on(END_TXN, "before")   # the broker never sees the request: it did not happen
        proxy.cut_on(END_TXN, "after")    # the broker has answered, the client never hears it: it did happen
        proxy.wait_cut(bound_s=10)

A cut stays until `let_pass`. The process reads one JSON command a line, answers each with a
line, and ends when its input does.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from tests.proof.kafka_frames import AnswerFrames, Request, RequestFrames

When: TypeAlias = Literal["before", "after"]

_CHUNK = 256 * 1024


class Proxy:
    """The side of the test: starts the process and gives it commands. Every command is in force on return."""

    def __init__(self, target: str, port: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.proof.tcp_proxy", "--target", target, "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
            bufsize=1,
        )
        self._answers: Queue[dict[str, Any]] = Queue()
        self._events: Queue[dict[str, Any]] = Queue()
        threading.Thread(target=self._listen, name="proxy-answers", daemon=True).start()
        self.port: int = self._answer()["port"]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def let_pass(self) -> None:
        """Everything flows; ends a cut, a stall, a delay, and a `cut_on` that has not struck."""
        self._command(do="pass")

    def cut(self) -> None:
        """Resets every connection (RST) and refuses new ones."""
        self._command(do="cut")

    def stall(self) -> None:
        """Keeps connections and accepts new ones, but moves no byte either way."""
        self._command(do="stall")

    def delay(self, milliseconds: float) -> None:
        """Every byte arrives this much later, in order."""
        self._command(do="delay", ms=milliseconds)

    def cut_on(self, api_key: int, when: When, *, skip: int = 0) -> None:
        """Cuts at the next request of this kind, after letting `skip` of them pass.

        before: the request does not reach the broker. after: the broker has answered it, and the answer does not
        reach the client.
        """
        self._command(do="cut_on", api_key=api_key, when=when, skip=skip)

    def wait_cut(self, bound_s: float) -> dict[str, Any]:
        """Waits until `cut_on` has struck; returns the api key, version and correlation id of the request."""
        try:
            return self._events.get(timeout=bound_s)
        except Empty:
            raise AssertionError(f"no such request within {bound_s} s. Seen: {self.seen()}") from None

    def seen(self) -> Counter[int]:
        """How many requests of each api key came from clients so far."""
        return Counter({int(key): count for key, count in self._command(do="seen")["seen"].items()})

    def close(self) -> None:
        """Ends the process; its connections end with it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _command(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        try:
            return self._answers.get(timeout=15)
        except Empty:
            raise AssertionError(f"the proxy (exit code {self._process.poll()}) does not answer") from None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            (self._events if "struck" in said else self._answers).put(said)


@dataclass(slots=True)
class _Trap:
    api_key: int
    when: When
    skip: int


class _Server:
    """The side of the process. One event loop; nothing in it blocks."""

    def __init__(self, target: str, port: int) -> None:
        host, _, target_port = target.rpartition(":")
        self._target = (host, int(target_port))
        # Bound for as long as we live and never listening: while the other one is closed, the kernel refuses
        # connections to the port, and nobody else can take it.
        self._keeper = _bound(port)
        self.port: int = self._keeper.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._accepted: set[asyncio.Task[None]] = set()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.delay_s = 0.0
        self.trap: _Trap | None = None
        self.seen: Counter[int] = Counter()

    async def command(self, do: str, **details: Any) -> dict[str, Any]:
        match do:
            case "pass":
                self.trap = None
                self.delay_s = 0.0
                self.flowing.set()
                await self.open()
            case "cut":
                self.cut()
            case "stall":
                self.flowing.clear()
                await self.open()
            case "delay":
                self.delay_s = details["ms"] / 1000
            case "cut_on":
                self.trap = _Trap(details["api_key"], details["when"], details["skip"])
            case "seen":
                return {"seen": self.seen}
            case _:
                raise ValueError(f"no such command: {do}")
        return {"done": do}

    async def open(self) -> None:
        if self._server is None:
            listening = _bound(self.port)
            self._server = await asyncio.start_server(self._accept, sock=listening, limit=_CHUNK, backlog=64)

    def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in list(self._links):
            link.reset()

    async def close(self) -> None:
        self.flowing.set()
        self.cut()
        await asyncio.gather(*self._accepted)

    def springs(self, api_key: int) -> When | None:
        """Whether the trap closes on this request, and on which side of it."""
        trap = self.trap
        if trap is None or trap.api_key != api_key:
            return None
        if trap.skip:
            trap.skip -= 1
            return None
        self.trap = None
        return trap.when

    def strike(self, request: Request) -> None:
        self.cut()
        _say({"struck": True, **request._asdict()})

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._accepted.add(task)
        task.add_done_callback(self._accepted.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(*self._target, limit=_CHUNK)
        except OSError:
            _reset(writer)
            return
        link = _Link(self, (reader, writer), there)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


class _Link:
    """One client connection and the one to the broker that belongs to it."""

    def __init__(
        self,
        server: _Server,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        broker: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._server = server
        self._client = client
        self._broker = broker
        self._awaited: Request | None = None
        """The request whose answer must not reach the client."""

    async def run(self) -> None:
        tasks = [asyncio.create_task(self._requests()), asyncio.create_task(self._answers())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for _, writer in (self._client, self._broker):
                writer.close()

    def reset(self) -> None:
        for _, writer in (self._client, self._broker):
            _reset(writer)

    async def _requests(self) -> None:
        frames = RequestFrames()
        async for chunk in self._late(self._client[0]):
            for request, frame in frames.feed(chunk):
                self._server.seen[request.api_key] += 1
                when = self._server.springs(request.api_key)
                if when == "before":
                    self._server.strike(request)
                    return
                if when == "after":
                    self._awaited = request
                self._broker[1].write(frame)
            await self._broker[1].drain()

    async def _answers(self) -> None:
        frames = AnswerFrames()
        async for chunk in self._late(self._broker[0]):
            for correlation, frame in frames.feed(chunk):
                if self._awaited is not None and correlation == self._awaited.correlation:
                    self._server.strike(self._awaited)
                    return
                self._client[1].write(frame)
            await self._client[1].drain()

    async def _late(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """What the reader brings, each chunk not before its delay is over and not during a stall."""
        clock = asyncio.get_running_loop().time
        arrived: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def fill() -> None:
            while True:
                try:
                    chunk = await reader.read(_CHUNK)
                except OSError:
                    chunk = b""
                await arrived.put((clock(), chunk))
                if not chunk:
                    return

        filling = asyncio.create_task(fill())
        try:
            while True:
                at, chunk = await arrived.get()
                pause = at + self._server.delay_s - clock()
                if pause > 0:
                    await asyncio.sleep(pause)
                await self._server.flowing.wait()
                if not chunk:
                    return
                yield chunk
        finally:
            filling.cancel()


def _bound(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.setblocking(False)
    return made


def _reset(writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("socket")
    if peer is not None:
        with contextlib.suppress(OSError):
            # Lingering for no time at all turns the close into a reset.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _say(said: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


async def _serve(target: str, port: int) -> None:
    server = _Server(target, port)
    await server.open()
    _say({"port": server.port})
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        _say(await server.command(**json.loads(line)))
    await server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A proxy in front of a broker, commanded on its input.")
    parser.add_argument("--target", required=True, help="HOST:PORT of the broker's own listener")
    parser.add_argument("--port", type=int, default=0, help="to listen on; 0 for any free one")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.target, arguments.port))


if __name__ == "__main__":
    main()
