"""Colors of methods: one each in all pictures, told apart by the color-blind."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from fedkd.report.method_colors import LOCAL_ONLY_STYLE, STYLES, style_of, styles_of

# Machado et al. 2009, severity 1: what protanopes, deuteranopes and tritanopes see of linear RGB.
SEEN = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = [
    [0.4124, 0.3576, 0.1805],
    [0.2126, 0.7152, 0.0722],
    [0.0193, 0.1192, 0.9505],
]


def lab(color: str, deficiency: str) -> np.ndarray:
    """Return CIELAB of a color as somebody sees it."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(SEEN[deficiency]) @ linear, 0, 1)
    x, y, z = np.cbrt(np.maximum(np.array(TO_XYZ) @ seen / [0.9505, 1, 1.089], 1e-3))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", SEEN)
def test_methods_and_local_training_are_told_apart_by_the_color_blind(deficiency: str) -> None:
    colors = [style[0] for style in (*STYLES[:3], LOCAL_ONLY_STYLE)]
    for one, two in itertools.combinations(colors, 2):
        distance = float(np.linalg.norm(lab(one, deficiency) - lab(two, deficiency)))
        assert distance > 10, (one, two, distance)  # 2.3 is a just noticeable difference


def test_a_method_has_its_color_alone_and_beside_others() -> None:
    methods = ["local_only", "dsfl", "fedmd", "knfu", "my.rules:Own"]
    together = styles_of(methods)
    for method in methods[:4]:
        assert together[method] == style_of(method)
    assert together["local_only"] == LOCAL_ONLY_STYLE


def test_no_two_methods_of_a_comparison_look_alike() -> None:
    methods = [f"knfu strategy.beta={beta}" for beta in range(14)] + ["fedmd", "dsfl"]
    styles = styles_of(methods)
    assert len({(color, marker) for color, marker, _ in styles.values()}) == len(methods)
