from __future__ import annotations

import json
import textwrap
from typing import Any, Dict, List

import pytest

from pytest_shmstate.known import BUILT_IN
from pytest_shmstate.settings import ENVIRONMENT, Settings, for_item

pytest_plugins = ["pytester"]

#: What the real plugin does with settings, and a note of each: of the run as "", of tests by node id.
CONFTEST = """
import json, os
from dataclasses import asdict
from pytest_shmstate import settings

def note(config, name, noted):
    worker = getattr(config, "workerinput", {}).get("workerid", "main")
    with open(os.path.join(str(config.rootpath), f"{worker}.noted"), "a") as file:
        file.write(json.dumps([name, asdict(noted)]) + "\\n")

def pytest_addoption(parser):
    settings.add_options(parser)

def pytest_configure(config):
    settings.declare_marker(config)
    settings.declare_marker(config)
    config.resolved = settings.resolve(config)
    note(config, "", config.resolved)

def pytest_collection_modifyitems(items):
    settings.check_markers(items)

def pytest_runtest_setup(item):
    note(item.config, item.nodeid, settings.for_item(item.config.resolved, item))
"""

Noted = Dict[str, Dict[str, Any]]


class Runs:
    """Runs of pytest in a folder of their own."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = pytester.path
        self._pytester = pytester
        self._monkeypatch = monkeypatch
        pytester.makeconftest(CONFTEST)
        self.write("test_a.py", "def test_a(): pass")
        monkeypatch.delenv(ENVIRONMENT, raising=False)
        # What else is installed here has options, markers and warnings of its own.
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def ini(self, *lines: str) -> None:
        self.write("pytest.ini", "\n".join(["[pytest]", *lines]))

    def environment(self, value: str) -> None:
        self._monkeypatch.setenv(ENVIRONMENT, value)

    def pytest(self, *args: str) -> pytest.RunResult:
        xdist = ["-p", "xdist"] if "-n1" in args else []
        return self._pytester.runpytest_inprocess("-p", "no:cacheprovider", *xdist, *args)

    def noted(self, *args: str, worker: str = "main") -> Noted:
        """Run pytest, which must pass."""
        assert self.pytest(*args).ret == pytest.ExitCode.OK
        return self.notes(worker)

    def notes(self, worker: str = "main") -> Noted:
        return dict(map(json.loads, (self.folder / f"{worker}.noted").read_text().splitlines()))

    def refused(self, *args: str) -> str:
        """Run pytest, which must end with a usage error; its text."""
        result = self.pytest(*args)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert not list(self.folder.glob("*.noted")) or list(self.notes()) == [""]
        return result.stderr.str()


@pytest.fixture
def runs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(pytester, monkeypatch)


MARKED = """
    import pytest

    @pytest.mark.shmstate(leaks="{}")
    def test_a(): pass
