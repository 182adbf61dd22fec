"""Reading single fields and the points of series."""

from __future__ import annotations

from typing import TypeVar

from .attributes import (
    Artifact,
    Attribute,
    Bool,
    Datetime,
    File,
    Float,
    FloatSeries,
    ImageSeries,
    Int,
    Json,
    String,
    StringSeries,
    StringSet,
    double,
    without_none,
)
from .store import NotFoundError
from .web import ApiError, Call, Handler, handles

Kind = TypeVar("Kind", bound=Attribute)

DEFAULT_PAGE = 1000
LARGEST_PAGE = 10_000


def field_of(call: Call, kind: type[Kind]) -> Kind:
    """The field that is asked for; one of another type does not count, nor one that has never been set."""
    container, path = call.container(), call.params["attribute"]
    attribute = container.attribute(path)
    if not isinstance(attribute, kind) or not attribute.is_set:
        raise NotFoundError(f"'{container.sys_id}' has no {kind.type} '{path}'")
    return attribute


def _reader(kind: type[Attribute]) -> Handler:
    def read(call: Call) -> Json:
        return field_of(call, kind).properties(call.params["attribute"])

    return read


handles("getIntAttribute")(_reader(Int))
handles("getFloatAttribute")(_reader(Float))
handles("getBoolAttribute")(_reader(Bool))
handles("getStringAttribute")(_reader(String))
handles("getDatetimeAttribute")(_reader(Datetime))
handles("getStringSetAttribute")(_reader(StringSet))
handles("getArtifactAttribute")(_reader(Artifact))
handles("getFileAttribute")(_reader(File))
handles("getFloatSeriesAttribute")(_reader(FloatSeries))
handles("getStringSeriesAttribute")(_reader(StringSeries))


def page_of(call: Call) -> tuple[int, int]:
    offset, limit = call.params["offset"], call.params["limit"]
    offset = 0 if offset is None else offset
    limit = DEFAULT_PAGE if limit is None else limit
    if offset < 0 or not 0 <= limit <= LARGEST_PAGE:
        raise ApiError(400, f"No page of {limit} begins at {offset}: at most {LARGEST_PAGE} are given at once")
    return offset, limit


def _values(call: Call, series: FloatSeries | StringSeries) -> Json:
    points = [
        {"timestampMillis": timestamp, "step": step, "value": value if isinstance(value, str) else double(value)}
        for step, timestamp, value in series.page(*page_of(call))
    ]
    return {"totalItemCount": len(series), "values": points}


@handles("getFloatSeriesValues")
def get_float_series_values(call: Call) -> Json:
    return _values(call, field_of(call, FloatSeries))


@handles("getStringSeriesValues")
def get_string_series_values(call: Call) -> Json:
    return _values(call, field_of(call, StringSeries))


@handles("getImageSeriesValues")
def get_image_series_values(call: Call) -> Json:
    page_of(call)
    return {"totalItemCount": len(field_of(call, ImageSeries))}


@handles("getChannelValues")
def get_channel_values(call: Call) -> Json:
    """All there is to know about the images of a series but their bytes."""
    channel_id = call.params["channelId"]
    if channel_id not in call.store.channels:
        raise NotFoundError(f"There is no channel '{channel_id}'")
    container, path = call.store.channels[channel_id]
    series = container.attributes[path]
    assert isinstance(series, ImageSeries)
    values = [
        {
            "timestampMillis": timestamp,
            "x": step,
            "y": {"imageValue": without_none({"name": image.name, "description": image.description})},
        }
        for step, timestamp, image in series.page(*page_of(call))
    ]
    return {"channelId": channel_id, "totalItemCount": len(series), "values": values}
