"""Fleets of engines that no machine here has, simulated, behind the router's own policies."""
