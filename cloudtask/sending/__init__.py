"""Enqueueing: limits, unique keys, payloads, the outbox and its relay."""
