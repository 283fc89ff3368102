"""Completions, asked in the shells themselves."""

import os
import pty
import re
import select
import subprocess
import time

import pytest
from harness.requirement import command
from harness.server import ROOT, control

FOLDER = ROOT / "completions"


@pytest.fixture
def instances(tmp_path):
    """A folder like /etc/rgunicorn, with two instances and the example."""
    for name in ("shop", "shelf", "example"):
        (tmp_path / f"{name}.toml").touch()
    return {"RGUNICORN_ETC": str(tmp_path)}


def bash(line, environment=()):
    """What bash offers at the end of `line`. As bash itself does, a = is a word of its own."""
    words = [word for word in re.split(r"(=)|\s+", line) if word]
    if line.endswith(" "):
        words.append("")
    function = {"rgunicorn": "_rgunicorn", "rgunicornctl": "_rgunicornctl"}[words[0]]
    script = ('source "$1"; shift; f=$1; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
              '"$f" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; printf "%s\\n" "${COMPREPLY[@]}"')
    ended = subprocess.run([command("bash"), "--norc", "-euc", script, "bash", FOLDER / "rgunicorn.bash", function, *words],
                           capture_output=True, text=True, env=os.environ | dict(environment))
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    return ended.stdout.split()


def fish(line, environment=()):
    name = line.split()[0]
    ended = subprocess.run([command("fish"), "--no-config", "-c", f'source {FOLDER}/{name}.fish; complete -C "$argv[1]"',
                            line], capture_output=True, text=True, env=os.environ | {"HOME": "/tmp"} | dict(environment))
    assert ended.returncode == 0, ended.stderr
    return [offer.split("\t")[0] for offer in ended.stdout.splitlines()]


def zsh(line, environment=()):
    """What zsh lists on a terminal at the end of `line`: as words."""
    program = command("zsh")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="dumb", COLUMNS="200", LINES="200", HOME="/nonexistent", **dict(environment))
        os.execv(program, [program, "-f", "-i"])

    def read_until(text, within=20.0):
        seen, end = "", time.monotonic() + within
        while text not in seen:
            ready, _, _ = select.select([terminal], [], [], max(end - time.monotonic(), 0))
            assert ready, f"{text!r} did not come: {seen!r}"
            seen += os.read(terminal, 65536).decode(errors="replace")
        return seen

    def write(text):
        os.write(terminal, text.encode())

    try:
        write(f"PS1='re''ady> '; fpath=({FOLDER} $fpath); autoload -U compinit; compinit -u -D; "
              "zstyle ':completion:*' menu no; setopt nolistbeep; list() { zle list-choices; zle -R; zle -I; print EN''D }; "
              "zle -N list; bindkey '^X' list\n")
        read_until("ready> ")
        write(f"{line}\x18")
        return set(re.findall(r"[\w-]+", read_until("END")))
    finally:
        os.close(terminal)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


SHELLS = pytest.mark.parametrize("offers", [bash, zsh, fish], ids=["bash", "zsh", "fish"])


@SHELLS
def test_flags_are_completed(offers):
    assert {"--worker-class", "--worker-connections", "--workers"} <= set(offers("rgunicorn --work"))


@SHELLS
def test_a_flags_words_are_completed(offers):
    assert {"debug", "info", "warning", "error", "critical"} <= set(offers("rgunicorn --log-level "))
    assert {"sync", "gthread"} <= set(offers("rgunicorn -w 4 -k "))


@SHELLS
def test_instances_are_completed(offers, instances):
    for line in ("rgunicorn --instance sh", "rgunicornctl -i sh", "rgunicorn exec sh"):
        assert {"shop", "shelf"} <= set(offers(line, instances.items())), line
    assert "example" not in offers("rgunicorn --instance ex", instances.items())


@SHELLS
def test_questions_and_settings_are_completed(offers):
    assert "explain" in offers("rgunicorn exp")
    assert {"keepalive", "keyfile"} <= set(offers("rgunicorn explain ke"))


@SHELLS
def test_the_commands_of_rgunicornctl_are_those_of_its_help(offers):
    commands = set(re.findall(r"^  ([a-z]+)\b", control("--help").stdout.split("Options")[0], re.MULTILINE))
    assert commands - set(offers("rgunicornctl ")) == set()


def test_bash_completes_a_value_after_an_equals_sign():
    assert bash("rgunicorn --log-level=cr") == ["critical"]
