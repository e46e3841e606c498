"""Experiment 4, told: what many states take, and what it takes to ask many workers."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence

from benchmarks.document import Answer, Plot, Section, Series, Table, figures, micro, nbytes, times

_KINDS = {
    "none": "nobody can ask them",
    "shmstate": "shared memory",
    "queues": "two queues each",
    "pipes": "a two-way pipe each",
}

Found = Mapping[str, Any]


def section(data: Found) -> Section:
    """Memory, descriptors and times of states and of fleets."""
    states = [one for one in data["states"] if "missing" not in one]
    fleets = data["fleets"]
    return Section(
        slug="many",
        title="4. Many workers",
        lead=(
            "Writers of a state of some 500 bytes in one process, a reader of each in another: every slot has been written and"
            f" read. Then {fleets['workers']:,} forked worker processes and their main process, three times with a way to ask"
            " the workers for their state, and once without: what they take beyond that. Private memory and page tables are"
            " those of the process; shared memory is counted once, as what is allocated in /dev/shm."
        ),
        answers=[_memory(data, states), _against_queues(fleets), _efficiency(data, states)],
        tables=[
            _states_table(data["states"]),
            _times_table(states),
            _fleets_table(fleets),
            _layouts_table(data["layouts"]),
        ],
        plots=[_memory_plot(states), _times_plot(states)],
    )


def _most(data: Found, states: Sequence[Found]) -> Found:
    """Of as many states as the bar speaks of."""
    return next((one for one in states if one["states"] == data["bar"].get("states")), states[-1])


def _in_process(one: Found, side: str) -> float:
    """Memory that a handle takes in its process, and for it in the kernel's page tables."""
    total: float = one[side]["anonymous_bytes_each"] + one[side]["page_tables_bytes_each"]
    return total


def _whole(one: Found) -> float:
    shared: float = one["shared_bytes_each"]
    return shared + _in_process(one, "writer") + _in_process(one, "reader")


def _memory(data: Found, states: Sequence[Found]) -> Answer:
    question = "How much memory per worker?"
    if not states:
        return Answer(question, f"Not measured: {data['states'][0]['missing']}.")
    one = _most(data, states)
    kept = {side: one[side] for side in ("writer", "reader")}
    parts = [
        f"{nbytes(kept[side]['anonymous_bytes_each'])} in its process and {nbytes(kept[side]['page_tables_bytes_each'])} of page"
        f" tables for the {side}"
        for side in kept
    ]
    descriptors = one["writer"]["descriptors_each"] + one["reader"]["descriptors_each"]
    text = (
        f"With {one['states']:,} states of {one['state_bytes']} B: {nbytes(one['shared_bytes_each'])} of shared memory"
        f" ({nbytes(one['fresh_bytes_each'])} after the first publish), {parts[0]}, {parts[1]}: {nbytes(_whole(one))} all in all,"
        f" {nbytes(_whole(one) * one['states'])} for all of them, and {_count(descriptors)} descriptors for both sides."
        f" {nbytes(one['reserved_bytes_each'])} of address space are reserved for each, which is no memory."
    )
    if states[0] is not one:
        text += f" It is {nbytes(_whole(states[0]))} with {states[0]['states']:,}"
        text += f", and {nbytes(_whole(states[-1]))} with {states[-1]['states']:,}." if states[-1] is not one else "."
    missing = [
        f"{lost['states']:,} states were not possible here: {lost['missing']}."
        for lost in data["states"]
        if "missing" in lost
    ]
    return Answer(question, " ".join([text, *missing]))


