"""Capacity planning: how many users a card carries, at what latency, and what limits it."""
