"""A client's part of a round: the steps of a download in order, and the upload.

Knows nothing of Flower. ``take_part`` is one client's part of one message; the steps are
``fedkd.federation.local_steps``.
"""

import time
from dataclasses import replace

import numpy as np
import torch

from fedkd.federation.context import ClientContext
from fedkd.federation.fitted_steps import FITTED_STEPS
from fedkd.federation.knowledge_view import KnowledgeView
from fedkd.federation.local_steps import STEPS
from fedkd.federation.local_update import (
    MEASURING,
    TRAINING,
    LocalUpdate,
    begin_update,
    is_declined,
    precomputed_weights,
    store,
    store_after_failure,
)
from fedkd.messages import ClientCard, Download, Upload
from fedkd.privacy.enforcement import SPENT
from fedkd.storage.client_states import MemoryStore


def describe(context: ClientContext, client_id: int) -> ClientCard:
    """Return what a client says of itself before the first round."""
    name = context.architectures[client_id].name
    return ClientCard(
        client_id=client_id,
        architecture=name,
        parameters=context.traits[name].parameters,
        train_size=context.stated_size(client_id),
        label_counts=context.label_counts(client_id) if context.needs.label_counts else None,
    )


def take_part(context: ClientContext, client_id: int, download: Download) -> Upload:
    """Do a download's steps in order, store the client's new state, and return the upload.

    Where a step raises, the client stays as it was before this message, but for what its privacy
    mechanism must not forget, such as DP-SGD's steps.
    """
    started = time.perf_counter()
    precomputed = context.workspace.take(client_id, download)
    update = begin_update(context, client_id, download, precomputed)
    steps = FITTED_STEPS if update.info.fits_itself else STEPS
    if is_declined(update):
        for step in download.steps:
            if step in MEASURING:
                steps[step](update)
        store(update)  # its model is as it was, but the next teacher may build on this one
        return Upload(
            client_id=client_id,
            round=download.round,
            metrics=_metrics(update, started),
            declined=SPENT,
        )
    if precomputed is not None:
        started -= precomputed.seconds
    try:
        for step in download.steps:
            update.check_interrupt()
            if precomputed is None or step not in TRAINING:
                with precomputed_weights(update, precomputed, step):
                    steps[step](update)
        store(update)
    except BaseException:
        store_after_failure(update)
        raise
    return Upload(
        client_id=client_id,
        round=download.round,
        metrics=_metrics(update, started),
        privacy=update.released.event,
        knowledge=update.released.knowledge,
        exposures=update.exposures if context.sends_metrics else {},
    )


def _metrics(update: LocalUpdate, started: float) -> dict[str, float | tuple[float, ...]]:
    """Return what leaves a client of what it measured: its time alone where it keeps the rest."""
    seconds = {"seconds": time.perf_counter() - started}
    return {**update.metrics, **seconds} if update.context.sends_metrics else {**seconds}


def example_arrays(context: ClientContext) -> dict[str, np.ndarray]:
    """Return the arrays of an upload of client 0 on at most three public samples, as an example."""
    assert context.kind is not None, "a run that exchanges nothing has no uploads"
    ids = torch.arange(min(3, context.task.public_size))
    # What a run left in the store is not looked at before the run begins.
    untouched = replace(context, store=MemoryStore({}, (), ()))
    download = Download(round=0, steps=("share",), public_ids=ids)
    update = begin_update(untouched, 0, download)
    return context.kind.encode(context.kind.extract(KnowledgeView(update)))
