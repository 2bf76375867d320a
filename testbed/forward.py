"""Passes connections on: ``python -m testbed.forward 10.96.0.1:443 127.0.0.1:20443``.

Pods reach the API server at its service address; so no kube-proxy and no firewall rules are needed for that one service.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

__all__ = ["pipe", "serve"]


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end of one side."""
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def serve(listen: tuple[str, int], target: tuple[str, int]) -> None:
    """Accept connections and pass each on; for ever."""

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(*target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    async with await asyncio.start_server(passed, *listen) as server:
        await server.serve_forever()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    asyncio.run(serve(_address(sys.argv[1]), _address(sys.argv[2])))
