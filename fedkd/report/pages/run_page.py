"""The page of one run."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fedkd.errors import FedkdError
from fedkd.report import plots
from fedkd.report.comparison.run_reader import READING
from fedkd.report.console import size, size_in_words, teachers, text_lines
from fedkd.report.pages.gains_in_words import ONE_SEED, Gain, gains_of, verdicts_of
from fedkd.report.pages.inline_pictures import Picture, picture
from fedkd.report.pages.privacy_in_words import (
    audit_in_words,
    claims_in_words,
    outside_of_claims,
)
from fedkd.report.pages.rendering import Grid, label, render
from fedkd.report.pages.run_facts import RunFacts, not_of_a_run, read_facts
from fedkd.report.record_rows import (
    ACCURACIES,
    RunPlan,
    client_rows,
    last_measured,
    round_row,
)
from fedkd.settings.measuring_points import column
from fedkd.settings.schema import flat
from fedkd.storage.atomic_files import write_whole

SHORT = {"personal_accuracy": "own distribution", "global_accuracy": "balanced test"}
MOST_BARS = 400
"""Clients from which on gains are in the table alone."""
STATUS = {
    "completed": "",
    "running": "This run has not ended: it goes on, or its process was killed. What follows is of"
    " the rounds that it has finished.",
    "interrupted": "This run was interrupted. What follows is of the rounds that it finished.",
    "failed": "This run failed. What follows is of the rounds that it finished.",
    "stopped": "A callback ended this run before its last round.",
}


def run_page(folder: Path) -> str:
    """Return the page of the run in a folder.

    Raises:
        SettingError: The folder is no run's.
        Damaged: A file is not what a run wrote.
    """
    facts = read_facts(folder)
    try:
        return page_of(facts)
    except FedkdError:
        raise
    except READING as error:
        raise not_of_a_run(folder, error) from error


def page_of(facts: RunFacts) -> str:
    """Return the page of a run."""
    plan, summary = facts.plan, facts.summary
    gains = gains_of(facts)
    verdicts = verdicts_of(facts, gains)
    privacy: Mapping[str, Any] = summary.get("privacy") or {}
    planted = (facts.scenario.get("audit") or {}).get("name") == "canaries"
    return render(
        "run.html",
        title=f"{plan.name}: {plan.title or plan.strategy}",
        status=facts.status,
        notice=STATUS.get(facts.status, f"This run ended as {facts.status}."),
        tone={"ahead": "good", "behind": "bad"}.get(gains[0].outcome if gains else "", "open"),
        verdicts=verdicts,
        one_seed=ONE_SEED if gains else "",
        tiles=_tiles(facts, gains),
        warnings=plan.warnings,
        described=_described(facts),
        pictures=_pictures(facts),
        gains=_gains(gains),
        rounds=None if not facts.records else _rounds(facts).shortened(),
        clients=None if not facts.records else _clients(facts).shortened(),
        partition=_partition(facts).shortened() if plan.class_names else None,
        traffic=_traffic(facts),
        trouble=_trouble(facts),
        text_lines=text_lines(summary) if summary.get("exposure") is not None else [],
        claims=claims_in_words(privacy),
        outside=outside_of_claims(privacy),
        audit=audit_in_words(summary.get("audit"), planted),
        audit_table=_audit_table(facts.audit),
        limits=(facts.audit or {}).get("limits", ()),
        settings=Grid(
            "Every setting of the run",
            ("setting", "value"),
            [(name, _plain(value)) for name, value in flat(facts.scenario).items()],
        ),
        versions=Grid(
            "Versions that the figures depend on",
            ("package", "version"),
            [(name, str(version)) for name, version in (summary.get("versions") or {}).items()],
        ),
        config=facts.config,
        only_here=summary.get("only_in_session") or (),
        command=f"fedkd run --config {shlex.quote('config.yaml')}",
        checksum=summary.get("knowledge_sha256"),
    )


def _tiles(facts: RunFacts, gains: list[Gain]) -> list[tuple[str, str, str]]:
    """Return what is read first: a figure, its name and a note."""
    summary, plan, tiles = facts.summary, facts.plan, []
    for gain in gains[:2]:
        note = f"after {gain.after}; {gain.counted}"
        tiles.append((gain.points, f"points gained, {SHORT[gain.test_set]}", note))
    for name in ACCURACIES if not gains else ():
        value = summary.get(column(name, plan.after))
        if value is not None:
            tiles.append((f"{100 * value:.1f} %", SHORT[name], f"after {plan.after}"))
    rounds = f"{len(facts.records)} of {plan.rounds}"
    seconds = summary.get("seconds")
    tiles.append((rounds, "rounds", "" if seconds is None else f"in {_duration(seconds)}"))
    if "bytes_up" in summary:
        down = f"sent; {size(summary['bytes_down'])} received"
        tiles.append((size(summary["bytes_up"]), "by all clients", down))
    epsilon = (summary.get("privacy") or {}).get("epsilon")
    tiles.append(("none" if epsilon is None else f"{epsilon:.4g}", "epsilon claimed", ""))
    audit = summary.get("audit") or {}
    if audit.get("auc") is not None:
        tiles.append((f"{audit['auc']:.2f}", "AUC of the strongest attack", "0.50 is guessing"))
    return tiles


def _duration(seconds: float) -> str:
    """Return a time in words.

    >>> _duration(42.31), _duration(3700)
    ('42.3 s', '1 h 2 min')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _described(facts: RunFacts) -> list[tuple[str, str]]:
    """Return what was run, as names and descriptions."""
    plan, scenario, sizes = facts.plan, facts.scenario, sorted(facts.plan.train_sizes)
    models = ", ".join(
        f"{count} × {name}" + size_in_words(plan.parameters.get(name))
        for name, count in Counter(plan.architectures).items()
    )
    found = [
        ("Scenario", str(scenario.get("description") or plan.name)),
        ("Strategy", f"{_choice(scenario['strategy'])}. {plan.method}".removesuffix(" ")),
        ("What travels", plan.exchanged + (f" Distillation loss: {plan.loss}." * plan.exchanges)),
        ("Data", _choice(scenario["data"])
            + (f"; {len(plan.class_names)} classes" if plan.class_names else "")),
        ("Partition", _choice(scenario["partition"])),
        ("Clients", f"{plan.clients}" + (
            f", with {sizes[0]} to {sizes[-1]} training {plan.examples}"
            f" (median {int(np.median(sizes))})" if sizes else "")),
        ("Models", models),
        ("Public set", plan.public_set),
        ("Rounds", f"{plan.rounds}, {scenario.get('round_order', '')}".removesuffix(", ")),
        ("Measured", f"after {' and after '.join(plan.reported)} of each round"
            + ("" if plan.sends_metrics else "; the figures stay with the clients")),
        *((name.capitalize(), _choice(scenario[name]))
          for name in ("codec", "privacy", "attacks", "robust", "audit", "heads")
          if (scenario.get(name) or {}).get("name", "none") not in ("none", "own")),
        ("Seed", str(scenario.get("seed", ""))),
        ("Ran on", ", ".join(filter(None, (plan.engine, plan.device)))),
    ]  # fmt: skip
    if plan.attackers:
        attackers = ", ".join(map(str, plan.attackers))
        found.append(("Attackers", f"clients {attackers}, who do not count in accuracies"))
    return [(name, text) for name, text in found if text]


