"""Models of a finished run, for studies that measure more than a run does."""

import threading
from collections.abc import Sequence

from torch import nn

from fedkd.cli.command import compose
from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.federation.context import ClientContext


def trained(settings: Sequence[str]) -> tuple[ClientContext, list[nn.Module]]:
    """Run a scenario in this process, and return its context and the models by client id."""
    stop = threading.Event()
    experiment = build(compose(settings), stop)
    execute(experiment, lambda _: None, stop)
    context = experiment.context
    return context, [context.own_model(client) for client in range(len(context.architectures))]
