"""What the verbs share: their options, their help, the recipe."""

from collections.abc import Callable
from pathlib import Path

import click

from hilum.recipe import Recipe
from hilum.recipe import read as read_recipe

FOLDER = click.Path(path_type=Path, file_okay=False)
EXISTING = click.Path(path_type=Path, file_okay=False, exists=True)
FILE = click.Path(path_type=Path, dir_okay=False, exists=True)

recipe_option = click.option("--recipe", type=FILE, help="A recipe (YAML) for every knob that has no flag here.")


def verb(example: str) -> Callable[[Callable[..., None]], click.Command]:
    """A verb whose help ends with an example."""
    return click.command(epilog=f"\b\nExample:\n  {example}")


def override_options(command: Callable[..., None]) -> Callable[..., None]:
    """--override NAME and --reason TEXT, which go together."""
    reason = click.option(
        "--reason", "override_reason", default="", metavar="TEXT", help="Why; name no patient: it travels as well."
    )
    by = click.option(
        "--override",
        "override_by",
        default="",
        metavar="NAME",
        help="Who answers for a release that the gate does not let pass; it stands in every answer of the server.",
    )
    return by(reason(command))


def pairs(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE, repeatable, as a mapping."""
    found = dict(value.partition("=")[::2] for value in values)
    if any("=" not in value for value in values):
        raise click.BadParameter(f"{option.opts[0]} takes NAME=VALUE")
    return found


def recipe_of(path: Path | None) -> Recipe:
    """The recipe in a file, or the defaults where none is named."""
    recipe: Recipe = read_recipe(path) if path else Recipe()
    return recipe
