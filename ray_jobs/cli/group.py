"""One place that turns errors into exit codes, for every verb."""

from __future__ import annotations

from typing import Any

import typer

from changenet.errors import ChangeNetError


class Verbs(typer.core.TyperGroup):
    """Runs a verb: 0 done, 2 the user's input is wrong (one line a problem, no traceback), 1 anything else."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb and report what a user can mend on stderr."""
        from ray_jobs.console import err, set_up_logging
        from ray_jobs.failures import cluster_failure

        set_up_logging()
        try:
            return super().invoke(ctx)
        except ChangeNetError as error:
            for problem in error.problems:
                err.print(f"error: {problem}", soft_wrap=True)
            raise typer.Exit(2) from None
        except Exception as error:
            if failure := cluster_failure(error):
                err.print(f"error: {failure}", soft_wrap=True)
                raise typer.Exit(1) from None
            if not isinstance(error, OSError) or error.filename is None:
                raise
            # A full disk, a folder that cannot be made or written.
            err.print(f"error: {error.filename}: {error.strerror}. Choose another place, or make room.", soft_wrap=True)
            raise typer.Exit(2) from None
        except (KeyboardInterrupt, SystemExit):  # SIGINT; SIGTERM, which Ray turns into an exit
            resumes = ctx.invoked_subcommand in ("train", "tune")
            err.print(
                f"Interrupted. {'Run the same command again to go on from the last checkpoint.' if resumes else ''}"
            )
            raise typer.Exit(1) from None

    def list_commands(self, _ctx: Any) -> list[str]:
        """Keep the order in which a user meets the verbs."""
        return list(self.commands)


def finish(code: int | None) -> None:
    """End a verb with its exit code."""
    if code:
        raise typer.Exit(code)
