"""Benchmarks: the time that cloudtask and other libraries need, measured in one run.

    python -m benchmarks [--quick] [scenario ...]

A scenario is a module of this package with a function `scenario(effort)` or
`outcome(effort)`, and a line in `SCENARIOS` of `__main__.py`. Compare only figures of
the same run: machines differ.
"""
