"""Values of options that are more than one word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    import typer

    from synbb.volumes.box import Triple

READABLE = "Zarr, N5, precomputed (also s3://, gs://, https://), HDF5 (file.h5:dataset), TIFF file, folder of sections."


def three_integers(text: str, option: str) -> Triple:
    """``32,256,256`` as three positive integers, z y x.

    Raises:
        SynbbError: anything else, with the option's name.
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise SynbbError(f"{option} {text!r} must be three positive integers z,y,x, for example 32,256,256")
    z, y, x = (int(part) for part in parts)
    return z, y, x


def integers(text: str, option: str) -> list[int]:
    """``3,17,18`` as integers.

    Raises:
        SynbbError: anything else, with the option's name.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SynbbError(f"{option} {text!r} must be whole numbers with commas between, for example 3,17,18") from None


def three_numbers(text: str, option: str) -> tuple[float, float, float]:
    """``1200,3400.5,-20`` as three numbers, z y x.

    Raises:
        SynbbError: anything else, with the option's name.
    """
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise SynbbError(f"{option} {text!r} must be three numbers z,y,x, for example 1200,3400,2800") from None
    return z, y, x


def refuse_without(context: typer.Context, needed: dict[str, tuple[str, ...]]) -> None:
    """Refuse options that have no effect without another one.

    Args:
        context: of the command.
        needed: name of a parameter → those of which one must be given with it.

    Raises:
        SynbbError: naming the option, and what it is of use with.
    """
    given = given_on_command_line(context)
    for name, others in needed.items():
        if name in given and not set(others) & set(given):
            raise SynbbError(f"{flags([name])} is of use with {' or '.join(flags([o]) for o in others)} alone")


def refuse_others(context: typer.Context, heeded: Collection[str], why: str) -> None:
    """Refuse options that are not heeded here.

    Args:
        context: of the command.
        heeded: names of the parameters that are.
        why: the end of the message, after the options.

    Raises:
        SynbbError: naming the options.
    """
    others = [name for name in given_on_command_line(context) if name not in heeded]
    if others:
        raise SynbbError(f"{flags(others)}: {why}")


def flags(names: Iterable[str]) -> str:
    """Parameters as they are written on the command line."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def given_on_command_line(context: typer.Context) -> list[str]:
    """Names of the parameters of a command that a person has given."""
    names = [parameter.name or "" for parameter in context.command.params]
    sources = {name: context.get_parameter_source(name) for name in names}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
