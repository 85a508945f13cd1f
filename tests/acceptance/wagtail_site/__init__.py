"""A Wagtail site for the test of our backend: its settings, a page, and an editor."""
