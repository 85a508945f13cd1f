"""Continues a call with the rest of its chain and with the group it belongs to."""
