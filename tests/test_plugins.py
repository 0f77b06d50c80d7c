"""Components in files outside the program: named, recorded, kept with the run."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import yaml

import main as program
from experiments.runner import plugins
from experiments.runner.schema import Plugin
from models.posteriors.protocol import posteriors
from tests.finished_runs import QUICKSTART, SMALL
from utils.results.folder import RunFolder

pytestmark = pytest.mark.usefixtures("results_here")

MINE = '''
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.protocol import posteriors


@posteriors.register("mine")
def mine(latent_dim: int, *, num_layers: int = 1) -> Chain:
    """A Gaussian of my own."""
    return Chain(DiagonalGaussian(latent_dim))
'''


@pytest.fixture(autouse=True)
def _none_afterwards():
    yield
    plugins.use({})


@pytest.fixture
def mine(tmp_path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def run(*arguments: str) -> int:
    try:
        return program.main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


def small(*assignments: str, options: tuple[str, ...] = ()) -> list[str]:
    return ["-config", QUICKSTART, "-set", *SMALL, *assignments, *options]


def folders(tmp_path: Path) -> list[RunFolder]:
    return [RunFolder(path) for path in sorted((tmp_path / "results" / "runs").iterdir())]


def identity(capsys, *arguments: str) -> str:
    assert run(*arguments, "--dry-run") == 0
    (line,) = (li for li in capsys.readouterr().out.splitlines() if li.startswith("# run:"))
    return line


def test_a_run_with_a_plugin_keeps_a_copy_and_can_be_run_again_from_it(tmp_path, mine, capsys):
    command = small("posterior.name=mine", options=("--plugin", str(mine)))
    assert run(*command) == 0
    (folder,) = folders(tmp_path)
    record = folder.read_status()
    assert record.config["plugins"][0]["path"] == "plugins/mine.py"
    assert "plugin mine.py" in record.code["train"]
    assert "models/posteriors/gaussian.py" in record.code["train"]  # what it imports
    mine.unlink()
    capsys.readouterr()
    assert run("-config", str(folder.path / "config.yaml")) == 0
    said = capsys.readouterr().err
    assert "already finished" in said
    assert "changed" not in said
    assert run("-config", str(folder.path / "config.yaml"), "--resume", "never") == 0
    assert (folder.path / "plugins" / "mine.py").read_text() == MINE


def test_the_content_of_a_plugin_is_part_of_the_identity_and_its_place_is_not(
    tmp_path, mine, capsys
):
    def of(*plugin: str) -> str:
        return identity(capsys, *small(options=("--plugin", *plugin) if plugin else ()))

    with_mine = of(str(mine))
    assert with_mine != of()
    moved = tmp_path / "elsewhere" / "mine.py"
    moved.parent.mkdir()
    shutil.copy(mine, moved)
    assert of(str(moved)) == with_mine
    mine.write_text(MINE + "\nCHANGED = True\n")
    assert of(str(mine)) != with_mine
    assert identity(capsys, *small("plugins=[]")) == of()


def test_a_path_in_a_file_is_relative_to_it(tmp_path, mine, monkeypatch, capsys):
    config = tmp_path / "own.yaml"
    config.write_text("plugins: [mine.py]\nposterior: {name: mine, num_layers: 2}\n")
    monkeypatch.chdir("/")
    assert "# run" in identity(capsys, *small(), "-additional_configs", str(config))


def test_what_a_plugin_registers_is_listed_and_forgotten_when_it_is_not_asked_for(mine, capsys):
    assert run("--list", "posteriors", "--plugin", str(mine)) == 0
    assert "A Gaussian of my own." in capsys.readouterr().out
    assert run("--list", "posteriors") == 0
    assert "A Gaussian of my own." not in capsys.readouterr().out


def test_another_version_of_a_plugin_takes_the_place_of_the_first(mine, capsys):
    listing = ("--list", "posteriors", "--plugin", str(mine))
    assert run(*listing) == 0
    mine.write_text(MINE.replace("of my own", "of my newer own"))
    capsys.readouterr()
    assert run(*listing) == 0
    assert "A Gaussian of my newer own." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ["mine.py is not there", "give the path"]),
        ("", ["registers nothing"]),
        ("import os\n\nimport nowhere\n", ["mine.py:3: ModuleNotFoundError"]),
        ("def broken(:\n", ["mine.py:1: "]),
        ("import sys\nsys.exit(3)\n", ["mine.py:2: SystemExit"]),
        (MINE.replace('"mine"', '"gaussian"'), ["mine.py:7: ", "'gaussian' is registered twice"]),
        (MINE.replace("num_layers: int", "num_layers"), ["`num_layers` of `mine` needs a type"]),
    ],
)
def test_what_is_wrong_with_a_plugin_is_said_in_one_line(mine, text, expected, capsys):
    mine.unlink() if text is None else mine.write_text(text)
    before = posteriors.names()
    assert run(*small(options=("--plugin", str(mine)))) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert all(words in lines[1] for words in expected), lines[1]
    assert posteriors.names() == before


@pytest.mark.parametrize(
    "path", [".", "/dev/null", "\\0", "nowhere/\\u20ac.py", "~no-such-user/x.py"]
)
def test_what_is_no_file_is_refused(path, capsys):
    assert run(*small(f'plugins=["{path}"]')) == 2
    said = capsys.readouterr().err
    assert "is no file" in said or "is not there" in said or "not allowed" in said


def test_two_plugins_of_one_name_and_two_components_of_one_name_are_refused(mine, capsys):
    other = mine.parent / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text(MINE + "# another\n")
    assert run(*small(options=("--plugin", str(mine), str(other)))) == 2
    assert "two are called mine.py" in capsys.readouterr().err
    renamed = other.rename(other.with_name("theirs.py"))
    assert run(*small(options=("--plugin", str(mine), str(renamed)))) == 2
    assert "'mine' is registered twice" in capsys.readouterr().err


def test_a_copy_that_was_edited_is_refused(tmp_path, mine, capsys):
    assert run(*small("posterior.name=mine", options=("--plugin", str(mine)))) == 0
    (folder,) = folders(tmp_path)
    (folder.path / "plugins" / "mine.py").write_text(MINE + "# edited\n")
    assert run("-config", str(folder.path / "config.yaml")) == 2
    assert "has changed" in capsys.readouterr().err


def test_a_configuration_of_another_user_runs_no_code(tmp_path, mine, monkeypatch, capsys):
    config = tmp_path / "own.yaml"
    config.write_text("plugins: [mine.py]\n")
    monkeypatch.setattr("os.geteuid", lambda: config.stat().st_uid + 1)
    assert run(*small(), "-additional_configs", str(config)) == 2
    said = capsys.readouterr().err
    assert "belongs to another user" in said


def test_what_is_no_list_of_paths_is_refused(capsys):
    assert run(*small("plugins=mine.py")) == 2
    assert "`plugins` must be a list" in capsys.readouterr().err
    assert run(*small("plugins=[3]")) == 2
    assert "plugins[0]" in capsys.readouterr().err


def test_a_copy_that_is_there_is_not_written_again(tmp_path, mine):
    digest = hashlib.sha256(mine.read_bytes()).hexdigest()[:12]
    plugins.use({digest: mine})
    plugins.keep_copies([Plugin(str(mine), digest)], tmp_path)
    copy = tmp_path / "plugins" / "mine.py"
    os.utime(copy, (0, 0))  # a disk that is full by now would cut it off
    plugins.keep_copies([Plugin(str(mine), digest)], tmp_path)
    assert copy.stat().st_mtime == 0
    assert copy.read_text() == MINE


def test_the_stored_configuration_names_the_copies(mine):
    plain = {"plugins": [{"path": str(mine), "digest": "x"}], "seed": 0}
    kept = plugins.stored(plain)
    assert yaml.safe_load(yaml.safe_dump(kept)) == {
        "plugins": [{"path": "plugins/mine.py", "digest": "x"}],
        "seed": 0,
    }
