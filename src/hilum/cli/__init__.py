"""The command line: one verb, one function below it.

Exit status: 0 done, 1 a check did not hold or a step failed, 2 the call asks for what cannot be.
"""

import sys

import click

from hilum import __version__
from hilum.cli import datasets, delivering, judging, learning, pacs, whole
from hilum.errors import HilumError

HELP = """Medical images to fair, defensible embeddings: from a dataset revision to an answered X-ray.

\b
The way of the data:  ingest -> validate -> train -> embed -> probe -> audit -> compare -> gate -> export -> serve
All of it at once:    hilum run
"""


@click.group(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hilum")
@click.option("--debug", is_flag=True, help="Show the stack trace of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """All verbs."""
    context.obj = debug


for _verb in (
    *(datasets.phantom, datasets.ingest, datasets.unite, datasets.validate),
    *(learning.train, learning.embed, learning.imagine, learning.finetune, learning.fusion),
    *(judging.probe, judging.audit, judging.compare, judging.explore, judging.figures, judging.gate),
    *(judging.drift, judging.efficiency, judging.policies, judging.mitigate, judging.shortcuts),
    *(delivering.export, delivering.predict, delivering.serve, delivering.cases, delivering.dossier),
    pacs.dicom,
    whole.run,
):
    cli.add_command(_verb)


def main() -> None:
    """Run the command line; an error is one sentence, unless --debug asks for its stack trace."""
    try:
        status = cli(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except HilumError as error:
        if "--debug" in sys.argv[1:]:
            raise
        click.echo(f"hilum: {error}", err=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
        sys.exit(130)