"""


class Mode:
    """Each place where the mode can be set, from the weakest to the strongest."""

    SOURCES = (
        "default",
        "shmstate_leaks in pytest.ini",
        f"environment variable {ENVIRONMENT}",
        "--shmstate-leaks",
        "marker of test_a.py::test_a",
    )

    @staticmethod
    def say(runs: Runs, place: int, mode: str) -> List[str]:
        """Set the mode there; the arguments that pytest needs for it."""
        if place == 1:
            runs.ini(f"shmstate_leaks = {mode}")
        elif place == 2:
            runs.environment(mode)
        elif place == 4:
            runs.write("test_a.py", MARKED.format(mode))
        return [f"--shmstate-leaks={mode}"] if place == 3 else []


# Precedence.


def test_without_any_setting_leaks_are_errors(runs: Runs) -> None:
    noted = runs.noted()

    assert noted == {"": noted[""], "test_a.py::test_a": noted[""]}
    assert noted[""] == {
        "leaks": "error",
        "leaks_source": "default",
        "ignore": [vars(one) for one in BUILT_IN],
        "grace": 2.0,
        "keep": False,
        "report": None,
        "selftest": False,
    }


@pytest.mark.parametrize("place", range(1, 5), ids=Mode.SOURCES[1:])
def test_each_source_of_the_mode_beats_the_one_before_it(runs: Runs, place: int) -> None:
    weaker = Mode.say(runs, place - 1, "off")
    stronger = Mode.say(runs, place, "warn")

    noted = runs.noted(*weaker, *stronger)["test_a.py::test_a"]

    assert (noted["leaks"], noted["leaks_source"]) == ("warn", Mode.SOURCES[place])


@pytest.mark.parametrize("place", range(1, 4), ids=Mode.SOURCES[1:4])
def test_without_the_stronger_source_the_weaker_one_counts(runs: Runs, place: int) -> None:
    noted = runs.noted(*Mode.say(runs, place, "off"))["test_a.py::test_a"]

    assert (noted["leaks"], noted["leaks_source"]) == ("off", Mode.SOURCES[place])


def test_a_marker_says_nothing_about_the_run(runs: Runs) -> None:
    assert runs.noted(*Mode.say(runs, 4, "off"))[""]["leaks"] == "error"


def test_an_empty_environment_variable_is_none(runs: Runs) -> None:
    runs.ini("shmstate_leaks = warn")
    runs.environment("")

    assert runs.noted()[""]["leaks_source"] == "shmstate_leaks in pytest.ini"


def test_an_ini_value_overridden_on_the_command_line_is_told_apart(runs: Runs) -> None:
    runs.ini("shmstate_leaks = warn")

    noted = runs.noted("-o", "shmstate_leaks=off")[""]

    assert (noted["leaks"], noted["leaks_source"]) == ("off", "-o shmstate_leaks")


def test_the_wait_comes_from_the_ini_file_and_the_command_line_beats_it(runs: Runs) -> None:
    runs.ini("shmstate_grace = 0.5")

    assert runs.noted()[""]["grace"] == 0.5
    assert runs.noted("--shmstate-grace=0")[""]["grace"] == 0.0


def test_switches_are_on_when_given(runs: Runs) -> None:
    noted = runs.noted("--shmstate-keep", "--shmstate-selftest")[""]

    assert (noted["keep"], noted["selftest"]) == (True, True)


def test_the_report_is_where_pytest_was_started(runs: Runs) -> None:
    assert runs.noted("--shmstate-report=below/report.json")[""]["report"] == str(runs.folder / "below/report.json")
    assert runs.noted("--shmstate-report=/tmp/report.json")[""]["report"] == "/tmp/report.json"


# The ini file's list.


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", "[pytest]\nshmstate_ignore =\n    psm_*  # the cache\n    process:*x*  # a # b\n"),
        ("tox.ini", "[pytest]\nshmstate_ignore =\n    # of which a comment is none\n    psm_*  # the cache\n\n    process:*x*  # a # b"),
        ("setup.cfg", "[tool:pytest]\nshmstate_ignore = psm_*  # the cache\n    process:*x*  # a # b\n"),
        ("pyproject.toml", '[tool.pytest.ini_options]\nshmstate_ignore = ["psm_*  # the cache", "process:*x*  # a # b"]'),
    ],
)  # fmt: skip
def test_every_kind_of_ini_file_keeps_patterns_with_their_reasons(runs: Runs, name: str, text: str) -> None:
    runs.write(name, text)

    ignored = runs.noted()[""]["ignore"]

    source = f"shmstate_ignore in {name}"
    assert ignored == [
        {"pattern": "psm_*", "reason": "the cache", "source": source},
        {"pattern": "process:*x*", "reason": "a # b", "source": source},
        *map(vars, BUILT_IN),
    ]


def test_every_mistake_in_the_list_is_told_at_once(runs: Runs) -> None:
    runs.ini("shmstate_ignore =", "    psm_*", "    fine_*  # why", "    /dev/shm/x  # why")

    text = runs.refused()

    assert "shmstate_ignore in pytest.ini: 'psm_*' has no reason: write `psm_*  # why it may stay`" in text
    assert "shmstate_ignore in pytest.ini: '/dev/shm/x' is a path" in text
    assert "fine" not in text


# Mistakes, source by source; the twin of each is above.


@pytest.mark.parametrize("place", range(1, 4), ids=Mode.SOURCES[1:4])
def test_a_mode_that_is_none_is_refused_with_its_source(runs: Runs, place: int) -> None:
    text = runs.refused(*Mode.say(runs, place, "loud"))

    assert f"{Mode.SOURCES[place]}: 'loud' is no mode: write one of error, warn, off" in text


@pytest.mark.parametrize("wait", ["soon", "-1", "nan", "inf", "2000", ""])
def test_a_wait_that_is_none_is_refused(runs: Runs, wait: str) -> None:
    text = runs.refused(f"--shmstate-grace={wait}")

    assert f"--shmstate-grace: {wait!r} is no wait: write seconds from 0 to 60" in text


def test_a_wait_in_the_ini_file_is_refused_with_its_source(runs: Runs) -> None:
    runs.ini("shmstate_grace = 2 s")

    assert "shmstate_grace in pytest.ini: '2 s' is no wait" in runs.refused()


@pytest.mark.parametrize("file", ["", ".", "/"])
def test_a_report_that_is_no_file_is_refused(runs: Runs, file: str) -> None:
    assert f"--shmstate-report: {file!r} is no file" in runs.refused(f"--shmstate-report={file}")


@pytest.mark.skipif(tuple(map(int, pytest.__version__.split(".")[:2])) < (9, 0), reason="TOML values keep their types")
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("shmstate_grace = 2.0", "'shmstate_grace' expects a string"),
        ("shmstate_leaks = false", "'shmstate_leaks' expects a string"),
        ('shmstate_ignore = "psm_*  # why"', "'shmstate_ignore' expects a list"),
    ],
)
def test_a_toml_value_of_another_type_is_refused(runs: Runs, line: str, complaint: str) -> None:
    runs.write("pyproject.toml", f"[tool.pytest]\n{line}\n")

    assert complaint in runs.refused()


# Markers.


LEVELS = """
    import pytest

    pytestmark = pytest.mark.shmstate(leaks="off", allow=["module_*"], reason="m")

    @pytest.mark.shmstate(allow=["class_*"], reason="c")
    class TestClass:
        @pytest.mark.shmstate(leaks="warn", allow=["outer_*", "process:*x*"], reason="o")
        @pytest.mark.shmstate(allow=("inner_*", "module_*"), reason="i")
        def test_near(self): pass

        def test_far(self): pass

    def test_alone(): pass