def _against_queues(fleets: Found) -> Answer:
    question, kinds = "How does this compare to the queue-based approach?", fleets["kinds"]
    lost = [f"{_KINDS[kind]}: {found['missing']}" for kind, found in kinds.items() if "missing" in found]
    if "missing" in kinds["shmstate"] or "missing" in kinds["queues"] or "missing" in kinds["none"]:
        return Answer(question, f"Not measured. {'; '.join(lost)}.")
    ours, queues = kinds["shmstate"], kinds["queues"]
    text = (
        f"A worker with two queues takes {_signed(queues['pss_bytes_each'])} of memory more than one that nobody can ask, one"
        f" with a state {_signed(ours['pss_bytes_each'])} (a difference that is uncertain by"
        f" {nbytes(_uncertain(kinds))} or so, as each process copies other pages of Python); in the kernel's page tables {_signed(queues['page_tables_bytes_each'])}"
        f" against {_signed(ours['page_tables_bytes_each'])}. Each queue pair has {_count(queues['files_each'])} semaphores,"
        f" which are {nbytes(queues['shared_bytes_each'])} of shared memory too, where a state is {nbytes(ours['shared_bytes_each'])};"
        f" {_count(queues['descriptors_each'])} descriptors in the main process, against {_count(ours['descriptors_each'])}; and"
        f" a thread in the main process, which has {queues['threads']:,} with queues and {ours['threads']:,} with states."
        f" All that the kernel keeps for them grew by {_signed(queues['kernel_bytes_each'])} a worker, against"
        f" {_signed(ours['kernel_bytes_each'])}: a forked worker inherits the queues of those before it."
        f" What waits in the pipes can take up to {nbytes(queues['buffers_bytes_each'])} of the kernel's memory a worker."
        f" A query of an idle worker takes {micro(_middle(queues['query']))} by queue and {micro(_middle(ours['query']))} from"
        f" shared memory ({times(_middle(queues['query']) / _middle(ours['query']))}), one of all {fleets['workers']:,} workers"
        f" {micro(queues['query_all'])} and {micro(ours['query_all'])}."
    )
    if "missing" not in kinds["pipes"]:
        pipes = kinds["pipes"]
        text += (
            f" With a pipe instead of queues: {_signed(pipes['pss_bytes_each'])} of memory, descriptors in the main process"
            f" {_count(pipes['descriptors_each'])}, threads there {pipes['threads']:,}, {micro(_middle(pipes['query']))} for one"
            f" worker and {micro(pipes['query_all'])} for all."
        )
    return Answer(question, " ".join([text, *lost]))


def _uncertain(kinds: Found) -> float:
    """How far apart two fleets of one kind were, divided by two."""
    none = kinds["none"]
    spread: float = none["pss_high_bytes"] - none["pss_low_bytes"]
    return spread / 2


def _count(number: float) -> str:
    return f"{round(number, 2) + 0.0:,g}"


def _signed(count: float) -> str:
    """A difference of two fleets may come out below nothing."""
    return f"-{nbytes(-count)}" if count < 0 else nbytes(count)


def _efficiency(data: Found, states: Sequence[Found]) -> Answer:
    told = []
    if states:
        one = _most(data, states)
        told.append(
            f"Of {one['states']:,} states, the latest bytes are {_share(one['state_bytes'], one['shared_bytes_each'])} of the shared"
            f" memory, and {_share(one['state_bytes'], _whole(one))} of all that they take in both processes and in page tables."
        )
    told.append(
        "A header takes a page, and so does each slot at least, whatever is in it; the larger the state, the better:"
    )
    told.append(
        "; ".join(
            f"{nbytes(one['state_bytes'])} in {one['slots']} slots {_share(one['state_bytes'], one['shared_bytes'])}"
            for one in data["layouts"]
        )
        + "."
    )
    return Answer("What's the memory efficiency?", " ".join(told))


def _share(part: float, whole: float) -> str:
    return f"{figures(100 * part / whole)} %"


def _states_table(states: Sequence[Found]) -> Table:
    rows = []
    for one in states:
        if "missing" in one:
            rows.append([f"{one['states']:,}", f"missing: {one['missing']}", *[""] * 8])
            continue
        cells = [f"{one['states']:,}", nbytes(one["shared_bytes_each"]), nbytes(one["reserved_bytes_each"])]
        for side in ("writer", "reader"):
            kept = one[side]
            cells += [nbytes(kept[key]) for key in ("anonymous_bytes_each", "page_tables_bytes_each")]
            cells.append(_count(kept["descriptors_each"]))
        rows.append([*cells, _signed(one["kernel_bytes_each"])])
    sides = [f"{side}: {what}" for side in ("writer", "reader") for what in ("memory", "page tables", "descriptors")]
    return Table(
        "What each state takes",
        ["states", "shared memory", "address space", *sides, "kernel, all in all"],
        rows,
        "The last is what page tables, kernel stacks and the kernel's own objects grew by on the whole machine; what others did"
        " meanwhile is in it.",
    )


def _times_table(states: Sequence[Found]) -> Table:
    rows = []
    for one in states:
        spreads = [_spread(one[what]) for what in ("create", "attach", "query", "again")]
        wholes = [
            f"{micro(one[what])} ({micro(one[what] / one['states'])} each)" for what in ("query_all", "list_states")
        ]
        rows.append([f"{one['states']:,}", *spreads, *wholes])
    return Table(
        "What each takes, in time: median, and 99th percentile or the longest",
        [
            "states",
            "create and publish",
            "attach",
            "query, at random",
            "the same again",
            "query_all()",
            "list_states()",
        ],
        rows,
        "A query that is not the first within 50 ms does not ask the kernel whether the writer lives.",
    )


