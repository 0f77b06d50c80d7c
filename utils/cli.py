"""Command lines: each option as ``-name`` and ``--name``, exact names only, "did you mean".

argparse takes abbreviations of single-dash options even with ``allow_abbrev=False``; ``Parser``
takes none.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|-inf|-nan")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps line breaks of descriptions; shows two spellings of an option and its value once."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        shown = [*action.option_strings[:1], *action.option_strings[1:][-1:]]
        value = "" if action.nargs == 0 else " " + self._format_args(action, action.dest.upper())
        return ", ".join(shown) + value


class Parser(argparse.ArgumentParser):
    """An ArgumentParser for ``add_option`` and ``parse``; its subparsers are such parsers too."""

    def __init__(self, **kwargs: Any) -> None:
        options: dict[str, Any] = {"formatter_class": HelpFormatter} | kwargs
        super().__init__(**options, add_help=False, allow_abbrev=False)
        self._negative_number_matcher = re.compile(f"^({NEGATIVE_NUMBER.pattern})$")
        add_option(self, "h", "help", action="help", help="show this help and exit")

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        return []  # where argparse collects what an option may abbreviate

    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message}\nTry `{self.prog} --help`.\n")


def add_option(group: argparse._ActionsContainer, *names: str, **kwargs: Any) -> argparse.Action:
    """Add an option to a parser or group: ``add_option(group, "additional_configs", ...)``.

    Args:
        group: parser, argument group or exclusive group.
        names: without dashes; each is taken as -name and, if longer than a letter, as --name,
            with underscores and with dashes. The first long one names the value.
        kwargs: as of ``add_argument``.
    """
    flags = [flag for name in names for flag in _spellings(name)]
    return group.add_argument(*flags, **kwargs)


def parse(parser: Parser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse ``argv`` (without the program; by default the process's), no abbreviations taken.

    An unknown option ends the process with code 2 and what may have been meant. Negative numbers
    are values.
    """
    tokens = sys.argv[1:] if argv is None else list(argv)
    owners = _owners(parser)
    given: set[int] = set()
    for token in tokens:
        if token == "--":
            break
        flag = token.split("=", 1)[0]
        if _is_option(token) and flag not in owners:
            parser.error(f"unknown option {flag}{did_you_mean(flag, owners)}")
        if flag in owners and id(owners[flag].action) in given:
            parser.error(f"{flag} is given twice; only one of them could count")
        if flag in owners and owners[flag].keeps_one:
            given.add(id(owners[flag].action))
    namespace, rest = parser.parse_known_args(tokens)
    for token in rest:
        owner = owners.get(token.split("=", 1)[0])
        hint = "" if owner is None else f" here; it belongs to `{owner.program}`"
        parser.error(f"unexpected {token!r}{hint}")
    return namespace


def called_as(script: str) -> str:
    """How the program was called: as an installed command, or as a script of the clone."""
    name = os.path.basename(sys.argv[0])  # noqa: PTH119 (imported before anything else)
    return name if name in COMMANDS else f"python {script}"


COMMANDS = ("plumbline", "plumbline-plot", "plumbline-sweep")
"""What `pip install` makes of main.py, plot_from_db.py and sweep.py."""


def write_results(text: str) -> None:
    """Write to stdout at once. Raises OSError when it is full, not when its reader has gone.

    Characters that it cannot show, such as ± in ASCII, are replaced: what was computed is not
    lost over how it is shown.
    """
    if sys.stdout is None:  # closed by who began the process
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # the reader, `head` say, has seen enough
            raise


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """ ". Did you mean 'x'?" for the closest of ``choices``, or nothing when none is close."""
    close = nearest(word, choices)
    return "" if close is None else f". Did you mean '{close}'?"


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The one of ``choices`` that ``word`` begins or misspells, in whatever case; None if none."""
    folded = {choice.casefold(): choice for choice in choices}
    begun = sorted((name for name in folded if name.startswith(word.casefold())), key=len)
    close = begun or difflib.get_close_matches(word.casefold(), folded, n=1)
    return folded[close[0]] if close else None


def _spellings(name: str) -> list[str]:
    if len(name) == 1:
        return [f"-{name}"]
    dashed, scored = name.replace("_", "-"), name.replace("-", "_")
    return list(dict.fromkeys((f"-{name}", f"-{dashed}", f"--{scored}", f"--{dashed}")))


class _Owner(NamedTuple):
    """The program that takes an option, and what it does with it."""

    program: str
    action: argparse.Action

    @property
    def keeps_one(self) -> bool:
        """Whether a second value would replace the first."""
        return isinstance(self.action, argparse._StoreAction)


def _owners(parser: argparse.ArgumentParser) -> dict[str, _Owner]:
    """Who takes each option of the parser and its subcommands."""
    owners: dict[str, _Owner] = {}
    for action in parser._actions:
        owners |= dict.fromkeys(action.option_strings, _Owner(parser.prog, action))
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                owners = _owners(child) | owners
    return owners


def _is_option(token: str) -> bool:
    """argparse's own rule: a dash in front, no number, no space inside."""
    dashed = token.startswith("-") and len(token) > 1 and " " not in token
    return dashed and NEGATIVE_NUMBER.fullmatch(token) is None
