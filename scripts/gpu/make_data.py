"""Pack images in the hub's layout ({train,test}.parquet) into one small file to copy.

    python make_data.py FOLDER/mnist mnist.npz            # 11 MB
    python make_data.py FOLDER/fashion_mnist fashion.npz  # 30 MB
    python make_data.py FOLDER/cifar10 cifar.npz --train 10000 --test 2000   # 30 MB; all: 170

Needs pyarrow, pillow and numpy. Rows keep the file's order; with a limit they are drawn at random.
"""

import argparse
import io
from pathlib import Path

import numpy as np


def split(path: Path, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return images [n, height, width, channels] and labels [n] of at most ``most`` rows."""
    import pyarrow.parquet as pq  # type: ignore[import-untyped]
    from PIL import Image

    table = pq.read_table(path)
    column = next(name for name in table.column_names if name in ("image", "img"))
    rows = np.arange(len(table))
    if most is not None and most < len(rows):
        rows = np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))
    taken = table.take(rows)
    images = [
        np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in taken[column].to_pylist()
    ]
    stacked = np.stack([image if image.ndim == 3 else image[..., None] for image in images]).astype(
        np.uint8
    )
    return stacked, taken["label"].to_numpy().astype(np.uint8)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, help="rows of the training split; all by default")
    parser.add_argument("--test", type=int, help="rows of the test split; all by default")
    given = parser.parse_args()
    train, test = (
        split(given.folder / "train.parquet", given.train),
        split(given.folder / "test.parquet", given.test),
    )
    images, labels = np.concatenate([train[0], test[0]]), np.concatenate([train[1], test[1]])
    np.savez_compressed(given.out, images=images, labels=labels, train_size=len(train[0]))
    print(
        f"{given.out}: {len(train[0])} + {len(test[0])} images,"
        f" {given.out.stat().st_size / 2**20:.1f} MiB"
    )


if __name__ == "__main__":
    main()
