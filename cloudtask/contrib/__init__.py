"""Carriers for the libraries of others; each module needs its library."""
