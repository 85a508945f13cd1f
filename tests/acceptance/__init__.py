"""The library as users run it: a local Cloud Tasks, gunicorn, HTTP, a database file.

Every server is a process of its own on a port that the system chose.
"""
