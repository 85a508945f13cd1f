"""Values of columns that only some databases have: ranges, geometries, rasters.

Their classes lie in libraries that may be missing, so a payload names them, and each
must be in the table of its kind. The library is not imported for a payload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudtask.codec import shapes, tags
from cloudtask.codec.packing import Packer, Packing, decoders, families
from cloudtask.codec.tags import MARK
from cloudtask.codec.trust import loaded
from cloudtask.exceptions import PayloadError

_OF_POSTGRES = ("Int4", "Int8", "Numeric", "Date", "Timestamp", "Timestamptz")
_OF_PSYCOPG2 = ("Range", "NumericRange", "DateRange", "DateTimeRange")
_PSYCOPG2, _GEOS = "psycopg2._range", "django.contrib.gis.geos"
RANGES = {
    "psycopg.types.range": ("Range", *(f"{kind}Range" for kind in _OF_POSTGRES)),
    _PSYCOPG2: (*_OF_PSYCOPG2, "DateTimeTZRange"),
}
MULTIRANGES = {
    "psycopg.types.multirange": (
        "Multirange",
        *(f"{kind}Multirange" for kind in _OF_POSTGRES),
    )
}
# A LinearRing is missing: no column has one, and it would arrive as a LineString.
GEOMETRIES = {
    f"{_GEOS}.point": ("Point",),
    f"{_GEOS}.linestring": ("LineString",),
    f"{_GEOS}.polygon": ("Polygon",),
    f"{_GEOS}.collections": (
        *("MultiPoint", "MultiLineString", "MultiPolygon"),
        "GeometryCollection",
    ),
}
MEASURES = {"django.contrib.gis.measure": ("Distance", "Area")}
RASTERS = {"django.contrib.gis.gdal.raster.source": ("GDALRaster",)}
_PGRASTER = "django.contrib.gis.db.backends.postgis.pgraster"

Table = Mapping[str, tuple[str, ...]]


def _kind(path: Any, table: Table) -> Any:
    """The class at "module:name", if the table has it; raises PayloadError."""
    module, _, name = shapes.text(path).partition(":")
    if name not in table.get(module, ()):
        raise PayloadError("The payload has a value of a column's type that is none.")
    return getattr(loaded(module), name)


def _path(value: Any) -> str:
    return f"{type(value).__module__}:{type(value).__name__}"


def _pack_range(value: Any, packing: Packing) -> Any:
    ends = [
        packing.part(value.lower, ".lower"),
        packing.part(value.upper, ".upper"),
        None if value.isempty else value._bounds,
    ]
    return {MARK: [tags.DB_RANGE, [_path(value), *ends]]}


def _decode_range(content: Any) -> Any:
    path, lower, upper, bounds = shapes.parts(content, 4)
    kind = _kind(path, RANGES)
    if shapes.text_or_none(bounds) is None:
        return kind(empty=True)
    return kind(lower, upper, bounds)


def _pack_multirange(value: Any, packing: Packing) -> Any:
    return {MARK: [tags.DB_MULTIRANGE, [_path(value), packing.items(value)]]}


def _decode_multirange(content: Any) -> Any:
    path, ranges = shapes.parts(content, 2)
    return _kind(path, MULTIRANGES)(shapes.listed(ranges))


def _pack_geometry(value: Any, packing: Packing) -> Any:
    # As PostGIS reads it: with the SRID, exact to the last bit.
    return {MARK: [tags.GEOMETRY, [_path(value), value.hexewkb.decode("ascii")]]}


def _decode_geometry(content: Any) -> Any:
    path, written = shapes.texts(shapes.parts(content, 2))
    kind = _kind(path, GEOMETRIES)
    found = loaded(f"{_GEOS}.geometry").GEOSGeometry(memoryview(bytes.fromhex(written)))
    if type(found) is not kind:
        raise PayloadError(f"The payload has another geometry than {kind.__name__}.")
    return found


def _pack_measure(value: Any, packing: Packing) -> Any:
    unit = value._default_unit
    size = packing.part(value.standard, f".{value.STANDARD_UNIT}")
    return {MARK: [tags.MEASURE, [_path(value), size, unit]]}


def _decode_measure(content: Any) -> Any:
    path, size, unit = shapes.parts(content, 3)
    kind = _kind(path, MEASURES)
    if shapes.text(unit) not in kind.UNITS:
        raise PayloadError(f"The payload has a measure in {unit[:20]!r}.")
    found = kind(**{kind.STANDARD_UNIT: 0}, default_unit=unit)
    found.standard = size  # not multiplied, so that it keeps its type
    return found


def _pack_raster(value: Any, packing: Packing) -> Any:
    written = loaded(_PGRASTER).to_pgraster(value).hex()
    return {MARK: [tags.RASTER, [_path(value), written]]}


def _decode_raster(content: Any) -> Any:
    path, written = shapes.texts(shapes.parts(content, 2))
    # A dict: a str would be the name of a file to open.
    return _kind(path, RASTERS)(dict(loaded(_PGRASTER).from_pgraster(written)))


_KINDS: tuple[tuple[Table, Packer], ...] = (
    (RANGES, _pack_range),
    (MULTIRANGES, _pack_multirange),
    (GEOMETRIES, _pack_geometry),
    (MEASURES, _pack_measure),
    (RASTERS, _pack_raster),
)


def _family(kind: type) -> Packer | None:
    module, name = kind.__module__, kind.__qualname__
    return next(
        (packer for table, packer in _KINDS if name in table.get(module, ())), None
    )


families.append(_family)
decoders[tags.DB_RANGE] = _decode_range
decoders[tags.DB_MULTIRANGE] = _decode_multirange
decoders[tags.GEOMETRY] = _decode_geometry
decoders[tags.MEASURE] = _decode_measure
decoders[tags.RASTER] = _decode_raster
