"""The federated protocol: what server and clients do in a round, without any framework."""
