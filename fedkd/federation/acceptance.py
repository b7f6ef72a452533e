"""Reading of uploads: decoded by the codec, read and checked by the kind of knowledge."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from fedkd.codecs import Codec
from fedkd.codecs.codec import check_described
from fedkd.errors import RunError, UploadRejected, one_line
from fedkd.federation.shared_values import SharedState, SharedValue, restored, shared_state
from fedkd.knowledge import KnowledgeType, Request
from fedkd.messages import Packed, Upload

Arrays = Mapping[str, np.ndarray]


class UploadReader:
    """Reads the uploads of a run; remembers each client's earlier ones where the codec needs them.

    ``codec`` is None where uploads travel in full precision.
    """

    def __init__(self, kind: KnowledgeType, codec: Codec | None) -> None:
        self._kind, self._codec = kind, codec
        self._memories: dict[int, SharedValue[Arrays]] = {}

    def must_start_over(self, client_id: int) -> bool:
        """Return whether a client's next upload must build on no earlier one."""
        return self._codec is not None and self._codec.stateful and client_id not in self._memories

    def read(self, upload: Upload, request: Request) -> Upload:
        """Return an upload with its knowledge decoded. Raises UploadRejected.

        The client's earlier uploads are forgotten then, so that it starts over.
        """
        try:
            return self._read(upload, request)
        except UploadRejected:
            self.forget(upload.client_id)
            raise
        except RunError:
            raise
        except Exception as error:  # the codec or the kind did not expect such arrays
            self.forget(upload.client_id)
            raise UploadRejected(f"the knowledge cannot be read: {one_line(error)}") from error

    def forget(self, client_id: int) -> None:
        """Forget a client's earlier uploads: what it sent last may be lost."""
        self._memories.pop(client_id, None)

    def state(self) -> SharedState:
        """Return what is remembered, as tensors for a checkpoint."""
        return shared_state(self._memories, arrays_to_tensors)

    def restore(self, state: SharedState) -> None:
        """Go back to what ``state`` remembers."""
        self._memories = restored(state, tensors_to_arrays)

    def _read(self, upload: Upload, request: Request) -> Upload:
        if isinstance(upload.knowledge, Packed):
            check_described(
                upload.knowledge.arrays, self._kind.most_values(request, upload.client_id)
            )
            upload = self._decoded(upload, upload.knowledge)
        if upload.declined:
            raise UploadRejected("a client that declines must send no knowledge")
        if upload.knowledge is None or upload.privacy is None:
            raise UploadRejected("an upload needs knowledge and a privacy event")
        if upload.round != request.round:
            raise UploadRejected(
                f"this is round {request.round}, the upload is of round {upload.round}"
            )
        self._kind.check(upload.knowledge, request, upload.client_id)
        return upload

    def _decoded(self, upload: Upload, packed: Packed) -> Upload:
        if self._codec is None:
            return replace(upload, knowledge=self._kind.decode(packed.arrays))
        before = self._memories.pop(upload.client_id, None)
        codec = self._codec.of_client(upload.client_id)
        arrays, after = codec.decode(packed.arrays, None if before is None else before.value)
        if after is not None:
            self._memories[upload.client_id] = SharedValue(after)
        return replace(upload, knowledge=self._kind.decode(arrays))


def arrays_to_tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    """Return named arrays as tensors, for a checkpoint."""
    return {name: torch.tensor(array) for name, array in arrays.items()}


def tensors_to_arrays(tensors: Mapping[str, torch.Tensor]) -> Arrays:
    """Return the arrays that ``arrays_to_tensors`` made tensors of."""
    return {name: tensor.numpy() for name, tensor in tensors.items()}
