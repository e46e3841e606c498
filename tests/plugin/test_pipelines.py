"""The programs of pytest's own pipeline cannot have made what is in no record; a program beside it can."""

from __future__ import annotations

import subprocess
from typing import List

import pytest

from tests.plugin.conftest import Judge

#: A test leaves a file that no record tells of: the shell is gone before anything can ask for it.
LEAVES = """
    import subprocess

    def test_leaves():
        subprocess.run(["sh", "-c", "echo left > /dev/shm/left-by-a-shell"], check=True)
"""
#: As in a container: no other processes, and a /dev/shm of its own. Then a script of bash.
CONTAINER = ["unshare", "--fork", "--kill-child=KILL", "--pid", "--mount-proc", "--mount", "bash", "-c"]
SCRIPT = "mount -t tmpfs tmpfs /dev/shm && { %s; }"
#: Ends with the status of pytest, and what else is still there.
ALONE = {
    "alone": '"$@"',
    "tee": '"$@" 2>&1 | tee log > /dev/null; exit ${PIPESTATUS[0]}',
    "two readers": '"$@" | tee log | cat > other; exit ${PIPESTATUS[0]}',
    "a writer": (
        "sh -c 'echo $$ > writer; exec sleep 1000' | { \"$@\"; echo $? > status; kill $(cat writer); };"
        " exit $(cat status)"
    ),
    "substituted": 'exec 8> >(tee log > /dev/null); "$@" >&8 8>&-; status=$?; exec 8>&-; exit $status',
    "of a group": '{ "$@"; echo $? > status; } 2>&1 | tee log > /dev/null; exit $(cat status)',
    "named": 'mkfifo pipe; cat < pipe > log & "$@" > pipe',
    "job control": 'set -m; "$@" | tee log > /dev/null; exit ${PIPESTATUS[0]}',
}
BESIDE = {
    "a server": 'sleep 1000 & "$@"',
    "a server and tee": 'sleep 1000 & "$@" | tee log > /dev/null; exit ${PIPESTATUS[0]}',
    "a server that prints to the same pipe": '{ sleep 1000 & "$@"; echo $? > status; kill $!; } | cat > log; exit $(cat status)',
    "a reader that has shared memory": (
        ': > /dev/shm/other; "$@" | { cat > log; } 5< /dev/shm/other; exit ${PIPESTATUS[0]}'
    ),
    "a server that another program feeds": 'mkfifo pipe; sleep 1000 < pipe & exec 7> pipe; "$@" 7>&-',
}


def nest(script: str) -> List[str]:
    probe = subprocess.run([*CONTAINER, SCRIPT % "true"], stderr=subprocess.PIPE, text=True)
    if probe.returncode != 0:
        pytest.skip(f"no namespaces for a /dev/shm without other processes here: {probe.stderr.strip()}")
    return [*CONTAINER, SCRIPT % script, "bash"]


@pytest.mark.parametrize("script", list(ALONE.values()), ids=list(ALONE))
def test_a_pipeline_does_not_excuse_what_is_in_no_record(judge: Judge, script: str) -> None:
    judged = judge(LEAVES, around=nest(script))

    (leak,) = judged.leaks
    assert (leak["verdict"], leak["mode"], judged.status) == ("unattributed", "error", 1), judged.output


@pytest.mark.parametrize("script", list(BESIDE.values()), ids=list(BESIDE))
def test_another_program_may_have_made_it(judge: Judge, script: str) -> None:
    judged = judge(LEAVES, around=nest(script))

    found = [leak for leak in judged.leaks if leak["name"] == "left-by-a-shell"]
    assert [(leak["verdict"], leak["mode"]) for leak in found] == [("unattributed", "warn")], judged.output
    assert judged.status == 0, judged.output
