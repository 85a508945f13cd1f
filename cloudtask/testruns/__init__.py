"""The parts of `cloudtask.testing`, which is their public face."""
