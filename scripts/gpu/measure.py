# ruff: noqa: B023  (each lambda is called within its iteration of the loop)
"""Measure on a GPU: a training step in several designs, whole rounds, and where the time goes.

    python measure.py [--out DIR] [--budget SECONDS] [--only PART ...] [--models NAME ...]
    python measure.py --dry-run        # on the CPU, to try the script

rounds   seconds a round of W: the plain loop and fedkd, with peak memory and load of the GPU
inside   one round of W: host time by function, waits for the GPU by line, kernels and copies
scale    seconds a round of 100 and 1,000 clients, and of ResNets on color images of 32 x 32
steps    milliseconds a client and step: the plain loop, fedkd one by one, fedkd together, with
         convolutions as products, replayed as a CUDA graph, and two designs that fedkd does not
         have: a step of one client as a graph, and many clients' in a graph with its samples
options  the cost in a step of determinism, filled memory, TF32, fused Adam, bf16, channels_last
host     the time of a launch, a wait and a copy; rounds of W on this machine's CPU

All data are random: figures are of speed only. Each figure is the median of a few runs after one
that warms up; long measurements are one run in a warm process.
"""

import argparse
import contextlib
import cProfile
import io
import itertools
import json
import os
import pstats
import re
import statistics
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cases import Budget, device_or_exit, filled, machine, synchronize, tf32, w_like
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.federation.batched_training import Pool, optimize_together, take_in_turn
from fedkd.federation.round_records import RoundRecord
from fedkd.federation.step_graphs import StepGraphs
from fedkd.models.factory import ImageModelSpec
from fedkd.models.product_convolutions import as_products
from fedkd.runtime.devices import deterministic
from fedkd.scenario.scenario import Scenario
from fedkd.training.hyperparameters import Phase
from fedkd.training.loop import optimize

GREY, COLOR = (1, 28, 28), (3, 32, 32)
STEPS, BATCH, CLASSES, RATE = 16, 32, 10, 1e-3
SIZES: list[tuple[str, str, tuple[int, int, int], tuple[int, ...]]] = [
    ("mlp", "mlp", GREY, (7, 20, 100, 1000)),
    ("cnn", "cnn", GREY, (7, 20, 100, 400)),
    ("resnet", "resnet", GREY, (6, 20, 100)),
    ("resnet 32x32x3", "resnet", COLOR, (20, 100)),
    ("vit", "vit", GREY, (7, 20)),
]
"""Label, architecture, an image's shape, and numbers of clients that train together."""


def timed(call: Callable[[], object], device: torch.device, longest: float = 1.5) -> float:
    """Return the median seconds of a call, after one that warms up.

    It is called up to five times, until ``longest`` seconds have passed.
    """

    def once() -> float:
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        return time.perf_counter() - start

    once()
    found = [once()]
    while sum(found) < longest and len(found) < 5:
        found.append(once())
    return statistics.median(found)


class Work:
    """Clients of one architecture with their samples, to be trained for an epoch."""

    def __init__(
        self, name: str, shape: tuple[int, int, int], clients: int, steps: int, device: torch.device
    ) -> None:
        """Draw the samples.

        Args:
            name: The architecture.
            shape: An image's channels, height and width.
            clients: The number of clients.
            steps: Steps of an epoch.
            device: Where samples are.
        """
        self.architecture = ImageModelSpec(name, shape, CLASSES)
        self.clients, self.steps, self.device = clients, steps, device
        self.size = steps * BATCH
        stream = torch.Generator(device=device).manual_seed(0)
        shared = torch.randn(min(clients, 32), self.size, *shape, generator=stream, device=device)
        # Clients beyond 32 share images, to save memory; the work is the same.
        self.x = [shared[i % len(shared)] for i in range(clients)]
        self.y = [
            torch.randint(CLASSES, (self.size,), generator=stream, device=device)
            for _ in range(clients)
        ]
        self.starts = {
            name: v.to(device) for name, v in self.architecture.build(0).state_dict().items()
        }

    def model(self) -> nn.Module:
        """Return a new model on the device."""
        model = self.architecture.build(0).to(self.device)
        return model.train()


