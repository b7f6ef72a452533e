"""What all tests share: a cache, shape checks in the unit tier, how many examples a law gets."""

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
SHAPE_CHECKED = (
    "fedkd.audit",
    "fedkd.codecs",
    "fedkd.data.corruptions",
    "fedkd.data.public",
    "fedkd.data.samples",
    "fedkd.data.shifts",
    "fedkd.federation.batch_trials",
    "fedkd.federation.batched_training",
    "fedkd.federation.client",
    "fedkd.federation.participation",
    "fedkd.federation.public_sampling",
    "fedkd.federation.round_recorder",
    "fedkd.federation.round_records",
    "fedkd.federation.sample_selection",
    "fedkd.federation.server",
    "fedkd.fusion",
    "fedkd.knowledge",
    "fedkd.messages",
    "fedkd.models",
    "fedkd.privacy",
    "fedkd.robustness.aggregators",
    "fedkd.robustness.attacks",
    "fedkd.tasks.asked_samples",
    "fedkd.tasks.images",
    "fedkd.tasks.task",
    "fedkd.tasks.text",
    "fedkd.training.losses",
    "fedkd.training.metrics",
    "fedkd.training.relational_losses",
    "fedkd.training.targets",
)
"""Modules and packages whose annotated shapes are enforced in the unit tier."""

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are tiny, and each core has its own worker
settings.register_profile("fast", max_examples=5, deadline=None, derandomize=True)
settings.register_profile("slow", max_examples=15, deadline=None, derandomize=True)
settings.load_profile("fast")


def pytest_configure(config: pytest.Config) -> None:
    """Enforce shapes where only unit tests are asked for: whole runs take half as long without."""
    if _only_unit_tests(config):
        from jaxtyping import install_import_hook

        install_import_hook(SHAPE_CHECKED, "shapes.check")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what lies in tests/slow, and the cases behind those that ``fast`` names; mark as
    nightly the cases behind those that ``daily`` names; put first what ``early`` marks."""
    seen: Counter[str] = Counter()
    for item in items:
        fast, daily = item.get_closest_marker("fast"), item.get_closest_marker("daily")
        function = item.nodeid.partition("[")[0]
        if daily is not None and seen[function] >= daily.args[0]:
            item.add_marker(pytest.mark.nightly)
        if item.path.is_relative_to(TESTS / "slow") or (
            fast is not None and seen[function] >= fast.args[0]
        ):
            item.add_marker(pytest.mark.slow)
        seen[function] += 1
        if item.get_closest_marker("alone") and item.path.is_relative_to(TESTS / "unit"):
            raise pytest.UsageError(
                f"{item.nodeid}: what runs alone is in tests/runs or tests/slow"
            )
    items.sort(key=lambda item: item.get_closest_marker("early") is None)


def pytest_collection_finish() -> None:
    """Look for garbage less often: a full search passes over all objects of PyTorch and tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Point FEDKD_CACHE, and what keeps finished runs, at folders that all processes share."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "FEDKD_CACHE", str(shared / "cache"))
        patch.setitem(os.environ, "FEDKD_TEST_RUNS", str(shared / "finished"))
        yield str(shared / "cache")


@pytest.fixture(scope="session")
def enforced_shapes(pytestconfig: pytest.Config) -> None:
    """Skip a test that wants shapes to be enforced where they are not."""
    if not _only_unit_tests(pytestconfig):
        pytest.skip("shapes are enforced where unit tests run alone: pytest tests/unit")


def _only_unit_tests(config: pytest.Config) -> bool:
    """Return whether what is asked for lies in tests/unit or, as doctests do, outside tests."""
    folders = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    return all(
        folder.is_relative_to(TESTS / "unit")
        or not (folder.is_relative_to(TESTS) or TESTS.is_relative_to(folder))
        for folder in folders
    )
