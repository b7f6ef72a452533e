"""Scores of candidates from a stored transcript, against each record's own margins."""

from pathlib import Path

import numpy as np

from fedkd.audit.attack_scores import AuditorModels, attack_scores
from fedkd.audit.membership_inference import lira_offline, lira_online
from fedkd.audit.scores import margin_of_logits
from fedkd.audit.shadows import ShadowModels
from fedkd.storage.transcript import GroundTruth, TranscriptWriter, read_transcript

CLIENTS, EACH, CLASSES, SHADOWS = 3, 4, 3, 6


def test_each_candidate_is_scored_by_its_owners_model_and_its_own_shadows(tmp_path: Path) -> None:
    stream, size = np.random.default_rng(0), CLIENTS * EACH
    owners, labels = np.repeat(np.arange(CLIENTS), EACH), stream.integers(0, CLASSES, size)
    truth = GroundTruth(
        inputs=np.zeros((size, 1, 2, 2), np.float32),
        labels=labels,
        client_ids=owners,
        included=np.arange(size) % 2 == 0,
        label_counts=np.ones((CLIENTS, CLASSES), np.int64),
    )
    logits = stream.normal(size=(CLIENTS, size, CLASSES))
    writer = TranscriptWriter(tmp_path, "lab", {})
    for client in range(CLIENTS):
        writer.add("query", {"logits": logits[client]}, round=1, client=client)
    writer.save()
    shadow_logits = stream.normal(size=(SHADOWS, size, CLASSES))
    included = np.arange(SHADOWS)[:, None] % 2 == np.arange(size) % 2
    shadows = ShadowModels(included, shadow_logits, shadow_logits, {})

    transcript = read_transcript(tmp_path, "lab")
    scores, skipped = attack_scores(transcript, truth, {}, AuditorModels(shadows=shadows), seed=0)

    assert skipped == []
    margins = margin_of_logits(logits[owners, np.arange(size)], labels)
    of_shadows = margin_of_logits(shadow_logits, labels)
    np.testing.assert_allclose(scores["query: loss threshold"], -np.log1p(np.exp(-margins)))
    np.testing.assert_allclose(
        scores["query: LiRA offline"], lira_offline(margins, of_shadows, included)
    )
    np.testing.assert_allclose(
        scores["query: LiRA online"], lira_online(margins, of_shadows, included)
    )