"""


def test_the_closest_marker_that_gives_a_mode_wins_and_what_is_allowed_adds_up(runs: Runs) -> None:
    runs.write("test_a.py", LEVELS)

    noted = runs.noted()

    near, far = "test_a.py::TestClass::test_near", "test_a.py::TestClass::test_far"
    assert (noted[near]["leaks"], noted[near]["leaks_source"]) == ("warn", f"marker of {near}")
    assert (noted[far]["leaks"], noted[far]["leaks_source"]) == ("off", "marker of test_a.py")
    patterns = {name: [one["pattern"] for one in note["ignore"]][: -len(BUILT_IN)] for name, note in noted.items()}
    assert patterns == {
        "": [],
        near: ["inner_*", "module_*", "outer_*", "process:*x*", "class_*", "module_*"],
        far: ["class_*", "module_*"],
        "test_a.py::test_alone": ["module_*"],
    }
    assert noted[far]["ignore"][0] == {
        "pattern": "class_*",
        "reason": "c",
        "source": "marker of test_a.py::TestClass",
    }


def test_markers_come_before_the_ini_file(runs: Runs) -> None:
    runs.ini("shmstate_ignore = psm_*  # why")
    runs.write("test_a.py", LEVELS)

    ignored = runs.noted()["test_a.py::test_alone"]["ignore"]

    assert [one["pattern"] for one in ignored[:3]] == ["module_*", "psm_*", BUILT_IN[0].pattern]


def test_a_mode_alone_needs_no_reason_and_an_empty_list_allows_nothing(runs: Runs) -> None:
    runs.write(
        "test_a.py",
        """
        import pytest

        @pytest.mark.shmstate(leaks="warn", reason="slow to go")
        def test_a(): pass

        @pytest.mark.shmstate(allow=[])
        def test_b(): pass
        """,
    )

    noted = runs.noted()

    assert noted["test_a.py::test_a"]["leaks"] == "warn"
    assert noted["test_a.py::test_b"] == noted[""]


WRONG = [
    ("", "it says neither leaks= nor allow="),
    ('reason="x"', "it says neither leaks= nor allow="),
    ('"warn"', "'warn' is given without a keyword"),
    ('leaks="warn", until="2027"', "there is no keyword until"),
    ('leaks="loud"', "leaks='loud' is no mode, only error, warn, off are"),
    ("leaks=None", "leaks=None is no mode"),
    ("leaks=False", "leaks=False is no mode"),
    ('allow=["psm_*"]', "allow=['psm_*'] has no reason="),
    ('allow=["psm_*"], reason=" "', "reason=' ' says nothing"),
    ('allow=["psm_*"], reason=None', "reason=None says nothing"),
    ('allow="psm_*", reason="x"', "allow='psm_*' is no list of globs"),
    ('allow=None, reason="x"', "allow=None is no list of globs"),
    ('allow=["psm_*", ""], reason="x"', "'' names nothing"),
    ('allow=["process:"], reason="x"', "'process:' names nothing"),
    ('allow=[3], reason="x"', "3 in allow= is no glob"),
    ('allow=["/dev/shm/x"], reason="x"', "'/dev/shm/x' is a path"),
    ('allow=["psm_*  # why"], reason="x"', "'psm_*  # why' holds a reason"),
]


@pytest.mark.parametrize(("written", "complaint"), WRONG)
def test_a_mistake_in_a_marker_ends_the_run_at_collection(runs: Runs, written: str, complaint: str) -> None:
    runs.write(
        "test_a.py", f"import pytest\n\n@pytest.mark.shmstate({written})\nclass TestA:\n    def test_a(self): pass"
    )

    text = runs.refused()

    assert f"marker of test_a.py::TestA: {complaint}" in text.replace("allow: ", "")
    assert 'write it like @pytest.mark.shmstate(leaks="warn", allow=["psm_*"], reason="why they may stay")' in text


SEVERAL = """
    import pytest

    pytestmark = pytest.mark.shmstate(leaks="m")

    @pytest.mark.shmstate(leaks="p")
    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_many(n): pass

    @pytest.mark.shmstate("x", reson="y")
    def test_one(): pass
