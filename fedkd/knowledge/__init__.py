"""Kinds of knowledge: what a client uploads and learns from, each with its own checks.

A kind knows five things: how a client makes it, how a client learns from it, how it becomes named arrays and back,
what the server accepts, and how uploads are stacked. Another kind (tables by class, prototypes, weights) is another
module here with these five, and no special case in the client, the server or the codec.
"""

from fedkd.knowledge.kind import Kind as Kind
from fedkd.knowledge.kind import Request as Request
from fedkd.knowledge.predictions import PublicPredictions

KINDS: dict[str, Kind] = {"logits": PublicPredictions("logits"), "probs": PublicPredictions("probs")}
"""By the name that a strategy declares. ``nothing`` has no kind: nothing travels."""
