"""A simulator of Cloud Tasks, for loads that no test can make."""
