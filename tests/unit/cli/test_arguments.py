"""The command's arguments, before anything is composed or run."""

from pathlib import Path

import pytest

from fedkd.cli.arguments import check_changes, overrides, parse_arguments, value_of
from fedkd.cli.command import main
from fedkd.cli.hydra_compose import compose_scenario
from fedkd.cli.sweeps import SWEEP_FILE, continued, is_violation
from fedkd.errors import SettingError
from fedkd.models.factory import find_factory
from fedkd.robustness.aggregators import Krum
from fedkd.robustness.attacks.no_attack import NoAttack
from fedkd.robustness.threat_model import threat_model
from fedkd.storage.checked_json import write_json


def test_settings_and_options_are_told_apart_wherever_they_stand() -> None:
    found = parse_arguments(["-m", "seed=0,1", "--cfg", "job", "rounds=2"])
    assert (found.settings, found.flags) == (["seed=0,1", "rounds=2"], ["-m", "--cfg", "job"])
    assert (found.sweeps, found.varied, found.resumed) == (True, {"seed"}, None)


@pytest.mark.parametrize(
    ("given", "one"),
    [
        (["seed=1", "models=[mlp,cnn]"], True),
        (["-m", "seed=0,1"], False),
        (["models=zoo:Net(width=8,depth=2)", 'description="a, b"'], True),
        (["--cfg", "job"], False),
        (["hydra.sweep.dir=here"], False),
    ],
)
def test_what_needs_no_main_function_of_hydras_is_one_run(given: list[str], one: bool) -> None:
    assert parse_arguments(given).is_one_run == one


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["hello"], "'hello' is no setting; write key=value"),
        (["--cofnig", "a"], "unknown option '--cofnig'"),
        (["--cfg"], "--cfg needs a value, as in --cfg job"),
        (["--config"], "--config needs a value"),
        (["--config", "none.yaml"], "--config none.yaml: no such file"),
        (["--config-dir", "none"], "--config-dir none: no such folder"),
        (["scenario=digitz"], "unknown scenario 'digitz'; did you mean 'digits'"),
        (["strategy=knfu,knfuu"], "unknown strategy 'knfuu'"),
        (
            ["models=mlp,cnn"],
            r"models=mlp,cnn gives models several .*-m.* write models=\[mlp,cnn\]",
        ),
        (
            ["seed=range(1,4)"],
            r"seed=range\(1,4\) gives seed several values: add -m to run each of",
        ),
        (["roundz=3"], "there is no setting 'roundz'; did you mean rounds"),
        (["train.epoch=3"], "there is no setting 'train.epoch'; did you mean train.epochs"),
        (["resume=none"], "resume=none: no run's folder"),
        (["resume=none", "-m"], "goes on with one run and its own scenario"),
        (["resume=none", "seed=3"], "seed=3 cannot be changed in a run that goes on"),
    ],
)
def test_a_mistake_is_refused_with_what_to_do(given: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_arguments(given)


def test_all_names_that_do_not_exist_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["seeed=1", "strategy=knfuu", "train.epoch=4", "rounds=2", "partition.alhpa=1"]
    assert main(given) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(";")[0] for line in said] == [
        "fedkd: there is no setting 'seeed'",
        "fedkd: unknown strategy 'knfuu'",
        "fedkd: there is no setting 'train.epoch'",
    ]
    assert main(["seed=-1", "partition.alhpa=1", "test.global_size=a", "distill.epochs=true"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in said[1:]] == [
        "test.global_size",
        "distill.epochs",
        "seed",
    ]
    assert "no setting 'partition.alhpa'" in said[0]


def test_a_component_of_ones_own_in_the_wrong_form_is_told_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sized.py").write_text("class Sure: pass\n\nclass _Not: pass\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "net.py").write_text("def tiny(): pass\n")
    for written, right in {
        "sized": "sized:Sure",
        "sized.py": "sized:Sure",
        "sized.py:Sure": "sized:Sure",
        "own/net:tiny": "own.net:tiny",
        "./own/net.py:tiny": "own.net:tiny",
        "own.net": "own.net:tiny",
    }.items():
        with pytest.raises(SettingError, match=f"{written}': what .*py holds is called {right}$"):
            parse_arguments([f"strategy={written}"])
        with pytest.raises(SettingError, match=f"{written}': what .*py holds is called {right}$"):
            find_factory(written)


