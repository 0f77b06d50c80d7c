"""Sweep files: what they expand to, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.sweeping.planning import Additions
from experiments.sweeping.points import expand, vary, with_seeds
from experiments.sweeping.sweep_file import label_of, read
from tests.sweep_files import plan_of, read_sweep, words, write
from utils.config.sources import ConfigError

ROOT = Path(__file__).resolve().parent.parent
SWEEPS = sorted(ROOT.glob("configs/*/sweep*.yaml"))


def labels(folder: Path, sweep: str, **files: str) -> list[str]:
    return [str(point) for point in expand(read_sweep(folder, sweep, **files).stage)]


def mistakes(folder: Path, sweep: str, **files: str) -> str:
    with pytest.raises(ConfigError) as error:
        plan_of(folder, sweep, **files)
    return str(error.value)


def test_a_grid_has_every_choice_with_every_other_and_seeds_vary_slowest(tmp_path):
    text = "config: base.yaml\nseeds: [0, 2-3]\ngrid: {a.b: [1, 2.5], c: {x: d=1, y: [e=2, f=3]}}"
    assert words(read_sweep(tmp_path, text).stage) == [
        [f"seed={seed}", f"a.b={value}", *more]
        for seed in (0, 2, 3)
        for value in ("1", "2.5")
        for more in (["d=1"], ["e=2", "f=3"])
    ]
    assert labels(tmp_path, text)[1] == "seed=0, a.b=1, c=y"


def test_zip_advances_together(tmp_path):
    text = "config: base.yaml\nzip: {a: [1, 2], b: [x, y]}\ngrid: {c: [5, 6]}"
    assert labels(tmp_path, text) == [
        f"a={a}, b={b}, c={c}" for a, b in ((1, "x"), (2, "y")) for c in (5, 6)
    ]


def test_exclude_leaves_points_out_and_what_starts_from_them(tmp_path):
    text = (
        "config: base.yaml\ngrid: {a: [1, 2, 3], b: [x, y]}\n"
        "exclude: [{a: 1, b: x}, {a: [2, 3], b: y}]\nfrom_each: {grid: {c: [7]}}"
    )
    assert labels(tmp_path, text) == [
        *("a=1, b=y", "a=1, b=y, c=7", "a=2, b=x", "a=2, b=x, c=7", "a=3, b=x", "a=3, b=x, c=7")
    ]


def test_files_are_choices_by_name_or_pattern_relative_to_who_names_them(tmp_path):
    more = {"one": "seed: 1", "two": "seed: 2"}
    text = "config: base.yaml\ngrid: {files: [two.yaml, one.yaml], like: t*.yaml}"
    assert labels(tmp_path, text, **more) == ["files=two, like=two", "files=one, like=two"]
    write(tmp_path / "below", "include: ../sweep.yaml\nconfig: base.yaml\nset: [seed=9]")
    sweep = read(tmp_path / "below" / "sweep.yaml")
    assert Path(sweep.config.text) == tmp_path / "below" / "base.yaml"
    assert expand(sweep.stage)[0].words[1].text == str(tmp_path / "two.yaml")


def test_points_beyond_all_measure_are_refused_at_once(tmp_path):
    axes = ", ".join(f"{name}: {list(range(10))}" for name in "abcdefghi")
    sweep = read_sweep(tmp_path, f"config: base.yaml\ngrid: {{{axes}}}")
    with pytest.raises(ConfigError, match=r"more than 100,000 points \(10 x 10 x .*\); leave"):
        expand(sweep.stage)


def test_a_path_may_hold_an_equals_sign(tmp_path):
    long = f"training={{epochs: 2{' ' * 300}}}"  # longer than a file's name may be
    text = (
        "config: base.yaml\nadditional_configs: [one.yaml]\ngrid: {like: one*.yaml, lr: "
        f"{{file: lr=1.yaml, set: training.epochs=3, long: '{long}'}}}}"
    )
    more = {"one": "seed: 1", "lr=1": "training: {epochs: 4}"}
    configs = [run.identified.config for run in plan_of(tmp_path / "a=b", text, **more).runs]
    assert [(c.seed, c.training.epochs) for c in configs] == [(1, 4), (1, 3), (1, 2)]


def test_values_of_all_kinds_mean_on_the_command_line_what_they_mean_in_the_file(tmp_path):
    text = "config: base.yaml\ngrid: {training.fixed: [null, [model]], experiment: [a, '1e3']}"
    plan = plan_of(tmp_path, text)
    found = [
        (r.identified.config.training.fixed, r.identified.config.experiment) for r in plan.runs
    ]
    assert found == [(None, "a"), (["model"], "a")]  # the experiment is no science
    assert [str(point) for point, _ in plan.repeated] == [
        *("training.fixed=null, experiment=1e3", "training.fixed=model, experiment=1e3")
    ]


def test_runs_that_start_from_others_take_their_weights_and_settings(tmp_path):
    text = (
        "config: base.yaml\nset: ['phases=[train]']\ngrid: {training.epochs: [1, 2]}\n"
        "from_each: {set: ['phases=[estimate]'], grid: {initialise.weights: [last, best]}}"
    )
    plan = plan_of(tmp_path, text)
    assert len(plan.runs) == 6
    for first in (plan.runs[0], plan.runs[3]):
        place = plan.runs.index(first)
        for run in plan.runs[place + 1 : place + 3]:
            assert run.parent == first.id == run.identified.config.initialise.run
            assert run.identified.config.training.epochs == first.identified.config.training.epochs
            assert f"initialise.run={first.id}" in run.arguments


def test_a_plan_gives_the_identity_that_main_gives(tmp_path, capsys, monkeypatch):
    import main

    monkeypatch.setenv("VI_RESULTS", str(tmp_path / "results"))
    run = plan_of(tmp_path).runs[-1]
    assert main.main([*run.arguments, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"# run: {run.id}" in printed
    assert "covariance: full" in printed.split("labels:")[1]


def test_the_sweeps_own_command_line_has_the_last_word(tmp_path):
    (tmp_path / "more.yaml").write_text("training: {epochs: 7}\nseed: 5")
    additions = Additions([str(tmp_path / "more.yaml")], ["training.batch_size=3"])
    for run in plan_of(tmp_path, additions=additions).runs:
        training = run.identified.config.training
        assert (training.epochs, training.batch_size) == (7, 3)
    assert [run.identified.config.seed for run in plan_of(tmp_path).runs] == [0, 0, 1, 1]


def test_vary_picks_choices_and_takes_new_values_of_keys(tmp_path):
    text = (
        "config: base.yaml\ngrid: {a: {x: c=1, y: c=2}, b.d: [1, 2]}\nfrom_each: {grid: {e: [5]}}"
    )
    stage = read_sweep(tmp_path, text).stage
    varied = with_seeds(vary(stage, {"a": ["y"], "b.d": ["2", "[3]"], "e": ["6"]}), [4])
    assert [str(point) for point in expand(varied)] == [
        f"seed=4, a=y, b.d={value}{more}" for value in (2, 3) for more in ("", ", e=6")
    ]
    with pytest.raises(
        ConfigError, match=r"a has no 'z'; it has x, y(.|\n)*no axis 'q'; there are"
    ):
        vary(stage, {"a": ["z"], "q": ["1"]})


def test_points_that_are_one_run_are_done_once_and_told(tmp_path):
    plan = plan_of(tmp_path, "config: base.yaml\ngrid: {a: {x: [], y: posterior.name=gaussian}}")
    ((point, run),) = plan.repeated
    assert (str(point), run.label, len(plan.runs)) == ("a=y", "a=x", 1)


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        ("seeds: 1", "sweep.yaml:1: missing required key `config`"),
        ("config: base.yaml\ngird: {}", "sweep.yaml:2: unknown key `gird`. Did you mean `grid`?"),
        ("config: no.yaml", "no.yaml"),
        ("config: .", "is a folder; a YAML file is expected"),
        ("config: base.yaml\ngrid:\n  a: []", "sweep.yaml:3: `grid.a` is empty"),
        ("config: base.yaml\ngrid:\n  a: {}", "sweep.yaml:3: `grid.a` is empty"),
        ("config: base.yaml\ngrid: {a: 3}", "an axis is a list of values"),
        ("config: base.yaml\ngrid: {a: no/*.yaml}", "no file is like no/*.yaml"),
        ("config: base.yaml\ngrid:\n  a:\n    x: no.yaml", "sweep.yaml:4: no such file"),
        ("config: base.yaml\ngrid: {a: {x: [3]}}", "must be a file, an assignment such as"),
        ("config: base.yaml\ngrid: {a: [1, 1]}", "'1' stands there twice"),
        ("config: base.yaml\nzip: {a: [1, 2], b: [1]}", "equally long; a has 2, b has 1"),
        ("config: base.yaml\nseeds: 0-x", "seeds are like 3, 0-4"),
        ("config: base.yaml\nseeds: 4-1", "seeds are like 3, 0-4"),
        ("config: base.yaml\nseeds: []", "`seeds` is empty"),
        ("config: base.yaml\nseeds: 1\ngrid: {seed: [1]}", "`seed` is an axis already"),
        ("config: base.yaml\ngrid: {a: [1]}\nexclude: [{b: 1}]", "no axis 'b'"),
        ("config: base.yaml\ngrid: {a: [1]}\nexclude: [{a: 2}]", "a has no '2'"),
        ("config: base.yaml\ngrid: {a: {<b>: seed=1}}", "a label has none of < > &"),
        ("config: base.yaml\nset: ['seed']", "sweep.yaml:2: 'seed' has no `=`"),
        (
            "config: base.yaml\ngrid:\n  training.epoch: [1, 2]",
            "sweep.yaml:3: unknown key `training.epoch`. Did you mean `training.epochs`?",
        ),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path, sweep, says):
    assert says in mistakes(tmp_path, sweep)


def test_all_mistakes_are_told_at_once_each_with_its_points(tmp_path):
    said = mistakes(
        tmp_path,
        "config: base.yaml\nseeds: 0-1\ngrid:\n  training.epochs:\n    - 1\n    - -2\n"
        "  a: {x: posterior.name=planer, y: seed=3}",
    )
    assert said.startswith("config error (2):")
    assert "sweep.yaml:6: `training.epochs` must be greater than 0; got -2" in said
    assert "(point seed=0, training.epochs=-2, a=x and 3 more)" in said
    assert "got 'planer'" in said


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_sweep_of_the_project_can_be_planned(path, tmp_path):
    from experiments.sweeping.planning import make_plan

    sweep = read(path)
    points = expand(sweep.stage)
    plan = make_plan(sweep, points, tmp_path)
    assert len(plan.runs) > 1
    # Its loss is another than a_5's, which only the figure looks at.
    assert {point.labels["method"] for point, _ in plan.repeated} <= {"a_5_of_10"}


def test_every_script_of_an_experiment_has_its_sweep():
    for script in ROOT.glob("experiments/*/run.sh"):
        assert (ROOT / "configs" / script.parent.name / "sweep.yaml").exists(), script


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ({"name": "sgd", "lr": 1e12}, "name: sgd, lr: 1e+12"),
        ({}, "none"),
        (None, "null"),
        (0.25, "0.25"),
        (1 / 3, repr(1 / 3)),
        ([100, 200], "100, 200"),
    ],
)
def test_a_value_is_called_as_a_person_writes_it(value, label):
    assert label_of(value) == label
