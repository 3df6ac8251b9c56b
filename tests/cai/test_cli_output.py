"""Where the command line writes to: readers that leave early, disks that are full, programs without an output."""

import errno
import io
import os
import sys

import pytest

from cai.cli import main


class Broken(io.StringIO):
    """An output on which every write ends in an error of the system."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def fileno(self):
        with open(os.devnull) as nothing:  # which is closed before anybody can write there
            return nothing.fileno()

    def write(self, text):
        raise OSError(self.number, "as the system has it")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_an_output_that_is_full_is_named(number, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(number))
    with pytest.raises(SystemExit, match="1"):
        main(["rewards"])
    assert capsys.readouterr().err == "error: standard output cannot be written: as the system has it\n"


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch, capsys):
    """As in `cai rewards | head -1`, which was put down to a plug-in."""
    monkeypatch.setattr(sys, "stdout", Broken(errno.EPIPE))
    with pytest.raises(SystemExit, match="1"):
        main(["rewards"])
    assert capsys.readouterr().err == ""


def test_a_program_without_an_output_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit, match="0"):
        main(["rewards"])
    sys.stdout.close()
    assert capsys.readouterr().err == ""
