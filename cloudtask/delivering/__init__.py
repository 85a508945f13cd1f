"""Deliveries: the call, its outcome, failed tasks, records of executions."""
