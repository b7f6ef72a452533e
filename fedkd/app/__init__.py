"""Flower's edge: the ClientApp, the ServerApp, the Strategy that drives rounds over a Grid, and the records."""