def _middle(told: Found) -> float:
    """The median; of very few, the mean."""
    middle: float = told.get("p50", told["mean"])
    return middle


def _spread(told: Found) -> str:
    return f"{micro(_middle(told))}, {micro(told.get('p99', told['max']))}"


def _fleets_table(fleets: Found) -> Table:
    rows: List[List[str]] = []
    for kind, found in fleets["kinds"].items():
        if "missing" in found:
            rows.append([_KINDS[kind], f"missing: {found['missing']}", *[""] * 11])
            continue
        low, middle, high = (_signed(found[f"pss_{key}"]) for key in ("low_bytes", "bytes_each", "high_bytes"))
        sizes = [f"{middle} ({low} to {high})", nbytes(found["total_bytes"])]
        sizes += [_signed(found[key]) for key in ("page_tables_bytes_each", "kernel_bytes_each")]
        files = [
            nbytes(found["shared_bytes_each"]),
            f"{_count(found['names_each'])} ({_count(found['spawned_names_each'])})",
        ]
        counts = [_count(found["descriptors_each"]), f"{found['worker_descriptors']:,.0f}", f"{found['threads']:,}"]
        smallest = found["smallest_buffer_bytes"]
        buffers = f"{nbytes(found['buffers_bytes_each'])} (smallest {nbytes(smallest)})" if smallest else ""
        asked = [_spread(found["query"]), micro(found["query_all"])] if "query" in found else ["", ""]
        rows.append([_KINDS[kind], *sizes, *files, *counts, buffers, *asked])
    few = (
        f" {fleets['asked']:,} were asked for; there is memory for no more."
        if fleets["workers"] < fleets["asked"]
        else ""
    )
    return Table(
        f"{fleets['workers']:,} worker processes: what each takes, beyond one that nobody can ask",
        [
            "asked by",
            "memory",
            "of all processes",
            "page tables",
            "kernel, all in all",
            "shared memory",
            "names in /dev/shm (if spawned)",
            "descriptors in main",
            "in a worker",
            "threads in main",
            "pipe buffers, at most",
            "query, idle worker",
            "query of all",
        ],
        rows,
        "Memory: the sum, over all processes, of each one's share (PSS), without the files of Python itself. The first row is what such a worker takes by itself."
        f" It is the median of fleets of {fleets['small']} workers, lowest and highest: in each, other pages come to be copied."
        " All workers first did once what any of them does, as a forked process copies each page of Python that it runs."
        " Descriptors in a worker: the median; a forked one inherits those that its main process had by then." + few,
    )


def _layouts_table(layouts: Sequence[Found]) -> Table:
    rows = [
        [
            nbytes(one["state_bytes"]),
            str(one["slots"]),
            nbytes(one["shared_bytes"]),
            _share(one["state_bytes"], one["shared_bytes"]),
        ]
        for one in layouts
    ]
    return Table("Shared memory of one state", ["state", "slots", "shared memory", "of it the latest state"], rows)


def _memory_plot(states: Sequence[Found]) -> Plot:
    counts = [one["states"] for one in states]
    series = [Series("shared memory", counts, [one["shared_bytes_each"] for one in states])]
    for side in ("writer", "reader"):
        for what, key in (("memory", "anonymous_bytes_each"), ("page tables", "page_tables_bytes_each")):
            series.append(Series(f"{side}'s {what}", counts, [one[side][key] for one in states]))
    note = ""
    if states:
        first, last = states[0], states[-1]
        note = f"All in all {nbytes(_whole(first))} a state with {first['states']:,}, {nbytes(_whole(last))} with {last['states']:,}."
    return Plot(
        "many-memory", "Memory a state, by how many there are", "states", "bytes a state", series, log_x=True, note=note
    )


def _times_plot(states: Sequence[Found]) -> Plot:
    counts = [one["states"] for one in states]
    whole: Dict[str, str] = {"query_all() of attached workers": "query_all", "list_states()": "list_states"}
    series = [Series(label, counts, [one[key] for one in states]) for label, key in whole.items()]
    return Plot(
        "many-times",
        "To ask all workers, by how many there are",
        "states",
        "microseconds",
        series,
        log_x=True,
        log_y=True,
        note="query_all() keeps its readers; list_states() attaches to each state, and lets go of it.",
    )