def plain_loop(
    work: Work, *, fused: bool = False, amp: bool = False, channels_last: bool = False
) -> Callable[[], None]:
    """Return a call that trains one client for an epoch, as a plain PyTorch loop.

    Args:
        work: The clients, of which the first is trained.
        fused: Whether Adam is fused.
        amp: Whether to use bf16 autocast.
        channels_last: Whether to use that memory format.
    """
    model, x, y = work.model(), work.x[0], work.y[0]
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)

    def call() -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=fused or None)
        for batch in torch.randperm(work.size, device=work.device).split(BATCH):
            optimizer.zero_grad()
            with torch.autocast(work.device.type, torch.bfloat16, enabled=amp):
                loss = F.cross_entropy(model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()

    return call


def fedkd_single(work: Work) -> Callable[[], None]:
    """Return a call that trains one client for an epoch, as fedkd does."""
    model, x, y, phase = work.model(), work.x[0], work.y[0], Phase(batch_size=BATCH)

    def call() -> None:
        optimize(
            model,
            work.size,
            lambda b: F.cross_entropy(model(x[b]), y[b]),
            phase,
            np.random.default_rng(0),
        )

    return call


def fedkd_batched(
    work: Work, *, graphs: bool = False, products: bool = False
) -> Callable[[], None]:
    """Return a call that trains all clients together for an epoch, as fedkd does.

    Args:
        work: The clients.
        graphs: Whether steps are replayed as CUDA graphs.
        products: Whether convolutions are products of matrices.
    """
    model, phase = work.model(), Phase(batch_size=BATCH)
    states = {name: torch.stack([value] * work.clients) for name, value in work.starts.items()}
    x, y = Pool.of_each(work.x), Pool.of_each(work.y)

    def call() -> None:
        streams = [np.random.default_rng(i) for i in range(work.clients)]
        with as_products(model, products):
            optimize_together(
                model,
                states,
                [work.size] * work.clients,
                x,
                y,
                F.cross_entropy,
                phase,
                streams,
                take_steps=take,
            )

    take = partial(StepGraphs().take, key="measured") if graphs else take_in_turn
    return call


class FusedStep:
    """A step of all clients in one call: stacked weights, fused Adam, no scatter, no copies.

    A counter on the device selects the batch, so that a step can be a CUDA graph. One client is
    trained without vmap. A call trains an epoch; ``reset`` restores the initial weights in place.
    """

    def __init__(self, work: Work, *, graph: bool, compiled: bool = False) -> None:
        self.work = work
        self.graph: torch.cuda.CUDAGraph | None = None
        model, device, clients = work.model(), work.device, work.clients
        shape, single = work.x[0].shape[1:], clients == 1
        named = {n: p.detach() for n, p in model.named_parameters()}
        self.starts = {
            n: p.clone() if single else torch.stack([p] * clients) for n, p in named.items()
        }
        self.params = {n: value.clone().requires_grad_() for n, value in self.starts.items()}
        self.pool, self.onehot = (
            torch.cat(work.x),
            F.one_hot(torch.cat(work.y), CLASSES).to(torch.float32),
        )
        permutations = [
            np.random.default_rng(i).permutation(work.size) + i * work.size for i in range(clients)
        ]
        rows = (
            np.stack(permutations, 1)
            .reshape(work.steps, BATCH, clients)
            .swapaxes(1, 2)
            .reshape(work.steps, -1)
        )
        self.rows = torch.from_numpy(np.ascontiguousarray(rows)).to(device)
        self.counter = torch.zeros(1, dtype=torch.int64, device=device)
        on_gpu = device.type == "cuda"
        self.optimizer = torch.optim.Adam(
            list(self.params.values()), lr=RATE, fused=on_gpu, capturable=on_gpu
        )

        def forward(p: dict[str, Tensor], x: Tensor) -> Tensor:
            found: Tensor = functional_call(model, p, (x,))
            return found

        def loss_of(p: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
            logits = (
                forward(p, x)
                if single
                else vmap(forward)(p, x.view(clients, BATCH, *shape)).flatten(0, 1)
            )
            total: Tensor = -(F.log_softmax(logits, dim=-1) * target).sum() / BATCH
            return total

        self.loss_of = torch.compile(loss_of) if compiled else loss_of
        if graph:
            self._capture()

    def _step(self) -> None:
        now = self.rows.index_select(0, self.counter).view(-1)
        self.loss_of(
            self.params, self.pool.index_select(0, now), self.onehot.index_select(0, now)
        ).backward()
        self.optimizer.step()
        self.counter.add_(1).remainder_(self.work.steps)

    def _capture(self) -> None:
        with filled(False):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.optimizer.zero_grad(set_to_none=True)
                    self._step()
            torch.cuda.current_stream().wait_stream(stream)
            self.optimizer.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._step()
        self.graph = graph
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Restore the initial weights, optimizer state and batch."""
        for name, value in self.params.items():
            value.copy_(self.starts[name])
        for known in self.optimizer.state.values():
            for value in known.values():
                value.zero_()
        self.counter.zero_()

    def __call__(self) -> None:
        """Train all clients for an epoch."""
        for _ in range(self.work.steps):
            if self.graph is not None:
                self.graph.replay()
            else:
                self.optimizer.zero_grad(set_to_none=True)
                self._step()


def agreement(work: Work, made: FusedStep) -> float:
    """Return the largest difference of weights from fedkd's after an epoch, in learning rates."""
    model, phase = work.model(), Phase(batch_size=BATCH, learning_rate=RATE)
    states = {name: torch.stack([value] * work.clients) for name, value in work.starts.items()}
    streams = [np.random.default_rng(i) for i in range(work.clients)]
    x, y = Pool.of_each(work.x), Pool.of_each(work.y)
    optimize_together(
        model, states, [work.size] * work.clients, x, y, F.cross_entropy, phase, streams
    )
    made.reset()
    made()
    names = made.params
    return max((states[n].view_as(names[n]) - names[n]).abs().max().item() for n in names) / RATE


def kernels(call: Callable[[], None], device: torch.device, steps: int) -> dict[str, float] | None:
    """Return kernels, copies and microseconds of the GPU per step; None without a GPU."""
    if device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        synchronize(device)
    counts, times = on_the_gpu(seen)
    copies = sum(count for name, count in counts.items() if name.startswith(COPIES))
    return {
        "kernels": (sum(counts.values()) - copies) / steps,
        "copies": copies / steps,
        "gpu_us": sum(times.values()) / steps,
    }


COPIES = ("Memcpy", "Memset")


def on_the_gpu(seen: Any) -> tuple[Counter[str], Counter[str]]:
    """Return counts and microseconds of the profiled operations on the GPU, by name."""
    counts, times = Counter[str](), Counter[str]()
    for event in seen.events():
        if "cuda" in str(event.device_type).lower() and not event.name.startswith(
            ("Optimizer.", "ProfilerStep")
        ):
            counts[event.name[:90]] += 1
            times[event.name[:90]] += event.time_range.elapsed_us()
    return counts, times


class Report:
    """Measurements by part, printed and written one after the other."""

    def __init__(self, device: torch.device, budget: Budget, file: Path) -> None:
        self.device, self.budget, self._file = device, budget, file
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def add(
        self, part: str, what: str, call: Callable[[], dict[str, Any]], expected: float
    ) -> dict[str, Any]:
        """Measure once, print and write the row, and return it; a failure makes a row too.

        Args:
            part: The part.
            what: Names the measurement.
            call: Measures, and returns figures.
            expected: Seconds, about; with less time left the measurement is skipped.
        """
        started = time.monotonic()
        if self.budget.left < expected:
            row: dict[str, Any] = {"what": what, "skipped": "no time left"}
        else:
            try:
                if self.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                row = {"what": what, **call()}
                if self.device.type == "cuda":
                    row["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
            except Exception as error:
                row = {
                    "what": what,
                    "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
                }
                traceback.print_exc(limit=-3)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        row["took_s"] = round(time.monotonic() - started, 1)
        self.rows.setdefault(part, []).append(row)
        self.write()
        shown = {
            k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k != "lines"
        }
        print(f"[{part}] {shown}", flush=True)
        return row

    def write(self) -> None:
        """Write all measurements."""
        self._file.write_text(json.dumps({"machine": machine(self.device), **self.rows}, indent=1))


def step_part(report: Report, dry_run: bool, compiled: bool, only: list[str]) -> None:
    """Measure a training step of each architecture in each design.

    Args:
        report: Takes the measurements.
        dry_run: Whether to measure less, on the CPU.
        compiled: Whether to compile a step too.
        only: Labels of architectures, all if empty.
    """
    device, on_gpu = report.device, report.device.type == "cuda"
    steps = 2 if dry_run else STEPS

    def each(
        make: Callable[[], Callable[[], None]], work: Work, count: bool = False
    ) -> dict[str, Any]:
        with deterministic(device):
            call = make()
            found: dict[str, Any] = {}
            if isinstance(call, FusedStep) and work.clients <= 20:
                found["apart_from_fedkd"] = agreement(work, call)
            found["ms_a_client_step"] = 1000 * timed(call, device) / steps / work.clients
            return found | ((kernels(call, device, steps) or {}) if count else {})

    for label, name, shape, sizes in SIZES[: 2 if dry_run else None]:
        if only and label not in only:
            continue
        one = Work(name, shape, 1, steps, device)
        plain = report.add(
            "steps", f"{label}: plain loop", lambda: each(lambda: plain_loop(one), one, True), 4
        )
        base = plain.get("ms_a_client_step")

        def add(
            what: str,
            make: Callable[[], Callable[[], None]],
            work: Work,
            expected: float,
            count: bool = True,
        ) -> None:
            row = report.add("steps", f"{label}: {what}", lambda: each(make, work, count), expected)
            if base and "ms_a_client_step" in row:
                row["times_the_plain_loop"] = base / row["ms_a_client_step"]
                print(f"    {row['times_the_plain_loop']:.1f} times the plain loop", flush=True)

        add("fedkd one by one", lambda: fedkd_single(one), one, 2)
        if on_gpu:
            add("graph of one client's step", lambda: FusedStep(one, graph=True), one, 2)
        for clients in (2,) if dry_run else sizes:
            work = Work(name, shape, clients, steps, device)
            for what, make, expected, count in designs(name, work, compiled=compiled):
                add(f"{clients} together{what}", make, work, expected, count)
            del work
        del one


def designs(
    name: str, work: Work, *, compiled: bool
) -> list[tuple[str, Callable[[], Callable[[], None]], float, bool]]:
    """Return designs of a step of several clients: what, how, seconds, whether to count kernels.

    Args:
        name: The architecture.
        work: The clients.
        compiled: Whether to compile a step too.
    """
    on_gpu = work.device.type == "cuda"
    found: list[tuple[str, Callable[[], Callable[[], None]], float, bool]] = [
        ("", lambda: fedkd_batched(work), 4, True),
        (", fused Adam, no scatter", lambda: FusedStep(work, graph=False), 3, False),
    ]
    if name in ("cnn", "resnet"):
        made = partial(fedkd_batched, work, products=True)
        found.append((", convolutions as products", made, 4, True))
    if on_gpu:
        found.append((", fedkd's graph", partial(fedkd_batched, work, graphs=True), 4, True))
        found.append((" as a graph", lambda: FusedStep(work, graph=True), 4, True))
    if compiled and work.clients in (20, 2):
        what = f", compiled{', as a graph' if on_gpu else ''}"
        found.append((what, lambda: FusedStep(work, graph=on_gpu, compiled=True), 60, True))
    return found


@contextlib.contextmanager
def as_set(repeatable: bool, fill: bool) -> Iterator[None]:
    """Set deterministic algorithms and filling of uninitialized memory within the context."""
    torch.set_deterministic_debug_mode("warn" if repeatable else "default")
    torch.backends.cudnn.deterministic = repeatable
    try:
        with filled(fill):
            yield
    finally:
        torch.set_deterministic_debug_mode("default")
        torch.backends.cudnn.deterministic = False


@dataclass(frozen=True)
class Option:
    """A training step with one setting changed."""

    label: str
    work: Work
    make: Callable[[Work], Callable[[], None]]
    repeatable: bool = False
    """Whether algorithms are deterministic."""
    fill: bool = False
    """Whether uninitialized memory is filled."""
    rounded: bool = True
    """Whether convolutions use TF32."""

    def measure(self) -> dict[str, Any]:
        """Return the milliseconds per client and step, and counts of kernels."""
        device, steps = self.work.device, self.work.steps
        with as_set(self.repeatable, self.fill), tf32(self.rounded):
            call = self.make(self.work)
            seconds = timed(call, device, 0.7)
            found = {"ms_a_client_step": 1000 * seconds / steps / self.work.clients}
            return found | (kernels(call, device, steps) or {})


def options_of(one: Work, some: Work) -> list[Option]:
    """Return the options to measure, for one client and for several together."""
    fused = one.device.type == "cuda"
    batched = f"{some.clients} together"
    return [
        Option("alone, memory filled", one, fedkd_single, repeatable=True, fill=True),
        Option("alone, as fedkd sets it", one, fedkd_single, repeatable=True),
        Option("alone, any algorithm", one, fedkd_single),
        Option("alone, any algorithm, no TF32", one, fedkd_single, rounded=False),
        Option("alone, plain loop", one, plain_loop),
        Option("alone, plain loop, fused Adam", one, partial(plain_loop, fused=fused)),
        Option("alone, plain loop, bf16", one, partial(plain_loop, amp=True)),
        Option("alone, plain loop, channels_last", one, partial(plain_loop, channels_last=True)),
        Option(f"{batched}, memory filled", some, fedkd_batched, repeatable=True, fill=True),
        Option(f"{batched}, as fedkd sets it", some, fedkd_batched, repeatable=True),
        Option(f"{batched}, any algorithm", some, fedkd_batched),
        Option(f"{batched}, any algorithm, no TF32", some, fedkd_batched, rounded=False),
    ]


def option_part(report: Report, dry_run: bool) -> None:
    """Measure a ResNet's step with one setting changed at a time, of one client and of several."""
    device, steps = report.device, 2 if dry_run else STEPS
    name = "cnn" if dry_run else "resnet"
    one = Work(name, GREY, 1, steps, device)
    some = Work(name, GREY, 2 if dry_run else 20, steps, device)
    for option in options_of(one, some)[:: 4 if dry_run else 1]:
        report.add("options", f"{name} {option.label}", option.measure, 2)
    for name, clients in (("cnn", 2),) if dry_run else (("cnn", 7), ("resnet", 6)):
        work = Work(name, GREY, clients, steps, device)
        report.add(
            "options",
            f"{name} {clients} together, hand-made and fedkd's, no TF32",
            lambda: exact(work),
            3,
        )


def exact(work: Work) -> dict[str, Any]:
    """Return differences of weights between ``FusedStep`` and fedkd, without TF32."""
    found = {}
    for what, repeatable in (("apart_from_fedkd", True), ("apart_any_algorithm", False)):
        with as_set(repeatable, fill=False), tf32(False):
            found[what] = agreement(work, FusedStep(work, graph=work.device.type == "cuda"))
    return found


W = ["mlp*7", "cnn*7", "resnet*6"]


class Load:
    """A context that measures the GPU's mean utilization by the driver, in percent."""

    def __init__(self, device: torch.device) -> None:
        self._seen: list[int] = []
        self._done, self._wanted = threading.Event(), device.type == "cuda"
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        with contextlib.suppress(Exception):  # the library that reads it may be missing
            while not self._done.wait(0.1):
                self._seen.append(torch.cuda.utilization())

    def __enter__(self) -> "Load":
        if self._wanted:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._wanted:
            self._thread.join()

    @property
    def mean(self) -> float | None:
        """The mean utilization in percent; None if it cannot be read."""
        return statistics.fmean(self._seen) if self._seen else None


def loop_rounds(settings: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Run rounds as a plain PyTorch loop over tensors on the device; return seconds per round."""
    experiment = build(Scenario.parse({**settings, "device": device.type}), threading.Event())
    context, rounds = experiment.context, experiment.plan.rounds
    sets = [context.samples(rows) for rows in context.division.train]
    public, models = (
        context.public_inputs,
        [a.build(i).to(device) for i, a in enumerate(context.architectures)],
    )
    found = []
    with Load(device) as load:
        for _ in range(rounds):
            synchronize(device)
            start, logits = time.perf_counter(), []
            for model, (x, y) in zip(models, sets, strict=True):
                model.train()
                optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
                for batch in torch.randperm(len(y), device=device).split(32):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x[batch]), y[batch]).backward()
                    optimizer.step()
                model.eval()
                with torch.no_grad():
                    logits.append(torch.cat([model(part) for part in public.split(256)]))
            target = torch.softmax(torch.stack(logits).mean(0) / 2.0, dim=-1)
            for model in models:
                model.train()
                optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
                for batch in torch.randperm(len(public), device=device).split(64):
                    optimizer.zero_grad()
                    log_probs = F.log_softmax(model(public[batch]) / 2.0, dim=-1)
                    (4.0 * F.kl_div(log_probs, target[batch], reduction="batchmean")).backward()
                    optimizer.step()
            synchronize(device)
            found.append(time.perf_counter() - start)
    return {
        "s_a_round": statistics.median(found[1:] or found),
        "first_s": found[0],
        "gpu_load_percent": load.mean,
    }


def fedkd_rounds(settings: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Run fedkd's rounds, and return seconds per round and related figures."""
    stop, seconds, marks = threading.Event(), list[float](), list[float]()
    experiment = build(Scenario.parse({**settings, "device": device.type}), stop)
    statuses: Counter[str] = Counter()

    def on_round(record: RoundRecord) -> None:
        synchronize(device)
        seconds.append(record.seconds)
        marks.append(time.perf_counter())
        statuses.update(client.status for client in record.clients)

    with Load(device) as load:
        execute(experiment, on_round, stop)
    if set(statuses) != {"ok"}:
        raise RuntimeError(f"clients were {dict(statuses)}")
    by_clock = [b - a for a, b in itertools.pairwise(marks)]
    return {
        "s_a_round": statistics.median(by_clock or seconds),
        "first_s": seconds[0],
        "ms_a_client_round": 1000
        * statistics.median(by_clock or seconds)
        / experiment.plan.clients,
        "batch_clients": experiment.scenario.federation.batch_clients,
        "gpu_load_percent": load.mean,
    }


def round_part(report: Report, dry_run: bool) -> None:
    """Measure whole rounds of W: the plain loop, and fedkd one by one and together."""
    device, eight = report.device, {"name": "local", "workers": 8}
    w = w_like(3, ["mlp"], private=40, public=64, rounds=2) if dry_run else w_like(20, W, rounds=4)
    everyone = ["mlp"] if dry_run else ["mlp", "cnn", "resnet"]
    tested = {"test": {"global_size": 1000, "private_size": 100}}
    report.add("rounds", "W, 20 clients: plain loop", lambda: loop_rounds(w, device), 6)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("one by one", {}),
        ("one by one, 8 threads", {"engine": eight}),
        ("together", {"batch_clients": everyone}),
        ("together, steps replayed", {"batch_clients": everyone, "step_graphs": everyone}),
        ("all by trial", {"batch_clients": "auto", "step_graphs": "auto"}),
        ("together, 8 threads", {"batch_clients": everyone, "engine": eight}),
        ("one by one, 1,000 test images", tested),
        ("together, 1,000 test images", {"batch_clients": everyone, **tested}),
    ]
    for what, changes in cases[: 3 if dry_run else None]:
        report.add(
            "rounds", f"W, 20 clients: {what}", lambda: fedkd_rounds({**w, **changes}, device), 8
        )


def host_part(report: Report, dry_run: bool) -> None:
    """Measure the host's time to start a kernel, to wait, to copy, and to compute rounds of W."""
    device = report.device

    def small() -> dict[str, Any]:
        x, page = torch.zeros(1, device=device), torch.zeros(1024)
        there = page.to(device)

        def each(call: Callable[[], object], count: int = 500) -> float:
            def many() -> None:
                for _ in range(count):
                    call()

            return 1e6 * timed(many, device, 0.2) / count

        return {
            "us_python_1000_additions": each(lambda: sum(i for i in range(1000)), 100),
            "us_an_addition": each(lambda: x.add_(1)),
            "us_an_empty_tensor": each(lambda: torch.empty(1, device=device)),
            "us_a_value_read": each(x.item),
            "us_4_KB_there": each(lambda: there.copy_(page)),
            "us_4_KB_back": each(lambda: page.copy_(there)),
        }

    report.add("host", "one operation", small, 2)
    w = w_like(3, ["mlp"], private=40, public=64, rounds=2) if dry_run else w_like(20, W, rounds=2)
    cpu, eight = torch.device("cpu"), {"engine": {"name": "local", "workers": 8}}
    report.add(
        "host", "W on this machine's CPU: plain loop, one core", lambda: loop_rounds(w, cpu), 15
    )
    report.add("host", "W on this machine's CPU: fedkd, one core", lambda: fedkd_rounds(w, cpu), 15)
    report.add(
        "host",
        "W on this machine's CPU: fedkd, 8 threads",
        lambda: fedkd_rounds({**w, **eight}, cpu),
        10,
    )


def scale_part(report: Report, dry_run: bool) -> None:
    """Measure rounds of more clients and of larger models, one round where that takes long."""
    if dry_run:
        return
    device = report.device
    for label, settings, names, seconds in (
        ("100 clients, W's mixture", w_like(100, W, rounds=2), ["mlp", "cnn", "resnet"], 20),
        (
            "1,000 MLPs, 100 private, 200 public",
            w_like(1000, ["mlp"], private=100, public=200, rounds=2),
            ["mlp"],
            30,
        ),
        (
            "20 ResNets 32x32x3",
            w_like(20, ["resnet"], side=32, channels=3, rounds=2),
            ["resnet"],
            8,
        ),
        (
            "100 ResNets 32x32x3",
            w_like(100, ["resnet"], side=32, channels=3, rounds=2),
            ["resnet"],
            40,
        ),
    ):
        one = {**settings, "rounds": 1}
        report.add(
            "scale",
            f"{label}: together",
            lambda: fedkd_rounds({**settings, "batch_clients": names}, device),
            15,
        )
        report.add(
            "scale",
            f"{label}: together, steps replayed",
            lambda: fedkd_rounds(
                {**settings, "batch_clients": names, "step_graphs": names}, device
            ),
            15,
        )
        report.add("scale", f"{label}: one by one", lambda: fedkd_rounds(one, device), seconds)
        report.add("scale", f"{label}: plain loop", lambda: loop_rounds(one, device), seconds)


def inside_part(report: Report, dry_run: bool) -> None:
    """Profile a round of W, with clients trained one by one and together."""
    device = report.device
    settings = (
        w_like(3, ["mlp"], private=40, public=64, rounds=2)
        if dry_run
        else w_like(20, W, rounds=2, tests=1000)
    )
    names = ["mlp"] if dry_run else ["mlp", "cnn", "resnet"]
    for what, together in (("one by one", "never"), ("together", names)):
        asked = {**settings, "batch_clients": together}
        report.add("inside", f"W {what}: host time", lambda: host_time(asked, device), 8)
        if device.type == "cuda":
            report.add("inside", f"W {what}: waits", lambda: waits(asked, device), 8)
            report.add("inside", f"W {what}: the GPU", lambda: gpu_time(asked, device), 12)


def run_once(
    settings: dict[str, Any], device: torch.device, on_round: Callable[[RoundRecord], None]
) -> None:
    """Run a scenario, calling ``on_round`` after each round."""
    stop = threading.Event()
    execute(build(Scenario.parse({**settings, "device": device.type}), stop), on_round, stop)


def host_time(settings: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Profile the last round, and return the functions that take most of the host's time."""
    profile, last = cProfile.Profile(), settings["rounds"]
    seen: list[float] = []

    def on_round(record: RoundRecord) -> None:
        synchronize(device)
        seen.append(record.seconds)
        if record.round == last - 1:
            profile.enable()
        if record.round == last:
            profile.disable()

    run_once(settings, device, on_round)
    lines = []
    for sorting in ("cumulative", "tottime"):
        text = io.StringIO()
        pstats.Stats(profile, stream=text).strip_dirs().sort_stats(sorting).print_stats(28)
        lines += [
            sorting,
            *(line for line in text.getvalue().splitlines() if re.match(r"\s+\d", line)),
        ]
    print(*lines, sep="\n", flush=True)
    return {"profiled_round_s": seen[-1], "lines": lines}


def waits(settings: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the number of times that a round makes the host wait for the GPU, by line of code."""
    last, counted = settings["rounds"], Counter[str]()

    def on_round(record: RoundRecord) -> None:
        if record.round == last - 1:
            torch.cuda.set_sync_debug_mode("warn")
            seen.clear()
        if record.round == last:
            torch.cuda.set_sync_debug_mode("default")

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            run_once(settings, device, on_round)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for one in seen:
            if "synchronizing" in str(one.message):
                counted[f"{'/'.join(Path(one.filename).parts[-3:])}:{one.lineno}"] += 1
    lines = [f"{count:6} {line}" for line, count in counted.most_common(25)]
    print(*lines, sep="\n", flush=True)
    return {"waits_a_round": sum(counted.values()), "lines": lines}


def gpu_time(settings: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return kernels, copies and the share of the last round in which the GPU computes."""
    from torch.profiler import ProfilerActivity, profile

    seen, last, took = profile(activities=[ProfilerActivity.CUDA]), settings["rounds"], [0.0]

    def on_round(record: RoundRecord) -> None:
        synchronize(device)
        if record.round == last - 1:
            seen.start()
            took[0] = time.perf_counter()
        if record.round == last:
            took[0] = time.perf_counter() - took[0]
            seen.stop()

    run_once(settings, device, on_round)
    counts, times = on_the_gpu(seen)
    copies = {n: c for n, c in counts.items() if n.startswith(COPIES)}
    lines = [f"{us / 1000:9.2f} ms {counts[name]:6} {name}" for name, us in times.most_common(15)]
    print(*lines, sep="\n", flush=True)
    return {
        "round_s": took[0],
        "kernels": sum(counts.values()) - sum(copies.values()),
        "copies": copies,
        "busy_percent": 100 * sum(times.values()) / 1e6 / took[0],
        "lines": lines,
    }


PARTS: dict[str, Callable[..., None]] = {
    "rounds": round_part,
    "inside": inside_part,
    "scale": scale_part,
    "steps": step_part,
    "options": option_part,
    "host": host_part,
}
"""The parts in the order of measurement, the most important first."""


SHOWN = (
    "times_the_plain_loop",
    "apart_from_fedkd",
    "kernels",
    "gpu_us",
    "peak_mib",
    "busy_percent",
    "waits_a_round",
    "gpu_load_percent",
    "first_s",
)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gpu_results"), help="folder of the results"
    )
    parser.add_argument(
        "--budget", type=float, default=230, help="seconds; what would go beyond is skipped"
    )
    parser.add_argument("--only", nargs="*", choices=PARTS, default=[], help="parts")
    parser.add_argument(
        "--models", nargs="*", default=[], help="of steps: labels, as the table prints them"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="also torch.compile a step of all clients: a minute each",
    )
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, in small")
    given = parser.parse_args()
    device = device_or_exit("measure", given.dry_run)
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    # The plain loop's first matrix product reads it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    warnings.filterwarnings("ignore", message=".*batching rule")
    report, started = (
        Report(device, Budget(given.budget), given.out / "measure.json"),
        time.monotonic(),
    )
    about = machine(device)
    print(about, flush=True)
    for part in given.only or PARTS:
        if part == "steps":
            step_part(report, given.dry_run, given.compile, given.models)
        else:
            PARTS[part](report, given.dry_run)
    report.write()
    print(f"\n{about}; {time.monotonic() - started:.0f} s")
    for part, rows in report.rows.items():
        print(f"\n{part}")
        for row in rows:
            figure = row.get("ms_a_client_step", row.get("s_a_round"))
            unit = "ms a client step" if "ms_a_client_step" in row else "s a round"
            rest = {k: round(row[k], 2) for k in SHOWN if row.get(k) is not None}
            measured = "" if figure is None else f"{figure:.4g} {unit}"
            text = row.get("failed") or row.get("skipped") or measured
            print(f"  {row['what']:58} {text:26} {rest}")


if __name__ == "__main__":
    main()
