"""What the docs say of the plugin is so: names, tables, commands, and the report that they show.

Each rule is a function from texts to complaints. It is run twice: over the real docs, where it must have none, and over
docs with a mistake, which it must name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, Collection, Dict, Iterator, List, Set

import pytest

from pytest_shmstate import __main__ as command
from pytest_shmstate import plugin, recorder, settings
from pytest_shmstate.known import BUILT_IN, PROCESS_WIDE
from pytest_shmstate.leak import KINDS, VERDICTS
from pytest_shmstate.outlets import GROUPS
from tests.plugin.matrix import Judged

ROOT = Path(__file__).resolve().parent.parent.parent
README, LEAKS, CI, WORKFLOW, TOX = "README.md", "docs/leaks.md", "docs/ci.md", ".github/workflows/ci.yml", "tox.ini"

Texts = Dict[str, str]
Rule = Callable[[Texts], List[str]]


def real_texts() -> Texts:
    return {name: (ROOT / name).read_text("utf-8") for name in (README, LEAKS, CI, WORKFLOW, TOX)}


def blocks(text: str, language: str) -> List[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def first_cells(text: str, head: str) -> Set[str]:
    """What stands in backquotes in the first cell of each row of the table that begins with ``| head``."""
    table = re.search(rf"^\| {re.escape(head)}[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", text, re.MULTILINE)
    rows = table[1].splitlines() if table else []
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def differences(what: str, told: Collection[str], real: Collection[str]) -> List[str]:
    return [f"{what}: {name} is told, but does not exist" for name in sorted(set(told) - set(real))] + [
        f"{what}: {name} exists, and is not told" for name in sorted(set(real) - set(told))
    ]


class Declared:
    """Stands in for pytest's parser, and keeps what the plugin declares."""

    def __init__(self) -> None:
        self.options: Set[str] = set()
        self.ini: Set[str] = set()

    def getgroup(self, *_: Any) -> Declared:
        return self

    def addoption(self, name: str, **_: Any) -> None:
        self.options.add(name)

    def addini(self, name: str, *_: Any, **__: Any) -> None:
        self.ini.add(name)


def declared() -> Declared:
    parser: Any = Declared()
    settings.add_options(parser)
    return parser  # type: ignore[no-any-return]


def sweep_options() -> Set[str]:
    return {"--" + name for name in re.findall(r"--(\w+)", Path(command.__file__).read_text("utf-8"))}


# The rules.


def settings_that_are_not_so(texts: Texts) -> List[str]:
    """Options, ini values, variables and keywords of the marker: those of the README's table, and of all the texts."""
    table = re.search(r"^### Settings\n(.*?)^###", texts[README], re.MULTILINE | re.DOTALL)
    told, everywhere = (table[1] if table else ""), "\n".join(texts.values())
    keywords = set(re.findall(r"(\w+)=", settings.MARKER_USAGE))
    ini, variables = r"(?<![\w-])shmstate_(?!leak\b)[a-z]+", r"PYTEST_SHMSTATE_[A-Z]+"
    marks = "".join(re.findall(r"mark\.shmstate\(.*\)", everywhere))
    real, environment = declared(), {settings.ENVIRONMENT, recorder.LEDGERS, recorder.PARENT}
    return [
        *differences("option in the table", re.findall(r"--shmstate-[a-z]+", told), real.options),
        *differences("option", re.findall(r"--shmstate-[a-z]+", everywhere), real.options),
        *differences("ini", re.findall(ini, told), real.ini),
        *differences("ini anywhere", re.findall(ini, everywhere), real.ini),
        *differences("environment", re.findall(variables, told), {settings.ENVIRONMENT}),
        *differences("environment anywhere", re.findall(variables, everywhere), environment),
        *differences("marker", set(re.findall(r"(?<![\w-])(\w+)=", told)), keywords),
        *(f"marker: there is no {word}=" for word in re.findall(r"(\w+)=", marks) if word not in keywords),
        *differences("mode", re.findall(r"^\| `(\w+)` \| (?:fails|passes)", told, re.MULTILINE), settings.MODES),
    ]


def tables_that_are_not_complete(texts: Texts) -> List[str]:
    fixtures = [name for name in plugin.__all__ if name.startswith("shm_")]
    variables = {"PYTHONPATH", recorder.LEDGERS, recorder.PARENT}
    wide = [glob for glob, _ in PROCESS_WIDE]
    return [
        *differences("kind", first_cells(texts[LEAKS], "kind |"), KINDS),
        *differences("verdict", first_cells(texts[LEAKS], "verdict |"), VERDICTS),
        *differences("counts as", first_cells(texts[LEAKS], "counts as") - {"counts"}, GROUPS),
        *differences("variable", first_cells(texts[LEAKS], "variable |"), variables),
        *differences("built in", first_cells(texts[LEAKS], "name |"), {one.pattern for one in BUILT_IN}),
        *differences("fixture", first_cells(texts[README], "fixture |"), fixtures),
        *(f"due at the end of the process: {glob} is not told" for glob in wide if f"`{glob}`" not in texts[LEAKS]),
    ]


