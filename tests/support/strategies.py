"""Generated registries: names, texts, numbers, series, files, and whole objects of them.

Fields are described as the server's instruments take them, so that nothing stands between a value and the registry.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.support.registry import Attribute, atom, picture, planted_file, planted_file_set, planted_image

FIRST_MILLISECOND = 631_152_000_000  # of 1990
LAST_MILLISECOND = 4_102_444_800_000  # 2100
LONGEST_TEXT = 16_384
LONGEST_POINT = 1_000

characters = st.characters(exclude_categories=["Cs"])
texts = st.one_of(
    st.text(characters, max_size=60),
    st.text(characters, min_size=1, max_size=20).map(lambda text: (text * LONGEST_TEXT)[:LONGEST_TEXT]),
)
points_of_text = st.one_of(
    st.text(characters, max_size=40),
    st.text(characters, min_size=1, max_size=5).map(lambda text: (text * LONGEST_POINT)[:LONGEST_POINT]),
)
floats = st.floats(allow_nan=False, allow_infinity=False)
ints = st.integers(-(2**31), 2**31 - 1)
timestamps = st.integers(FIRST_MILLISECOND, LAST_MILLISECOND)
moments = st.integers(-62_135_596_800_000, 253_402_300_799_999)
tags = st.frozensets(st.text(characters, min_size=1, max_size=20), max_size=5)

_shown_characters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/")
_awkward_names = st.sampled_from(
    ["..", ".", "...", "C:", "CON", "nul.txt", "a\\b", "*", "**", "[a]", "?", "%2F", "&", "#", "+", "~", "-", "'", '"']
)
names = st.one_of(st.text(_shown_characters, min_size=1, max_size=12), _awkward_names, st.just("n" * 200))
"""One part of a field's path."""
_file_names = names.filter(lambda name: name not in (".", "..") and not name.endswith("/"))
contents = st.binary(max_size=200)


@st.composite
def steps(draw: st.DrawFn, count: int) -> list[float]:
    """Strictly increasing, with negative and fractional ones."""
    found = draw(
        st.lists(
            st.one_of(st.integers(-100, 10_000).map(float), st.floats(-1e15, 1e15)),
            min_size=count,
            max_size=count,
            unique=True,
        )
    )
    return sorted(found)


@st.composite
def paths(draw: st.DrawFn, max_size: int = 8, parts: st.SearchStrategy[str] = names) -> list[str]:
    """Paths of which none is a namespace or folder of another."""
    found = draw(st.lists(st.lists(parts, min_size=1, max_size=4).map("/".join), max_size=max_size, unique=True))
    return [path for path in found if not any(other.startswith(f"{path}/") for other in found)]


@st.composite
def file_trees(draw: st.DrawFn) -> dict[str, bytes]:
    return {path: draw(contents) for path in draw(paths(parts=_file_names))}


@st.composite
def series(draw: st.DrawFn, values: st.SearchStrategy[Any], max_size: int = 12) -> list[list[Any]]:
    """Points of step, timestamp and value."""
    found = draw(st.lists(st.tuples(timestamps, values), max_size=max_size))
    return [[step, time, value] for step, (time, value) in zip(draw(steps(len(found))), found)]


@st.composite
def float_series(draw: st.DrawFn) -> Attribute:
    config = {
        "min": draw(st.none() | floats),
        "max": draw(st.none() | floats),
        "unit": draw(st.none() | st.text(characters, min_size=1, max_size=10)),
    }
    return {"type": "floatSeries", "points": draw(series(floats)), "config": config}


images = st.builds(
    planted_image,
    st.builds(picture, st.integers(0, 999), st.sampled_from(["PNG", "JPEG", "GIF"])),
    st.none() | st.text(characters, max_size=20),
    st.none() | st.text(characters, max_size=20),
)
extensions = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), max_size=8)

attributes: st.SearchStrategy[Attribute] = st.one_of(
    ints.map(lambda value: atom("int", value)),
    floats.map(lambda value: atom("float", value)),
    st.booleans().map(lambda value: atom("bool", value)),
    texts.map(lambda value: atom("string", value)),
    moments.map(lambda value: atom("datetime", value)),
    float_series(),
    series(points_of_text).map(lambda points: {"type": "stringSeries", "points": points}),
    series(images, max_size=3).map(lambda points: {"type": "imageSeries", "points": points}),
    st.builds(planted_file, contents, extensions),
    file_trees().map(planted_file_set),
)


@st.composite
def objects(draw: st.DrawFn) -> dict[str, Attribute]:
    """The fields of a model or a version, those of the system that people write among them."""
    fields = {path: draw(attributes) for path in draw(paths()) if not path.startswith(("sys/", "old_sys"))}
    fields["sys/name"] = atom("string", draw(texts))
    fields["sys/description"] = atom("string", draw(texts))
    fields["sys/tags"] = atom("stringSet", sorted(draw(tags)))
    return fields
