"""Work in threads, so that the event loop goes on answering."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

# For files that all replicas share: where their folder hangs, these wait, and none that requests need.
FILES = ThreadPoolExecutor(max_workers=4, thread_name_prefix="files")


async def run_in(threads: ThreadPoolExecutor, function: Callable[..., Result], *arguments: object) -> Result:
    """Run a function in one of `threads`, off the event loop."""
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)
