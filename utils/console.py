"""What a person sees while a run goes on: messages and progress on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Advance(Protocol):
    """Tells a progress display how far the work is."""

    def __call__(self, completed: float, text: str = "") -> None:
        """``completed`` of the total is done; ``text`` is shown beside it."""


class _Stderr(RichConsole):
    """Rich's console, but that a reader that has gone ends the messages and not the program."""

    def on_broken_pipe(self) -> None:
        """Say nothing more."""
        self.quiet = True


class Console:
    """Messages by verbosity: -1 quiet (errors and warnings), 0 normal, 1 verbose."""

    def __init__(self, verbosity: int = 0, plain_interval: float = 15.0) -> None:
        self._rich = _Stderr(stderr=True, highlight=False, soft_wrap=True)
        self._verbosity = verbosity
        self._plain_interval = plain_interval

    def info(self, message: str) -> None:
        """Say something that most people want to know."""
        if self._verbosity >= 0:
            self._say(message)

    def detail(self, message: str) -> None:
        """Say something for -v."""
        if self._verbosity >= 1:
            self._say(message, style="dim")

    def warn(self, message: str) -> None:
        """Say what went wrong without ending the run."""
        self._say(f"warning: {message}", style="yellow")

    def error(self, message: str) -> None:
        """Say why the run ended."""
        self._say(message, style="red")

    def _say(self, message: str, style: str | None = None) -> None:
        with suppress(OSError):  # a full disk, say: what a run has computed is worth more
            self._rich.print(message, markup=False, style=style)

    @contextmanager
    def progress(self, title: str, total: float, completed: float = 0) -> Iterator[Advance]:
        """A live bar with ETA on a terminal; elsewhere a plain line now and then."""
        if self._verbosity < 0:
            yield lambda completed, text="": None
        elif self._rich.is_terminal:
            with self._bar() as bar:
                task = bar.add_task(title, total=total, text="")
                bar.update(task, completed=completed)
                yield lambda completed, text="": bar.update(task, completed=completed, text=text)
        else:
            yield self._plain(title, total, completed)

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._rich,
            refresh_per_second=4,
        )

    def _plain(self, title: str, total: float, start: float) -> Advance:
        begin = last = time.monotonic()
        first: tuple[float, float] | None = None  # when, and how far

        def advance(completed: float, text: str = "") -> None:
            nonlocal first, last
            now = time.monotonic()
            if first is None and completed > start:  # before it lies what is done once: compiling
                first = now, completed
            if now - last < self._plain_interval and completed < total:
                return
            last = now
            since, done = first or (now, completed)
            rate = (completed - done) / max(now - since, 1e-9)
            eta = duration_text((total - completed) / rate) if rate > 0 else "?"
            elapsed = duration_text(now - begin)
            line = f"{title} {completed:g}/{total:g}  elapsed {elapsed}  ETA {eta}  {text}"
            self._say(line.rstrip())

        return advance


def duration_text(seconds: float) -> str:
    """``0:05:10``."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
