"""A plot as an SVG picture: the same plot gives the same bytes. It is readable on white, and brings its own white."""

from __future__ import annotations

import io
import math
import textwrap
from importlib import import_module
from typing import Any, Dict, List, Sequence, Tuple

from benchmarks.document import Plot, Series
from benchmarks.report.axes import Scale, scale

#: Okabe and Ito's colours, without the yellow, which white swallows: colour-blind readers tell them apart too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c8c8c")
_MARKERS = "osD^vPX*"
_DASHES = ("-", "--", ":")
_INK, _FAINT = "#333333", "#dddddd"

_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and is sharp
    "svg.hashsalt": "shmstate",  # otherwise what refers to each other in a picture is called otherwise every time
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "text.parse_math": False,  # a dollar is a dollar
}
_REFERENCE: Dict[str, Any] = {"color": _INK, "linewidth": 1, "linestyle": (0, (5, 3))}
_WIDTH, _HEIGHT = 7.6, 4.2
#: Letters of the legend's size that fit beside each other.
_LETTERS = 105
#: Nothing of the date, or of what drew it.
_NOTHING_ELSE: Dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}


def svg(plot: Plot) -> str:
    """The picture. Needs matplotlib."""
    if not any(y > 0 for series in plot.series for y in series.y):
        plot = plot._replace(log_y=False)
    matplotlib = import_module("matplotlib")
    figures = import_module("matplotlib.figure")
    written = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # nobody's own settings: the picture is the same for all
        matplotlib.rcParams.update(_SETTINGS)
        figure = figures.Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        if _is_of_words(plot):
            _bars(figure, axes, plot)
        else:
            _lines(axes, plot)
        _legend(figure, axes, plot)
        figure.suptitle("\n".join(textwrap.wrap(plot.title, 90)), x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.savefig(written, format="svg", metadata=_NOTHING_ELSE)
    return written.getvalue()


def _is_of_words(plot: Plot) -> bool:
    return any(isinstance(x, str) for series in plot.series for x in series.x)


def _lines(axes: Any, plot: Plot) -> None:
    x_scale, y_scale = scale(plot.x_label), scale(plot.y_label)
    shade = 0.15 if len(plot.series) <= 3 else 0.07
    for number, series in enumerate(plot.series):
        colour = _COLOURS[number % len(_COLOURS)]
        dashes = _DASHES[number // len(_COLOURS) % len(_DASHES)]
        marker = _MARKERS[number % len(_MARKERS)]
        # Not clipped: half of a marker at zero would be missing.
        style = {"marker": marker, "markersize": 5, "color": colour, "label": series.label, "clip_on": False}
        axes.plot(series.x, series.y, dashes, **style)
        if series.low is not None and series.high is not None:
            axes.fill_between(series.x, series.low, series.high, color=colour, alpha=shade, linewidth=0)
    axes.set_xlabel(x_scale.label)
    axes.set_ylabel(y_scale.label)
    axes.grid(color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for place, _ in plot.lines:
        axes.axhline(place, **_REFERENCE)
    if not plot.log_y and axes.get_ylim()[0] > -axes.get_ylim()[1] / 10:
        axes.set_ylim(bottom=0)  # what is twice as high is twice as much
    _ticks(axes, "y", y_scale, plot.log_y, ())
    _ticks(axes, "x", x_scale, plot.log_x, _common(plot))
    _tell_lines(axes, plot.lines)


def _bars(figure: Any, axes: Any, plot: Plot) -> None:
    """Beside each other, or below each other if their names are long or many."""
    y_scale = scale(plot.y_label)
    names = list(dict.fromkeys(str(x) for series in plot.series for x in series.x))
    count = len(names) * len(plot.series)
    lying = len(names) > 8 or any(len(word) > 80 // len(names) for name in names for word in name.split())
    draw, value_axis, name_axis = (axes.barh, "x", "y") if lying else (axes.bar, "y", "x")
    if lying:
        figure.set_size_inches(_WIDTH, max(_HEIGHT, 1.5 + 0.22 * count + 0.15 * len(names)))
    thick = 0.8 / len(plot.series)
    for number, series in enumerate(plot.series):
        places = [names.index(str(x)) + (number - (len(plot.series) - 1) / 2) * thick for x in series.x]
        bars = draw(places, series.y, thick * 0.92, color=_COLOURS[number % len(_COLOURS)], label=series.label)
        if series.low is not None and series.high is not None:
            _whiskers(axes, places, series, lying)
        elif lying or count <= 12:
            axes.bar_label(bars, [y_scale.one(y) for y in series.y], padding=3, fontsize=8)
    wide = 28 if lying else max(8, 80 // len(names))
    axes.set(**{f"{name_axis}ticks": range(len(names)), f"{value_axis}label": y_scale.label})
    axes.set(**{f"{name_axis}ticklabels": [textwrap.fill(name, wide) for name in names]})
    if plot.x_label:
        axes.set(**{f"{name_axis}label": plot.x_label})
    axes.set(**{f"{name_axis}lim": (len(names) - 0.4, -0.6) if lying else (-0.6, len(names) - 0.4)})
    axes.tick_params(axis=name_axis, length=0)
    axes.grid(axis=value_axis, color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(**{value_axis: 0.12})
    if plot.log_y:  # the shortest bar has some length
        values = [y for series in plot.series for y in series.y] + [place for place, _ in plot.lines]
        least = min(value for value in values if value > 0)
        axes.set(**{f"{value_axis}scale": "log"})
        axes.set(**{f"{value_axis}lim": (10 ** math.floor(math.log10(least * 0.7)), None)})
    for place, _ in plot.lines:
        (axes.axvline if lying else axes.axhline)(place, **_REFERENCE)
    _ticks(axes, value_axis, y_scale, plot.log_y, ())
    _tell_lines(axes, plot.lines, lying)


def _whiskers(axes: Any, places: Sequence[float], series: Series, lying: bool) -> None:
    below = [max(0.0, y - low) for y, low in zip(series.y, series.low or ())]
    above = [max(0.0, high - y) for y, high in zip(series.y, series.high or ())]
    style = {"fmt": "none", "ecolor": _INK, "elinewidth": 1, "capsize": 2.5}
    if lying:
        axes.errorbar(series.y, places, xerr=[below, above], **style)
    else:
        axes.errorbar(places, series.y, yerr=[below, above], **style)


def _ticks(axes: Any, which: str, units: Scale, is_log: bool, values: Sequence[float]) -> None:
    """``values``: those of the data, which are the ticks if they are few."""
    ticker = import_module("matplotlib.ticker")
    axis = getattr(axes, f"{which}axis")
    if is_log:
        axes.set(**{f"{which}scale": "log"})
        axis.set_minor_locator(ticker.NullLocator())
    low, high = getattr(axes, f"get_{which}lim")()
    tell = units.one if is_log else units.alike((low, high))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: tell(value)))
    own = _apart(values, is_log)
    if own:
        axis.set_major_locator(ticker.FixedLocator(own))
    elif is_log:
        few = high / max(low, 1e-12) < 200 and units.base == 10
        axis.set_major_locator(ticker.LogLocator(units.base, subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=9))
    else:
        axis.set_major_locator(ticker.MultipleLocator(units.step(high - low)))


def _common(plot: Plot) -> List[float]:
    """The places of the longest series, if the others have no others; what was chosen, not what was found."""
    found = [{float(x) for x in series.x} for series in plot.series]
    longest = max(found, key=len, default=set())
    return sorted(longest) if all(places <= longest for places in found) else []


def _apart(values: Sequence[float], is_log: bool) -> List[float]:
    """Those that leave each other room on their axis, the first always; none, if they are not worth it."""
    if not values or (is_log and values[0] <= 0) or (len(values) > 8 and not is_log):
        return []
    places = [math.log(value) if is_log else value for value in values]
    room = (places[-1] - places[0]) * 0.09
    kept: List[int] = []
    for number, place in enumerate(places):
        if not kept or place - places[kept[-1]] >= room:
            kept.append(number)
    return [values[number] for number in kept]


def _tell_lines(axes: Any, lines: Sequence[Tuple[float, str]], lying: bool = False) -> None:
    """Each at its end, outside: there it covers nothing."""
    labels = sorted((place, textwrap.fill(label, 14)) for place, label in lines)
    if lying:
        for place, label in labels:
            axes.annotate(label, (place, 1.01), xycoords=("data", "axes fraction"), fontsize=8, ha="center")
        return
    for height, label in _apart_in_height(axes, labels):
        axes.annotate(label, (1.01, height), xycoords="axes fraction", fontsize=8, va="center")


def _apart_in_height(axes: Any, labels: Sequence[Tuple[float, str]]) -> List[Tuple[float, str]]:
    """Where each stands, as a part of the axis, so that none covers the one below it."""
    axes.get_ylim()  # until somebody asks, they are not up to date
    placed: List[Tuple[float, str]] = []
    free = float("-inf")
    for place, label in labels:
        half = 0.024 * (label.count("\n") + 1)
        height = axes.transAxes.inverted().transform(axes.transData.transform((1, place)))[1]
        height = max(float(height), free + half)
        placed.append((height, label))
        free = height + half
    return placed


def _legend(figure: Any, axes: Any, plot: Plot) -> None:
    """Below the picture, where there is no data."""
    labels = [series.label for series in plot.series if series.label]
    if not labels:
        return
    columns = max(1, min(len(labels), _LETTERS // (max(map(len, labels)) + 7)))
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
