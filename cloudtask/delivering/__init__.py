"""What follows from a delivery: outcomes, failed tasks, records of executions."""
