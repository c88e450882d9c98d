"""Scripts that complete commands in a shell: written once from the parser, they start no Python when they complete."""

import argparse
from collections.abc import Iterator
from typing import NamedTuple


class _Command(NamedTuple):
    """A command by the words that name it. words: what may follow. values: what may follow an option, "" for a file."""

    path: tuple[str, ...]
    words: tuple[str, ...]
    options: dict[str, str]
    values: dict[str, tuple[str, ...]]


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the completion script of a shell: bash, zsh or fish."""
    commands = list(_commands(parser, ()))
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def _commands(parser: argparse.ArgumentParser, path: tuple[str, ...]) -> Iterator[_Command]:
    words: list[str] = []
    options: dict[str, str] = {}
    values: dict[str, tuple[str, ...]] = {}
    below: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:  # argparse has no public list of them
        if action.help == argparse.SUPPRESS:
            continue
        offered = tuple(map(str, getattr(action, "offered", None) or action.choices or ()))
        if isinstance(action, argparse._SubParsersAction):
            below = dict(action.choices)
            words += below
        elif action.option_strings:
            name = action.option_strings[-1]
            options[name] = " ".join((action.help or "").split())
            if action.nargs != 0:
                values[name] = offered
        else:
            words += offered
    yield _Command(path, tuple(words), options, values)
    for name, sub in below.items():
        yield from _commands(sub, (*path, name))


def _bash(commands: list[_Command]) -> str:
    cases = []
    for command in commands:
        taking = [(name, values) for name, values in command.values.items() if values]
        files = [name for name, values in command.values.items() if not values]
        lines = [f'    "{" ".join(command.path)}")']
        lines.append('      case "$previous" in')
        lines += [
            f'        {name}) COMPREPLY=($(compgen -W "{" ".join(v)}" -- "$current")); return ;;' for name, v in taking
        ]
        if files:
            lines.append(f'        {"|".join(files)}) COMPREPLY=($(compgen -f -- "$current")); return ;;')
        lines.append("      esac")
        words = " ".join((*command.words, *command.options))
        lines.append(f'      COMPREPLY=($(compgen -W "{words}" -- "$current"))')
        lines.append('      ((${#COMPREPLY[@]})) || COMPREPLY=($(compgen -f -- "$current")) ;;')
        cases += lines
    paths = " ".join(f'"{" ".join(command.path)}"' for command in commands if command.path)
    body = "\n".join(cases)
    return f"""# Completion of livt for bash: source it, or write it to ~/.local/share/bash-completion/completions/livt
_livt() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" path="" word known
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    for known in {paths}; do
      [[ "$known" == "${{path:+$path }}$word" ]] && {{ path="$known"; break; }}
    done
  done
  case "$path" in
{body}
  esac
}}
complete -o filenames -F _livt livt
"""


def _zsh(commands: list[_Command]) -> str:
    return f"#compdef livt\nautoload -U +X bashcompinit && bashcompinit\n{_bash(commands)}"


def _fish(commands: list[_Command]) -> str:
    lines = ["# Completion of livt for fish: put this into ~/.config/fish/completions/livt.fish", "complete -c livt -f"]
    families = {command.path[0] for command in commands if len(command.path) == 2}
    for command in commands:
        if not command.path:
            when = "__fish_use_subcommand"
        elif len(command.path) == 1 and command.path[0] in families:
            actions = " ".join(command.words)
            when = f"__fish_seen_subcommand_from {command.path[0]}; and not __fish_seen_subcommand_from {actions}"
        else:
            when = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in command.path)
        if command.words:
            lines.append(f"complete -c livt -n '{when}' -a '{' '.join(command.words)}'")
        elif command.path:
            lines.append(f"complete -c livt -n '{when}' -F")
        for name, text in command.options.items():
            kind = f"-s {name[1:]}" if not name.startswith("--") else f"-l {name[2:]}"
            takes = ""
            if name in command.values:
                values = command.values[name]
                takes = f" -x -a '{' '.join(values)}'" if values else " -r -F"
            quoted = text.replace("\\", "\\\\").replace("'", "\\'")
            lines.append(f"complete -c livt -n '{when}' {kind}{takes} -d '{quoted}'")
    return "\n".join(lines) + "\n"
