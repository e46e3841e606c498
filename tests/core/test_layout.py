from __future__ import annotations

import string
from itertools import combinations
from typing import Dict, List, Set

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmstate.errors import CorruptSegment, InvalidName, InvalidOption
from shmstate.layout import (
    AT_CODEC,
    AT_CREATED,
    AT_FLAGS,
    AT_LAYOUT,
    AT_MAGIC,
    AT_SLOTS,
    AT_STRIDE,
    CODEC_BYTES,
    HEARTBEAT,
    INTENT,
    LARGEST_MAX_SIZE,
    LATEST,
    MAGIC,
    MAX_SLOTS,
    MIN_SLOTS,
    NEVER_WRITTEN,
    PAGE,
    PREFIX,
    WORD,
    Identity,
    Layout,
    file_name,
    is_codec_name,
    pack_header,
    parse_header,
    plan,
    whole_pages,
)

CACHE_LINE = 64
EVERY_K = range(MIN_SLOTS, MAX_SLOTS + 1)
WORDS = st.integers(0, 2**64 - 1)
ONE = Layout(4, PAGE, "msgpack", checksum=False)

LETTERS = string.ascii_letters + string.digits
codec_names = st.builds(str.__add__, st.sampled_from(LETTERS), st.text(LETTERS + "_.+-", max_size=CODEC_BYTES - 1))
layouts = st.builds(
    Layout,
    st.integers(MIN_SLOTS, MAX_SLOTS),
    st.integers(1, LARGEST_MAX_SIZE // PAGE).map(lambda pages: pages * PAGE),
    codec_names,
    st.booleans(),
)


def with_word(page: bytes, index: int, value: int) -> bytes:
    return page[: index * WORD] + value.to_bytes(WORD, "little") + page[(index + 1) * WORD :]


# The header.


@given(layouts, st.builds(Identity, WORDS, WORDS, WORDS))
def test_what_is_packed_into_a_header_is_parsed_out_of_it(layout: Layout, identity: Identity) -> None:
    page = pack_header(layout, identity)

    assert len(page) == PAGE
    assert parse_header(page, layout.size, "label") == (layout, identity)


def test_a_new_header_says_that_nothing_is_published_and_no_slot_was_written() -> None:
    words = memoryview(pack_header(ONE, Identity(1, 2, 3))).cast("Q")

    assert words[LATEST] == words[INTENT] == words[HEARTBEAT] == 0
    assert [words[slot.length] for slot in ONE.where] == [NEVER_WRITTEN] * 4
    assert whole_pages(LARGEST_MAX_SIZE) < NEVER_WRITTEN


def test_the_magic_word_can_be_read_in_a_dump() -> None:
    assert pack_header(ONE, Identity(1, 2, 3))[:8] == b"shmstate"


@pytest.mark.parametrize(
    ("index", "value", "said"),
    [
        (AT_MAGIC, MAGIC + 1, "not with the magic word"),
        (AT_LAYOUT, 0, "layout version 0, this shmstate reads 1"),
        (AT_LAYOUT, 2, "layout version 2, this shmstate reads 1"),
        (AT_SLOTS, 0, "slots=0"),
        (AT_SLOTS, 1, "slots=1"),
        (AT_SLOTS, MAX_SLOTS + 1, "slots=33"),
        (AT_SLOTS, 2**64 - 1, "slots=18446744073709551615"),
        (AT_SLOTS, 3, "checksum differs"),
        (AT_STRIDE, 0, "stride=0"),
        (AT_STRIDE, PAGE + 1, "stride=4097"),
        (AT_STRIDE, LARGEST_MAX_SIZE + PAGE, "stride=1099511631872"),
        (AT_STRIDE, 2 * PAGE, "checksum differs"),
        (AT_CREATED, 7, "checksum differs"),
        (AT_FLAGS, 2, "flags=2"),
        (AT_FLAGS, 2**63, "flags=9223372036854775808"),
        (AT_CODEC, 0, "codec=''"),
        (AT_CODEC, int.from_bytes(b"a/b\0\0\0\0\0", "little"), "codec='a/b'"),
        (AT_CODEC, int.from_bytes(b"a\0b\0\0\0\0\0", "little"), "out of range"),
        (AT_CODEC, int.from_bytes(b"\xff\0\0\0\0\0\0\0", "little"), "codec='ÿ'"),
    ],
)
def test_a_field_out_of_its_range_is_corruption_of_the_named_segment(index: int, value: int, said: str) -> None:
    page = with_word(pack_header(ONE, Identity(1, 2, 3)), index, value)

    with pytest.raises(CorruptSegment, match=f"^the label: .*{said}"):
        parse_header(page, ONE.size, "the label")


@pytest.mark.parametrize("difference", [-PAGE, -1, 1, PAGE])
def test_a_size_that_is_not_the_headers_is_corruption(difference: int) -> None:
    page = pack_header(ONE, Identity(1, 2, 3))

    with pytest.raises(
        CorruptSegment, match=f"the label: is {ONE.size + difference} bytes, its header says {ONE.size}"
    ):
        parse_header(page, ONE.size + difference, "the label")


@pytest.mark.parametrize("length", [0, 1, 63, PAGE - 1])
def test_a_file_too_short_for_a_header_is_corruption(length: int) -> None:
    page = pack_header(ONE, Identity(1, 2, 3))[:length]

    with pytest.raises(CorruptSegment, match=f"the label: {length} bytes are too few"):
        parse_header(page, length, "the label")


@given(st.binary(max_size=2 * PAGE), st.integers(0, 2**40))
def test_foreign_bytes_are_corruption_and_nothing_else(page: bytes, size: int) -> None:
    with pytest.raises(CorruptSegment):
        parse_header(page, size, "label")


@given(st.data(), layouts)
def test_a_header_with_any_byte_changed_is_parsed_as_a_layout_of_its_size_or_is_corruption(
    data: st.DataObject, layout: Layout
) -> None:
    page = bytearray(pack_header(layout, Identity(1, 2, 3)))
    page[data.draw(st.integers(0, AT_CODEC * WORD + CODEC_BYTES - 1))] ^= data.draw(st.integers(1, 255))

    try:
        parsed, _ = parse_header(bytes(page), layout.size, "label")
    except CorruptSegment:
        return
    assert parsed.size == layout.size
    assert is_codec_name(parsed.codec)


# Where things are.


def words_of(layout: Layout) -> Dict[str, int]:
    """All words of a segment that change, by name."""
    words = {"INTENT": INTENT, "LATEST": LATEST, "HEARTBEAT": HEARTBEAT}
    for number, slot in enumerate(layout.where):
        for word in ("length", "published", "checksum"):
            words[f"{word} {number}"] = getattr(slot, word)
    return words


@pytest.mark.parametrize("slots", EVERY_K)
def test_no_two_words_are_one_and_all_lie_in_the_header_behind_the_identity(slots: int) -> None:
    words = words_of(ONE._replace(slots=slots))

    assert len(set(words.values())) == len(words) == 3 + 3 * slots
    assert min(words.values()) * WORD >= AT_CODEC * WORD + CODEC_BYTES
    assert (max(words.values()) + 1) * WORD <= PAGE


def test_words_are_aligned_to_their_size() -> None:
    # They are indices into a memoryview of 8-byte words, so it takes a map that begins at such an address.
    assert PAGE % WORD == 0
    assert AT_CODEC * WORD == 64


@pytest.mark.parametrize("slots", EVERY_K)
def test_hot_words_lie_two_cache_lines_from_each_other_and_from_all_else(slots: int) -> None:
    words = words_of(ONE._replace(slots=slots))
    hot = {name: words[name] * WORD for name in ("INTENT", "LATEST", "HEARTBEAT")}

    near = [
        (one, other)
        for one, at in hot.items()
        for other, word in words.items()
        if other != one and abs(at - word * WORD) < 2 * CACHE_LINE
    ]

    assert near == []
    assert all(at % (2 * CACHE_LINE) == 0 for at in hot.values())


@pytest.mark.parametrize("slots", EVERY_K)
def test_the_words_of_a_slot_share_a_cache_line_with_no_other_slot(slots: int) -> None:
    lines: List[Set[int]] = [
        {word * WORD // CACHE_LINE for word in slot[1:]} for slot in ONE._replace(slots=slots).where
    ]

    assert all(len(line) == 1 for line in lines)
    assert len(set.union(*lines)) == slots


@pytest.mark.parametrize("slots", EVERY_K)
@pytest.mark.parametrize("stride", [PAGE, 3 * PAGE, whole_pages(LARGEST_MAX_SIZE)])
def test_slots_overlap_neither_the_header_nor_each_other_nor_the_end(slots: int, stride: int) -> None:
    layout = Layout(slots, stride, "raw", checksum=False)
    ranges = [range(slot.start, slot.start + stride) for slot in layout.where]

    assert all(a.stop <= b.start or b.stop <= a.start for a, b in combinations(ranges, 2))
    assert min(r.start for r in ranges) == PAGE
    assert max(r.stop for r in ranges) == layout.size
    assert all(r.start % PAGE == 0 for r in ranges)


@given(st.integers(0, 2**50))
def test_whole_pages_are_the_fewest_that_hold_the_bytes(nbytes: int) -> None:
    assert whole_pages(nbytes) % PAGE == 0
    assert 0 <= whole_pages(nbytes) - nbytes < PAGE


# Options.


def test_max_size_is_rounded_up_to_pages() -> None:
    assert plan(slots=4, max_size=1, codec="raw", checksum=False).stride == PAGE
    assert plan(slots=4, max_size=PAGE + 1, codec="raw", checksum=False).stride == 2 * PAGE


@pytest.mark.parametrize("value", [0, -1, True, False, 2.0, "4", None, 1 << 80], ids=repr)
@pytest.mark.parametrize("option", ["slots", "max_size"])
def test_an_option_of_another_type_or_out_of_range_is_refused_by_name(option: str, value: object) -> None:
    options = {"slots": 4, "max_size": PAGE, option: value}

    with pytest.raises(InvalidOption, match=f"^{option}( is an int, not |=)"):
        plan(codec="raw", checksum=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("slots", "max_size"),
    [(MIN_SLOTS - 1, PAGE), (MAX_SLOTS + 1, PAGE), (4, LARGEST_MAX_SIZE + 1)],
)
def test_an_option_one_beyond_its_limits_is_refused(slots: int, max_size: int) -> None:
    with pytest.raises(InvalidOption, match="must lie between"):
        plan(slots=slots, max_size=max_size, codec="raw", checksum=False)


@pytest.mark.parametrize(("slots", "max_size"), [(MIN_SLOTS, 1), (MAX_SLOTS, LARGEST_MAX_SIZE)])
def test_an_option_at_its_limit_is_taken(slots: int, max_size: int) -> None:
    layout = plan(slots=slots, max_size=max_size, codec="raw", checksum=True)

    assert (layout.slots, layout.stride) == (slots, whole_pages(max_size))


# Names.


@pytest.mark.parametrize("name", ["x", "worker-1", "a.b.c", "..", "-", "two words", "Größe", "状态", "a" * 246])
def test_a_name_is_a_file_name_with_the_prefix(name: str) -> None:
    assert file_name(name) == PREFIX + name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "cannot be empty"),
        ("a/b", "no '/'.*try 'a_b'"),
        ("/", "try '_'"),
        ("../../etc/passwd", r"try '.._.._etc_passwd'"),
        (" a", "no spaces at the ends; try 'a'"),
        ("a ", "no spaces at the ends; try 'a'"),
        (" ", "try 'state'"),
        ("a\n", "try 'a'"),
        ("a\0b", "no control characters.*try 'a_b'"),
        ("a\x7fb", "try 'a_b'"),
        ("a\u200eb", "try 'a_b'"),
        ("a\ud800b", "try 'a_b'"),
    ],
    ids=ascii,
)
def test_a_name_that_is_no_file_name_is_refused_with_one_that_is(name: str, said: str) -> None:
    with pytest.raises(InvalidName, match=said):
        file_name(name)