def commands_that_would_not_run(texts: Texts) -> List[str]:
    """Of the lines that call pytest or the sweep: options that neither has."""
    pytests = {*declared().options, "--junitxml"}
    wrong = []
    for file in (README, CI, WORKFLOW):
        for line in commands(texts[file]):
            known = sweep_options() if "-m pytest_shmstate" in line else pytests
            wrong += [
                f"{file}: {option}: {line}" for option in re.findall(r"(?<=\s)--\w[\w-]*", line) if option not in known
            ]
            if "-m pytest " in line and "-p pytest_shmstate" not in line:
                wrong.append(f"{file}: the plugin is not loaded: {line}")
    return wrong


def commands(text: str) -> Iterator[str]:
    """Commands of the plugin's, each joined to one line."""
    joined = re.sub(r" \\\n\s+|>-\n\s+|(?<=[\w\"])\n +(?=--)", " ", text)
    for line in joined.splitlines():
        found = re.search(r"(-m pytest(_shmstate)? .*|tox -e .* -- .*)", line)
        if found and "|" not in line.split("||")[0]:
            yield found[1].split("||")[0].split("#")[0].split("`")[0]


def workflow_that_is_not_as_promised(texts: Texts) -> List[str]:
    """What can be seen without a parser of YAML."""
    text, wrong = texts[WORKFLOW], []
    jobs = re.split(r"^  (\w+):$", text.partition("\njobs:\n")[2], flags=re.MULTILINE)[1:]
    for name, job in zip(jobs[::2], jobs[1::2]):
        wrong += [f"job {name} has no {key}" for key in ("timeout-minutes:", "runs-on:") if key not in job]
    wrong += [f"no {key}" for key in ("permissions:\n  contents: read", "concurrency:") if key not in text]
    wrong += [f"{uses}: of no version" for uses in re.findall(r"uses: (\S+)", text) if not re.search(r"@v\d+$", uses)]
    pythons = re.findall(r'python: "(3\.\d+)", tox: py3\d+', text)
    wrong += differences("Python", pythons, [f"3.{minor}" for minor in range(8, 14)])
    wrong += [
        f"{tox} is not Python {dotted}"
        for dotted, tox in re.findall(r'"([\d.]+)", tox: py(\d+)', text)
        if dotted.replace(".", "") != tox
    ]
    handed_on = re.search(r"^pass_env =\n((?: .*\n)+)", texts[TOX], re.MULTILINE)
    needed = ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY")
    wrong += [f"{TOX}: pass_env lacks {name}" for name in needed if not handed_on or name not in handed_on[1].split()]
    return wrong


def links_that_lead_nowhere(texts: Texts) -> List[str]:
    wrong = []
    for file, text in texts.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text if file.endswith(".md") else ""):
            path, _, anchor = target.partition("#")
            if target.startswith("https:"):
                continue
            linked = (ROOT / file).parent / path if path else ROOT / file
            if not linked.exists():
                wrong.append(f"{file}: {target}")
            elif anchor and anchor not in anchors(texts.get(linked.resolve().relative_to(ROOT).as_posix(), "")):
                wrong.append(f"{file}: {target}: no such heading")
    return wrong


def anchors(text: str) -> Set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


