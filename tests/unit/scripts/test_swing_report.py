"""What the study of swing says of figures that are made up to be plain."""

import math

import numpy as np
import pytest
from swing_figures import cut, excess, losses
from swing_page import page, write
from swing_report import neighbors, validity
from swing_study import BY_NAME, SETTINGS, cells


def figures(leak: float, bits: float, own: float = math.log2(998), weights: float = 1 / 3) -> dict:
    """A run whose every secret leaks about ``leak`` bits above a chance of 1."""
    spread = np.random.default_rng(0).normal(0, 0.1, 60)
    views = {name: (1 + leak + spread[:n]).tolist() for name, n in
             {"server_uploads": 30, "server_student": 30, "peers": 60}.items()}  # fmt: skip
    rest = (1 - weights) / 2
    return {
        "exposures": {"own_model": [own] * 30, **views},
        "controls": {"own_model": 1.0},
        "ceiling": math.log2(998),
        "chance": 1.0,
        "bits_by_model": [bits, bits + 0.1, bits - 0.1, bits],
        "detector": {"recall": 1.0, "precision": 0.5},
        "weights": [[rest + weights * (i == j) for j in range(3)] for i in range(3)],
        "seconds": 1.0,
    }


RESULTS = {
    (name, seed): figures(leak, bits)
    for seed in range(2)
    for name, leak, bits in (
        ("plain", 4.0, 2.0),
        ("swing, oracle", 0.4, 2.001),
        ("temperature alone", 2.0, 2.1),
        ("KnFu, beta 10", 5.0, 2.0),
    )
}


def test_cuts_and_losses_are_paired_with_what_a_setting_is_held_against():
    gone, low, high = cut(RESULTS, "temperature alone", "server_student")
    assert gone == pytest.approx(0.5, abs=0.02)
    assert low <= gone <= high
    assert losses(RESULTS, "temperature alone") == pytest.approx(np.full(8, 0.1))
    assert excess(RESULTS, "plain", "server_student").mean() == pytest.approx(4, abs=0.1)


def test_verdicts_say_what_the_figures_say(tmp_path):
    text = write(RESULTS, tmp_path)
    for line in (
        "swing, oracle cuts the excess exposure to the server's student by >= 80 %: **holds**",
        "swing, oracle costs <= 0.01 bit a token: **holds**",
        "temperature alone cuts the excess exposure to the server's student by >= 80 %: **does NOT"
        " hold**",
        "temperature alone costs <= 0.01 bit a token: **does NOT hold**",
        "KnFu, beta 10 leaks more to the nearest semantic neighbor than the mean: **holds** (1.00"
        " bits",
        "Not run: swing, pattern",
        "**By 80 %?** For the server's student: yes; for a student of one client's uploads: yes.",
    ):
        assert line in text
    assert {x.name for x in tmp_path.iterdir()} == {
        "swing.md",
        "swing.csv",
        "swing.png",
        "swing.pdf",
    }


def test_a_study_without_a_leak_or_without_memory_is_void():
    assert "valid" in validity(RESULTS)[0]
    for void in (figures(0.5, 2.0), figures(4.0, 2.0, own=5.0)):
        assert "VOID" in validity({("plain", 0): void})[0]


def test_the_nearest_neighbors_secrets_are_those_of_its_owner():
    """Client 0 is nearest to 2, 1 to 0 and 2 to 1; only what leaks between them is more by 3."""
    plain = figures(4.0, 2.0)
    nearest, leaks = {0: 2, 1: 0, 2: 1}, []
    for i in range(3):
        for _ in range(10):  # the forms of secrets
            leaks += [3.0 if j == nearest[i] else 0.0 for j in range(3) if j != i]
    peers = (np.array(plain["exposures"]["peers"]) + leaks).tolist()
    weights = [
        [0.5 if i == j else 0.4 if j == nearest[i] else 0.1 for j in range(3)] for i in range(3)
    ]
    knfu = {**plain, "weights": weights, "exposures": {**plain["exposures"], "peers": peers}}
    line = neighbors({("plain", 0): plain, ("KnFu, beta 10", 0): knfu}, "KnFu, beta 10")
    assert "**holds** (3.00 bits [3.00, 3.00]; its weight there 0.40, the mean's 0.33)" in line


def test_a_page_of_fewer_seeds_says_so():
    assert "Seeds 0 to 1 only" in page(RESULTS)


@pytest.mark.slow
def test_the_studys_settings_are_runs_of_the_product(tmp_path):
    assert len(BY_NAME) == len(SETTINGS)
    assert all(s.against in BY_NAME for s in SETTINGS)
    planned = cells(2, tmp_path)
    assert len({cell.task.folder for cell in planned}) == len(planned) == 2 * len(SETTINGS)
    assert {cell.task.scenario.name for cell in planned} == {"swing_study"}
