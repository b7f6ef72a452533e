"""Flower: client and server apps, messages, and the grids that run clients in process or on Ray."""
