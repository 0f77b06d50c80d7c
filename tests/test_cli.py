"""Options in all their spellings, and what is said of those that are none."""

from __future__ import annotations

import pytest

from utils.cli import Parser, add_option, did_you_mean, parse


def a_parser() -> Parser:
    parser = Parser(prog="main.py", description="examples:\n  main.py -config a.yaml")
    group = parser.add_argument_group("configuration")
    add_option(group, "config", metavar="FILE", help="base configuration")
    add_option(group, "additional_configs", nargs="+", default=[])
    add_option(group, "set", nargs="+", action="extend", default=[])
    add_option(group, "q", "quiet", action="store_true")
    add_option(group, "rate", type=float)
    return parser


def a_parser_with_commands() -> Parser:
    parser = Parser(prog="plot")
    add_option(parser, "results")
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table")
    add_option(table, "format", choices=("csv", "latex"))
    add_option(table, "r")
    add_option(commands.add_parser("runs"), "all", action="store_true")
    return parser


@pytest.mark.parametrize(
    "flag",
    [
        "-additional_configs",
        "-additional-configs",
        "--additional_configs",
        "--additional-configs",
    ],
)
def test_every_spelling_is_the_same_option(flag: str) -> None:
    assert parse(a_parser(), [flag, "a", "b"]).additional_configs == ["a", "b"]
    assert parse(a_parser(), [f"{flag}=a"]).additional_configs == ["a"]


def test_short_option_with_a_long_name() -> None:
    assert all(parse(a_parser(), [flag]).quiet for flag in ("-q", "-quiet", "--quiet"))


@pytest.mark.parametrize("number", ["-5", "-0.5", "-.5", "-1e-3", "-2.5E+4", "-inf"])
def test_negative_numbers_are_values(number: str) -> None:
    assert parse(a_parser(), ["-rate", number]).rate == float(number)
    assert parse(a_parser(), ["-set", "a=-1", number]).set == ["a=-1", number]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-conf", "x"], "unknown option -conf. Did you mean '-config'?"),
        (["--conf=x"], "unknown option --conf. Did you mean '--config'?"),
        (["--confg", "x"], "Did you mean '--config'?"),
        (["-additional", "x"], "Did you mean '-additional_configs'?"),
        (["-configx"], "Did you mean '-config'?"),
        (["-qv"], "unknown option -qv"),
        (["-zzz"], "unknown option -zzz\n"),
        (["-config", "-rat", "3"], "Did you mean '-rate'?"),
        (["stray"], "unexpected 'stray'"),
        (["-rate", "fast"], "invalid float value: 'fast'"),
    ],
)
def test_what_is_no_option_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(a_parser(), arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err


def test_options_of_commands() -> None:
    options = parse(a_parser_with_commands(), ["-results", "d", "table", "--format", "csv"])
    assert (options.command, options.results, options.format) == ("table", "d", "csv")
    assert parse(a_parser_with_commands(), ["table", "-r", "x"]).r == "x"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table", "-forma", "csv"], "unknown option -forma. Did you mean '-format'?"),
        (["runs", "-format", "csv"], "it belongs to `plot table`"),
        # argparse alone takes -r for an abbreviation of -results
        (["-r", "x", "table"], "invalid choice: 'x'"),
        (["tabel"], "invalid choice: 'tabel'"),
        ([], "required"),
        (["table", "-format", "word"], "invalid choice: 'word'"),
    ],
)
def test_what_is_no_option_of_a_command_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(a_parser_with_commands(), arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["-config", "a", "--config", "b"], ["-config=a", "-config=a"]]
)
def test_an_option_that_keeps_one_value_is_given_once(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(a_parser(), arguments)
    assert ended.value.code == 2
    assert "config is given twice; only one of them could count" in capsys.readouterr().err


def test_an_option_that_collects_values_is_given_as_often_as_one_likes() -> None:
    assert parse(a_parser(), ["-set", "a=1", "-q", "-set", "b=2", "-q"]).set == ["a=1", "b=2"]


@pytest.mark.parametrize("flag", ["-h", "-help", "--help"])
def test_help_keeps_lines_and_shows_both_dashes(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(a_parser(), [flag])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:\n  main.py -config a.yaml\n" in shown
    assert "-config, --config FILE" in shown
    assert "-q, --quiet\n" in shown
    assert "-additional_configs, --additional-configs" in shown


def test_did_you_mean() -> None:
    names = ["gaussian", "planar", "planar_residual"]
    assert did_you_mean("planer", names) == ". Did you mean 'planar'?"
    assert did_you_mean("plan", names) == ". Did you mean 'planar'?"
    assert did_you_mean("spline", names) == ""
