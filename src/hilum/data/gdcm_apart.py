"""GDCM in a process of its own, which it may take down.

GDCM decompresses what nothing else here does: lossless JPEG, JPEG of 12 bits, JPEG-LS. On some damaged files it ends
its process, by a C++ exception that nobody catches or a read beyond its memory, and an ingest or a server's worker
would end with it. So it runs apart: one child, started with the first such file, fed through pipes, and started anew
after a file that ended it. It ends when its parent does.

Both ways a message is its length, 8 bytes big-endian, and that many bytes: a DICOM file to the child, the array as .npy
back; nothing where the file cannot be decoded.
"""

import atexit
import io
import os
import resource
import select
import struct
import subprocess
import sys
import threading
import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.errors import ImageError

SECONDS: Final = 60.0  # for one file, the child's start included; the largest radiographs take three
MEMORY: Final = 6 * 2**30  # bytes of address space; 50 million pixels of 16 bits are held a few times over
LENGTH: Final = struct.Struct("!Q")

_lock = threading.Lock()
_child: "subprocess.Popen[bytes] | None" = None


def pixels(content: bytes) -> NDArray[Any]:
    """The stored values of a compressed DICOM file, as pydicom.pixels.pixel_array gives them.

    Raises:
        ImageError: `corrupt`: the file cannot be decoded, or GDCM did not survive it.
    """
    with _lock:
        child = _started()
        try:
            answer = _ask(child, content)
        except (OSError, EOFError) as error:
            close()
            raise ImageError(
                "the compressed pixels of the DICOM file are damaged: they ended their decoder", "corrupt"
            ) from error
    if not answer:
        raise ImageError("the compressed pixels of the DICOM file are damaged and cannot be decoded", "corrupt")
    found: NDArray[Any] = np.load(io.BytesIO(answer), allow_pickle=False)
    return found


def close() -> None:
    """End the child, if there is one."""
    global _child
    if _child is not None:
        _child.kill()
        _child.communicate()
        _child = None


def _started() -> "subprocess.Popen[bytes]":
    global _child
    if _child is None or _child.poll() is not None:
        close()
        _child = subprocess.Popen(
            [sys.executable, "-m", "hilum.data.gdcm_apart"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # GDCM's lines quote files
        )
        atexit.register(close)
    return _child


def _ask(child: "subprocess.Popen[bytes]", content: bytes) -> bytes:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(LENGTH.pack(len(content)))
    child.stdin.write(content)
    child.stdin.flush()
    until = time.monotonic() + SECONDS
    (length,) = LENGTH.unpack(_exactly(child.stdout.fileno(), LENGTH.size, until))
    return _exactly(child.stdout.fileno(), length, until)


def _exactly(pipe: int, length: int, until: float) -> bytes:
    pieces = []
    while length:
        if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TimeoutError("the decoder did not answer in time")
        piece = os.read(pipe, min(length, 1 << 20))
        if not piece:
            raise EOFError("the decoder ended")
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _serve() -> None:
    """The child: decode what comes until nothing more does."""
    import warnings

    import pydicom
    from pydicom.pixels import pixel_array

    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the patient's image
    come, go = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what GDCM prints must not come between the answers
    while len(head := come.read(LENGTH.size)) == LENGTH.size:
        content = come.read(LENGTH.unpack(head)[0])
        stream = io.BytesIO()
        try:
            header = pydicom.dcmread(io.BytesIO(content), force=True)
            np.save(stream, pixel_array(header, decoding_plugin="gdcm"), allow_pickle=False)
        except Exception:  # the parent says it in words of its own
            stream = io.BytesIO()
        go.write(LENGTH.pack(stream.tell()))
        go.write(stream.getbuffer())
        go.flush()


if __name__ == "__main__":
    _serve()
