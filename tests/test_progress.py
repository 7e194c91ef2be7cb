"""Progress bars: on standard error, or on the terminal that the runner named."""

from pathlib import Path

import pytest

from hilum.progress import TERMINAL, bar, track


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TERMINAL, raising=False)


def test_items_pass_unchanged_and_lengths_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([3, 1, 2], "sorting", unit="number")) == [3, 1, 2]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "sorting" in shown.err
    assert "3/3" in shown.err


def test_a_generator_with_a_total_counts_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(track((number for number in range(4)), "adding", total=4)) == 6
    assert "4/4" in capsys.readouterr().err


def test_where_there_is_no_terminal_a_bar_is_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in track(range(20_000), "counting"):
        pass
    assert capsys.readouterr().err.count("counting") <= 3


def test_a_named_terminal_gets_the_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TERMINAL, str(tmp_path / "tty"))
    with bar("training", total=2, initial=1) as shown:
        shown.update()
    assert "2/2" in (tmp_path / "tty").read_text(encoding="utf-8")
    assert capsys.readouterr().err == ""


def test_a_step_outlives_its_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TERMINAL, str(tmp_path / "gone" / "tty"))
    assert list(track([1], "going on")) == [1]
    assert "going on" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError("wrong")])
@pytest.mark.parametrize("named", [True, False])
def test_an_error_in_the_block_is_the_error_that_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, named: bool
) -> None:
    if named:
        monkeypatch.setenv(TERMINAL, str(tmp_path / "tty"))
    with pytest.raises(type(error)) as caught, bar("failing", total=1):
        raise error
    assert caught.value is error
