"""Recognise the errors that libraries raise when memory is short or a worker process was killed."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

# Messages of torch on CPUs and GPUs, of C++, and of the system.
NO_MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator|not enough memory|can(no|')t allocate memory|bad_alloc|ALLOC_FAILED"
    r"|Unable to allocate",
    re.IGNORECASE,
)
LOST_WORKER = re.compile(r"DataLoader worker .*(exited unexpectedly|is killed by signal)", re.DOTALL)


def reason(error: BaseException, batch: str = "--batch-size") -> str | None:
    """What happened and what to do, in one sentence; None for other errors. batch: the option for the batch size."""
    causes = tuple(_causes(error))
    if any(_lost_worker(each) for each in causes):
        return (
            f"a process that reads images was killed, most often for lack of memory: use fewer, or a smaller {batch}."
        )
    if any(_no_memory(each) for each in causes):
        return f"there is not enough memory: use a smaller {batch}, or smaller images."
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _no_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's is a RuntimeError
    return named or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None)


def _lost_worker(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and LOST_WORKER.search(str(error)) is not None
