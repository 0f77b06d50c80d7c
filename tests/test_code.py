"""Which source numbers stand on, and what counts as a change of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils import code
from utils.code import changes, code_of, merged, mixed

FILES = {
    "models/flow.py": "from models.parts import Part\nimport torch\n\ndef flow(): return Part\n",
    "models/parts/__init__.py": (
        "from models.parts.one import Part\nfrom models.parts.two import B\n"
    ),
    "models/parts/one.py": 'class Part:\n    """A part."""\n    size = 1\n',
    "models/parts/two.py": "class B: pass\n",
    "models/other.py": "x = 1\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def files(found: code.Code) -> list[str]:
    return [name for name in found if name.endswith(".py")]


def test_code_is_the_module_and_all_that_it_imports(root):
    assert files(code_of(["models.flow"], root)) == ["models/flow.py", "models/parts/one.py"]


def test_a_package_counts_where_it_defines_the_name_itself(root):
    (root / "models/flow.py").write_text("from models.parts import VALUE\n")
    (root / "models/parts/__init__.py").write_text(
        "from models.parts.one import Part\nVALUE = 1\n"
    )
    expected = ["models/flow.py", "models/parts/__init__.py", "models/parts/one.py"]
    assert files(code_of(["models.flow"], root)) == expected


def test_plumbing_counts_only_where_it_is_named(root, monkeypatch):
    monkeypatch.setattr(code, "PLUMBING", ("models.parts",))
    assert files(code_of(["models.flow"], root)) == ["models/flow.py"]
    assert files(code_of(["models.parts.one"], root)) == ["models/parts/one.py"]


def test_circles_of_imports_end(root):
    (root / "models/parts/one.py").write_text("import models.flow\nclass Part: pass\n")
    assert len(files(code_of(["models.flow"], root))) == 2


@pytest.mark.parametrize(
    "text",
    [
        'class Part:\n    """Another docstring."""\n\n    size = 1\n',
        "class Part:\n    size = (1)  # a comment\n",
    ],
    ids=["docstring", "formatting"],
)
def test_comments_docstrings_and_formatting_do_not_count(root, text):
    recorded = code_of(["models.flow"], root)
    (root / "models/parts/one.py").write_text(text)
    assert changes(recorded, root) == []


def test_a_changed_import_is_named(root):
    recorded = code_of(["models.flow"], root)
    (root / "models/parts/one.py").write_text("class Part:\n    size = 2\n")
    (root / "models/other.py").write_text("x = 2\n")
    assert changes(recorded, root) == ["models/parts/one.py"]


def test_a_file_that_is_gone_or_broken_has_changed(root):
    recorded = code_of(["models.flow"], root)
    (root / "models/flow.py").write_text("def (")
    (root / "models/parts/one.py").unlink()
    assert changes(recorded, root) == ["models/flow.py", "models/parts/one.py"]


def test_other_versions_are_told(root, monkeypatch):
    recorded = code_of(["models.flow"], root)
    now = {name: recorded[name] for name in ("python", *code.PACKAGES)} | {"torch": "99"}
    monkeypatch.setattr(code, "_versions", lambda: now)
    assert changes(recorded, root) == [f"torch {recorded['torch']} -> 99"]


def test_another_python_says_nothing_of_files(root, monkeypatch):
    recorded = code_of(["models.flow"], root)
    now = {name: recorded[name] for name in ("python", *code.PACKAGES)} | {"python": "9.9"}
    monkeypatch.setattr(code, "_versions", lambda: now)
    (root / "models/flow.py").write_text("x = 1\n")
    assert changes(recorded, root) == [f"python {recorded['python']} -> 9.9"]


def test_work_under_two_codes_is_the_same_as_neither(root):
    old = code_of(["models.flow"], root)
    before = (root / "models/flow.py").read_text()
    (root / "models/flow.py").write_text("x = 1\n")
    both = merged(old, code_of(["models.flow"], root))
    assert "models/flow.py" in changes(both, root)
    (root / "models/flow.py").write_text(before)
    assert "models/flow.py" in changes(both, root)
    assert merged(old, old) == old


def test_runs_are_mixed_where_a_file_has_two_digests_in_one_phase():
    one = {"train": {"a.py": "1", "b.py": "2"}, "estimate": {"a.py": "9"}}
    other = {"train": {"a.py": "1", "b.py": "3"}}
    assert mixed([one, other, {}]) == ["b.py"]
    assert mixed([one, one]) == []


def test_a_posterior_does_not_stand_on_the_others():
    found = files(code_of(["models.posteriors.gaussian"]))
    assert "models/posteriors/chain.py" in found
    assert not {"models/posteriors/spline.py", "models/losses/avo.py"} & set(found)