def _choice(choice: Mapping[str, Any]) -> str:
    fields = [f"{k}={_plain(v)}" for k, v in choice.items() if k != "name" and v is not None]
    return str(choice["name"]) + (f" ({', '.join(fields)})" if fields else "")


def _plain(value: Any) -> str:
    """Return a setting's value as it is written on a command line."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_plain, value))}]"
    return str(value)


def _pictures(facts: RunFacts) -> dict[str, list[Picture]]:
    """Return the pictures of each section that the run has data for."""
    facts = replace(facts, plan=_labeled(facts.plan))
    plan, records, baseline = facts.plan, facts.records, facts.baseline
    found: dict[str, list[Picture]] = {"accuracy": [], "gain": [], "weights": [], "partition": []}
    if records and plan.sends_metrics:
        for name in plots.measured_on(records) or ACCURACIES:
            found["accuracy"].append(
                picture(
                    f"accuracy-{name}",
                    "Means over clients; bands are one standard deviation over them.",
                    _curves_in_words(facts, name),
                    _drawing(plots.accuracy_by_round, plan, records, baseline, (name,)),
                )
            )
    if baseline is not None and plan.exchanges and plan.clients <= MOST_BARS:
        said = f"Bar chart of each client's gain after {plan.after}; the table has the figures."
        on = (plots.measured_on(records) or ACCURACIES)[0]
        end = last_measured(records, on, plan.after)
        draw = _drawing(plots.gain_by_client, plan, end, baseline)
        found["gain"].append(
            picture(
                "gain",
                f"Above 0 a client is better off than alone, after {plan.after}.",
                said,
                draw,
            )
        )
    found["weights"] = list(_weight_pictures(facts))
    if plan.class_names:
        said = f"Heat map of training {plan.dealt} by class and client; the table has the figures."
        draw = _drawing(plots.partition, plan)
        found["partition"].append(
            picture("partition", "How many samples of each class each client has.", said, draw)
        )
    return found


def _labeled(plan: RunPlan) -> RunPlan:
    """Return a plan with names that fit into a picture."""
    return replace(
        plan,
        strategy=label(plan.strategy),
        class_names=tuple(map(label, plan.class_names)),
        architectures=tuple(map(label, plan.architectures)),
    )


def _drawing(function: Callable[..., Figure], *arguments: Any) -> Callable[[], Figure]:
    return lambda: function(*arguments)


def _weight_pictures(facts: RunFacts) -> Iterator[Picture]:
    """Yield the pictures of who teaches whom, and of whom one would expect to."""
    plan, record = facts.plan, facts.fused
    if record is None or record.weights is None or not plan.exchanges:
        return
    said = {
        "weights": f"Heat map of the weight of each client in each other's teacher, in round"
        f" {record.round}; the table by client names the strongest.",
        "similarity": "Heat map of how alike the clients' label distributions are.",
    }
    captions = {
        "weights": "The scale ends at the largest weight that another client has.",
        "similarity": "1 is the same distribution. Gray: a client and itself.",
    }
    for part in plots.WEIGHT_PARTS if plan.class_names else plots.WEIGHT_PARTS[:1]:
        draw = _drawing(plots.fusion_weights, plan, record.weights.numpy(), record.round, (part,))
        yield picture(f"who-{part}", captions[part], said[part], draw)


def _curves_in_words(facts: RunFacts, name: str) -> str:
    """Return what the curves of an accuracy do, for who does not see them."""
    plan, parts = facts.plan, []
    for point in plan.reported:
        curve = [round_row(record, None)[column(name, point)] for record in facts.records]
        known = [value for value in curve if value is not None]
        if known:
            begin, end = (f"{100 * value:.1f} %" for value in (known[0], known[-1]))
            parts.append(f"{plan.strategy} after {point} goes from {begin} to {end}")
    if facts.baseline is not None:
        alone = getattr(facts.baseline, name)[len(facts.records) - 1]
        if np.isfinite(alone).any():
            parts.append(f"local training alone ends at {100 * np.nanmean(alone):.1f} %")
    where = plots.TITLES[name].lower()
    return f"Line chart of mean accuracy by round, {where}: {'; '.join(parts) or 'no figures'}."


def _gains(gains: list[Gain]) -> Grid | None:
    if not gains:
        return None
    rows = [
        (f"after {g.after}", SHORT[g.test_set], g.points, g.between, str(g.better), str(g.worse))
        for g in gains
    ]
    header = ("measured", "test set", "mean gain (points)", "95 % interval", "better", "worse")
    return Grid("Gain over local-only training in the last round, over clients", header, rows, 2)


def _rounds(facts: RunFacts) -> Grid:
    """Return a row a round: accuracies, bytes, privacy spent, who was left out."""
    plan, rows, points = facts.plan, [], facts.plan.reported
    header = ["round", *(f"{SHORT[n]}, after {p}" for p in points for n in ACCURACIES)]
    asked = facts.records[0].asked if facts.records else ()
    header += [f"{name}, own / balanced, after {plan.after}" for name in asked]
    spends = any(client.epsilon is not None for r in facts.records for client in r.clients)
    header += ["sent", "received", *(["epsilon"] if spends else []), "rejected", "failed", "time"]
    for record in facts.records:
        row = round_row(record, facts.baseline)
        cells = [str(record.round)]
        for point in points:
            for name in ACCURACIES:
                value, gain = row[column(name, point)], row[column(_gain_name(name), point)]
                cells.append(_with_gain(value, gain))
        for metric in asked:
            both = (
                row[column(f"{where}_{metric}", plan.after)] for where in ("personal", "global")
            )
            cells.append(" / ".join(_with_gain(value, None) for value in both))
        cells += [size(row["bytes_up"]), size(row["bytes_down"])]
        cells += [_number(row["epsilon"], "{:.4g}")] if spends else []
        cells += [str(len(row["rejected"])), str(len(row["failed"])), f"{record.seconds:.1f} s"]
        rows.append(cells)
    with_gains = " and gain over local training in points" if facts.baseline is not None else ""
    return Grid(f"Mean accuracy in %{with_gains}, by round ({plan.strategy})", header, rows)


def _gain_name(name: str) -> str:
    return name.replace("accuracy", "gain")


def _with_gain(value: float | None, gain: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + ("" if gain is None else f" ({100 * gain:+.1f})")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _clients(facts: RunFacts) -> Grid:
    """Return a row a client: what it has, how well it does, and who teaches it."""
    plan, last, fused = facts.plan, facts.records[-1], facts.fused
    header = ["client", "model", plan.examples]
    header += [f"{SHORT[name]}" for name in ACCURACIES]
    header += ["taught by", "last round"]
    rows = []
    for row in client_rows(last, facts.baseline):
        client = row["client"]
        cells = [str(client), row["architecture"], str(row["train_size"])]
        for name in ACCURACIES:
            value = row[column(name, plan.after)]
            cells.append(_with_gain(value, row[column(_gain_name(name), plan.after)]))
        cells.append("nobody" if fused is None else teachers(fused, client))
        state = "attacks" if row["attacker"] else row["status"]
        cells.append(f"{state}: {row['reason']}" if row["reason"] else state)
        rows.append(cells)
    with_gains = " and gain over local training in points" if facts.baseline is not None else ""
    return Grid(f"Clients after {plan.after}: accuracy in %{with_gains}", header, rows)


def _partition(facts: RunFacts) -> Grid:
    plan = facts.plan
    rows = [
        [str(client), *map(str, counts), str(sum(counts))]
        for client, counts in enumerate(plan.label_counts.tolist())
    ]
    header = ["client", *plan.class_names, "all"]
    return Grid(f"Training {plan.dealt} by client and class", header, rows)


def _traffic(facts: RunFacts) -> list[str]:
    """Return what was sent, in sentences."""
    summary, rounds, clients = facts.summary, len(facts.records), facts.plan.clients
    if not rounds or "bytes_up" not in summary:
        return []
    up, down = summary["bytes_up"], summary["bytes_down"]
    if not up and not down:
        return ["Nothing was sent."]
    each = max(rounds * clients, 1)
    said = [
        f"All clients together sent {size(up)} and received {size(down)}, as encoded, in"
        f" {rounds} rounds: {size(up / each)} up and {size(down / each)} down a client and round."
    ]
    ideal_up, ideal_down = (summary.get(f"entropy_bytes_{way}") for way in ("up", "down"))
    if ideal_up is not None and ideal_down is not None:
        said.append(
            f"An ideal entropy coder would leave {size(ideal_up)} up and {size(ideal_down)} down."
        )
    return said


def _trouble(facts: RunFacts) -> Grid | None:
    """Return the clients that were rejected or failed, with the reasons."""
    rows = [
        (str(record.round), str(client.client_id), client.status, client.reason)
        for record in facts.records
        for client in record.clients
        if client.status in ("rejected", "failed")
    ]
    if not rows:
        return None
    header = ("round", "client", "status", "reason")
    return Grid("Uploads that were rejected, and clients that failed", header, rows, 2).shortened()


def _audit_table(audit: Mapping[str, Any] | None) -> Grid | None:
    """Return every attack of every adversary."""
    rows = [
        (
            f"{one['adversary']}",
            f"{attack['name']}",
            f"{attack['auc']:.3f}",
            f"{attack['auc_low']:.3f} to {attack['auc_high']:.3f}",
            _number(attack["rates"][0]["value"], "{:.3f}"),
            f"{attack['one_run']:.2f}",
        )
        for one in (audit or {}).get("audits", ())
        for attack in one["attacks"]
    ]
    if not rows:
        return None
    header = (
        *("adversary", "attack", "AUC", "interval"),
        *("true positives at 1 % false ones", "epsilon shown, at least"),
    )
    note = "AUC 0.5 is guessing, 1 is certainty. The attack named blind sees no model."
    return Grid("Attacks of the audit", header, rows, 2, note)


def write_run_page(folder: Path) -> Path:
    """Write ``report.html`` into a run's folder and return its path.

    Raises:
        FedkdError: The folder is no run's, is damaged, or cannot be written.
    """
    path = folder / "report.html"
    content = run_page(folder).encode("utf-8", "replace")
    write_whole(path, [content])
    return path
