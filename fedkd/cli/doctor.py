"""``fedkd doctor``: what fedkd finds on this machine, and a cache that is mended or emptied."""

import argparse
import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

import fedkd
from fedkd.cli.command import reported
from fedkd.data.cache import cache_folder
from fedkd.data.cache_inspection import KINDS, clear_cache, inspect_cache, mend_cache
from fedkd.errors import StorageError
from fedkd.report.console import size
from fedkd.runtime.parallel import available_cores

PACKAGE = Path(fedkd.__file__).parent
DEVELOPERS = ("dev", "all")
"""Extras whose packages are not named one by one."""
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much memory a container may have."""


@dataclass(frozen=True)
class Package:
    """A package that fedkd asks for, and the version that is installed."""

    requirement: Requirement
    extra: str
    """What brings it, as in fedkd[text]; empty for what fedkd cannot do without."""
    installed: str | None

    @property
    def complaint(self) -> str:
        """What is wrong with it; nothing if it fits."""
        if self.installed is None:
            return "missing"
        fits = self.requirement.specifier.contains(self.installed, prereleases=True)
        return "" if fits else f"fedkd is for {self.requirement.specifier}"

    @property
    def line(self) -> str:
        """Its line of the report."""
        wanted = f"fedkd[{self.extra}]" if self.extra else "fedkd"
        cure = f"{self.complaint}: pip install '{wanted}'" if self.complaint else ""
        extra = f"[{self.extra}]" if self.extra else ""
        installed = self.installed or "-"
        return f"  {self.requirement.name:<16} {installed:<12} {extra:<13} {cure}".rstrip()


def main(given: Sequence[str]) -> int:
    """Print what is installed and what the cache holds, mend the cache, return the exit status.

    0, or 1 where something is missing that fedkd cannot do without.
    """
    parser = argparse.ArgumentParser(
        prog="fedkd doctor",
        description="Say what is installed and what the cache holds. Damaged entries of the cache"
        " are deleted (runs make them again), and so is what killed runs left.",
        epilog="The cache is ~/.cache/fedkd, or the folder that FEDKD_CACHE names. Deleting it"
        " costs only time. Exit status: 0, or 1 where something is wrong that is not mended.",
    )
    parser.add_argument(
        "--clear-cache",
        action="store_true",
        help="delete all entries of the cache; not while runs are at work",
    )
    asked = parser.parse_args(given)
    return reported(lambda: _cleared() if asked.clear_cache else _examined())


def _examined() -> int:
    packages = list(required_packages())
    missing = [p.requirement.name for p in packages if p.complaint and not p.extra]
    print("\n".join(about_fedkd()))
    print("\npackages")
    print("\n".join(package.line for package in packages))
    print("\nmachine")
    print("\n".join(about_machine()))
    folder = cache_folder()
    print(f"\ncache {folder} (FEDKD_CACHE names another)")
    print("\n".join(about_cache(folder)))
    with _named(folder):
        mended = mend_cache(folder)
    print("\n".join(f"  deleted, {text}" for text in mended))
    if missing:
        print(f"\nNot as fedkd needs it: {', '.join(missing)}; see above.")
        return 1
    print("All is well." if not mended else "All is well now.")
    return 0


def _cleared() -> int:
    folder = cache_folder()
    with _named(folder):
        freed = clear_cache(folder)
    print(f"{folder}: {size(freed)} deleted; runs make again what they need")
    return 0


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Make a StorageError with the file's name of what cannot be deleted."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{error.filename or folder} cannot be deleted: {error.strerror}; set FEDKD_CACHE to a"
            " folder of yours"
        ) from error


def about_fedkd() -> Iterator[str]:
    """Yield what runs and where."""
    yield f"fedkd {fedkd.__version__} in {PACKAGE}"
    yield f"Python {platform.python_version()} in {sys.prefix}, {platform.platform(terse=True)}"


def required_packages() -> Iterator[Package]:
    """Yield the packages that fedkd names, with the version that is installed."""
    for text in requirements():
        requirement = Requirement(text)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker or ""))
        if extra is None or extra[1] not in DEVELOPERS:
            yield Package(requirement, extra[1] if extra else "", version_of(requirement.name))


def requirements() -> list[str]:
    """Return what fedkd requires: as a checkout declares it, or as it was installed."""
    declared = PACKAGE.parent / "pyproject.toml"
    if not declared.is_file():
        return importlib.metadata.requires("fedkd") or []
    project = tomllib.loads(declared.read_text(encoding="utf-8"))["project"]
    extras: Mapping[str, list[str]] = project["optional-dependencies"]
    optional = [f"{text}; extra == '{name}'" for name, of in extras.items() for text in of]
    return [*project["dependencies"], *optional]


def version_of(package: str) -> str | None:
    """Return the version of an installed package; None where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def about_machine() -> Iterator[str]:
    """Yield the cores, memory, GPU and disk that runs have."""
    yield f"  cores     {available_cores()} of {os.cpu_count()}"
    memory = memory_bytes()
    yield f"  memory    {'unknown' if memory is None else size(memory)}"
    yield f"  GPU       {gpu()}"
    yield f"  disk      {size(shutil.disk_usage(Path.cwd()).free)} free in {Path.cwd()}"


def memory_bytes() -> int | None:
    """Return the memory that this process may have; None where the system does not say."""
    limits = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has none of it
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in MEMORY_LIMITS:
        text = Path(path).read_text().strip() if Path(path).is_file() else ""
        if text.isdecimal():
            limits.append(int(text))
    return min(limits, default=None)


def gpu() -> str:
    """Return the GPUs that PyTorch finds."""
    import torch

    if not torch.cuda.is_available():
        return f"none that PyTorch {torch.__version__} can use; runs are on the CPU"
    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{', '.join(found)} (CUDA {torch.version.cuda}); device=auto takes it"


def about_cache(folder: Path) -> Iterator[str]:
    """Yield what a cache holds by kind, and what is damaged."""
    kinds = inspect_cache(folder)
    for kind in kinds:
        if kind.size or kind.entries:
            yield _row(kind.name, kind.entries, kind.size, KINDS[kind.name])
            yield from (f"    damaged: {complaint}" for complaint in kind.complaints)
    yield _row("all", sum(kind.entries for kind in kinds), sum(kind.size for kind in kinds), "")


def _row(name: str, entries: int, bytes_of: int, what: str) -> str:
    return f"  {name:<11} {entries:>5} entries {size(bytes_of):>9}  {what}".rstrip()
