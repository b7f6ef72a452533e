"""The command: its files, its contract of overrides, its errors. Runs in process, in an empty
folder."""

import csv
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from paths import HELPERS

from fedkd.cli.command import compose, main
from fedkd.report.console import ConsoleReport
from fedkd.report.folder import RunFolder
from fedkd.runtime.invocation import command_line

TINY = [
    "clients=4",
    "samples_per_client=20",
    "models=[mlp]",
    "rounds=2",
    "public.size=40",
    "test.global_size=50",
    "train.epochs=1",
    "distill.epochs=1",
    "engine.workers=1",
    "report.plots=false",
]
LEAST = [*TINY, "clients=2", "rounds=1"]
"""What is no matter of figures."""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HELPERS))  # toys, as a user's own module would be
    return tmp_path


def job(sweep: str, index: int) -> str:
    """Return the folder of a sweep's run."""
    (folder,) = Path(sweep).glob(f"{index}_*")
    return str(folder)


def timeless(table: Path) -> list[dict[str, str]]:
    """Return the rows of a sweep's table without how long the runs took."""
    with table.open(newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def summary(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "summary.json").read_text())
    return found


def clients(folder: str) -> list[dict[str, str]]:
    with (Path(folder) / "clients.csv").open() as file:
        return list(csv.DictReader(file))