@pytest.mark.parametrize("name", ["a" * 247, "é" * 124, "状" * 83], ids=["ascii", "2 bytes", "3 bytes"])
def test_a_name_of_more_than_255_bytes_with_its_prefix_is_refused(name: str) -> None:
    encoded = len((PREFIX + name).encode())

    with pytest.raises(InvalidName, match=f"takes {encoded} bytes .* the limit is 255"):
        file_name(name)


@pytest.mark.parametrize("name", [None, 1, b"bytes", ["list"], object()], ids=lambda name: type(name).__name__)
def test_a_name_of_another_type_is_refused_naming_the_type(name: object) -> None:
    with pytest.raises(InvalidName, match=f"a state's name is a str, not {type(name).__name__}"):
        file_name(name)  # type: ignore[arg-type]


@given(st.text(max_size=300))
def test_any_text_is_a_file_name_in_one_folder_or_is_refused(name: str) -> None:
    try:
        file = file_name(name)
    except InvalidName:
        return
    assert "/" not in file
    assert "\0" not in file
    assert len(file.encode()) <= 255


@pytest.mark.parametrize("name", ["a", "A-1_b.c+d", "0", "x" * CODEC_BYTES])
def test_a_codec_name_is_a_few_ascii_letters(name: str) -> None:
    assert is_codec_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a b", "é", "a\n", "x" * (CODEC_BYTES + 1), None, 1, b"a"], ids=repr)
def test_what_does_not_fit_the_header_is_no_codec_name(name: object) -> None:
    assert not is_codec_name(name)
