"""The verb between a release and a picture archive."""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from hilum.cli.options import EXISTING, FILE, FOLDER, verb
from hilum.errors import HilumError, SourceError, UsageError
from hilum.recipe import EngineName

if TYPE_CHECKING:
    from hilum.delivery.pacs.reporting import Reporter

ENGINES = get_args(EngineName)
NAMES = {"XR": "X-ray", "MR": "MRI"}


@verb(
    "hilum dicom releases/xr-moco export/study1 --out reports\n"
    "  hilum dicom releases/xr-moco --from https://pacs.example/dicom-web --study 1.2.3 --token-file token --store"
)
@click.argument("release", type=EXISTING)
@click.argument("files", nargs=-1, metavar="[STUDY]...", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=FOLDER, help="Folder for the reports; needed unless --store.")
@click.option("--from", "url", metavar="URL", help="DICOMweb service to take the study from, above /studies.")
@click.option("--study", metavar="UID", help="StudyInstanceUID there.")
@click.option("--store", is_flag=True, help="Store the report there, in the study.")
@click.option("--token-file", type=FILE, help="One line: the bearer token of the service.")
@click.option("--login-file", type=FILE, help="One line, user:password, for basic authorisation.")
@click.option("--ca", type=FILE, help="Certificates to trust in place of the usual ones, PEM.")
@click.option("--engine", type=click.Choice(ENGINES), default=ENGINES[0], show_default=True)
def dicom(
    release: Path,
    files: tuple[Path, ...],
    out: Path | None,
    url: str | None,
    study: str | None,
    store: bool,
    token_file: Path | None,
    login_file: Path | None,
    ca: Path | None,
    engine: str,
) -> None:
    """Report a DICOM study as a structured report, from files (STUDY: files, folders) or from a PACS."""
    _consistent(files, out, url, study, (store, token_file, login_file, ca))
    try:
        from hilum.delivery.pacs.calling import Credentials
        from hilum.delivery.pacs.reporting import Reporter, write
        from hilum.delivery.pacs.study import choose
        from hilum.delivery.pacs.web import Archive
        from hilum.delivery.predictor import Release
    except ModuleNotFoundError as error:
        raise UsageError(f"hilum dicom needs {error.name}: pip install 'hilum[serve,pacs]'") from error

    if url is None or study is None:
        assert out is not None, "files without --out are refused"
        _of_files(Reporter(Release.open(release), engine), files, out)
        return
    with Archive(url, Credentials.read(token_file, login_file), ca=ca) as archive:
        reporter = Reporter(Release.open(release), engine)
        reported = reporter.report(choose(archive.find(study), reporter.modality))
        click.echo(str(reported.tally))
        document = reported.document
        if document is None:
            raise HilumError(
                f"the study has no {NAMES[reporter.modality]} that could be read; there is no report of it"
            )
        if out is not None:
            write(document, out)
            click.echo(f"wrote its report to {out}")
        if store:
            archive.store(document)
            click.echo("stored its report in the archive")


def _of_files(reporter: "Reporter", files: tuple[Path, ...], out: Path) -> None:
    """A report of each study among the files; one that has none does not keep the others from theirs."""
    from hilum.delivery.pacs.reporting import write
    from hilum.delivery.pacs.study import choose, of_files

    found = of_files(files)
    name = NAMES[reporter.modality]
    studies, written, left = len(found.studies), 0, 0
    for number, listed in enumerate(found.studies.values(), start=1):
        chosen = choose(listed, reporter.modality)
        if not chosen.asked and not chosen.slices:
            left += 1
            continue
        try:
            reported = reporter.report(chosen)
        except SourceError as error:
            click.echo(f"study {number} of {studies}: {error}", err=True)
            continue
        click.echo(f"study {number} of {studies}: {reported.tally}")
        if reported.document is not None:
            write(reported.document, out)
            written += 1
    for count, what, words in (
        (left, ("study", "studies"), f"left alone, without an {name}"),
        (found.passed_over, ("file", "files"), "passed over, no DICOM instance"),
        (found.repeated, ("file", "files"), "there twice"),
    ):
        if count:
            click.echo(f"{_counted(count, *what)} {words}")
    click.echo(f"wrote {_counted(written, 'report', 'reports')} to {out}")
    if left == studies:
        raise HilumError(f"there is no {name} among the files, which is what the release answers for")
    if failed := studies - left - written:
        raise HilumError(f"{_counted(failed, 'study', 'studies')} with an {name} got no report; see above for why")


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _consistent(
    files: tuple[Path, ...], out: Path | None, url: str | None, study: str | None, of_service: tuple[object, ...]
) -> None:
    """Refuse options that do not go together."""
    if bool(files) == (url is not None):
        raise UsageError("name the files of studies, or a service with --from and --study; one of the two")
    if (url is None) != (study is None):
        raise UsageError("--from and --study go together: the service, and the study there")
    if url is None and any(of_service):
        raise UsageError("--store, --token-file, --login-file and --ca belong to a service; name it with --from")
    if out is None and not of_service[0]:
        raise UsageError("a report has to go somewhere: name a folder with --out, or --store it in the archive")
