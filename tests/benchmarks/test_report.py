"""The page and the Markdown say what the results say, all of it, and the same each time."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import pytest

from benchmarks import results
from benchmarks.document import Plot, Section, Series
from benchmarks.report import axes, chapters, markdown, page, plots, words
from tests.benchmarks import samples

for needed in ("jinja2", "matplotlib"):
    pytest.importorskip(needed)

WITH_PICTURES = {"data": {"pictures": True}}

Tell = Callable[[str, Callable[[Mapping[str, Any]], Section]], None]


class Reader(HTMLParser):
    """What a browser would make of a page: its tags, and whether they fit into each other."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: List[str] = []
        self.tags: List[Tuple[str, Dict[str, Optional[str]]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, attribute: str) -> List[str]:
        """The values of an attribute, wherever it stands."""
        return [
            value for _, attributes in self.tags for name, value in attributes.items() if name == attribute and value
        ]


@pytest.fixture(autouse=True)
def tell(monkeypatch: pytest.MonkeyPatch) -> Tell:
    """Says what tells a part; all parts are told by one of everything, until then."""

    def tell(name: str, section: Callable[[Mapping[str, Any]], Section]) -> None:
        module = ModuleType(f"benchmarks.sections.{name}")
        module.section = section  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    for name in results.PARTS:
        tell(name, lambda data, name=name: samples.every_shape(data)._replace(slug=name))  # type: ignore[misc]
    bars(monkeypatch)
    return tell


def bars(monkeypatch: pytest.MonkeyPatch, *rows: Tuple[str, ...]) -> List[Any]:
    """Has the bars be these; returns what they are going to be asked of."""
    asked: List[Any] = []

    def of(parts: Any) -> Any:
        asked.append(parts)
        return rows

    monkeypatch.setattr(chapters, "rows", of)
    return asked


def page_of(kept: Dict[str, Any]) -> str:
    return page.html(kept, chapters.chapters(kept))


def text_of(kept: Dict[str, Any]) -> str:
    return markdown.text(kept, chapters.chapters(kept))


def plot(*series: Series, **more: Any) -> Plot:
    return Plot("name", "title", more.pop("x_label", "x"), more.pop("y_label", "y"), series, **more)


def test_the_same_results_make_the_same_bytes() -> None:
    kept = samples.results(latency={})

    assert page_of(kept) == page_of(kept)
    assert [plots.svg(one) for one in samples.PLOTS] == [plots.svg(one) for one in samples.PLOTS]


def test_somebodys_own_settings_of_matplotlib_change_nothing() -> None:
    import matplotlib as mpl

    one = samples.PLOTS[0]
    before = plots.svg(one)
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path"}):
        assert plots.svg(one) == before
        assert mpl.rcParams["font.size"] == 30


def test_the_page_is_well_formed_and_needs_nothing_else() -> None:
    kept = samples.results(latency=WITH_PICTURES, many={}, formats={"left": ["/dev/shm/x"]})

    made = page_of(kept)
    reader = Reader(made)

    assert reader.open == []
    links = [*reader.all("href"), *reader.all("xlink:href")]
    assert [link for link in links if not link.startswith("#")] == []
    assert {link[1:] for link in links} <= set(reader.all("id"))
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in reader.tags}
    assert not re.search(r"url\((?!#)|@import|src=", made)


def test_names_within_the_page_are_given_once() -> None:
    ids = Reader(page_of(samples.results(latency=WITH_PICTURES, many={}))).all("id")

    assert len(ids) == len(set(ids))


def test_each_part_is_told_by_its_section_from_its_data() -> None:
    kept = samples.results(**{name: {"data": {"title": f"About {name} alone"}} for name in results.PARTS})

    for made in (page_of(kept), text_of(kept)):
        found = [made.rindex(f"About {name} alone") for name in results.PARTS]
        assert found == sorted(found)


def test_everything_of_a_section_is_on_the_page_and_in_the_markdown() -> None:
    kept, section = samples.results(latency=WITH_PICTURES), samples.every_shape({"pictures": True})

    made, text = page_of(kept), text_of(kept).replace("\\|", "|")
    for words_of_it in (
        "That was done in turns.",
        *(table.note.replace("`code`", "").strip(".") for table in section.tables),
        *(cell for row in section.tables[1].rows for cell in row),
        *(one.note for one in section.plots),
        "missed by 0.06",
        "Is it faster?",
        "4.2x at the median",
    ):
        assert words_of_it.strip() in made.replace("\u00a0", " ")
        assert words_of_it.strip() in text
    assert made.count("<svg") == len(section.plots)
    assert text.count("](experiments/") == len(section.plots)


def test_pictures_are_described_for_who_does_not_see_them() -> None:
    reader = Reader(page_of(samples.results(latency=WITH_PICTURES)))

    pictures = [attributes for tag, attributes in reader.tags if tag == "svg"]
    assert [picture["role"] for picture in pictures] == ["img"] * len(pictures)
    assert pictures[0]["aria-label"] == (
        "Latency of a query, by the size of the state. Shared memory is a hundred times as fast, until copying takes over."
    )


