"""One place that turns errors into exit codes, for every verb."""

from __future__ import annotations

from typing import Any

import typer

from changenet.errors import ChangeNetError

GO_ON = ("train", "tune", "evaluate", "inference")  # verbs that keep what they have done when they are interrupted


class Verbs(typer.core.TyperGroup):
    """Runs a verb: 0 done, 2 the user's input is wrong (one line a problem, no traceback), 1 anything else."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb and report what a user can mend on stderr."""
        from ray_jobs.console import err, set_up_logging
        from ray_jobs.failures import cluster_failure, file_failure, is_full

        set_up_logging()
        try:
            return super().invoke(ctx)
        except ChangeNetError as error:
            for problem in error.problems:
                err.print(f"error: {problem}", soft_wrap=True)
            raise typer.Exit(error.exit_code) from None
        except Exception as error:
            file = file_failure(error)
            failure = file or cluster_failure(error)
            if failure is None:
                raise
            err.print(f"error: {failure}", soft_wrap=True)
            raise typer.Exit(2 if file and not is_full(error) else 1) from None
        except (KeyboardInterrupt, SystemExit):  # SIGINT; SIGTERM, which Ray turns into an exit
            again = " Run the same command again to go on." if ctx.invoked_subcommand in GO_ON else ""
            err.print(f"Interrupted.{again}")
            raise typer.Exit(1) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a verb of two words before one that is the first of them and would take the second for an override."""
        words = " ".join(args[:2])
        if words in self.commands:
            return words, self.commands[words], args[2:]
        return super().resolve_command(ctx, args)

    def list_commands(self, _ctx: Any) -> list[str]:
        """Keep the order in which a user meets the verbs."""
        return list(self.commands)


def finish(code: int | None) -> None:
    """End a verb with its exit code."""
    if code:
        raise typer.Exit(code)
