"""What a person sees who starts a program before everything is in place: one line, no traceback.

Only the standard library is imported here, and nothing of it that older Pythons lack.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (3, 11)
TRY_AGAIN, CTRL_C = 75, 130


def stop(number: int, frame: object) -> NoReturn:
    """Handle a signal that comes while there is nothing to save: one line, and exit code 75."""
    name = "--max-time" if number == signal.SIGALRM else signal.Signals(number).name
    _say(f"stopped by {name}; the same command goes on\n")
    sys.exit(TRY_AGAIN)


def until_ctrl_c(main: Callable[[], int]) -> int:
    """What ``main`` returns; 130 and one line where Ctrl-C comes while it is at no run."""
    try:
        return main()
    except KeyboardInterrupt:
        _say("stopped\n")
        return CTRL_C


def _say(text: str) -> None:
    if sys.stderr is not None:  # closed by who began the process
        with suppress(OSError, RuntimeError):  # nobody reads it, or another message is at hand
            sys.stderr.write(text)


@contextmanager
def importing(program: str, debug: bool = False) -> Iterator[None]:
    """Around the imports of a program: ends it with code 1 and one line when one fails."""
    if sys.version_info < NEEDED:
        found = ".".join(map(str, sys.version_info[:2]))
        sys.exit(f"{program}: Python 3.11 or newer is needed, and this is {found}; {_REMEDY}")
    try:
        yield
    except ModuleNotFoundError as error:
        if debug:
            raise
        missing = error.name or str(error)
        if (ROOT / missing.partition(".")[0]).is_dir():  # one of our own
            sys.exit(f"{program}: {describe_failure(error)}")
        sys.exit(f"{program}: {missing} is not installed for {sys.executable}; {_REMEDY}")
    except Exception as error:
        if debug:
            raise
        sys.exit(f"{program}: {describe_failure(error)}")


_REMEDY = "`make demo` sets everything up, for .venv/bin/python"


def describe_failure(error: BaseException, folder: Path = ROOT) -> str:
    """Where in ``folder`` an import failed, and why: ``models/mine.py:3: ...``."""
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename)}:{error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
    inside = [frame for frame in own if ".venv" not in frame.filename] or frames
    return f"{_shown(inside[-1].filename)}:{inside[-1].lineno}: {reason}"


def _shown(path: str) -> str:
    return os.path.relpath(path)
