"""Lists the tags under which values travel. No tag is ever changed or used again."""

from __future__ import annotations

MARK = "$"  # the one key of an object that stands for a tagged value

# Numbers, bytes, identifiers, paths.
INT = "int"
FLOAT = "float"
BYTES = "bytes"
BYTEARRAY = "bytearray"
MEMORYVIEW = "memoryview"
SAFE = "safe"
DECIMAL = "decimal"
FRACTION = "fraction"
COMPLEX = "complex"
UUID = "uuid"
IPV4 = "ipv4"
IPV6 = "ipv6"
IPV4_NETWORK = "ipv4-network"
IPV6_NETWORK = "ipv6-network"
IPV4_INTERFACE = "ipv4-interface"
IPV6_INTERFACE = "ipv6-interface"
PATH = "path"
POSIX_PATH = "posix-path"
WINDOWS_PATH = "windows-path"
RANGE = "range"
SLICE = "slice"

# Dates and times.
DATETIME = "datetime"
DATE = "date"
TIME = "time"
TIMEDELTA = "timedelta"
TIMEZONE = "timezone"
ZONE = "zone"

# Collections.
TUPLE = "tuple"
SET = "set"
FROZENSET = "frozenset"
DICT = "dict"
ORDERED_DICT = "ordereddict"
COUNTER = "counter"
DEFAULTDICT = "defaultdict"
DEQUE = "deque"

# What an import path names.
FUNCTION = "function"
CLASS = "class"
ENUM = "enum"
FLAG = "flag"
DATACLASS = "dataclass"
NAMEDTUPLE = "namedtuple"
ROW = "row"
TASK = "task"
FAILURE = "failure"
SUBJECT = "subject"

# Lazy strings.
LAZY = "lazy"
COUNTED = "counted"

# Values of columns that only some databases have.
DB_RANGE = "db-range"
DB_MULTIRANGE = "db-multirange"
GEOMETRY = "gis-geometry"
MEASURE = "gis-measure"
RASTER = "gis-raster"

# Models and queries.
MODEL = "model"
INSTANCE = "instance"
INSTANCES = "instances"
PREPARED = "prepared"
OF_FIELD = "of-field"
FIELD = "field"
RELATION = "relation"
Q = "q"
EXPRESSION = "expression"
QUERYSET = "queryset"
PREFETCH = "prefetch"
GRAPH = "graph"
NODE = "node"
MET = "met"
OF_DJANGO = frozenset(
    {
        *(MODEL, INSTANCE, INSTANCES, PREPARED, OF_FIELD, FIELD, RELATION),
        *(Q, EXPRESSION),
        *(QUERYSET, PREFETCH, GRAPH, NODE, MET),
    }
)
