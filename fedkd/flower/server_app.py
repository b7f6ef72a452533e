"""The Flower ServerApp: one main that runs our strategy over the Grid it is given."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedkd.flower.strategy_adapter import FederatedDistillation


def make_server_app(strategy: FederatedDistillation) -> ServerApp:
    """Return the app that runs ``strategy`` from its first round to its last."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy.start(grid)

    return app
