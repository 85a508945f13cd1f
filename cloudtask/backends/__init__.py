"""The parts of `cloudtask.backend`."""
