"""The teachers of the last fusion, encoded for each client, and who has not been sent them yet."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypedDict

from torch import Tensor

from fedkd.codecs import Codec
from fedkd.federation.acceptance import Arrays, arrays_to_tensors, tensors_to_arrays
from fedkd.federation.shared_values import SharedState, SharedValue, Tensors, restored, shared_state
from fedkd.knowledge import KnowledgeType, Teachers
from fedkd.messages import Knowledge, Packed

ENCODED_LIMIT = 64
"""Most encoded teachers that are stored, for the next client that is sent the same."""

Teacher = SharedValue[Knowledge]
Memory = SharedValue[Arrays] | None


class TeacherState(TypedDict):
    """A store of teachers as a checkpoint has it."""

    unsent: list[int]
    memories: SharedState
    common: Tensors | None
    personal: SharedState


class Marks(NamedTuple):
    """Who has been sent the last teachers, and what each client's next is a difference to."""

    unsent: frozenset[int]
    memories: Mapping[int, SharedValue[Arrays]]


class TeacherStore:
    """The last teachers of a run. Clients that share one are sent the same encoded object.

    ``codec`` is None where teachers travel in full precision.
    """

    def __init__(self, kind: KnowledgeType, codec: Codec | None, clients: int) -> None:
        self._kind, self._codec, self._clients = kind, codec, clients
        self._common: Teacher | None = None
        self._personal: dict[int, Teacher] = {}
        self._unsent: set[int] = set()
        self._memories: dict[int, SharedValue[Arrays]] = {}
        self._encoded: dict[tuple[Teacher, Memory, str], tuple[Packed, Memory]] = {}

    def store(self, teachers: Teachers) -> None:
        """Take the place of the last teachers; no client has been sent these yet."""
        # Clients of a group have one teacher object: it is to be encoded once.
        shared = {id(teacher): SharedValue(teacher) for teacher in teachers.personal.values()}
        self._personal = {i: shared[id(teacher)] for i, teacher in teachers.personal.items()}
        self._common = None if teachers.common is None else SharedValue(teachers.common)
        self._unsent = set(range(self._clients))
        self._encoded = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been fused yet."""
        return self._common is None and not self._personal

    def of(self, client_id: int) -> Knowledge | None:
        """Return a client's teacher; None where there is none for it."""
        teacher = self._of(client_id)
        return None if teacher is None else teacher.value

    def is_unsent(self, client_id: int) -> bool:
        """Return whether a client still has to be sent the last teachers."""
        return client_id in self._unsent

    def send(self, client_id: int) -> Packed | None:
        """Encode a client's teacher, and note that it is sent; None where there is none for it."""
        self._unsent.discard(client_id)
        teacher = self._of(client_id)
        if teacher is None:
            return None
        before = self._memories.get(client_id)
        codec = None if self._codec is None else self._codec.of_client(client_id)
        key = teacher, before, "" if codec is self._codec else repr(codec)
        if key not in self._encoded:
            if len(self._encoded) == ENCODED_LIMIT:
                self._encoded.clear()
            self._encoded[key] = self._encode(codec, teacher, before)
        packed, after = self._encoded[key]
        if after is not None:
            self._memories[client_id] = after
        return packed

    def note_lost(self, client_id: int) -> None:
        """Note that what was sent to a client last may not have reached it."""
        self._unsent.add(client_id)
        self._memories.pop(client_id, None)

    def marks(self) -> Marks:
        """Return who has been sent what."""
        return Marks(frozenset(self._unsent), dict(self._memories))

    @contextmanager
    def as_before(self, client_ids: Sequence[int], marks: Marks) -> Iterator[None]:
        """End a round as if these clients had not been sent a teacher in the next one yet.

        ``marks`` are those of before the next round began.
        """
        now = self.marks()
        self._mark(client_ids, marks)
        yield
        self._mark(client_ids, now)

    def _mark(self, client_ids: Sequence[int], marks: Marks) -> None:
        for client_id in client_ids:
            self._unsent.discard(client_id)
            self._memories.pop(client_id, None)
            if client_id in marks.unsent:
                self._unsent.add(client_id)
            if client_id in marks.memories:
                self._memories[client_id] = marks.memories[client_id]

    def state(self, *, teachers: bool) -> TeacherState:
        """Return the store for a checkpoint, with or without the ``teachers`` themselves."""
        return {
            "unsent": sorted(self._unsent),
            "memories": shared_state(self._memories, arrays_to_tensors),
            "common": None
            if self._common is None or not teachers
            else self._to_tensors(self._common.value),
            "personal": shared_state(self._personal if teachers else {}, self._to_tensors),
        }

    def restore(self, state: TeacherState) -> None:
        """Go back to where ``state`` was taken."""
        common = state["common"]
        self._unsent, self._encoded = set(state["unsent"]), {}
        self._memories = restored(state["memories"], tensors_to_arrays)
        self._common = None if common is None else SharedValue(self._from_tensors(common))
        self._personal = restored(state["personal"], self._from_tensors)

    def _of(self, client_id: int) -> Teacher | None:
        return self._personal.get(client_id, self._common)

    def _encode(
        self, codec: Codec | None, teacher: Teacher, before: Memory
    ) -> tuple[Packed, Memory]:
        arrays = self._kind.encode(teacher.value)
        if codec is None:
            return Packed(arrays), None
        coded, after = codec.encode(arrays, None if before is None else before.value)
        return Packed(coded), None if after is None else SharedValue(after)

    def _to_tensors(self, teacher: Knowledge) -> dict[str, Tensor]:
        return arrays_to_tensors(self._kind.encode(teacher))

    def _from_tensors(self, tensors: Tensors) -> Knowledge:
        return self._kind.decode(tensors_to_arrays(tensors))
