"""
A TCP forwarder between the chat and one of its services, on which a network can go wrong.

It is whole, or one of: `refuse` (nobody listens, and who was connected is cut off), `hold` (it takes bytes and passes
none on), `lose_answers` (questions get through, answers vanish), `slow_down` (answers come late). What a broken line
had under way is lost when it is mended, with the connections it was on.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from enum import Enum


class State(Enum):
    WHOLE = "whole"
    REFUSING = "refusing"
    HOLDING = "holding"
    LOSING_ANSWERS = "losing answers"


class Line:
    def __init__(self, port_behind: Callable[[], int]) -> None:
        self._port_behind = port_behind
        self._state = State.WHOLE
        self._delay_s = 0.0
        self._mended = asyncio.Event()
        self._mended.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._mended.set()
        self._stop_listening()
        self.abort()
        await asyncio.gather(*self._calls, return_exceptions=True)

    # --- going wrong -------------------------------------------------------------------------------------------------
    def refuse(self) -> None:
        self._break(State.REFUSING)
        self._stop_listening()
        self.abort()

    def hold(self) -> None:
        self._break(State.HOLDING)

    def lose_answers(self) -> None:
        self._break(State.LOSING_ANSWERS)

    def slow_down(self, seconds: float) -> None:
        self._delay_s = seconds

    async def mend(self) -> None:
        self._delay_s = 0.0
        if self._state is not State.WHOLE:
            self._state = State.WHOLE
            self.abort()
            self._mended.set()
        if self._server is None:
            await self.open()

    def abort(self) -> None:
        """Cut every connection; new ones are taken."""
        for end in list(self._ends):
            end.transport.abort()

    def _break(self, state: State) -> None:
        self._state = state
        self._mended.clear()

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    # --- forwarding --------------------------------------------------------------------------------------------------
    def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.ensure_future(self._connect(reader, writer))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port_behind())
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._ends |= ends
        questions, answers = self._forward(reader, far_writer), self._forward(far_reader, writer, answers=True)
        await asyncio.gather(questions, answers)
        self._ends -= ends

    async def _forward(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                if answers and self._delay_s:
                    await asyncio.sleep(self._delay_s)
                if self._state is State.HOLDING:
                    await self._mended.wait()
                if answers and self._state is State.LOSING_ANSWERS:
                    continue
                target.write(data)
                await target.drain()
        target.transport.abort() if self._state is not State.WHOLE else target.close()
