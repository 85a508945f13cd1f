"""Tests that Django's own runner runs, in the order of their names; see
test_django_runner. pytest does not collect them."""
