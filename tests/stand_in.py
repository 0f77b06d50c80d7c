"""A stand-in for Python, and for make: what scripts and blocks of documents tell them to do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

BODY = """#!/bin/sh
for w in "$(basename "$0")" "$@"; do printf "%s\\t" "$w"; done >>{log}
echo >>{log}
case "$*" in *"{of}"*) exit {code};; esac
"""


def told(
    folder: Path, command: Sequence[str | Path], *, code: int = 0, of: str = "", **variables: str
) -> list[list[str]]:
    """The commands of ``python`` and ``make`` that ``command`` begins, each by its words.

    Those that contain ``of`` end with ``code``, and ``command`` must do so, too. ``folder`` takes
    the stand-ins.
    """
    log = folder / "told"
    log.write_text("")
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("python", "make"):
        (programs / name).write_text(BODY.format(log=log, of=of, code=code))
        (programs / name).chmod(0o755)
    environment = {name: os.environ[name] for name in ("HOME",) if name in os.environ} | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        **variables,
    }
    done = subprocess.run(command, env=environment, check=False)
    assert done.returncode == code
    return [line.split("\t")[:-1] for line in log.read_text().splitlines()]
