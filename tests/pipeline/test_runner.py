"""The runner on the command line's own path."""

from __future__ import annotations

import sys

GOOD_LINE = "Tom counted {} boats on the lake and wrote the number into his small green book.\n"


def test_a_source_is_read_once_for_its_digest(forge, tiny_run, tmp_path):
    source = tmp_path / "text.txt"
    source.write_text("".join(GOOD_LINE.format(number) for number in range(400)))
    opened = []

    def watch(event, arguments):
        if watching and event == "open" and str(arguments[0]) == str(source):
            opened.append(arguments)

    watching = True
    sys.addaudithook(watch)  # stays for the life of the process, so it is switched off instead
    try:
        arguments = [*tiny_run(cognate__steps=1, handoffs="{}"), "--phases", "cognate", "--data", source]
        answer = forge(*arguments, "--home", tmp_path / "home", "--session", "mine")
    finally:
        watching = False
    assert answer.code == 0, answer.err
    assert len(opened) == 1  # phases read it in processes of their own
