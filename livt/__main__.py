"""The command line: ``python -m livt``, or ``livt``. A user's mistake is one line on stderr and exit status 2."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress

from livt.cli.parser import build_parser, check_options

# Heavy modules (torch, timm, pandas) are imported by the command that needs them: --help answers at once.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    options = build_parser().parse_args(arguments)
    try:
        return _run(options)
    except KeyboardInterrupt as stop:
        hint = str(stop) or "the same command goes on from the last saved epoch"
        with suppress(OSError):  # of a terminal that was closed
            print("\nlivt: interrupted" + (f"; {hint}" if options.command != "runs" else ""), file=sys.stderr)
        return getattr(stop, "status", 130)
    except BrokenPipeError:
        return 141
    except Exception as error:
        if not _is_known(error):
            raise
        print(f"livt: error: {' '.join(_message(error).split())}", file=sys.stderr)
        return 2


def _is_known(error: Exception) -> bool:
    """Tell a user's mistake, or a state of the machine that the message explains, from a defect of this program."""
    from livt.lab.failures import RunError, is_out_of_memory
    from livt.optim import NonFiniteLossError

    return isinstance(error, ValueError | RunError | NonFiniteLossError | OSError) or is_out_of_memory(error)


def _message(error: Exception) -> str:
    """Return what to tell the user of a known error."""
    from livt.lab.failures import RunError, is_full, is_out_of_memory

    if isinstance(error, OSError) and is_full(error):
        kept = "saved epochs and finished runs are kept, and with more room the same command goes on from them"
        return f"{error.filename}: {error.strerror}; {kept}"
    if is_out_of_memory(error) and not isinstance(error, RunError):
        return "out of memory: close other programs, or take another --device; nothing finished is lost"
    return str(error)


def _run(options: argparse.Namespace) -> int:
    check_options(options)
    match options.command:
        case "pretrain" | "finetune" | "second" | "cluster" | "distill" | "meta":
            from livt.cli.training import train

            return train(options)
        case "reproduce":
            from livt.cli.training import reproduce

            return reproduce(options)
        case "recipe":
            from livt.cli.training import show_recipe

            return show_recipe(options)
        case "evaluate":
            from livt.cli.runs import evaluate

            return evaluate(options)
        case "completion":
            from livt.cli.completion import script

            sys.stdout.write(script(options.shell, build_parser()))
            return 0
        case _:
            from livt.cli.runs import runs

            return runs(options)


if __name__ == "__main__":
    sys.exit(main())
