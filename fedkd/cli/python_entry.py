"""Run, resume and read experiments from Python: ``fedkd.run``, ``fedkd.resume``, ``fedkd.load``.

The same scenarios, checks and folders as the command's. ``fedkd`` hands these functions on when
they are first asked for.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fedkd.errors import SettingError
from fedkd.experiment.stored_run import StoredRun
from fedkd.settings.validators import user_path

if TYPE_CHECKING:
    from fedkd.cli.stored_runs import StoredRuns
    from fedkd.experiment.round_watchers import Callback
    from fedkd.scenario.scenario import Scenario

__all__ = ["load", "resume", "run"]


def run(
    scenario: str | os.PathLike[str] = "digits",
    *,
    on_round: "Callback | Sequence[Callback] | object | None" = None,
    progress: bool = True,
    trust: bool = False,
    **settings: Any,
) -> StoredRun:
    """Run a scenario and return its run, whose results are in its folder.

    Settings are those of the command line: ``seed=1``, ``train={"epochs": 3}``, or
    ``**{"train.epochs": 3}``. A component is a name, a class, or an object:
    ``strategy="knfu"``, ``strategy=MyRule(sharpness=3)``; ``models=[make_net]`` takes functions (or
    classes of modules) of ``(input_shape, classes)``, ``data=(X, y)`` images in memory.

    Args:
        scenario: The name of a scenario, or a YAML file such as a run's ``config.yaml``.
        on_round: One or several callables, or objects with a method ``on_round``, which get a
            ``fedkd.RoundView`` after each round.
        progress: Show a progress bar and a line at the end. Warnings are Python's
            (``fedkd.RunWarning``).
        trust: Whether a file may name what is not fedkd's, which is then imported.
        **settings: Settings, sections and components by name.

    Returns:
        The run: ``run.rounds``, ``run.clients``, ``run.summary``, ``run.weights``,
        ``run.model(3)``, ``run.plot("accuracy")``, ``run.folder``.

    Raises:
        SettingError: A setting is unusable; nothing was trained.
        RunError: The run cannot go on; what was finished is in its folder.
    """
    from fedkd.cli.python_settings import scenario_of

    return _run(scenario_of(scenario, settings, trust=trust), on_round, progress=progress)


def _run(scenario: "Scenario", on_round: object, *, progress: bool) -> StoredRun:
    from fedkd.experiment import run as experiment_run

    onlookers = _onlookers(on_round, progress=progress)
    folder = experiment_run.choose_run_dir(scenario, None)
    with _quiet():
        experiment_run.run(scenario, folder, onlookers=onlookers)
    return StoredRun(folder, trust=True)


def resume(
    folder: str | os.PathLike[str],
    *,
    rounds: int | None = None,
    on_round: "Callback | Sequence[Callback] | object | None" = None,
    progress: bool = True,
    trust: bool = False,
    **settings: Any,
) -> StoredRun:
    """Go on with a run from its last checkpoint, perhaps for more rounds, and return it.

    The figures are those that it would have had without the break. Objects that no file names are
    given again: ``fedkd.resume(folder, strategy=MyRule(sharpness=3))``.

    Args:
        folder: The run's folder.
        rounds: All rounds, with those that are finished; None is what the run was begun with. Where
            something depends on their number (a privacy budget), more are refused with the reason.
        on_round: Callbacks, as in ``fedkd.run``.
        progress: Show a progress bar and a line at the end.
        trust: Whether the run may name what is not fedkd's, which is then imported.
        **settings: Settings that may differ when a run goes on (``engine``, ``device``,
            ``report``), and objects given again.

    Raises:
        SettingError: The run cannot go on in this way.
        RunError: There is no good checkpoint, or the run cannot go on.
    """
    from fedkd.cli.python_settings import resumed_scenario
    from fedkd.experiment import resume as experiment_resume

    path = user_path(os.fspath(folder), "resume")
    scenario = resumed_scenario(path, settings, rounds=rounds, trust=trust)
    with _quiet():
        experiment_resume.resume(scenario, path, onlookers=_onlookers(on_round, progress=progress))
    return StoredRun(path, trust=True)


def load(folder: str | os.PathLike[str], *, trust: bool = False) -> "StoredRun | StoredRuns":
    """Return the run in a folder, or all runs below it.

    Args:
        folder: The folder of a run, of a sweep, of a comparison.
        trust: Whether what runs name and is not fedkd's may be imported, to build their models.

    Raises:
        SettingError: There is no run.
    """
    from fedkd.cli.stored_runs import StoredRuns

    path = user_path(os.fspath(folder), "folder")
    if not path.is_dir():
        raise SettingError(f"{path}: no such folder; give that of a run or of several")
    if (path / "config.yaml").is_file() or (path / "summary.json").is_file():
        return StoredRun(path, trust=trust)
    return StoredRuns(path, trust=trust)


def _onlookers(on_round: object, *, progress: bool) -> Any:
    from fedkd.experiment.round_watchers import RoundWatchers
    from fedkd.experiment.run_report import Onlookers
    from fedkd.report.python_console import PythonConsole

    return Onlookers(watchers=RoundWatchers(on_round), console=PythonConsole(progress=progress))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower's log lines away, and leave its loggers as they were."""
    loggers = [logging.getLogger(name) for name in ("flwr", "alembic")]
    before = [(logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.propagate, logger.level = False, logging.ERROR
    try:
        yield
    finally:
        for logger, (propagate, level) in zip(loggers, before, strict=True):
            logger.propagate, logger.level = propagate, level
