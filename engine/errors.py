"""The exceptions, and what each costs.

    KosmosError                 every one ends in a sentence that says what to type next
    +-- ConfigError             wrong words, fields or inputs          nothing was written     exit 2
    +-- StoreError              the store cannot be read or written    the run stops           exit 3
    |   +-- Missing             a manifest or commit names an object that is gone
    +-- BudgetExceeded          too many units failed                  the run stops           exit 3
    +-- LeaseLost               another driver took an exclusive stage the run stops           exit 3
    +-- Interrupted             Ctrl-C: units in flight were drained   resumable               exit 130

A record's fault is no exception: a parser or rule returns a reason, which is counted. A unit's fault is any exception:
`attempt` writes it to the store as a failure object and the run goes on.
"""

from __future__ import annotations


class KosmosError(Exception):
    """A fault that a person is told of in one sentence; `exit_code` is the process's."""

    exit_code = 1


class ConfigError(KosmosError):
    """Wrong words, fields or inputs: found before anything was written."""

    exit_code = 2


class StoreError(KosmosError):
    """The store cannot be read or written, after retries with backoff."""

    exit_code = 3


class Missing(StoreError):
    """An object that a commit or manifest names is not in the store."""


class BudgetExceeded(KosmosError):
    """More units failed than the run allows."""

    exit_code = 3


class LeaseLost(KosmosError):
    """Another driver holds the exclusive stage."""

    exit_code = 3


class Interrupted(KosmosError):
    """Ctrl-C: what was in flight was drained, the same command resumes."""

    exit_code = 130
