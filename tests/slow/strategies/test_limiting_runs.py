"""Methods whose limiting case is another method, as whole runs."""

from tiny import records


def test_all_layers_of_lg_fedavg_are_fedavg_to_the_bit() -> None:
    one, other = (
        records(strategy=strategy, models=["mlp"])
        for strategy in ("fedavg", {"name": "lg_fedavg", "layers": 2})
    )
    for record, again in zip(one, other, strict=True):
        for client, same in zip(record.clients, again.clients, strict=True):
            assert client.after_distillation == same.after_distillation
            assert client.after_training == same.after_training
            assert client.bytes_up == same.bytes_up
