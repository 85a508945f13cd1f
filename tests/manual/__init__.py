"""The manual of `cloudtask.testing`, as a test module. Read test_manual.py."""