"""


def test_all_mistakes_are_told_together_and_each_once(runs: Runs) -> None:
    runs.write("test_a.py", SEVERAL)

    lines = [line for line in runs.refused().splitlines() if "marker of" in line]

    assert [line.split("marker of ")[1] for line in lines] == [
        "test_a.py::test_many[1] (and 2 more): leaks='p' is no mode, only error, warn, off are",
        "test_a.py: leaks='m' is no mode, only error, warn, off are",
        "test_a.py::test_one: 'x' is given without a keyword",
        "test_a.py::test_one: there is no keyword reson",
    ]


def test_markers_are_checked_also_when_the_detector_is_off(runs: Runs) -> None:
    runs.write("test_a.py", SEVERAL)

    assert "test_a.py::test_one" in runs.refused("--shmstate-leaks=off")


def test_a_marker_that_nobody_checked_is_refused_when_it_is_applied(runs: Runs, pytester: pytest.Pytester) -> None:
    assert runs.folder == pytester.path
    (item,) = pytester.getitems('import pytest\n\n@pytest.mark.shmstate(leaks="loud")\ndef test_a(): pass')

    with pytest.raises(pytest.UsageError, match="test_a: leaks='loud' is no mode"):
        for_item(Settings("error", "default", (), 0.0, False, None, False), item)


def test_the_marker_is_declared_once(runs: Runs) -> None:
    assert runs.pytest("--strict-markers", "-q").ret == pytest.ExitCode.OK
    told = runs.pytest("--markers").stdout.str()

    assert told.count("@pytest.mark.shmstate(") == 1


def test_the_options_are_told_by_help(runs: Runs) -> None:
    told = runs.pytest("--help").stdout.str()

    options = ["leaks={error,warn,off}", "report=FILE", "keep", "selftest", "grace=SECONDS"]
    assert [option for option in options if f"--shmstate-{option}" not in told] == []
    assert [name for name in ("leaks", "ignore", "grace") if f"  shmstate_{name} (" not in told] == []


# xdist: options and environment reach the workers, and only the controller writes.


@pytest.fixture
def distributed(runs: Runs) -> Runs:
    pytest.importorskip("xdist")
    return runs


def test_workers_resolve_the_same_but_leave_the_report_to_the_controller(distributed: Runs) -> None:
    distributed.ini("shmstate_ignore = psm_*  # why")
    args = ("-n1", "--shmstate-leaks=warn", "--shmstate-keep", "--shmstate-grace=1", "--shmstate-report=r.json")

    worker = distributed.noted(*args, worker="gw0")

    controller = distributed.notes()[""]
    assert controller["report"] == str(distributed.folder / "r.json")
    assert worker[""] == {**controller, "report": None}
    assert list(worker) == ["", "test_a.py::test_a"]


def test_the_environment_reaches_workers(distributed: Runs) -> None:
    distributed.environment("warn")

    assert distributed.noted("-n1", worker="gw0")[""]["leaks_source"] == f"environment variable {ENVIRONMENT}"


def test_a_mistake_in_the_settings_ends_a_distributed_run_before_its_workers_start(distributed: Runs) -> None:
    distributed.environment("loud")

    assert "'loud' is no mode" in distributed.refused("-n1")
    assert not (distributed.folder / "gw0.noted").exists()


def test_in_a_worker_the_tests_with_mistakes_fail_and_say_why(distributed: Runs) -> None:
    distributed.write("test_a.py", SEVERAL.replace("pytestmark", "_") + "\n    def test_fine(): pass\n")

    result = distributed.pytest("-n1")

    result.assert_outcomes(errors=4, passed=1)
    text = result.stdout.str()
    assert "marker of test_a.py::test_many[2]: leaks='p' is no mode" in text
    assert "marker of test_a.py::test_one: there is no keyword reson" in text
    assert "INTERNALERROR" not in text
