"""Options of a job in a YAML file, named as on the command line, and the one that repeats a run.

An option of several values is a list, one of name=value pairs may be a mapping, one without a value
is true or false.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from beam_jobs.shared.errors import InputError
from beam_jobs.shared.storage import read_file

CONFIG_FILE = "prepare.yaml"
"""Name of the file in the output of a run."""
_FLAGS = {"true": True, "false": False}


def read_config(path: str) -> dict[str, Any]:
    """Reads a file of options; numbers and dates are text, as on the command line.

    Raises:
        InputError: the file cannot be read, or is no mapping of options.
    """
    try:
        values = yaml.load(read_file(path), Loader=yaml.BaseLoader)
    except Exception as error:  # each file system raises its own kind
        text = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as YAML: {text}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold lines such as `window: 100`. Received: {values!r:.100}")
    return values


def as_arguments(
    values: Mapping[str, Any], path: str, parser: argparse.ArgumentParser, but: Sequence[str] = ()
) -> list[str]:
    """Writes options of a file as arguments of a command line.

    Args:
        values: mapping of option to text, a list of texts, or a mapping of texts.
        path: str. The file, for messages.
        parser: ArgumentParser. Of the command.
        but: sequence of str. Options of the command that a file cannot have.

    Raises:
        InputError: the command has no such option, or a value does not fit it.
    """
    options = _options(parser, but)
    if unknown := [str(name) for name in values if name not in options]:
        raise InputError(
            f"{path}: no options of this command: {', '.join(unknown)}. A file has the options of "
            "--help, without dashes; those of Beam are given on the command line"
        )
    arguments: list[str] = []
    for name, value in values.items():
        if isinstance(value, dict) and all(isinstance(part, str) for part in value.values()):
            pairs = [f"{key}={part}" for key, part in value.items()]
            value = pairs if options[name].nargs == "+" else ",".join(pairs)
        parts = value if isinstance(value, list) else [value]
        if not parts or not all(isinstance(part, str) for part in parts):
            raise InputError(
                f"{path}: {name} must be text, a number, or a list of these, as on the command "
                f"line. Received: {value!r:.200}"
            )
        for part in parts:
            _check_value(options[name], part, path)
        if options[name].nargs == "+":
            arguments += [f"--{name}", *parts]
            continue
        if len(parts) > 1:
            raise InputError(f"{path}: {name} takes one value. Received: {', '.join(parts)}")
        if options[name].nargs != 0:
            arguments.append(f"--{name}={parts[0]}")
        elif parts[0].lower() not in _FLAGS:
            raise InputError(f"{path}: {name} must be true or false. Received: {parts[0]}")
        elif _FLAGS[parts[0].lower()]:
            arguments.append(f"--{name}")
    return arguments


def _check_value(option: argparse.Action, text: str, path: str) -> None:
    """Checks a value as the command line would, and names the file."""
    try:
        value = option.type(text) if callable(option.type) else text
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{path}: {option.dest} {error}") from error
    except ValueError as error:
        kind = "a whole number" if option.type is int else "a number"
        raise InputError(f"{path}: {option.dest} must be {kind}. Received: {text!r}") from error
    if option.choices is not None and value not in option.choices:
        choices = ", ".join(map(str, option.choices))
        raise InputError(f"{path}: {option.dest} must be one of {choices}. Received: {text!r}")


def config_text(
    args: argparse.Namespace, parser: argparse.ArgumentParser, but: Sequence[str] = ()
) -> str:
    """Writes the file of the options that are not at their defaults.

    Args:
        args: Namespace. As parsed.
        parser: ArgumentParser. Of the command.
        but: sequence of str. Options to leave out.
    """
    values = {
        name: getattr(args, name)
        for name, action in _options(parser, but).items()
        if getattr(args, name) != action.default
    }
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1 << 20)
    return f"# {parser.prog} --config {CONFIG_FILE} --output FOLDER repeats the run\n{text}"


def _options(parser: argparse.ArgumentParser, but: Sequence[str]) -> dict[str, argparse.Action]:
    return {
        action.dest: action
        for action in parser._actions
        if action.dest not in ("help", *but) and action.option_strings
    }
