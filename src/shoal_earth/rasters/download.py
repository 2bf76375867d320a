"""Downloads that can be trusted: whole and checked or not there at all, several at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from shoal.errors import ShoalError
from shoal_earth.rasters.output import write_error
from shoal_earth.rasters.parts import Download, FetchError, Part
from shoal_earth.rasters.transfer import Access, transfer

__all__ = ["Access", "Download", "FetchError", "download", "download_all"]


def download_all(files: Sequence[Download], access: Access) -> dict[str, int]:
    """Fetch files, a few at once. What is there already and of the right size is not fetched again.

    Returns:
        How many files were ``fetched``, how many were ``there``, and the ``bytes`` received.

    Raises:
        FetchError: one or more could not be fetched; the others were.
        WriteError: the disk is full.
    """
    stop = threading.Event()
    counts = {"fetched": 0, "there": 0, "bytes": 0}
    errors: list[ShoalError] = []
    with ThreadPoolExecutor(max_workers=max(1, access.parallel)) as pool:
        futures = [pool.submit(download, file, access, stop) for file in files]
        try:
            for future in futures:
                try:
                    received = future.result()
                except FetchError as error:
                    errors.append(error)
                else:
                    counts["there" if received is None else "fetched"] += 1
                    counts["bytes"] += received or 0
        except BaseException:  # interrupted, or the disk is full: what is under way ends at its next bytes
            stop.set()
            for future in futures:
                future.cancel()
            raise
    if len(errors) > 1:
        listed = "\n".join(f"  {error.message}" for error in errors[:5])
        more = f"\n  and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise FetchError(
            f"{len(errors)} of {len(files)} files could not be fetched:\n{listed}{more}", hint=errors[0].hint
        )
    if errors:
        raise errors[0]
    return counts


def download(file: Download, access: Access, stop: threading.Event | None = None) -> int | None:
    """Fetch one file. What an earlier attempt (or run) got is kept beside it, hidden, and continued.

    Returns:
        Bytes received; None if the file was there already.

    Raises:
        FetchError: it cannot be had, or is not what the catalogue promises.
        WriteError: the disk is full.
    """
    if file.there():
        return None
    part, halt = Part(file), stop or threading.Event()
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        with part.alone(halt):
            if file.there():  # another process was quicker
                return None
            received = transfer(part, access, halt)
            for second in (False, True):
                wrong = part.wrong_checksum()
                if wrong is None:
                    break
                # Pieces of two versions may have met: once more from the start.
                part.restart()
                if second:
                    raise FetchError(
                        f"{file.url}: {wrong}", hint="The catalogue or the file is wrong: tell its publisher."
                    )
                received += transfer(part, access, halt)
            part.publish()
    except OSError as error:
        part.remove()
        raise write_error(file.path, error) from None
    return received
