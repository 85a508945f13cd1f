"""Tuples, sets, and the containers of `collections`."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

from cloudtask.codec.packing import Packing, to_json
from cloudtask.codec.registry import decoders, packers


def _listed(payload: Any) -> list[Any]:
    if type(payload) is not list:
        raise TypeError("a list is wanted")
    return payload


def _pack_tuple(value: tuple[Any, ...], packing: Packing) -> Any:
    return {"$": ["tuple", packing.items(value)]}


def _pack_elements(value: set[Any] | frozenset[Any], packing: Packing) -> list[Any]:
    # Sorted, so that equal sets give equal bytes in every process.
    return sorted((packing.part(item, "<element>") for item in value), key=to_json)


packers[tuple] = _pack_tuple
decoders["tuple"] = lambda items: tuple(_listed(items))
packers[set] = lambda value, p: {"$": ["set", _pack_elements(value, p)]}
decoders["set"] = lambda items: set(_listed(items))
packers[frozenset] = lambda value, p: {"$": ["frozenset", _pack_elements(value, p)]}
decoders["frozenset"] = lambda items: frozenset(_listed(items))
decoders["dict"] = lambda pairs: dict(_listed(pairs))

packers[OrderedDict] = lambda value, p: {"$": ["ordereddict", p.pairs(value)]}
decoders["ordereddict"] = lambda pairs: OrderedDict(_listed(pairs))
packers[Counter] = lambda value, p: {"$": ["counter", p.pairs(value)]}
decoders["counter"] = lambda pairs: Counter(dict(_listed(pairs)))


def _pack_defaultdict(value: defaultdict[Any, Any], packing: Packing) -> Any:
    factory = packing.part(value.default_factory, ".default_factory")
    return {"$": ["defaultdict", [factory, packing.pairs(value)]]}


def _decode_defaultdict(payload: Any) -> defaultdict[Any, Any]:
    factory, pairs = payload
    return defaultdict(factory, _listed(pairs))


def _pack_deque(value: deque[Any], packing: Packing) -> Any:
    return {"$": ["deque", [packing.items(value), value.maxlen]]}


def _decode_deque(payload: Any) -> deque[Any]:
    items, maxlen = payload
    return deque(_listed(items), maxlen)


packers[defaultdict] = _pack_defaultdict
decoders["defaultdict"] = _decode_defaultdict
packers[deque] = _pack_deque
decoders["deque"] = _decode_deque
