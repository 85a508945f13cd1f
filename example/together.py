"""Shows a chain, a group with a report, and a task of every night."""

from __future__ import annotations

from progress import Progress

STOPS, COUNTRIES = 5, 12


def show(progress: Progress) -> None:
    from cities.models import Report
    from cities.tasks import (
        compare_countries,
        count_cities,
        countries,
        describe,
        most_remote,
        write_tour,
    )
    from django.core.management import call_command

    from cloudtask import chain, group

    print("\nTasks that work together")
    chain(most_remote.s(STOPS), describe.s(), write_tour.s()).defer()
    members = group(count_cities.s(country) for country in countries(COUNTRIES))
    members.then(compare_countries.s()).defer()
    # At 02:30 the relay does this. A person does not want to wait for that.
    call_command("cloudtask_schedules", "run", "tidy")
    for title, what in (
        ("tour:", "a chain of three"),
        ("countries:", f"a group of {COUNTRIES}, and then"),
        ("tidied", "the task of every night"),
    ):
        found = Report.objects.filter(title__startswith=title)
        progress.wait_for(found.exists, what)
        print(f"  {what}: {found.get()}")
    call_command("cloudtask_schedules", "list")