def test_text_is_text_on_the_page_and_in_the_markdown() -> None:
    kept = samples.results(latency={"failed": samples.ODD}, many={"data": {"title": samples.ODD, "ratio": samples.ODD}})
    kept["machine"]["processor"] = samples.ODD

    assert "<script" not in page_of(kept)
    assert "&lt;script&gt;" in page_of(kept)
    text = text_of(kept)
    assert "<script" not in text
    assert "*stars*" not in text.replace("\\*stars\\*", "")
    assert all("\\| bar" in line for line in text.splitlines() if line.startswith("|") and "stars" in line)
    assert "### > What of odd text?" in text


@pytest.mark.parametrize(
    ("paragraph", "told"),
    [
        ("> 100x", "\\> 100x"),
        ("- one", "\\- one"),
        ("# head", "\\# head"),
        ("1. first", "1\\. first"),
        ("`a*b <c>` * <d>", "`a*b <c>` \\* &lt;d>"),
        ("one\ntwo\n\nthree", "one two\n\nthree"),
    ],
)
def test_prose_in_markdown_is_no_markup_but_for_code(paragraph: str, told: str) -> None:
    assert markdown._prose(paragraph) == told


def test_what_stands_between_backticks_is_code_and_units_stay_with_their_numbers() -> None:
    assert page._set("`get()` takes 12 us of 3 KB, 5 % for 2 blocks") == (
        "<code>get()</code> takes 12\u00a0us of 3\u00a0KB, 5\u00a0% for 2 blocks"
    )


def test_a_part_that_failed_is_told_at_its_place_and_at_the_top() -> None:
    kept = samples.results(latency={}, many={"failed": "Traceback:\n  in measure\nValueError: too many"})
    del kept["parts"]["many"]["data"]

    made = page_of(kept)

    assert made.count("ValueError: too many") == 2
    assert "in measure" in made
    assert made.index("Not all went well") < made.index("Contents")
    assert "**This part failed:** ValueError: too many" in text_of(kept)


def test_a_part_that_was_interrupted_has_no_traceback() -> None:
    kept = samples.results(many={"failed": "interrupted"})
    del kept["parts"]["many"]["data"]

    assert "interrupted" in page_of(kept)
    assert "<details>" not in page_of(kept)


def test_a_part_that_cannot_be_told_does_not_keep_the_others_from_it(tell: Tell) -> None:
    tell("many", lambda data: data["nothing"])
    kept = samples.results(many={}, formats={"data": {"title": "Well told"}})

    assert "KeyError" in page_of(kept)
    assert "Well told" in page_of(kept)
    assert "cannot be told:** KeyError" in text_of(kept)


def test_bars_that_cannot_be_told_do_not_keep_the_parts_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chapters, "rows", lambda parts: parts["no such part"])
    kept = samples.results(formats={"data": {"title": "Well told"}})

    assert chapters.chapters(kept)[0].untold
    assert "Well told" in page_of(kept)


def test_parts_that_were_not_measured_are_named() -> None:
    kept = samples.results(latency={})

    for made in (page_of(kept), text_of(kept)):
        assert "Not measured in this run" in made
        assert results.PARTS["many"] in made
    assert chapters.not_measured(kept) == [name for name in results.PARTS if name != "latency"]


def test_a_part_of_another_time_is_named_and_nothing_is_imported_for_it() -> None:
    kept = samples.results(os={"data": {}})

    assert "is no part that this program knows" in page_of(kept)


def test_what_a_part_left_is_told() -> None:
    kept = samples.results(latency={"left": ["/dev/shm/some-thing: 12 bytes"]})

    for made in (page_of(kept), text_of(kept)):
        assert "/dev/shm/some-thing: 12 bytes" in made


def test_a_quick_run_says_so() -> None:
    kept = samples.results(latency={})

    assert "quick run" not in page_of(kept)
    assert "quick run" not in text_of(kept)
    kept["quick"] = True
    assert "quick run" in page_of(kept)
    assert "quick run" in text_of(kept)


def test_the_bars_come_first_and_are_of_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = bars(monkeypatch, ("a bar of ours", "2.0x", "at most 3x", "passes"))
    kept = samples.results(latency={"data": {"a": 1}}, many={"data": {"missing": "why"}}, formats={"failed": "x"})
    del kept["parts"]["formats"]["data"]

    made = page_of(kept)

    assert asked == [{"latency": {"a": 1}}]
    assert made.index("a bar of ours") < made.index("One of everything", made.index("<main>"))
    assert '<td class="good">passes</td>' in made


