"""A scenario's models once it has run, for studies that ask more of them than a run measures."""

import threading
from collections.abc import Sequence

from torch import nn

from fedkd.cli.command import compose
from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.federation.context import ClientContext


def trained(settings: Sequence[str]) -> tuple[ClientContext, list[nn.Module]]:
    """Run a scenario in this process and return what its clients share, and their models by client
    id.
    """
    stop = threading.Event()
    experiment = build(compose(settings), stop)
    execute(experiment, lambda _: None, stop)
    context = experiment.context
    return context, [context.own_model(client) for client in range(len(context.architectures))]
