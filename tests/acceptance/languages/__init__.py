"""Clients in other languages than Python, against the emulator."""
