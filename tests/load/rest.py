"""One connection to a REST API that stays open: a request, its answer, the next request."""

import asyncio


class RestClient:
    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._headers = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\nAccept: application/json\r\n\r\n"

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)

    async def get(self, path: str) -> bytes:
        """The body. Raises OSError, ValueError when it is not answered with 200."""
        self._writer.write(f"GET /api/v1/{path} HTTP/1.1\r\n{self._headers}".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await self._reader.readexactly(length)
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise ValueError(f"{path} was answered with {body[:200]!r}")
        return body

    def close(self) -> None:
        self._writer.close()
