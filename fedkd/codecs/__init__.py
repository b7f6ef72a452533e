"""What travels, and how many bits: codecs between a kind of knowledge's named arrays and a
message's.

A codec knows nothing of clients, rounds or kinds: it takes named arrays and gives named arrays. It
protects nothing: privacy comes before it. ``size`` says what a message weighs.
"""

from fedkd.codecs.cached import Cached as Cached
from fedkd.codecs.codec import Arrays as Arrays
from fedkd.codecs.codec import Codec as Codec
from fedkd.codecs.delta import Delta as Delta
from fedkd.codecs.full_precision import Float16 as Float16
from fedkd.codecs.full_precision import Full as Full
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
}
