"""Adds the dashboard to Django's own admin site."""

from django.contrib import admin

from cloudtask.dashboard import register

register(admin.site)
