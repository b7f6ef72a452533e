"""Named arrays as bytes, in NumPy's zip format, and back.

Reading runs no code and allocates no more than there is: what a header promises is compared with
the bytes that follow. Not for: the checksum around them (``fedkd.storage.atomic_files``).
"""

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedkd.errors import Damaged

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return named arrays as bytes."""
    content = io.BytesIO()
    np.savez(content, **{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    return content.getvalue()


def unpack_arrays(content: bytes | bytearray, path: Path) -> dict[str, np.ndarray]:
    """Return the named arrays in the bytes of a file.

    ``path`` is the file's. Raises Damaged, which names it, for bytes that hold no such arrays.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {
                member.filename.removesuffix(".npy"): _array(archive, member)
                for member in archive.infolist()
            }
    except Exception as error:  # readers of zip files and headers raise anything
        raise Damaged(
            f"{path} is damaged: it holds no arrays ({' '.join(str(error).split())})"
        ) from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Return one array. Raises ValueError for one that is not as its header says."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    with archive.open(member) as file:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"{member.filename} has another size than its header says")
    with archive.open(member) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array
