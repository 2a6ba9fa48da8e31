"""How many files, sockets among them, a process of the router may have open.

Shells and service managers mostly give a soft limit of 1024, which some 500 streams use up, and a
hard limit up to which a program may go by itself.
"""

from __future__ import annotations

import resource

ENOUGH = 65536
"""Asking for all of a hard limit of a billion makes programs slow that close every possible file
when they start."""


def attainable() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if hard == resource.RLIM_INFINITY else max(soft, min(hard, ENOUGH))


def raise_file_limit() -> None:
    """Once per process that serves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < attainable():
        resource.setrlimit(resource.RLIMIT_NOFILE, (attainable(), hard))
