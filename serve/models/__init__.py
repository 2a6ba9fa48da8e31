"""Models on the disk: fetched from a hub, checked, listed, found when an engine starts."""
