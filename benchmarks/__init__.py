"""Benchmarks: what the library costs, beside its peers, in one run.

    python -m benchmarks [--quick] [scenario ...]

A scenario is a module here with a function `scenario(effort) -> Scenario`, and a line
in `SCENARIOS` of `__main__.py`. Only figures of one run compare: machines differ.
"""