def test_pictures_are_files_beside_the_markdown_and_old_ones_go(tmp_path: Path) -> None:
    kept = samples.results(latency=WITH_PICTURES)
    (tmp_path / "experiments").mkdir()
    for name in ("of-before.svg", "notes.txt"):
        (tmp_path / "experiments" / name).write_text("old", encoding="utf-8")

    markdown.write(kept, chapters.chapters(kept), tmp_path)

    linked = re.findall(r"\]\((experiments/[^)]*)\)", (tmp_path / "experiments.md").read_text(encoding="utf-8"))
    there = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "experiments").iterdir()}
    assert there == {*linked, "experiments/notes.txt"}
    assert "python -m benchmarks --render docs/experiments.json --docs docs" in text_of(kept)


def test_the_readmes_block_has_the_bars_and_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    bars(monkeypatch, ("a | bar", "2.0x", "at most 3x", "missed"))

    block = markdown.readme_block(samples.results(latency=WITH_PICTURES, many={}))

    assert "| a \\| bar | 2.0x | at most 3x | **missed** |" in block
    assert "![Latency of a query, by the size of the state](docs/experiments/latency-by-size.svg)" in block
    assert "![" not in markdown.readme_block(samples.results(many={}))


@pytest.mark.parametrize("one", samples.PLOTS, ids=lambda one: one.name)
def test_a_picture_says_what_its_lines_and_axes_are(one: Plot) -> None:
    texts = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", plots.svg(one)))

    for said in (one.title, *(series.label for series in one.series), axes.scale(one.y_label).label):
        assert said in texts
    for _, label in one.lines:
        assert all(word in texts for word in label.split())


def test_a_picture_of_words_has_them_all_and_may_lack_some_bars() -> None:
    made = plots.svg(plot(Series("a", ["one", "two"], [1, 2]), Series("b", ["two", "three"], [3, 4])))

    assert all(f">{word}</text>" in made for word in ("one", "two", "three"))


@pytest.mark.parametrize("series", [[], [Series("", [], [])], [Series("a", [1.0], [0.0])], [Series("a", ["x"], [0.0])]])
@pytest.mark.parametrize("log_y", [False, True])
def test_a_picture_of_hardly_anything_is_a_picture(series: List[Series], log_y: bool) -> None:
    assert "</svg>" in plots.svg(plot(*series, log_y=log_y))


@pytest.mark.parametrize(
    ("label", "words_of_it", "value", "told"),
    [
        ("latency, us", "latency", 1e4, "10 ms"),
        ("latency (us)", "latency", 0.25, "250 ns"),
        ("microseconds", "time", 2e6, "2 s"),
        ("microseconds a query", "time a query", 12.5, "12.5 us"),
        ("size, bytes", "size", 1 << 20, "1 MB"),
        ("bytes", "size", 64, "64 B"),
        ("messages a second", "messages a second", 2_500_000, "2.5 M"),
        ("readers", "readers", 3, "3"),
        ("usual things", "usual things", 10_000, "10,000"),
    ],
)
def test_ticks_have_the_unit_that_the_label_names(label: str, words_of_it: str, value: float, told: str) -> None:
    found = axes.scale(label)

    assert found.label == words_of_it
    assert found.one(value) == told


def test_ticks_of_one_axis_have_one_unit() -> None:
    tell = axes.scale("us").alike([0, 2000])

    assert [tell(value) for value in (0, 500, 2000)] == ["0 ms", "0.5 ms", "2 ms"]


@pytest.mark.parametrize(
    ("label", "span", "step"),
    [("us", 6, 1), ("us", 2500, 500), ("bytes", 80 << 10, 20 << 10), ("", 0.05, 0.01), ("", 0, 1)],
)
def test_ticks_are_round_in_their_unit(label: str, span: float, step: float) -> None:
    assert axes.scale(label).step(span) == pytest.approx(step)


def test_cells_that_are_a_verdict_are_shown_as_one() -> None:
    cells = ["passes", "missed by 2", "missing: not installed", "not measured: one core", "information", "12 us", ""]

    assert [words.verdict(cell) for cell in cells] == ["good", "bad", "none", "none", "", "", ""]


def test_columns_of_figures_are_known_by_their_cells() -> None:
    head = ("what", "figure", "bar", "prose", "why not", "nothing")
    rows = [
        ("1 KB", "2.0x", "< 3x", "2.0x, which is less than it was before", "1.5 us", ""),
        ("2 KB", "-", "", "x", "missing: why", ""),
    ]

    assert words.are_figures(head, rows) == [False, True, True, False, True, True]


def test_why_there_is_nothing_goes_over_all_columns_that_there_would_be() -> None:
    assert words.spans(("peer", "missing: why", "", ""), 4) == [("peer", 1), ("missing: why", 3)]
    assert words.spans(("peer", "missing: why"), 4) == [("peer", 1), ("missing: why", 3)]
    assert words.spans(("peer", "1 us", "", "missing: why"), 4) == [
        (cell, 1) for cell in ("peer", "1 us", "", "missing: why")
    ]
    assert words.spans(("peer", "1 us", "", ""), 4) == [("peer", 1), ("1 us", 1), ("", 1), ("", 1)]
