"""Files that include files, and files that cannot be read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.config_files import refused, write
from utils.config.includes import read_file
from utils.config.loading import load
from utils.config.sources import ConfigError

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def test_missing_files_and_folders_are_reported_all_at_once():
    Path("folder").mkdir()
    write("hidden/.a.yaml", "a: 1")
    assert refused("none.yaml", ["gone", "hidden"], ["a"]) == [
        "hidden: this folder holds no *.yaml files",
        "none.yaml: no such file",
        "gone: no such file",
        "-set: 'a' has no `=`; write -set key.path=value",
    ]
    assert refused("folder") == ["folder: this is a folder; a YAML file is expected"]
    assert refused(write("file", "a: 1") + "/x") == ["file/x: cannot be read: Not a directory"]


def test_a_place_is_one_line_whatever_the_file_is_called():
    assert refused(write("a\nb.yaml", "x: [")) == [
        "a\\nb.yaml:1: YAML syntax: expected the node content, but found '<stream end>' "
        "while parsing a flow node"
    ]


def test_includes_lie_below_the_file_left_to_right():
    write("shared/one.yaml", "a: 1\nb: 1\nc: {x: 1}\n")
    write("configs/two.yaml", "include: ../shared/one.yaml\nb: 2\nd: 2\n")
    write("configs/three.yaml", "d: 3\ne: 3\n")
    main = "c: {y: 9}\ninclude: [two.yaml, three.yaml]\ne: 9\n"
    layer = load(write("configs/main.yaml", main))
    assert layer.data == {"a": 1, "b": 2, "c": {"x": 1, "y": 9}, "d": 3, "e": 9}
    origins = {key: str(layer.origins[key,]) for key in "abde"}
    assert origins == {
        "a": "shared/one.yaml:1",
        "b": "configs/two.yaml:2",
        "d": "configs/three.yaml:1",
        "e": "configs/main.yaml:3",
    }
    assert str(layer.origins[()]) == "configs/main.yaml:1"


def test_one_file_may_be_included_twice():
    write("base.yaml", "a: 1\n")
    write("left.yaml", "include: base.yaml\nb: 1\n")
    assert load(write("f.yaml", "include: [base.yaml, left.yaml]\n")).data == {"a": 1, "b": 1}


def test_each_file_is_read_once_however_often_it_is_included():
    """Two includes a file, 40 files deep: a trillion readings, if each were read each time."""
    for level in range(40):
        inner = level + 1
        write(f"{level}.yaml", f"include: [{inner}.yaml, ./{inner}.yaml]\nk{level}: 1\n")
    write("40.yaml", "a: 1\n")
    assert load("0.yaml").data == {"a": 1, **{f"k{level}": 1 for level in range(40)}}
    write("40.yaml", "a: 1\na: 2\n")
    assert refused("0.yaml") == ["40.yaml:2: duplicate key `a`, first on line 1"]


@pytest.mark.parametrize("deep", [True, False])
def test_a_file_includes_at_most_fifty_others(deep: bool):
    for level in range(1, 60):
        write(f"{level}.yaml", f"include: {level + 1}.yaml\n" if deep else "a: 1\n")
    first = "[1.yaml]" if deep else f"[{', '.join(f'{i}.yaml' for i in range(1, 60))}]"
    problems = refused(write("0.yaml", f"include: {first}\n"))
    assert problems[0] == ("50" if deep else "0") + ".yaml:1: `include`: more than 50 files"


def test_only_regular_files_are_read():
    os.mkfifo("pipe")
    assert refused("pipe") == ["pipe: this is not a regular file; a YAML file is expected"]
    assert refused(write("f.yaml", "\ninclude: /dev/zero")) == [
        "f.yaml:2: `include`: /dev/zero: this is not a regular file; a YAML file is expected"
    ]


def test_include_is_a_plain_key_further_in():
    assert load(write("f.yaml", "a: {include: b.yaml}")).data == {"a": {"include": "b.yaml"}}


def test_bad_includes_are_reported_where_they_stand():
    Path("folder").mkdir()
    write("bad.yaml", "a: 1\na: 2\n")
    text = "include:\n  - sub/none.yaml\n  - folder\n  - bad.yaml\na: 1\n"
    assert refused(write("f.yaml", text)) == [
        "f.yaml:2: `include`: sub/none.yaml: no such file",
        "f.yaml:3: `include`: folder: this is a folder; a YAML file is expected",
        "bad.yaml:2: duplicate key `a`, first on line 1",
    ]
    for value in ("3", "[a.yaml, 3]", "{a: b}", "null", "['']", '"a\\0b"'):
        (problem,) = refused(write("f.yaml", f"x: 1\ninclude: {value}"))
        assert problem.startswith("f.yaml:2: `include` must be a path or a list of paths")


def test_includes_in_a_circle_show_the_chain():
    write("a.yaml", "include: sub/b.yaml\n")
    write("sub/b.yaml", "x: 1\ninclude: [c.yaml]\n")
    write("sub/c.yaml", "include: ./../sub/b.yaml\n")
    circle = "sub/b.yaml -> sub/c.yaml -> sub/b.yaml"
    assert refused("a.yaml") == [
        f"sub/c.yaml:1: `include`: files include each other in a circle: {circle}"
    ]
    assert refused(write("self.yaml", "include: self.yaml")) == [
        "self.yaml:1: `include`: files include each other in a circle: self.yaml -> self.yaml"
    ]


def test_a_file_of_another_user_includes_only_what_lies_beside_it(tmp_path, monkeypatch):
    (tmp_path / "shared" / "parts").mkdir(parents=True)
    (tmp_path / "private.yaml").write_text("experiment: SECRET\n")
    (tmp_path / "shared" / "parts" / "seed.yaml").write_text("seed: 3\n")
    outside, beside = tmp_path / "shared" / "outside.yaml", tmp_path / "shared" / "beside.yaml"
    outside.write_text("include: ../private.yaml\n")
    beside.write_text("include: parts/seed.yaml\n")
    assert read_file(outside).data == {"experiment": "SECRET"}  # a file of one's own may
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert read_file(beside).data == {"seed": 3}
    with pytest.raises(ConfigError, match=r"outside\.yaml:1: `include`: .* another user") as error:
        read_file(outside)
    assert "SECRET" not in str(error.value)


def test_loading_needs_neither_torch_nor_pydantic():
    root = Path(__file__).parent.parent
    code = (
        "import sys, utils.config.loading, utils.config.identity;"
        "assert 'pydantic' not in sys.modules;"
        "import utils.config.validation; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
