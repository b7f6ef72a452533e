"""Codecs: encodings of the named arrays of knowledge into the named arrays of a message.

A codec knows nothing of clients, rounds or kinds of knowledge. It protects nothing: privacy comes
before it. ``size`` counts the bytes of a message.
"""

from fedkd.codecs.cached import Cached as Cached
from fedkd.codecs.codec import Arrays as Arrays
from fedkd.codecs.codec import Codec as Codec
from fedkd.codecs.delta import Delta as Delta
from fedkd.codecs.full_precision import Float16 as Float16
from fedkd.codecs.full_precision import Full as Full
from fedkd.codecs.low_rank import LowRank as LowRank
from fedkd.codecs.pair import Codecs as Codecs
from fedkd.codecs.pair import StrategyDefault as StrategyDefault
from fedkd.codecs.pair import codecs_of as codecs_of
from fedkd.codecs.quantized import Quantized as Quantized
from fedkd.codecs.size import coded_bytes as coded_bytes
from fedkd.codecs.size import raw_bytes as raw_bytes
from fedkd.codecs.top_k import TopK as TopK

CODECS: dict[str, type[Codec]] = {
    "full": Full,
    "float16": Float16,
    "quantized": Quantized,
    "top_k": TopK,
    "delta": Delta,
    "cached": Cached,
    "low_rank": LowRank,
}