def config(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((Path(folder) / "config.yaml").read_text())
    return found


def test_a_run_writes_all_that_is_promised(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "models=[mlp,cnn]", "report.plots=true", "run_dir=out"]) == 0
    folder = Path("out")
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rounds] == [1, 2]
    promised = {
        "personal_accuracy_after_distillation",
        "personal_accuracy_after_training",
        "personal_accuracy_std_after_distillation",
        "personal_accuracy_std_after_training",
        "global_accuracy_after_distillation",
        "global_accuracy_after_training",
        "global_accuracy_std_after_distillation",
        "global_accuracy_std_after_training",
        "personal_gain_after_distillation",
        "personal_gain_after_training",
        "global_gain_after_distillation",
        "global_gain_after_training",
        "bytes_up",
        "bytes_down",
        "seconds",
        "effective_neighbors",
        "self_weight",
        "label_leakage",
        "rejected",
        "failed",
        "participants",
        "knowledge_sha256",
    }
    assert promised <= set(rounds[0])
    assert len(clients("out")) == 4 * 2
    last = [
        float(row["global_accuracy_after_distillation"])
        for row in clients("out")
        if row["round"] == "2"
    ]
    assert rounds[-1]["global_accuracy_after_distillation"] == pytest.approx(np.mean(last))
    weights = np.load(folder / "weights.npy")
    assert weights.shape == (2, 4, 4)
    assert np.allclose(weights.sum(axis=-1), 1, atol=1e-5)
    final = summary("out")
    assert final["status"] == "completed"
    assert final["knowledge_sha256"] == rounds[-1]["knowledge_sha256"]
    assert final["seed"] == 0
    assert final["versions"]["torch"]
    assert {name: value for name, value in final["privacy"].items() if value is not None} == {
        "mechanism": "none",
        "reason": "raw predictions are uploaded; no epsilon is claimed against any adversary",
    }
    assert "epsilon" in final["privacy"]
    alone = final["local_only"]["personal_accuracy_after_training"]
    for point in ("distillation", "training"):
        gain = final[f"personal_accuracy_after_{point}"] - alone
        assert final[f"personal_gain_after_{point}"] == pytest.approx(gain)
    for name in ("accuracy", "partition", "weights", "gain"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 5000
        assert (folder / "plots" / f"{name}.pdf").exists()
    printed = capsys.readouterr().out
    for words in (
        "round 1/2",
        "local_only",
        "By client",
        "worse off",
        "knfu (beta=10.0",
        "  own ",
        "  balanced ",
        "One seed",
        "Results and plots: out",
    ):
        assert words in printed


def test_the_config_of_a_run_repeats_it() -> None:
    assert main([*TINY, "run_dir=first", "seed=3", "strategy.beta=2"]) == 0
    assert main(["--config", "first/config.yaml", "run_dir=again"]) == 0
    assert summary("first")["knowledge_sha256"] == summary("again")["knowledge_sha256"]
    assert config("first") == config("again")


def test_an_interrupted_run_says_how_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ConsoleReport, "round", interrupted)
        assert main([*TINY, "run_dir=a run"]) == 130
    go_on = "to go on: " + command_line(["resume", "a run"])
    assert capsys.readouterr().err == f"fedkd: interrupted; finished rounds: 1, in a run; {go_on}\n"
    assert main(["resume=a run"]) == 0
    assert "Results: a run" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_ends_a_run_though_python_lost_its_exception(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when it comes while a destructor is at work."""

    class Dropped:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ConsoleReport, "round", lambda *_: Dropped() and None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main([*LEAST, "baseline=none", "rounds=9", "run_dir=out"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "fedkd: interrupted; finished rounds: 1, in out" in capsys.readouterr().err
    assert summary("out")["status"] == "interrupted"


@pytest.mark.slow
def test_the_default_folder_carries_the_date_and_the_scenario() -> None:
    assert main([*TINY, "baseline=none"]) == 0
    assert main([*TINY, "baseline=none"]) == 0
    found = sorted(path.name for path in Path("runs").iterdir())
    assert len(found) == 2
    assert all("_digits" in name for name in found)


@pytest.mark.slow
def test_a_strategy_chosen_on_top_of_a_scenario_replaces_it_whole() -> None:
    Path("mine").mkdir()
    body = {
        "strategy": {"name": "knfu", "beta": 3.0, "divergence": "js"},
        "clients": 4,
        "models": ["mlp"],
        "rounds": 1,
    }
    Path("mine/special.yaml").write_text(
        yaml.safe_dump({**body, "public": {"size": 40}, "samples_per_client": 20})
    )
    own = ["--config-dir", "mine", "scenario=special", "baseline=none", "report.plots=false"]
    assert main([*own, "run_dir=kept", "strategy.beta=4"]) == 0
    assert config("kept")["strategy"] == {
        "name": "knfu",
        "beta": 4.0,
        "epd": "mean_soft_label",
        "epd_timing": "each_round",
        "divergence": "js",
        "neighbors": "all",
        "top_k": None,
        "threshold": None,
        "include_self": True,
        "scale": "none",
    }
    assert main([*own, "run_dir=replaced", "strategy=fedmd"]) == 0
    assert config("replaced")["strategy"] == {"name": "fedmd"}
    assert main([*own, "run_dir=anew", "strategy=knfu"]) == 0
    assert config("anew")["strategy"]["divergence"] == "kl"


def test_a_partition_chosen_on_top_of_a_scenario_replaces_it_whole() -> None:
    assert main([*LEAST, "baseline=none", "run_dir=out", "partition=iid"]) == 0
    assert config("out")["partition"] == {"name": "iid"}


def test_a_strategy_and_a_model_by_import_path() -> None:
    given = [
        "baseline=none",
        "strategy=toys:Mean",
        "strategy.scale=2",
        "models=[toys:linear,mlp]",
        "run_dir=out",
    ]
    assert main([*TINY, *given]) == 0
    assert config("out")["strategy"] == {"name": "toys:Mean", "scale": 2.0}
    assert {row["architecture"] for row in clients("out")} == {"toys:linear", "mlp"}


def test_shares_of_models() -> None:
    assert main([*TINY, "baseline=none", "models=[mlp*3,cnn*1]", "rounds=1", "run_dir=out"]) == 0
    assert [row["architecture"] for row in clients("out")] == ["mlp", "mlp", "mlp", "cnn"]


@pytest.mark.slow
def test_a_sweep_runs_every_combination_says_what_varies_and_shares_the_twin(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*LEAST, "-m", "strategy=knfu,toys:Mean", "seed=0,1"]) == 0
    (sweep,) = Path("runs").iterdir()
    names = [path.name for path in sorted(sweep.glob("[0-9]*"))]
    assert names == ["0_knfu_seed=0", "1_knfu_seed=1", "2_Mean_seed=0", "3_Mean_seed=1"]
    found = [summary(str(sweep / name)) for name in names]
    runs = [(one["strategy"]["name"], one["seed"]) for one in found]
    assert runs == [("knfu", 0), ("knfu", 1), ("toys:Mean", 0), ("toys:Mean", 1)]
    alone = [one["local_only"] for one in found]
    assert alone[0] == alone[2] != alone[1] == alone[3]
    with (sweep / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["folder"], row["strategy"], row["seed"]) for row in rows] == [
        (name, *map(str, run)) for name, run in zip(names, runs, strict=True)
    ]
    assert [float(row["global_accuracy"]) for row in rows] == [
        one[f"global_accuracy_after_{one['after']}"] for one in found
    ]
    assert {row["status"] for row in rows} == {"completed"}
    said = capsys.readouterr().out
    comparing = command_line(["compare", "--runs", str(sweep), "--out", str(sweep / "comparison")])
    assert f"Compare the runs: {comparing}" in said
    lines = said.splitlines()
    assert [line[:5] for line in lines if line.startswith("[")] == [
        f"[{n}/4]" for n in (1, 2, 3, 4)
    ]
    assert "left, until " in next(line for line in lines if line.startswith("[4/4] Mean seed=1"))
    assert said.count("privacy  ") == 1  # the plan, and what holds for all runs, is said once
    for name in names:
        log = (sweep / name / "console.log").read_text()
        assert ("round 1/" in log, "By client after" in log) == (True, True)


@pytest.mark.slow
def test_what_interrupts_the_local_only_baseline_says_that_its_time_is_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def progress(_: ConsoleReport, text: str, **__: Any) -> None:
        if "round 1/2" in text:
            raise KeyboardInterrupt

    monkeypatch.setattr(ConsoleReport, "progress", progress)
    assert main([*TINY, "seed=91", "run_dir=out"]) == 130
    said = capsys.readouterr().err
    assert "the time went into the local-only baseline, of which 1 of 2 rounds are lost" in said
    assert "baseline=none leaves it out" in said
    assert "interrupted after 0 rounds" in Path("out/console.log").read_text()


@pytest.mark.slow
def test_a_sweep_that_was_ended_goes_on_with_what_is_not_complete(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine").mkdir()
    Path("mine/small.yaml").write_text("rounds: 2\n")
    command = [
        *TINY,
        "--config-dir",
        "mine",
        "scenario=small",
        "-m",
        "strategy=knfu,toys:Mean",
        "seed=0,1",
        "rounds=3",
        "hydra.sweep.dir=a whole",
    ]
    assert main(command) == 0
    command[-1] = "hydra.sweep.dir='in parts'"
    rounds, add = iter(range(100)), RunFolder.add_round

    def add_round(folder: RunFolder, *given: Any) -> None:
        if next(rounds) == 4:  # in the second run, after its first checkpoint
            raise KeyboardInterrupt
        add(folder, *given)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "add_round", add_round)
        capsys.readouterr()
        assert main(command) == 130
    go_on = command_line(["resume", "in parts", "trust=true"])
    assert f"Go on with the sweep: {go_on}" in capsys.readouterr().out
    assert summary(job("in parts", 1))["status"] == "interrupted"
    before = Path(job("in parts", 0), "summary.json").stat().st_mtime_ns

    for wrong in ("seed=3", "-m", "run_dir=elsewhere"):
        assert main(["resume=in parts", wrong]) == 2
        assert f"{wrong} cannot be changed in a sweep that goes on" in capsys.readouterr().err
    assert main(["resume=in parts", "trust=true", "report.plots=false"]) == 0
    said = capsys.readouterr().out
    assert f"{job('in parts', 0)}: complete" in said
    assert "resumed after round 1 of 3" in said
    assert Path(job("in parts", 0), "summary.json").stat().st_mtime_ns == before
    for index in range(4):
        assert summary(job("in parts", index))["status"] == "completed"
        assert (
            summary(job("in parts", index))["knowledge_sha256"]
            == summary(job("a whole", index))["knowledge_sha256"]
        )
    assert timeless(Path("in parts/sweep.csv")) == timeless(Path("a whole/sweep.csv"))
    assert (
        main(command) == 2
    )  # without resume a folder that holds runs is refused, and nothing in it is touched
    assert "already holds a run" in capsys.readouterr().err
    assert Path(job("in parts", 0), "summary.json").stat().st_mtime_ns == before
    monkeypatch.chdir("mine")
    assert (
        main(["resume=../in parts", "trust=true"]) == 0
    )  # everything is there, from wherever it is asked
    assert capsys.readouterr().out.count(": complete") == 4


@pytest.mark.slow
def test_a_sweep_goes_on_past_a_run_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """One of them has too few clients that answer; the other is not its trouble."""
    command = [
        *TINY,
        "-m",
        "min_clients=4,1",
        "dropout=0.5",
        "rounds=4",
        "baseline=none",
        "hydra.sweep.dir=sweep",
    ]
    assert main(command) == 1
    assert "min_clients=4" in capsys.readouterr().err
    assert (summary(job("sweep", 0))["status"], summary(job("sweep", 1))["status"]) == (
        "failed",
        "completed",
    )
    assert main(["resume=sweep"]) == 1
    assert f"{job('sweep', 1)}: complete" in capsys.readouterr().out


@pytest.mark.slow
def test_a_bad_value_of_one_job_of_a_sweep_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [*TINY, "-m", "rounds=0,1", "baseline=none", "hydra.sweep.dir=sweep"]
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "fedkd: rounds=0: rounds must be >= 1, got 0"
    assert summary(job("sweep", 1))["status"] == "completed"


@pytest.mark.slow
def test_the_twin_is_computed_once(capsys: pytest.CaptureFixture[str]) -> None:
    setting = [*LEAST, "seed=77"]
    assert main([*setting, "run_dir=one"]) == 0
    assert "cached" not in capsys.readouterr().out
    assert (
        main(
            [*setting, "run_dir=two", "strategy=dsfl", "distill.temperature=2", "engine.workers=2"]
        )
        == 0
    )
    assert "local-only baseline: cached" in capsys.readouterr().out
    assert summary("one")["local_only"] == summary("two")["local_only"]
    assert main([*setting, "run_dir=three", "train.learning_rate=0.01"]) == 0
    assert "cached" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_twin_is_computed_again_once_a_users_model_has_changed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    body = (
        "from torch import nn\n\n\ndef net(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH,"
        " classes))\n"
    )
    monkeypatch.syspath_prepend(".")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for width, folder in ((8, "one"), (8, "two"), (16, "three")):
        Path("changing.py").write_text(body.replace("WIDTH", str(width)))
        sys.modules.pop("changing", None)
        assert main([*TINY, "models=[changing:net]", f"run_dir={folder}"]) == 0
        assert ("cached" in capsys.readouterr().out) == (folder == "two")
    del sys.modules["changing"]


@pytest.mark.slow
def test_the_twin_is_a_local_only_run_with_the_same_settings() -> None:
    assert main([*TINY, "run_dir=fused"]) == 0
    assert main([*TINY, "run_dir=alone", "strategy=local_only"]) == 0
    name = "global_accuracy_after_training"
    assert summary("alone")[name] == summary("fused")["local_only"][name]
    assert summary("alone")["knowledge_sha256"] is None
    assert summary("alone")["bytes_up"] == 0


@pytest.mark.slow
def test_offline_wandb_works_without_an_account() -> None:
    assert (
        main(
            [*TINY, "run_dir=out", "report.wandb=offline", "report.tags=[a,b]", "report.plots=true"]
        )
        == 0
    )
    (run,) = Path("out/wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))


@pytest.mark.slow
def test_online_wandb_without_an_account_is_refused_before_anything_is_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setattr(wandb, "login", lambda **_: False)
    assert main([*TINY, "run_dir=out", "report.wandb=online"]) == 2
    assert "report.wandb=online needs an account" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_run_dir_with_a_run_in_it_is_never_overwritten(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*LEAST, "baseline=none", "run_dir=out"]) == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir() if path.is_file()}
    assert main([*LEAST, "baseline=none", "run_dir=out", "seed=9"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert {
        path.name: path.read_bytes() for path in Path("out").iterdir() if path.is_file()
    } == before


def test_help_on_choices_says_nothing_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["strategy=knfu,toys:Mean", "codec=top_k", "--help"]) == 0
    said = capsys.readouterr().out
    for words in ("strategy.beta=10.0", "strategy=toys:Mean", "codec=top_k"):
        assert words in said
    assert len(said.splitlines()) < 60
    assert main(["strategy=knfuu", "--help"]) == 2
    assert "did you mean 'knfu'" in capsys.readouterr().err


def test_help_explains_every_setting_and_lists_every_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from fedkd.cli.arguments import scenario_files
    from fedkd.models.zoo import BUILT_IN, GROUPS_OF_MODELS
    from fedkd.scenario.registry import GROUPS, find, names
    from fedkd.scenario.scenario import SECTIONS, TOP
    from fedkd.settings.schema import defaults, documentation

    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in (*scenario_files(), *BUILT_IN, *GROUPS_OF_MODELS):
        assert f"  {name} " in text
    classes = [("", cls) for cls in TOP.values()] + list(SECTIONS.items())
    for group in GROUPS:
        for name in names(group):
            assert f"{group}={name}\n" in text
            classes.append((group, find(group, name)[0]))
    for section, cls in classes:
        explained = documentation(cls)
        for setting in defaults(cls):
            assert f"{section}.{setting}=" in text or f"\n  {setting}=" in text
            assert explained.get(setting), f"{cls.__name__}.{setting} has no word of explanation"


@pytest.mark.fast(2)
@pytest.mark.parametrize(
    "name", ["digits", "knfu_digits", "knfu_mnist", "knfu_cifar10", "workload_w"]
)
def test_the_scenarios_that_are_promised_exist_and_parse(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"scenario={name}", "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["name"] == name


BAD = {
    "scenario=digitz": r"unknown scenario 'digitz'; did you mean 'digits'",
    "strategy=knfuu": r"unknown strategy 'knfuu'; did you mean 'knfu'",
    "models=[mlpp]": r"unknown model 'mlpp'; did you mean 'mlp'",
    "data=mnits": r"unknown data 'mnits'; did you mean 'mnist'",
    "partition=dirchlet": r"unknown partition 'dirchlet'; did you mean 'dirichlet'",
    "strategy.betta=3": r"no setting 'strategy.betta'; did you mean strategy.beta",
    "rouns=3": r"no setting 'rouns'; did you mean rounds",
    "strategy.beta=high": r"strategy.beta must be a number, got 'high'",
    "clients=2.5": r"clients must be a whole number, got 2.5",
    "partition.alpha=0": r"partition.alpha must be > 0, got 0",
    "partition.alpha=-1": r"partition.alpha must be > 0, got -1",
    "clients=2000": r"clients=2000 is more than the",
    "public.size=1790": r"public.size=1790 leaves nothing",
    "strategy=knfu privacy=dp_sgd": r"privacy: give either epsilon or noise_multiplier, got",
    "public.size=0": r"strategy=knfu needs a public set",
    "models=[toys:one_class_too_many]": r"must map \[N, 1, 8, 8\] to logits \[N, C\] with C = 10;"
    r" .*\(2, 11\)",
    "models=[toys:nothing]": r"unknown models in module toys 'nothing'; .* Known: Broken,"
    r" Hoarding, Labeled, Mean, ",
    "strategy=toys:linear": r"strategy",
    "strategy=none.such:Thing": r"there is no module 'none'",
    "strategy=toys:Plain": r"strategy.power has no default",
    "device=cuda": r"device=cuda, but PyTorch finds no CUDA",
    "distill.loss=mae": r"compares logits, but strategy=knfu sends soft labels",
    "distill.loss_skew=0.3": r"distill.loss_skew=0.3 would do nothing: loss=kl has none",
    "distill.loss=js distill.loss_skew=1": r"distill.loss_skew must be above 0 and below 1, got 1",
    "distill.temperature=0": r"distill.temperature must be > 0",
    "train.momentum=0.9": r"momentum=0.9 would do nothing",
    "participation=1.5": r"participation must be above 0 and at most 1, got 1.5",
    "engine.workers=0": r"engine.workers must be >= 1, got 0",
    "strategy.top_k=2": r"strategy.top_k=2 would do nothing",
    "public.labeled=true": r"public.labeled=true would do nothing",
    "data=mnist data.path=/none": r"data.path=/none: no such folder",
    "public_data=nois": r"unknown public_data 'nois'; did you mean 'noise'",
    "public_data=mnist public_data.path=/none": r"public_data.path=/none: no such folder",
    "public_data=digits": r"public_data names the clients' own data set",
    "public_data=noise public.labeled=true": r"public.labeled=true needs public_data=same",
    "public.foreign_share=0.5": r"public.foreign_share=0.5 would do nothing: public_data=same",
    "public.severity=3": r"public.severity=3 would do nothing: corruption is null",
    "public.corruption=fog": r"public.corruption must be one of gaussian_noise, .* or null, got"
    r" 'fog'",
    "public.reserved=10": r"public.reserved=10 is too few",
    "public.reserved=1790": r"public.reserved=1790 leaves nothing",
    "rounds=1 round_order=distill_first": r"would distill nothing",
    "strategy=toys:Labeled": r"needs the labels of the public set",
    "report.wandb=maybe": r"report.wandb must be one of disabled, offline, online, got 'maybe'",
    "hello": r"'hello' is no setting; write key=value",
    "--config none.yaml": r"no such file",
    "--config-dir none": r"no such folder",
    "seed=1,2": r"add -m to run each of them",
}


@pytest.mark.fast(8)
@pytest.mark.parametrize("given", BAD)
def test_bad_input_gets_one_clear_line_and_status_2(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    if given == "device=cuda":
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has CUDA")
    assert main(given.split(" ")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("fedkd: ")
    assert re.search(BAD[given], error), error
    assert not Path("runs").exists()


def test_a_scenario_file_with_a_mistake_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    for text, words in {
        "clients: [": "cannot be read",
        "- 3": "must hold settings",
        "strategy: {beta: 3}": "strategy must be a name",
        "strategy: knfuu": "unknown strategy 'knfuu'",
        "rouns: 3": "no setting 'rouns'",
    }.items():
        Path("mine/broken.yaml").write_text(text)
        assert main(["--config-dir", "mine", "scenario=broken"]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_scenario_file_that_changed_is_read_again() -> None:
    own = compose(["scenario=digits"])
    Path("mine").mkdir()
    for clients, alpha in ((3, 1.0), (4, 2.0)):
        Path("mine/digits.yaml").write_text(
            f"clients: {clients}\npartition: {{name: dirichlet, alpha: {alpha}}}\n"
        )
        found = compose(["--config-dir", "mine", "scenario=digits"])
        assert (found.federation.clients, found.partition.fields["alpha"]) == (clients, alpha)
    assert compose(["scenario=digits"]) == own
