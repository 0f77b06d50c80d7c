"""What tests of data sets in files share: real files, a loopback server, checksums."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from utils.data.base import Data, DataError, datasets
from utils.data.files import FileDataset
from utils.data.own import OwnData

# float32 keeps 24 bits: half a unit of the last place of a number below 1 is 2⁻²⁵
NEAR = {"rtol": 0, "atol": 2**-24}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def load_real(name: str, **options) -> Data:
    """Load with files from $VI_DATA, or skip."""
    factory = datasets[name].factory
    if name == OwnData.name:
        return factory(path=_own_file(), **options).load()
    if not issubclass(factory, FileDataset):
        return factory(**options).load()
    if not os.environ.get("VI_DATA"):
        pytest.skip(f"{name} needs its files: set VI_DATA to the folder that holds them")
    try:
        return factory(**options).load()
    except DataError as error:
        if "not found" not in str(error):
            raise
        pytest.skip(f"VI_DATA does not hold {name}")


@functools.cache
def _own_file() -> str:
    """A file of somebody's own: 20 grey images in [0, 1)."""
    path = Path(tempfile.mkdtemp(), "own.npy")
    np.save(path, uniform(0, (20, 3, 4)))
    return str(path)


def uniform(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniforms from the low 24 bits of NumPy's Mersenne twister, whose stream is frozen."""
    words = np.random.RandomState(seed).randint(0, 2**32, size=shape, dtype=np.uint32)
    return (words & 0xFFFFFF).astype(np.float32) / 2**24


@contextmanager
def serving(handler) -> Iterator[str]:
    """A loopback server; yields its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Files(SimpleHTTPRequestHandler):
    """Serves a folder in silence."""

    def log_message(self, *args):
        pass
