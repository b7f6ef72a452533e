"""CFD (Sattler et al. 2020, arXiv 2012.00632): one-bit labels up, a server model's labels down.

Compressed federated distillation: a server model distils quantized uploads and then teaches.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedkd.codecs import Codec, Delta, Quantized
from fedkd.errors import RunError
from fedkd.fusion import mean_over_clients, soften, uniform_weights
from fedkd.messages import Cohort, Fusion, Predictions
from fedkd.settings.validators import at_least, at_most
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class CFD:
    """Distil the mean of quantized soft labels into a server model, whose soft labels then teach.

        up     Q_b(p_j(x)), b = bits_up (1: the one-hot argmax); only changed rows travel
        server steps on KL(mean_j Q_b(p_j(x)) || p_s(x)); the model stays from round to round
        down   softmax(f_s(x) / T) at bits_down bits

    The codec does the quantizing: with ``codec=full`` this is distillation through a server model.
    Entropy-coded bits are reported next to the raw ones, as the paper counts them.
    """

    knowledge = "probs"

    bits_up: int = 1
    """Bits a class of an upload, 1 to 8; the paper's uplink has 1."""
    bits_down: int = 8
    """Bits a class of a teacher, 1 to 8."""
    server: str = "cnn"
    """Architecture of the server's model, by name or package.module:factory."""
    server_epochs: int = 10
    """Passes over the public set with which the server distils every round, >= 1; the default is
    ours."""

    def __post_init__(self) -> None:
        at_least(
            1, bits_up=self.bits_up, bits_down=self.bits_down, server_epochs=self.server_epochs
        )
        at_most(8, bits_up=self.bits_up, bits_down=self.bits_down)

    @property
    def needs(self) -> Needs:
        """A model of the server's own, of the architecture ``server``."""
        return Needs(server_models=(self.server,))

    @property
    def codec(self) -> tuple[Codec, Codec]:
        """Quantized and sent as changes on the way up, quantized on the way down."""
        return Delta(bits=self.bits_up), Quantized(bits=self.bits_down)

    def fuse(self, cohort: Cohort, state: Mapping[str, Tensor] | None) -> Fusion:
        """Return the server model's soft labels after it distilled the clients' mean.

        ``state`` is the server model's state; None in the first round.
        """
        server = cohort.server
        if server is None:
            raise RunError("cfd needs a model of the server's own to distil into")
        mean = Predictions(
            ids=cohort.public_ids, values=mean_over_clients(cohort.probs), scale="probs"
        )
        before = server.initial(self.server) if state is None else state
        model = server.distill(
            self.server,
            before,
            mean,
            loss="kl",
            purpose="cfd",
            round=cohort.round,
            epochs=self.server_epochs,
        )
        probs = soften(server.predict(self.server, model, cohort.public_ids), cohort.temperature)
        return Fusion(
            weights=uniform_weights(cohort.size),
            teachers=probs,
            state=dict(model),
            metrics={"server_accuracy": server.accuracy(self.server, model)},
        )
