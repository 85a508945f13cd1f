"""URLs whose handler is in i18n_patterns: its path begins with a language."""

from django.conf.urls.i18n import i18n_patterns
from django.urls import include, path

urlpatterns = i18n_patterns(path("_cloudtask/", include("cloudtask.urls")))
