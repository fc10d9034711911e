"""Several processes that share a sweep: what they say to each other, and how they wait."""

from __future__ import annotations

import contextlib
import itertools
import time
from pathlib import Path
from typing import Any

import jax

from ._store import Store

_POLL_SECONDS = 0.2
_WAIT_MS = 86_400_000  # for a process that is alive; the coordinator notices those that are not
VISIBLE_SECONDS = 60.0
"""Until file systems of clusters show all hosts what one has made."""


class Others:
    """What the processes of a sweep have to say to each other before they begin.

    Used as a context, it lets the others know if what is done in it fails.

    Through JAX's coordinator, which knows who is alive. The devices would do as well, but some of
    them give up after 30 seconds: one process may check a store, or compile, for longer than that.
    """

    _calls = itertools.count()  # the same in all, as all make the same calls

    def __init__(self) -> None:
        self._name = f"bnjax/sweep/{next(self._calls)}"
        self._number, self._several = jax.process_index(), jax.process_count() > 1

    def tell(self, what: bytes) -> None:
        """Let the first process tell all others something."""
        self._set("told", what)

    def hear(self) -> bytes:
        """What the first process tells, nothing if it failed."""
        return self._get("told")

    def meet(self) -> None:
        """Wait until all are there, or raise if one has failed."""
        if self._number == 0:
            there = [self._get(f"there/{i}") for i in range(1, jax.process_count())]
            self._set("all there", b"yes" if all(there) else b"")
            fine = all(there)
        else:
            self._set(f"there/{self._number}", b"yes")
            fine = self._get("all there")
        if not fine:
            raise RuntimeError("another process of the sweep could not open the store.")

    def __enter__(self) -> None:
        pass

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the others are gone
                self._set("told" if self._number == 0 else f"there/{self._number}", b"")

    def _set(self, key: str, value: bytes) -> None:
        if self._several:
            self._client().key_value_set_bytes(f"{self._name}/{key}", value)

    def _get(self, key: str) -> bytes:
        try:
            return self._client().blocking_key_value_get_bytes(f"{self._name}/{key}", _WAIT_MS)
        except jax.errors.JaxRuntimeError as error:
            raise RuntimeError(
                "another process of the sweep ended while the store was being opened. Make the "
                "same call again to go on."
            ) from error

    @staticmethod
    def _client() -> Any:
        from jax._src import distributed  # there is no public way

        return distributed.global_state.client


def appeared(path: Path) -> Store:
    """The store that the first process made, as soon as this one sees it."""
    for _ in range(int(VISIBLE_SECONDS / _POLL_SECONDS)):
        with contextlib.suppress(ValueError):
            return Store(path)
        time.sleep(_POLL_SECONDS)
    return Store(path)


def sees_others(store: Store) -> bool:
    """Whether this process can tell from the leases which of the others are alive.

    Some file systems of clusters keep the locks of each host to themselves.
    """
    return {*range(jax.process_count())} - {jax.process_index()} <= {*store.writers()}


def wait_for_others(store: Store, seen: bool, again: str) -> None:
    """Wait while other processes of this sweep are at work."""
    if jax.process_count() == 1:
        return
    alone_since = None
    begun = store.begun()
    while not begun.all() or (seen and store.writers()):
        if not seen or store.writers():
            alone_since = None
        elif alone_since is None:
            alone_since = time.monotonic()
        elif time.monotonic() - alone_since > VISIBLE_SECONDS:
            raise RuntimeError(
                f"{(~begun).sum()} of {begun.size} chunks of {store.path} are missing, because the "
                f"process that was to compute them ended. To go on: {again}."
            )
        time.sleep(_POLL_SECONDS)
        begun |= store.begun(~begun)  # there may be very many, and others poll as well