def test_a_run_of_an_earlier_version_is_refused_with_the_names_that_changed(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.yaml").write_text("order: train_first\nheads: {name: stages}\n")
    with pytest.raises(
        SettingError,
        match=r"was begun by an earlier fedkd \(order is now round_order, heads=stages is now"
        r" heads=self_distillation\) and cannot go on; run it again",
    ):
        parse_arguments([f"resume={tmp_path}"])


def test_engine_report_and_device_may_change_when_something_goes_on() -> None:
    allowed = ["engine.workers=2", "report.plots=false", "device=cpu", "+client_store=disk"]
    check_changes([*allowed, "checkpoint.every=3"], "a run")
    for wrong in ("seed=1", "run_dir=elsewhere", "unknown=2", "distill.loss=kl"):
        with pytest.raises(SettingError, match=r"with resume only engine, .*device, .* can"):
            check_changes([*allowed, wrong], "a run")


def test_a_value_may_follow_its_option_or_an_equals_sign() -> None:
    assert value_of(["--config", "a", "x=1"], "--config") == (["x=1"], "a")
    assert value_of(["--config=a", "x=1"], "--config") == (["x=1"], "a")
    assert value_of(["x=1"], "--config") == (["x=1"], None)


def test_values_are_split_at_commas_outside_brackets() -> None:
    assert dict(overrides(["a=1,2", "+b=[1,2],[3]", "c={x: 1,y: 2}"])) == {
        "a": ["1", "2"],
        "b": ["[1,2]", "[3]"],
        "c": ["{x: 1,y: 2}"],
    }


def test_a_component_on_top_of_a_scenario_leaves_none_of_the_settings_before(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "clients: 3\nstrategy: {name: knfu, beta: 7.0}\npartition: {name: dirichlet, alpha: 9.0}\n"
    )
    given = ["--config-dir", str(tmp_path), "scenario=mine"]
    whole = compose_scenario(parse_arguments(given))
    assert (whole.strategy.fields["beta"], whole.partition.fields["alpha"]) == (7.0, 9.0)
    other = compose_scenario(parse_arguments([*given, "strategy=fedmd", "seed=5"]))
    assert (other.strategy.name, other.federation.seed, other.federation.clients) == ("fedmd", 5, 3)
    assert "beta" not in other.strategy.fields
    assert other.partition == whole.partition


def test_a_sweep_goes_on_with_the_arguments_that_it_was_begun_with(tmp_path: Path) -> None:
    assert continued(["seed=1"]) == (["seed=1"], "")
    assert continued([f"resume={tmp_path}"]) == ([f"resume={tmp_path}"], "")
    begun = ["-m", "seed=0,1", "hydra.sweep.dir=old"]
    write_json(tmp_path / SWEEP_FILE, {"arguments": begun})
    found, foreign = continued([f"resume={tmp_path}", "engine.workers=2"])
    assert found == ["-m", "seed=0,1", "engine.workers=2", f"hydra.sweep.dir='{tmp_path}'"]
    assert foreign == str(tmp_path)
    with pytest.raises(SettingError, match="rounds=3 cannot be changed in a sweep that goes on"):
        continued([f"resume={tmp_path}", "rounds=3"])
    (tmp_path / SWEEP_FILE).write_text("{}")
    with pytest.raises(SettingError, match=r"sweep\.json is damaged, or of an earlier fedkd"):
        continued([f"resume={tmp_path}"])


@pytest.mark.parametrize(
    "argument",
    [
        "strategy=subprocess:Popen",
        "strategy=choice(knfu,subprocess:Popen)",
        "models=[mlp,os:system*2]",
        "strategy.server_model=os:system",
        "hydra/launcher=joblib",
        "hydra.sweeper._target_=subprocess.Popen",
        "++hydra.callbacks.x._target_=os.system",
        "scenario@hydra.launcher=digits",
    ],
)
def test_a_sweep_from_elsewhere_that_runs_code_goes_on_only_with_trust(
    argument: str, tmp_path: Path
) -> None:
    begun = ["-m", "seed=0,1", argument, "trust=true"]  # no folder vouches for itself
    write_json(tmp_path / SWEEP_FILE, {"arguments": begun})
    with pytest.raises(SettingError, match=r"not fedkd's; .* add trust=true") as error:
        continued([f"resume={tmp_path}"])
    assert argument in str(error.value)
    found, foreign = continued([f"resume={tmp_path}", "trust=true"])
    assert (argument in found, foreign) == (True, "")


def test_a_violation_is_what_an_audit_says_of_a_claim() -> None:
    assert is_violation({"audit": {"verdict": "VIOLATION"}})
    assert not is_violation({"audit": {"verdict": "consistent (power unknown)"}})
    assert not is_violation({"audit": None})
    assert not is_violation({})


def test_an_error_that_hides_an_exception_says_how_to_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_on_import.py").write_text("1 / 0\n")
    assert main(["strategy=broken_on_import:Rule"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith(
        "division by zero; FEDKD_TRACEBACK=1 before the command prints where it comes from"
    )
    assert main(["rounds=-1"]) == 2
    assert "FEDKD_TRACEBACK" not in capsys.readouterr().err
    monkeypatch.setenv("FEDKD_TRACEBACK", "1")
    assert main(["strategy=broken_on_import:Rule"]) == 2
    assert capsys.readouterr().err.endswith(": division by zero\n")


def test_a_glob_names_components_alone() -> None:
    from fedkd.cli.hydra_compose import _forced

    assert _forced("codec=glob(f*)") == "codec=full,float16"
    assert "of scenario" not in _forced("strategy=glob(*)")
    assert _forced("strategy=glob([fedmd*,knf*])") == "strategy=fedmd,knfu"
    with pytest.raises(SettingError, match=r"codec=glob\(x\*\) names none of"):
        _forced("codec=glob(x*)")


def test_what_a_robust_mean_says_later_names_its_section() -> None:
    with pytest.raises(SettingError, match=r"^robust.tolerate=0.4 is 2 of 5 clients"):
        threat_model(NoAttack(), Krum(tolerate=0.4), clients=5, classes=3, seed=0)


def test_a_component_may_be_given_with_settings_of_its_own() -> None:
    found = compose_scenario(
        parse_arguments(["strategy=knfu(beta=2.5)", "partition=dirichlet(alpha=0.1)"])
    )
    assert found.strategy.fields["beta"] == 2.5
    assert found.to_dict()["partition"]["alpha"] == 0.1  # type: ignore[index]
    assert found.report.named_by == ("strategy.beta", "partition", "partition.alpha")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["partition=dirichlet(alpa=1)"], "no setting 'partition.alpa'; did you mean partition.al"),
        (["partition=dirchlet(alpha=1)"], "unknown partition 'dirchlet'; did you mean 'dirichlet'"),
        (["partition=dirichlet(1)"], "must have names, as in dirichlet"),
        (["-m", "seed=1,2", "run_dir=out"], "run_dir=out would be the folder of every run"),
    ],
)
def test_what_a_component_does_not_have_and_what_a_sweep_cannot_do(
    given: list[str], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        parse_arguments(given)


def test_a_setting_that_is_given_twice_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["seed=1", "seed=2", "rounds=0"]) == 2
    assert "seed=1 and seed=2 set seed more than once; the last one" in capsys.readouterr().err
