"""Work in threads, so that the event loop goes on answering."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


async def run_in(threads: ThreadPoolExecutor, function: Callable[..., Result], *arguments: object) -> Result:
    """Run a function in one of `threads`, off the event loop."""
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)
