"""Mechanisms by name: settings with pure functions over predictions, and what each may claim.

A client's mechanism (``gaussian``, ``laplace``, ``krr``, ``swing``) has ``release``; a trusted
server's has ``protect_mean`` (``central_gaussian``, ``gnmax``, ``lnmax``). ``dp_sgd`` protects the
training, which is ``fedkd.privacy.private_training.optimize_privately``.
"""

from fedkd.privacy.detection import Detector as Detector
from fedkd.privacy.detection import Hints as Hints
from fedkd.privacy.mechanisms.central_gaussian import CentralGaussian as CentralGaussian
from fedkd.privacy.mechanisms.client_noise import ClientNoise as ClientNoise
from fedkd.privacy.mechanisms.dp_sgd import DpSgd as DpSgd
from fedkd.privacy.mechanisms.gaussian import Gaussian as Gaussian
from fedkd.privacy.mechanisms.gnmax import GnMax as GnMax
from fedkd.privacy.mechanisms.krr import RandomizedResponse as RandomizedResponse
from fedkd.privacy.mechanisms.laplace import Laplace as Laplace
from fedkd.privacy.mechanisms.lnmax import LnMax as LnMax
from fedkd.privacy.mechanisms.mechanism import Mechanism as Mechanism
from fedkd.privacy.mechanisms.mechanism import unprotected_upload as unprotected_upload
from fedkd.privacy.mechanisms.swing import Swing as Swing
from fedkd.privacy.sampling_schedule import Schedule as Schedule

MECHANISMS: dict[str, type[Mechanism]] = {
    "dp_sgd": DpSgd,
    "gaussian": Gaussian,
    "laplace": Laplace,
    "krr": RandomizedResponse,
    "central_gaussian": CentralGaussian,
    "gnmax": GnMax,
    "lnmax": LnMax,
    "swing": Swing,
}