#: A rule, and mistakes that it has to see: file, what stands there, what stands there instead, and the complaint.
RULES: Dict[str, Any] = {
    "settings": (
        settings_that_are_not_so,
        [
            (README, "| `--shmstate-keep` |", "| `--shmstate-leave` |", "--shmstate-leave is told"),
            (README, "| `--shmstate-keep` |", "| |", "--shmstate-keep exists"),
            (README, "| `shmstate_grace` |", "| `shmstate_patience` |", "shmstate_patience is told"),
            (CI, "--shmstate-report=", "--shmstate-json=", "--shmstate-json is told"),
            (LEAKS, "PYTEST_SHMSTATE_PARENT", "PYTEST_SHMSTATE_ABOVE", "PYTEST_SHMSTATE_ABOVE is told"),
            (README, '`allow=[...], reason="..."` |', '`permit=[...], reason="..."` |', "permit is told"),
            (README, "| `warn` | passes", "| `shout` | passes", "mode: shout is told"),
        ],
    ),
    "tables": (
        tables_that_are_not_complete,
        [
            (LEAKS, "| `sysv` |", "| `system-v` |", "kind: sysv exists"),
            (LEAKS, "| `held` |", "| `in use` |", "verdict: in use is told"),
            (LEAKS, "| `told` |", "| `noted` |", "counts as: told exists"),
            (LEAKS, "| `pulse-shm-*` |", "| `pulse-*` |", "built in: pulse-shm-* exists"),
            (LEAKS, "`sem.loky-*`", "`sem.l*`", "sem.loky-* is not told"),
            (README, "| `shm_leaks` |", "| `shm_check` |", "fixture: shm_check is told"),
        ],
    ),
    "commands": (
        commands_that_would_not_run,
        [
            (CI, "--junitxml=", "--junit=", "--junit:"),
            (CI, "sweep --report=", "sweep --json=", "--json:"),
            (CI, "python -m pytest -p pytest_shmstate -n auto", "python -m pytest -n auto", "not loaded"),
            (WORKFLOW, "-- --shmstate-selftest", "-- --selftest", "--selftest:"),
        ],
    ),
    "workflow": (
        workflow_that_is_not_as_promised,
        [
            (WORKFLOW, "    timeout-minutes: 20\n", "", "job others has no timeout-minutes:"),
            (WORKFLOW, "  contents: read", "  contents: write", "no permissions:"),
            (WORKFLOW, "actions/checkout@v5", "actions/checkout", "of no version"),
            (WORKFLOW, 'python: "3.12"', 'python: "3.14"', "3.12 exists"),
            (TOX, "GITHUB_STEP_SUMMARY", "GITHUB_SUMMARY", "pass_env lacks GITHUB_STEP_SUMMARY"),
        ],
    ),
    "links": (
        links_that_lead_nowhere,
        [
            (README, "(docs/ci.md)", "(docs/continuous.md)", "docs/continuous.md"),
            (LEAKS, "(#costs)", "(#prices)", "#prices: no such heading"),
        ],
    ),
}
MISTAKES = [
    pytest.param(rule, *mistake, id=f"{name}-{mistake[-1]}") for name, (rule, all_) in RULES.items() for mistake in all_
]


@pytest.mark.parametrize("rule", [rule for rule, _ in RULES.values()], ids=list(RULES))
def test_the_docs_keep_to_the_code(rule: Rule) -> None:
    assert rule(real_texts()) == []


@pytest.mark.parametrize(("rule", "file", "right", "wrong", "complaint"), MISTAKES)
def test_a_mistake_in_the_docs_is_named(rule: Rule, file: str, right: str, wrong: str, complaint: str) -> None:
    texts = real_texts()
    assert right in texts[file]
    texts[file] = texts[file].replace(right, wrong)

    assert complaint in "\n".join(rule(texts))


@pytest.mark.parametrize("file", [CI, WORKFLOW])
def test_yaml_is_yaml(file: str) -> None:
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed here")
    text = real_texts()[file]
    for document in blocks(text, "yaml") if file.endswith(".md") else [text]:
        assert isinstance(yaml.safe_load(document), dict)
        with pytest.raises(yaml.YAMLError):
            yaml.safe_load(document + "\n  - stray: [\n")


# What the README shows happens.


def test_the_report_in_the_readme_is_what_the_plugin_prints(judge: Callable[..., Judged]) -> None:
    readme = real_texts()[README]
    source = next(block for block in blocks(readme, "py") if "def make_frame" in block)
    shown = next(block for block in blocks(readme, "text") if "left behind" in block)

    judged = judge({"tests/test_frames.py": source})

    printed = alike(judged.output)
    missing = [line for line in alike(shown) if line not in printed and not line.startswith(("$ ", "[...]", "___"))]
    assert missing == []
    assert judged.not_passed() == {"test_a_frame_is_zeroed": "teardown failed"}


def alike(text: str) -> List[str]:
    """The lines without what differs from run to run, and from machine to machine."""
    for pattern, same in ((r"psm_\w+", "psm_x"), (r" \[gw\d+\]", ""), (r": (yes|no)\b", ": ?"), (r" +$", "")):
        text = re.sub(pattern, same, text, flags=re.MULTILINE)
    return text.splitlines()


def test_a_report_that_the_plugin_does_not_print_would_be_noticed() -> None:
    printed = "  now          removed [gw0]\n  segment psm_1: 10 B"

    assert alike("  segment psm_2: 10 B")[0] in alike(printed)
    assert alike("  segment psm_2: 11 B")[0] not in alike(printed)


def test_the_tests_in_the_readme_pass_and_leave_nothing(judge: Callable[..., Judged]) -> None:
    sources = [
        block for block in blocks(real_texts()[README], "py") if "def test_" in block and "make_frame" not in block
    ]
    assert sources

    judged = judge({f"test_{number}.py": source for number, source in enumerate(sources)})

    assert judged.not_passed() == {}
    assert judged.blames() == []
    assert judged.status == 0
