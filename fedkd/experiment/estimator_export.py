"""Write a client's estimator into a folder that loads without fedkd, by its library's own format.

No format is a pickle. Not for: networks (``fedkd.experiment.export_model``).
"""

from pathlib import Path

from fedkd.models.fitting import FitsItself


def write_estimator(model: FitsItself, folder: Path, classes: int) -> tuple[str, str]:
    """Write a fitted model's files into a folder; return their loader, and what that needs.

    Raises SettingError where the model cannot be written.
    """
    exported = model.write(folder)
    loader = _LOADER.format(
        imports=exported.imports, loads=exported.loads, columns=exported.classes, classes=classes
    )
    return loader, f"{exported.imports.split()[1].partition('.')[0]} and NumPy alone"


_LOADER = '''"""Load the estimator of this folder: ``load()`` returns it.

    python load_model.py      prints what it is made of
"""

from pathlib import Path

import numpy as np
{imports}

HERE = Path(__file__).parent
CLASSES, COLUMNS = {classes}, {columns!r}


def library_prediction():
    """Return the library's own prediction; its columns are the classes in COLUMNS."""
{loads}


class Estimator:
    """What predicts: inputs are numbers [n, d], or anything that is flattened to them."""

    def __init__(self, predict):
        self.predict = predict

    def predict_proba(self, inputs):
        """Return probabilities [n, CLASSES]; classes that it never saw have 0."""
        flat = np.asarray(inputs, dtype=np.float32).reshape(len(inputs), -1)
        found = np.asarray(self.predict(flat))
        if found.ndim == 1:  # of the second of two classes
            found = np.stack([1 - found, found], axis=1)
        probs = np.zeros((len(flat), CLASSES))
        probs[:, list(COLUMNS)] = found
        return probs


def load():
    """Return the estimator."""
    return Estimator(library_prediction())


if __name__ == "__main__":
    print(library_prediction())
'''
